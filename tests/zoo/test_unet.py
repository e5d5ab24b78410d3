"""Training the embedded pixel model: stops, goes on, and comes to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmq_cli.zoo import Training, data, train_unet, unet
from dmq_cli.zoo.training import alphas_cumprod, diffusion_loss
from tests.zoo.helpers import few_digits, stopped_and_whole, weights


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Training:
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    monkeypatch.setattr(unet, "ARCHITECTURE", {**unet.ARCHITECTURE, **sizes, **kinds})
    monkeypatch.setattr(data, "digit_images", few_digits)
    return Training(steps=6, batch_size=4, warmup=2, save_every=2)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, small: Training) -> None:
    stopped, whole, steps, same = stopped_and_whole(
        lambda work, report: train_unet(small, work, report), tmp_path, at=5
    )
    assert steps == [5, 6] and same
    one, two = weights(stopped / "model"), weights(whole / "model")
    assert all(torch.equal(one[name], two[name]) for name in two) and len(two) > 20


def test_the_loss_is_the_noise_that_was_missed() -> None:
    """With a network that says zero, L_simple is the mean square of the noise; the noisy image follows eq. 4."""
    seen = {}

    def zero(sample: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen["sample"] = sample
        return torch.zeros_like(sample)

    images, noise = torch.ones(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    assert torch.equal(alphas, alphas_cumprod(unet.SCHEDULER))
    loss = diffusion_loss(zero, alphas, images, torch.tensor([0, 999]), noise)
    assert torch.allclose(loss, noise.square().mean())
    alpha = alphas[[0, 999]].view(2, 1, 1, 1)
    assert torch.allclose(seen["sample"], alpha.sqrt() * images + (1 - alpha).sqrt() * noise, atol=1e-6)
