"""The imported network computes what the original one does: same weights, same input, in miniature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.models.importers.keymap import collect
from dmq_cli.models.importers.networks import build, modules, target_tensors
from dmq_cli.models.importers.recipes import RECIPES, Network
from tests.models.importers.miniatures import randomized
from tests.models.importers.original_ddim import Model, sines
from tests.models.importers.original_first_stage import FirstStage
from tests.models.importers.original_ldm import Shape, UNetModel, cosines

TIMES = torch.tensor([3, 500, 999])
PAIR = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def mini(recipe: str, /, **changes: Any) -> Network:
    """The denoiser of a recipe with few channels, or its first stage where the recipe's name ends with "+"."""
    network = RECIPES[recipe.rstrip("+")].networks[int(recipe.endswith("+"))]
    return Network(network.folder, network.kind, network.prefix, {**network.config, "norm_num_groups": 4, **changes})


def pair(original: Any, network: Network, dtype: torch.dtype) -> tuple[Any, Any]:
    """The original with random weights (those of norms too), and the diffusers network that it is imported into."""
    tensors = collect(target_tensors(network), modules(network), randomized(original).state_dict(), "The test")
    model = build(network).to_empty(device="cpu")
    model.load_state_dict(tensors)
    first, second = (module.to(dtype).eval().requires_grad_(False) for module in (original, model))
    return first, second


def picture(channels: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_agree(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 in float32, to 1e-10 in float64, relative to the largest value."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    tolerance = 1e-10 if expected.dtype == torch.float64 else 1e-5
    assert float(expected.std()) > 0.05
    assert float((found - expected).abs().max() / expected.abs().max()) <= tolerance


def assert_sensitive(model: Any, x: Tensor, expected: Tensor, **changed: Any) -> None:
    """Another value of an attribute of one module gives other numbers: what is compared does depend on it."""
    for name, value in changed.items():
        (module,) = [m for n, m in model.named_modules() if n == name.replace("__", ".")]
        for attribute, other in value.items():
            old = getattr(module, attribute)
            setattr(module, attribute, other)
            assert float((model(x, TIMES).sample - expected).abs().max()) > 1e-4, (name, attribute)
            setattr(module, attribute, old)


class Given(nn.Module):
    """The original's own time embedding: in float32 the order of operations alone shifts phases by up to 1e-4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, timestep: Tensor) -> Tensor:
        return sines(timestep, self.width, torch.float32)


@dtypes
@pytest.mark.parametrize("recipe", ["ddim_cifar10", "ddpm_church256"])
def test_ddim(recipe: str, dtype: torch.dtype) -> None:
    original, model = pair(Model(8, (1, 2), {1}, groups=4), mini(recipe, block_out_channels=(8, 16), **PAIR), dtype)
    model.time_proj, x = Given(8), picture(3, 8, dtype)
    expected = original(x, TIMES)
    assert_agree(model(x, TIMES).sample, expected)
    assert_sensitive(model, x, expected, down_blocks__1__attentions__0={"heads": 2})


def test_ddim_levels_of_different_widths() -> None:
    types = {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
    }
    network = mini("ddim_cifar10", block_out_channels=(4, 8, 12), **types)
    original, model = pair(Model(4, (1, 2, 3), {0}, groups=4), network, torch.float64)
    model.time_proj, x = Given(4), picture(3, 8, torch.float64)
    assert_agree(model(x, TIMES).sample, original(x, TIMES))


@dtypes
def test_ldm4_with_heads_of_one_size(dtype: torch.dtype) -> None:
    shape = Shape(16, (1, 2), frozenset({1}), size=8, groups=4)
    network = mini("ldm4_bedroom", block_out_channels=(16, 32), attention_head_dim=8, **PAIR)
    original, model = pair(UNetModel(shape), network, dtype)
    x = picture(3, 8, dtype)
    assert_agree(model(x, TIMES).sample, original(x, TIMES))
    assert {m.heads for m in model.modules() if hasattr(m, "heads")} == {4}


@dtypes
def test_ldm8_with_a_number_of_heads_scale_shift_and_residual_resampling(dtype: torch.dtype) -> None:
    shape = Shape(8, (1, 2, 2), frozenset({0, 1}), latent=4, heads=4, scale_shift=True, updown=True, groups=4)
    types = {
        "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
    }
    changes: dict[str, Any] = {"block_out_channels": (8, 16, 16), "num_attention_heads": 4, "attn_norm_num_groups": 4}
    original, model = pair(UNetModel(shape), mini("ldm8_church", **changes, **types), dtype)
    x = picture(4, 8, dtype)
    expected = original(x, TIMES)
    assert_agree(model(x, TIMES).sample, expected)
    assert {m.heads for m in model.modules() if hasattr(m, "heads")} == {4}
    assert_sensitive(
        model, x, expected, down_blocks__1__attentions__0={"heads": 2}, mid_block__attentions__0={"heads": 8}
    )


@dtypes
def test_class_conditional_ldm4(dtype: torch.dtype) -> None:
    shape = Shape(8, (1, 2), frozenset({1}), heads=1, context=6, groups=4)
    types = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    network = mini("ldm4_imagenet", block_out_channels=(8, 16), cross_attention_dim=6, **types)
    original, model = pair(UNetModel(shape), network, dtype)
    x = picture(3, 8, dtype)
    context = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(2)).to(
        dtype
    )  # two tokens: their weights count
    expected = original(x, TIMES, context)
    assert_agree(model(x, TIMES, context).sample, expected)
    assert float((model(x, TIMES, context.flip(0)).sample - expected).abs().max()) > 1e-3


@dtypes
def test_vq_first_stage(dtype: torch.dtype) -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    network = mini("ldm4_bedroom+", block_out_channels=(8, 16), num_vq_embeddings=20, **kinds)
    original, model = pair(FirstStage(8, (1, 2), 3, 20, groups=4), network, dtype)
    x, z = picture(3, 8, dtype), picture(3, 4, dtype)
    assert_agree(model.encode(x).latents, original.encode(x))
    assert_agree(model.decode(z).sample, original.decode(z))


@dtypes
def test_kl_first_stage(dtype: torch.dtype) -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    network = mini("ldm8_church+", block_out_channels=(8, 16), scaling_factor=0.2, **kinds)
    original, model = pair(FirstStage(8, (1, 2), 4, None, groups=4), network, dtype)
    x, z = picture(3, 8, dtype), picture(4, 4, dtype)
    moments = original.encode(x)
    posterior = model.encode(x).latent_dist
    assert_agree(posterior.mean, moments[:, :4])
    assert_agree(posterior.logvar, moments[:, 4:])
    assert_agree(model.decode(z).sample, original.decode(z))


@pytest.mark.parametrize("recipe", RECIPES)
def test_time_embeddings(recipe: str) -> None:
    """Cosine or sine first, over n or n - 1: against float64 to float32's rounding of phases up to 1000."""
    network = RECIPES[recipe].networks[0]
    time, width = build(network).time_proj, network.config["block_out_channels"][0]
    steps = torch.arange(1000)
    latent = not recipe.startswith("dd")
    rate = torch.arange(width // 2, dtype=torch.float64) / (width // 2 - (0 if latent else 1))
    angles = steps[:, None].double() * torch.exp(-math.log(10000) * rate)
    halves = [angles.cos(), angles.sin()] if latent else [angles.sin(), angles.cos()]
    assert float((time(steps) - torch.cat(halves, 1)).abs().max()) < 2e-4
    reference = (cosines if latent else sines)(steps, width, torch.float32)
    assert float((time(steps) - reference).abs().max()) < (1e-7 if latent else 2e-4)
