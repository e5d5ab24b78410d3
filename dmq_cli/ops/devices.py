"""Devices: how tensors get there without making the host wait, and what some of them cannot do."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

CPU = torch.device("cpu")
WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that do not know float64."""


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; the host does not wait for the copy to CUDA, which goes through pinned memory."""
    if device.type == "cuda" and x.device == CPU:
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def double(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device knows none."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def own_random(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside, torch's global random numbers may be seeded; afterwards those of the CPU and of this CUDA device are as before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
