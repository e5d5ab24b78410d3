"""The job that Hydra runs now: its words, where its choices come from, and which of its overrides have an effect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmq_cli.results.acting import ChoiceSource, acting, from_words
from dmq_cli.sentences import describe_error

_HOW = ("stage=", "retry=")


def words() -> list[str]:
    """The overrides of the job, without those that say how it is run."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    task_words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in task_words if not word.startswith(_HOW)]


def with_words(more: Sequence[str]) -> dict[str, Any]:
    """Compose the configuration of the job with further overrides, resolved. Raises Hydra's errors for those that do not compose."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict, read_write

    loader = GlobalHydra.instance().config_loader()
    task = [word for word in HydraConfig.get().overrides.task if not word.startswith("retry=")]
    config = loader.load_configuration(HydraConfig.get().job.config_name, [*task, *more], RunMode.RUN, from_shell=False)
    with read_write(config), open_dict(config):
        del config["hydra"]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def folder() -> Path | None:
    """The folder of choices besides conf/ that --config-dir names."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    return next((Path(str(source.path)) for source in sources if source.provider == "command-line"), None)


def overrides(config: Any) -> list[str]:
    """See `acting`; the words as given, where the choices alone do not compose."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    hydra_config, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
    places = tuple(str(element.path) for element in loader.get_search_path().get_path())
    try:
        return acting(
            config, dict(hydra_config.runtime.choices), ChoiceSource(hydra_config.job.config_name, places, loader)
        )
    except Exception as error:
        if describe_error(error) is None:
            raise
        return from_words(words())
