"""Quantizing from Python gives what the command line gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

import dmq_cli
from dmq_cli.errors import ConfigError
from tests import tiny

SHAPE = (3, 8, 8)
WORDS = ("sampler.num_inference_steps=2", "calib.seeds=1000000-1000003", "calib.num_steps=1", "budget=smoke")


def test_a_network_and_its_scheduler_become_a_denoiser(tmp_path: Path) -> None:
    network = tiny.network(torch.float32, in_channels=3, out_channels=3)
    scheduler = DDIMScheduler(**tiny.SCHEDULE)
    quantized = dmq_cli.quantize(network, scheduler, method="minmax", bits="w5a7", overrides=WORDS, outputs=tmp_path)
    sample, timestep = torch.randn(2, *SHAPE), torch.tensor([500, 500])
    eps, full = quantized(sample, timestep), network(sample, timestep).sample
    assert eps.shape == full.shape and 0 < (eps - full).norm() / full.norm() < 0.5
    assert quantized.sample("0-1").shape == (2, *SHAPE)
    again = dmq_cli.quantize(network, scheduler, method="minmax", bits="w5a7", overrides=WORDS, outputs=tmp_path)
    assert torch.equal(again(sample, timestep), eps)
    assert len(list((tmp_path / "artifacts" / "calibset").glob("[0-9a-f]*"))) == 1, (
        "the same weights are the same model"
    )


def test_a_network_without_its_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without its scheduler"):
        dmq_cli.quantize(tiny.network(), outputs=tmp_path)
