"""LPIPS on a random AlexNet, against the definition written out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmq_cli.metrics.lpips as module
import dmq_cli.metrics.weights as weights
from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.metrics import Protocol, further_sha256
from tests.metrics.helpers import PAIRED, paired, protocol

lpips = pytest.importorskip("lpips", reason="lpips is not installed (dmq-cli[lpips])")
WIDTHS = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))  # AlexNet's layers


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights in the place of torchvision's, which also has a classifier."""
    generator, state = torch.Generator().manual_seed(0), {"classifier.1.bias": torch.zeros(4)}
    for number, before, after, kernel in WIDTHS:
        shape = (after, before, kernel, kernel)
        state[f"features.{number}.weight"] = torch.randn(shape, generator=generator) / (before * kernel**2) ** 0.5
        state[f"features.{number}.bias"] = torch.randn(after, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "ALEXNET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
        yield path
    module._build.cache_clear()


def plan(file: Path) -> Protocol:
    return protocol(metrics=PAIRED, lpips_path=str(file))


def images(side: int, channels: int = 3) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 3, side, side, channels), dtype=np.uint8)
    return a, b


def layers(pixels: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """What AlexNet's five ReLUs give, each position's channels made a vector of length 1."""
    activations, x = [], pixels
    for (number, *_), stride, padding, pool in zip(
        WIDTHS, (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False), strict=True
    ):
        x = nn.functional.max_pool2d(x, 3, 2) if pool else x
        x = nn.functional.conv2d(
            x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], stride, padding
        ).relu()
        activations.append(x / x.square().sum(1, keepdim=True).sqrt())
    return activations


def test_it_is_the_weighted_squared_difference_of_normalized_layers(file: Path) -> None:
    a, b = images(64)
    state = torch.load(file, weights_only=True)
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", "cpu", weights_only=True)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    activations = [layers(((torch.from_numpy(x) / 127.5 - 1 - mean) / std).permute(0, 3, 1, 2), state) for x in (a, b)]
    each = [
        nn.functional.conv2d((x - y).square(), linear[f"lin{number}.model.1.weight"]).mean((1, 2, 3))
        for number, (x, y) in enumerate(zip(*activations, strict=True))
    ]
    result = paired(a, b, plan(file))
    torch.testing.assert_close(result.influences["lpips"], torch.stack(each).sum(0).double(), rtol=1e-4, atol=1e-6)
    assert result.numbers["lpips"] == pytest.approx(float(result.influences["lpips"].mean()))
    assert set(paired(a, b).numbers) == {"psnr", "ssim"}, "without weights there is no LPIPS"


def test_grey_is_three_equal_channels_and_the_same_image_is_at_distance_zero(file: Path) -> None:
    a, b = images(31, channels=1)
    three = paired(np.repeat(a, 3, 3), np.repeat(b, 3, 3), plan(file)).influences["lpips"]
    torch.testing.assert_close(paired(a, b, plan(file)).influences["lpips"], three)
    assert float(paired(a, a, plan(file)).influences["lpips"].abs().max()) == 0 and float(three.min()) > 0


def test_building_draws_no_random_numbers(file: Path) -> None:
    module._build.cache_clear()
    before = torch.random.get_rng_state()
    paired(*images(31), plan(file))
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_that_are_too_small(file: Path) -> None:
    with pytest.raises(
        EvaluationError, match=r"at least 31x31 pixels, but found 30x30x3; leave protocol\.lpips_path out"
    ):
        paired(*images(30), plan(file))


def test_weights_that_are_not_here_or_not_those(file: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"none\.pth is not a file; download .*alexnet-owt-7be5be79\.pth"):
        further_sha256(protocol(lpips_path=str(tmp_path / "none.pth")))
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(EvaluationError, match=r"sha256 [0-9a-f]{8}\.\.\., but .* has [0-9a-f]{64}; download"):
        paired(*images(31), plan(tmp_path / "other.pth"))
    with pytest.raises(EvaluationError, match=f"must have the sha256 {'0' * 64}, but"):
        further_sha256(protocol(lpips_path=str(file), weights_sha256={"lpips": "0" * 64}))
    assert set(further_sha256(protocol(lpips_path=str(file)))) == {"lpips"}
