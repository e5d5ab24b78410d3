"""Calibration inputs for reconstruction: batches of a Denoiser's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dmq_cli.models import Call, Cond, cond_rows

Batches = Callable[[], Iterator[Call]]
"""One pass over calibration inputs: batches of (sample (B, C, H, W), timestep (B,)) and condition, where there is one."""


def timesteps_of(data: Batches) -> Tensor:
    """Join the timesteps of the whole set, (N,)."""
    return torch.cat([batch[1] for batch in data()])


def condition_of(call: Call) -> Cond:
    """The condition of a batch, None where there is none."""
    return call[2] if len(call) == 3 else None


def joined(data: Batches) -> tuple[Tensor, Tensor, Cond]:
    """Join the whole set to one batch, in memory."""
    calls = list(data())
    conditions = [cond for call in calls if (cond := condition_of(call)) is not None]
    cond = (
        {name: torch.cat([batch_cond[name] for batch_cond in conditions]) for name in conditions[0]}
        if conditions
        else None
    )
    return torch.cat([call[0] for call in calls]), torch.cat([call[1] for call in calls]), cond


def rows_of(call: Call, rows: Tensor | slice, device: torch.device | str) -> tuple[Tensor, Tensor, Cond]:
    """Select rows of a batch and move them to a device."""
    cond = cond_rows(condition_of(call), rows)
    moved = cond and {name: value.to(device) for name, value in cond.items()}
    return call[0][rows].to(device), call[1][rows].to(device), moved
