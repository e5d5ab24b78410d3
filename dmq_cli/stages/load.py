"""A finished run back in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.correct import CorrectedDenoiser
from dmq_cli.errors import ArtifactError
from dmq_cli.sampling import parse_range, sample_images, walk
from dmq_cli.stages import build
from dmq_cli.store import read_json
from dmq_cli.store.tensors import load_tensors


class Loaded(CorrectedDenoiser):
    """The quantized, corrected network of a run. `network` is the diffusers model with its quantizers in place."""

    def __init__(self, config: Mapping[str, Any], state: Path, tables: Path) -> None:
        self.config = config
        self.settings, self.scheduler = build.sampler(config)
        guide = build.guide(config, config["runtime"], config["correct"].get("target"))
        pair = build.Quantized(config, config["runtime"], state)
        correction = build.make(config["correct"]).load(load_tensors(tables / "tables.safetensors"))
        scale = self.scheduler.scale_model_input
        super().__init__(pair.quantized, correction, self.scheduler.timesteps, scale, guide)
        self.decode = build.decoder(config, config["runtime"])
        self.adapter, self.network = pair.attached.adapter, pair.attached.model

    def sample(self, seeds: str) -> Tensor:
        """The images (B, C, H, W) in [-1, 1] that this run's sampler makes of these seeds, e.g. "0-15"."""
        shape, eta = self.adapter.sample_shape(), self.settings.eta
        own, correction, guide = parse_range(seeds), self.correction, self.guide
        with torch.inference_mode():
            steps = walk(self.estimator, self.scheduler, own, shape, eta=eta, correction=correction, guide=guide)
            return sample_images(steps, self.decode)


def load_run(run: str | Path) -> Loaded:
    """See dmq_cli.load."""
    folder = Path(run)
    state, tables = folder / "artifacts" / "reconstruct", folder / "artifacts" / "correct"
    if not (folder / "config.json").is_file() or not state.exists() or not tables.exists():
        raise ArtifactError(
            f"{folder} was to be loaded, but is no finished run of correct, sample or evaluate with its artifacts in place;"
            " give a folder like outputs/runs/evaluate/<time>-<key>, or run the command again."
        )
    return Loaded(read_json(folder / "config.json"), state, tables)
