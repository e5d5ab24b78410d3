"""Classifier-free guidance as a Denoiser around a Denoiser, and where a correction acts.

Ho and Salimans: Classifier-Free Diffusion Guidance, 2022 (arXiv 2207.12598), in the form that latent diffusion uses:
eps = eps_u + s (eps_c - eps_u), eps_u: without a condition, eps_c: with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmq_cli.models import Cond, Conditions, Denoiser
from dmq_cli.ops import CPU, moved

Target = Literal["guided", "uncond", "both"]
TARGETS: tuple[Target, ...] = ("guided", "uncond", "both")
"""What a correction acts on: the guided estimate, the unconditional half alone, or each half."""


@dataclass(frozen=True)
class Guide:
    """Conditions and guidance of a model. conditions: None for an unconditional model.

    scale: s of the guidance; None: the conditional estimate alone. calls: 1 estimates both halves in one batch, 2 one after the
    other, which takes half the memory. target: what `around` returns, None as "guided".
    """

    conditions: Conditions | None = None
    scale: float | None = None
    calls: int = 1
    target: Target | None = None

    @property
    def halves(self) -> bool:
        """Whether `around` returns the halves, to be joined after a correction."""
        return self.scale is not None and self.target in ("uncond", "both")

    def cond(self, seeds: Sequence[int], device: torch.device = CPU) -> Cond:
        """Build the condition of the images of these seeds, a row for each, on a device."""
        return None if self.conditions is None else placed(self.conditions.of(seeds), device)

    def around(self, denoiser: Denoiser) -> Denoiser:
        """Wrap the network for the sampler: guided, or with `halves` both estimates, (B, 2 C, H, W), eps_u first."""
        none = self.none
        if self.scale is None or none is None:
            return denoiser
        halves = Halves(denoiser, none, self.calls)
        return halves if self.halves else Guided(halves, self.scale)

    def join(self, eps: Tensor) -> Tensor:
        """Join an estimate of `around` to the guided one, (B, C, H, W)."""
        return joined(eps, self.scale) if self.halves and self.scale is not None else eps

    @property
    def none(self) -> Mapping[str, Tensor] | None:
        """The condition of eps_u, one row; None without guidance."""
        return None if self.scale is None or self.conditions is None else self.conditions.none()


UNGUIDED = Guide()


class Halves:
    """Both estimates side by side, (B, 2 C, H, W): without a condition, then with the given one.

    none: one row, the condition of the unconditional estimate.
    """

    def __init__(self, denoiser: Denoiser, none: Mapping[str, Tensor], calls: int = 1) -> None:
        self.denoiser, self.none, self.calls = denoiser, none, calls

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser; cond: of the conditional half."""
        self.none = placed(self.none, sample.device)
        none = repeated(self.none, len(sample))
        if self.calls == 2:
            return torch.cat([self.denoiser(sample, timestep, half) for half in (none, cond)], 1)
        conditional: Mapping[str, Tensor] = cond  # type: ignore[assignment]
        joined_cond = {name: torch.cat([rows, conditional[name].to(rows)]) for name, rows in none.items()}
        twice = timestep if timestep.numel() == 1 else timestep.repeat(2)
        return torch.cat(self.denoiser(torch.cat([sample, sample]), twice, joined_cond).chunk(2), 1)


class Guided:
    """The guided estimate (B, C, H, W) from both halves."""

    def __init__(self, halves: Denoiser, scale: float) -> None:
        self.halves, self.scale = halves, scale

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        return joined(self.halves(sample, timestep, cond), self.scale)


def joined(eps: Tensor, scale: float) -> Tensor:
    """eps_u + s (eps_c - eps_u) of both halves (B, 2 C, H, W)."""
    unconditional, conditional = eps.chunk(2, dim=1)
    return unconditional + scale * (conditional - unconditional)


def placed(cond: Mapping[str, Tensor], device: torch.device) -> Mapping[str, Tensor]:
    """Move a condition to a device, once."""
    return {name: moved(value, device) for name, value in cond.items()}


def repeated(row: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
    """Repeat a condition of one row `num` times."""
    return {name: value.expand(num, *value.shape[1:]) for name, value in row.items()}
