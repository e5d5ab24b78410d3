"""Training the embedded model: stops, goes on, and comes to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dmq_cli.zoo import UNetTraining, digit_images, train_unet, unet


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> UNetTraining:
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    monkeypatch.setattr(unet, "ARCHITECTURE", {**unet.ARCHITECTURE, **sizes, **kinds})
    monkeypatch.setattr(unet, "digit_images", lambda: tuple(part[:60] for part in digit_images()))
    return UNetTraining(steps=6, batch_size=4, warmup=2, save_every=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, small: UNetTraining) -> None:
    class Stopped(Exception):
        pass

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train_unet(small, tmp_path / "stopped", stop)
    steps: list[int] = []
    card = train_unet(small, tmp_path / "stopped", lambda step, n, loss: steps.append(step))
    whole = train_unet(small, tmp_path / "whole", lambda step, n, loss: None)
    assert steps == [5, 6] and card == whole
    one, two = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], two[name]) for name in two) and len(two) > 20


def test_the_loss_is_the_noise_that_was_missed() -> None:
    """With a network that says zero, L_simple is the mean square of the noise; the noisy image follows eq. 4."""
    seen = {}

    class Zero(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            seen["sample"] = sample
            self.sample = torch.zeros_like(sample)
            return self  # type: ignore[return-value]

    images, noise = torch.ones(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = unet.diffusion_loss(Zero(), images, torch.tensor([0, 999]), noise)
    assert torch.allclose(loss, noise.square().mean())
    alpha = (
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[[0, 999]].float().view(2, 1, 1, 1)
    )
    assert torch.allclose(seen["sample"], alpha.sqrt() * images + (1 - alpha).sqrt() * noise, atol=1e-6)
