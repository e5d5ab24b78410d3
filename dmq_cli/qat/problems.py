"""What a training asks of the network: batches with the prediction that would be right.

Noise: Ho et al., DDPM, NeurIPS 2020, arXiv:2006.11239, algorithm 1 with L_simple, on data. Distillation: the prediction of the
full-precision network at points of its own trajectories, which needs no data (He et al., EfficientDM, ICLR 2024, arXiv:2310.03270).
Both are errors of the network's own prediction, noise, velocity or sample.

Min-SNR: Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, ICCV 2023, arXiv:2303.09556, weighs the squared error
at timestep t, with SNR = abar / (1 - abar): of the noise by min(SNR, gamma) / SNR, of v by min(SNR, gamma) / (SNR + 1), of the sample by
min(SNR, gamma), all of them min(SNR, gamma) times the squared error of the sample. Without it the error of the noise counts most where a
quantized network cannot follow and images need it least: at timestep 0 the noise is smaller than a step of four bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.models import Call, Cond, cond_rows, device_of
from dmq_cli.recon.calls import rows_of
from dmq_cli.store.tensors import RowFile, load_tensors
from dmq_cli.wrap import Attached, quantizing
from dmq_cli.zoo import to_float
from dmq_cli.zoo.training import stratified

_HELD_OUT = 256
"""Points that are kept from a distillation, at most, and at most a tenth of all."""
_TIMESTEPS = 10
"""At so many, evenly spaced, the loss of kept images is measured."""
_IMAGES = 64
"""So many of them, at most."""


class Batch(NamedTuple):
    """Inputs of the network and the prediction that would be right, on its device."""

    sample: Tensor
    timestep: Tensor
    cond: Cond
    target: Tensor

    def rows(self, rows: Tensor) -> Batch:
        """Some of them."""
        return Batch(self.sample[rows], self.timestep[rows], cond_rows(self.cond, rows), self.target[rows])


@dataclass(frozen=True)
class Weighting:
    """How much the squared error of a prediction counts at each timestep.

    kind: of the prediction, as in models.Prediction; alphas_cumprod: abar of the training timesteps, (T,); min_snr: gamma of Min-SNR, None
    where all timesteps count alike.
    """

    kind: str
    alphas_cumprod: Tensor
    min_snr: float | None = None

    def loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The mean over samples of the weighted mean squared error, 0-dim."""
        if self.min_snr is None:
            return nn.functional.mse_loss(prediction, batch.target)
        errors = (prediction - batch.target).square().flatten(1).mean(1)
        return (self._weights[batch.timestep].to(errors) * errors).mean()

    @cached_property
    def _weights(self) -> Tensor:
        """By timestep, (T,)."""
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        divided = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[self.kind]
        return snr.clamp(max=self.min_snr) / divided


EQUAL = Weighting("epsilon", torch.zeros(0))
"""All timesteps count alike."""


class Problem(Protocol):
    """Where batches come from."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Draw a batch; all that is random comes from the generator."""
        ...

    def held_out(self, size: int) -> Iterator[Batch]:
        """Batches that are never drawn, always the same."""
        ...


class Distillation:
    """Points of a calibration set. call: all of them, in memory; kept: the last ones, of trajectories of which hardly one is drawn."""

    def __init__(self, attached: Attached, call: Call, batch_size: int) -> None:
        self.call, self.device = call, device_of(attached.adapter)
        if len(call[0]) < 2:
            raise ConfigError(
                "A distillation needs at least 2 calibration samples, but there is one; give calib more seeds or steps."
            )
        self.kept = min(_HELD_OUT, max(1, len(call[0]) // 10))
        self.num = len(call[0]) - self.kept
        with quantizing(attached, weights=False, activations=False), torch.no_grad():
            rows = torch.split(torch.arange(len(call[0])), batch_size)
            self.targets = torch.cat(
                [attached.adapter.predict(*rows_of(call, part, self.device)).cpu() for part in rows]
            )

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """See Problem."""
        return self._rows(torch.randint(self.num, (size,), generator=generator))

    def held_out(self, size: int) -> Iterator[Batch]:
        """See Problem."""
        for rows in torch.split(torch.arange(self.num, self.num + self.kept), size):
            yield self._rows(rows)

    def _rows(self, rows: Tensor) -> Batch:
        return Batch(*rows_of(self.call, rows, self.device), self.targets[rows].to(self.device))


class NoiseOnData:
    """Noisy images or latents. folder: a training set, see stages.training_set; without: the part of samples whose condition is left out."""

    def __init__(self, attached: Attached, folder: Path, without: float = 0.1) -> None:
        self.prediction, self.device, self.without = attached.adapter.prediction, device_of(attached.adapter), without
        self.samples, facts = RowFile(folder / "sample.safetensors"), load_tensors(folder / "facts.safetensors")
        self.num, self.alphas, self.none = int(facts["num_train"]), facts["alphas_cumprod"], bool(facts["has_none"])
        condition = folder / "condition.safetensors"
        self.conditions: Cond = load_tensors(condition) if condition.exists() else None
        self.index = facts["index"]

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """See Problem: timesteps from equal intervals, one each."""
        rows = torch.randint(self.num, (size,), generator=generator)
        timesteps = stratified(size, generator, len(self.alphas))
        left_out = torch.rand(size, generator=generator) < (self.without if self.none else 0.0)
        return self._noisy(rows, timesteps, left_out, generator)

    def held_out(self, size: int) -> Iterator[Batch]:
        """See Problem: some kept samples at `_TIMESTEPS` timesteps."""
        generator = torch.Generator().manual_seed(1)
        kept = torch.arange(self.num, min(len(self.samples), self.num + _IMAGES))
        for timestep in ((2 * part + 1) * len(self.alphas) // (2 * _TIMESTEPS) for part in range(_TIMESTEPS)):
            for rows in torch.split(kept, size):
                timesteps = torch.full((len(rows),), timestep)
                yield self._noisy(rows, timesteps, torch.zeros(len(rows), dtype=torch.bool), generator)

    def _noisy(self, rows: Tensor, timesteps: Tensor, left_out: Tensor, generator: torch.Generator) -> Batch:
        rows_read = self.samples.rows(rows)
        clean = to_float(rows_read) if rows_read.dtype == torch.uint8 else rows_read
        noise = torch.randn(clean.shape, generator=generator)
        abar = self.alphas[timesteps].view(-1, *(1,) * (clean.ndim - 1))
        sample = abar.sqrt() * clean + (1 - abar).sqrt() * noise
        target = self.prediction.target(clean, noise, timesteps)
        cond = self._cond(rows, left_out)
        return Batch(sample.to(self.device), timesteps.to(self.device), cond, target.to(self.device))

    def _cond(self, rows: Tensor, left_out: Tensor) -> Cond:
        if self.conditions is None:
            return None
        last = len(next(iter(self.conditions.values()))) - 1
        chosen = cond_rows(self.conditions, torch.where(left_out, last, self.index[rows]))
        return chosen and {name: value.to(self.device) for name, value in chosen.items()}
