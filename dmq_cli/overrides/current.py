"""The job that Hydra runs now: its words, where its choices come from, and which of its overrides act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.results.acting import ChoiceSource, acting, from_words
from dmq_cli.sentences import told

_HOW = ("stage=", "retry=")


def words() -> list[str]:
    """The overrides that it was given, without those that say how it is run."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in found if not word.startswith(_HOW)]


def folder() -> Path | None:
    """The folder of choices besides conf/ that --config-dir names."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources
    return next((Path(str(one.path)) for one in sources if one.provider == "command-line"), None)


def overrides(config: Any) -> list[str]:
    """See `acting`; where choices need more than themselves to compose, the words as they were given."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    own, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
    places = tuple(str(one.path) for one in loader.get_search_path().get_path())
    try:
        return acting(config, dict(own.runtime.choices), ChoiceSource(own.job.config_name, places, loader))
    except Exception as error:
        if told(error) is None:
            raise
        return from_words(words())
