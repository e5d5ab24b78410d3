"""A finished run back in Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.correct import CorrectedDenoiser
from dmq_cli.errors import ArtifactError, ConfigError
from dmq_cli.metrics import to_uint8
from dmq_cli.quant import StepContext
from dmq_cli.sampling import Guide, parse_range, sample_images, walk
from dmq_cli.sampling.pipeline import Drawing, SeedPipeline
from dmq_cli.stages import build
from dmq_cli.stages.graph import with_code
from dmq_cli.stages.nodes import NODES
from dmq_cli.store import read_json
from dmq_cli.store.tensors import load_tensors

_log = logging.getLogger("dmq")


class Loaded(CorrectedDenoiser):
    """The quantized, corrected network of a run.

    network: the diffusers model with its quantizers in place, without the correction, which acts around it. Where there is one, a call
    of the network by anybody but this Denoiser raises ConfigError, unless `uncorrected_network` was asked for. estimator, denoiser: the
    network as a Denoiser without the correction, for those who apply `correction` themselves.
    """

    def __init__(self, config: Mapping[str, Any], state: Path, tables: Path) -> None:
        self.config = config
        self.settings, self.scheduler = build.sampler(config)
        guide = build.guide(config, config["runtime"], config["correct"].get("target"))
        pair = build.Quantized(config, config["runtime"], state)
        correction = build.make(config["correct"]).load(load_tensors(tables / "tables.safetensors"))
        scale = self.scheduler.scale_model_input
        super().__init__(pair.quantized, correction, self.scheduler.timesteps, scale, guide)
        self.decode = build.decoder(config, config["runtime"])
        self.attached, self.adapter, self.network = pair.attached, pair.attached.adapter, pair.attached.model
        self._told = False
        self._guard = _Bare(self.attached.context)
        if correction is not None:
            self.network.register_forward_pre_hook(self._guard)

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        if self.correction is not None and not self._told:
            self._told = True
            _log.warning(
                "a loop of your own gets corrected estimates, but takes its steps from the sample as it is and adds its own noise;"
                " sample(seeds) and as_pipeline() apply the whole correction"
            )
        return super().__call__(sample, timestep, cond)

    @property
    def uncorrected_network(self) -> nn.Module:
        """The same network, which from now on anybody may call: quantized, and without the correction."""
        self._guard.open = True
        return self.network

    def sample(self, seeds: str) -> Tensor:
        """The images (B, C, H, W) in [-1, 1] that this run's sampler makes of these seeds, e.g. "0-15"."""
        return self._draw(parse_range(seeds), self.guide)

    def as_pipeline(self) -> SeedPipeline:
        """This run as a pipeline of diffusers', with its quantizers, correction and sampler.

        as_pipeline()(seeds="0-3") gives the images of sample("0-3"); see SeedPipeline. It shares the network: moving it moves this.
        """
        rounding, move = partial(to_uint8, how=self.config["to_uint8"]), self.attached.grid.to
        steps = getattr(self.settings, "num_inference_steps", self.settings.calls)
        drawing = Drawing(self._draw, self.scheduler, self.guide, steps, rounding, move)
        return SeedPipeline(self.network, drawing)

    def _draw(self, seeds: Sequence[int], guide: Guide) -> Tensor:
        shape, eta, correction = self.adapter.sample_shape(), self.settings.eta, self.correction
        with torch.inference_mode():
            steps = walk(self.estimator, self.scheduler, seeds, shape, eta=eta, correction=correction, guide=guide)
            return sample_images(steps, self.decode)


class _Bare:
    """A forward pre-hook that refuses calls from outside of a Denoiser, where a correction would be left out."""

    def __init__(self, context: StepContext) -> None:
        self.context, self.open = context, False

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self.open and not self.context.active:
            raise ConfigError(
                "The network of a corrected run was called by itself, which would leave its correction out; use the loaded model, its"
                " sample(seeds) or as_pipeline(), or ask for uncorrected_network."
            )


def load_run(run: str | Path) -> Loaded:
    """See dmq_cli.load."""
    folder = Path(run)
    state, tables = folder / "artifacts" / "reconstruct", folder / "artifacts" / "correct"
    if not (folder / "config.json").is_file() or not state.exists() or not tables.exists():
        raise ArtifactError(
            f"{folder} was to be loaded, but is no finished run of correct, sample or evaluate with its artifacts in place;"
            " give a folder like outputs/runs/evaluate/<time>-<key>, or run the command again."
        )
    config = read_json(folder / "config.json")
    check_code(config, folder)
    return Loaded(config, state, tables)


def check_code(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ArtifactError where code that is not dmq's own is another one than that which the run was made with."""
    made, now = config.get("code", {}), with_code(config, [NODES["sample"]]).get("code", {})
    for section, code in now.items():
        for target, found in code.items():
            if (before := made.get(section, {}).get(target)) != found:
                raise ArtifactError(
                    f"The run {folder} was made with another {target} ({before or 'not recorded'}) than there is now ({found}); bring that code back, or run"
                    " the command again."
                )
