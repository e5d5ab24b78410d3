"""dmq from Python: quantize a diffusion model without the command line."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dmq_cli.choices import compose_words
from dmq_cli.errors import ConfigError
from dmq_cli.overrides import as_hydra
from dmq_cli.overrides.bits import register_bits
from dmq_cli.overrides.check import check_config, check_words
from dmq_cli.results.acting import from_words

if TYPE_CHECKING:
    from dmq_cli.stages.load import Loaded


def quantize(
    model: Any, scheduler: Any = None, *, method: str = "qdiffusion", bits: str = "w4a8", calibration: str | None = None,
    overrides: Sequence[str] = (), outputs: str | Path = "outputs",
) -> Loaded:  # fmt: skip
    """See dmq_cli.quantize."""
    folder = _saved(model, scheduler, Path(outputs)) if hasattr(model, "save_pretrained") else Path(model)
    words = [
        f"model={folder.expanduser().absolute()}",
        f"method={method}",
        f"bits={bits}",
        f"runtime.outputs={outputs}",
    ]
    words += [] if calibration is None else [f"calib={calibration}"]
    config = composed("correct", [*words, *overrides])

    from dmq_cli.stages.load import load_run
    from dmq_cli.stages.verbs import run

    command = shlex.join(["dmq", "correct", *words, *overrides])
    folder = run({**config, "overrides": from_words([*words, *overrides])}, command, quiet=True)["run"]
    return cast("Loaded", load_run(folder))


def composed(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose the configuration that `dmq VERB WORDS` makes, resolved, plain values. Raises ConfigError and Hydra's errors."""
    from omegaconf import OmegaConf

    check_words(words)
    register_bits(words)
    overrides = as_hydra(words)
    config = compose_words(verb, overrides)
    check_config(config, overrides)
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dict(plain)


def _saved(network: Any, scheduler: Any, outputs: Path) -> Path:
    """Save this network and its scheduler to outputs/models/python-<hash>, in diffusers' layout, and return the folder."""
    from dmq_cli.store.files import aside_folder

    if scheduler is None:
        raise ConfigError(
            "A network was to be quantized without its scheduler, which says how it was trained; give quantize(network, scheduler)."
        )
    target = outputs / "models" / f"python-{_hash(network, scheduler)}"
    if not target.is_dir():
        with aside_folder(target) as scratch:
            network.save_pretrained(scratch / ("transformer" if "Transformer" in type(network).__name__ else "unet"))
            scheduler.save_pretrained(scratch / "scheduler")
    return target


def _hash(network: Any, scheduler: Any) -> str:
    """Hash a network and its scheduler, weights and configurations, to 16 digits."""
    import torch

    content = hashlib.sha256(repr([sorted(part.config.items(), key=str) for part in (network, scheduler)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]
