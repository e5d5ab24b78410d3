"""A correction inside a Denoiser finds its row by timestep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmq_cli.correct import CorrectedDenoiser, TacCorrection
from dmq_cli.errors import ConfigError


def half(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    return sample / 2


def corrected() -> CorrectedDenoiser:
    gain = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    bias = torch.tensor([1.0, 5.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    return CorrectedDenoiser(half, TacCorrection(gain, bias), torch.tensor([900, 100]))


@pytest.mark.parametrize(("timestep", "gain", "bias"), [(900, 2.0, 1.0), (100, 3.0, 5.0)])
def test_each_timestep_has_its_row(timestep: int, gain: float, bias: float) -> None:
    sample = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    assert torch.equal(corrected()(sample, torch.tensor([timestep])), gain * ((sample - bias) / 2))
    assert torch.equal(corrected()(sample, torch.tensor([timestep] * 3)), gain * ((sample - bias) / 2))


@pytest.mark.parametrize("timestep", [[500], [900, 100, 900]], ids=["unknown", "mixed"])
def test_other_timesteps_are_refused(timestep: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"knows one at a time of 900, 100"):
        corrected()(torch.zeros(len(timestep), 1, 2, 2), torch.tensor(timestep))


def test_without_a_correction_the_denoiser_is_as_it_was() -> None:
    sample = torch.randn(1, 1, 2, 2)
    assert torch.equal(CorrectedDenoiser(half, None, torch.tensor([1]))(sample, torch.tensor([7])), sample / 2)
