"""Training the embedded pixel model: stops, goes on, and comes to the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmq_cli.models import load_adapter, load_schedule
from dmq_cli.models.architectures import ARCHITECTURES
from dmq_cli.zoo import Training, UNetTraining, data, split, to_float, train_unet, unet
from dmq_cli.zoo.training import alphas_cumprod, diffusion_loss
from tests.test_conf import composed
from tests.zoo.helpers import few_digits, stopped_and_whole, weights
from tests.zoo.idx import small_fashion


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Training:
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    monkeypatch.setattr(unet, "ARCHITECTURE", {**unet.ARCHITECTURE, **sizes, **kinds})
    monkeypatch.setattr(data, "digit_images", few_digits)
    return Training(steps=6, batch_size=4, warmup=2, save_every=2)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, small: Training) -> None:
    stopped, whole, steps, same = stopped_and_whole(
        lambda work, report: train_unet(small, work, report), tmp_path, at=5
    )
    assert steps == [5, 6] and same
    resumed, unbroken = weights(stopped / "model"), weights(whole / "model")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken) and len(unbroken) > 20


def test_digits_are_trained_as_before(tmp_path: Path, small: Training) -> None:
    """The first losses by hand: float images of the shuffled split, timesteps and noise of a generator of seed and step."""
    from diffusers import UNet2DModel

    losses: list[float] = []
    train_unet(replace(small, steps=1), tmp_path / "run", lambda step, steps, loss: losses.append(loss))
    torch.manual_seed(0)
    model = UNet2DModel(**unet.ARCHITECTURE).train()
    images, alphas = to_float(few_digits()[0]), alphas_cumprod(unet.SCHEDULER)
    generator = torch.Generator().manual_seed(0)
    rows = split(60, 0.1, 0)[0][torch.randint(54, (4,), generator=generator)]
    timesteps = ((torch.arange(4) + torch.rand(4, generator=generator)) / 4 * 1000).long()
    noise = torch.randn(4, 1, 16, 16, generator=generator)
    loss = diffusion_loss(lambda noisy, t: model(noisy, t).sample, alphas, images[rows], timesteps, noise)
    assert losses == [float(loss.detach())]


@pytest.mark.slow
def test_data_and_network_come_from_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_fashion(tmp_path / "idx", monkeypatch)
    network = composed("model=ddim_fashion")["train"]["unet"]["network"] | {
        "block_out_channels": [6, 12, 12, 12],
        "layers_per_block": 1,
    }
    config = UNetTraining(
        steps=4, batch_size=2, warmup=2, save_every=2, data="fashion", path=str(folder), network=network
    )
    monkeypatch.setattr(unet, "_EVALUATED", 2)
    stopped, whole, steps, same = stopped_and_whole(
        lambda work, report: train_unet(config, work, report), tmp_path, at=3
    )
    assert steps == [3, 4] and same
    resumed, unbroken = weights(stopped / "model"), weights(whole / "model")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken) and len(unbroken) > 50
    loaded = load_adapter(whole / "model")
    assert loaded.sample_shape() == (1, 32, 32)
    written = json.loads((whole / "model" / "unet" / "config.json").read_text(encoding="utf-8"))
    assert written["block_out_channels"] == [6, 12, 12, 12] and written["layers_per_block"] == 1
    assert alphas_cumprod(load_schedule(whole / "model"))[-1] == alphas_cumprod(unet.SCHEDULER)[-1]


def test_the_network_of_the_recipe_is_that_of_cifar10_but_for_its_width() -> None:
    """conf/model/ddim_cifar10.yaml and the published config.json, divided by 128 / 24."""
    from diffusers import UNet2DModel

    recipe = composed("model=ddim_fashion")["train"]["unet"]
    (cifar,) = ARCHITECTURES["ddim_cifar10"].networks
    same = {key: list(value) if isinstance(value, tuple) else value for key, value in cifar.config.items()}
    assert {key for key, value in same.items() if recipe["network"].get(key) != value} == {
        "block_out_channels",
        "dropout",
    }
    widths = [width * 24 // 128 for width in cifar.config["block_out_channels"]]
    assert recipe["network"]["block_out_channels"] == widths == [24, 48, 48, 48]
    assert 128 // cifar.config.get("norm_num_groups", 32) == 24 // recipe["network"]["norm_num_groups"] == 4
    with torch.device("meta"):
        model = UNet2DModel(**recipe["network"])
    assert sum(p.numel() for p in model.parameters()) == 1_265_281, "as its YAML says"


def test_the_loss_is_the_noise_that_was_missed() -> None:
    """With a network that says zero, L_simple is the mean square of the noise; the noisy image follows eq. 4."""
    inputs = {}

    def zero(sample: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        inputs["sample"] = sample
        return torch.zeros_like(sample)

    images, noise = torch.ones(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    assert torch.equal(alphas, alphas_cumprod(unet.SCHEDULER))
    loss = diffusion_loss(zero, alphas, images, torch.tensor([0, 999]), noise)
    assert torch.allclose(loss, noise.square().mean())
    alpha = alphas[[0, 999]].view(2, 1, 1, 1)
    assert torch.allclose(inputs["sample"], alpha.sqrt() * images + (1 - alpha).sqrt() * noise, atol=1e-6)
