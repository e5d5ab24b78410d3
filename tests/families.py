"""Random networks of the conditional families, their quantized twins and conditions, for many tests."""

from __future__ import annotations

from typing import Any, cast

import diffusers
import torch
from torch import Tensor, nn

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.models import Adapter, CondUNetAdapter, DiTAdapter, UNetAdapter
from dmq_cli.ops import PerChannel
from dmq_cli.wrap import Attached, Rule, Scheme, attach
from tests.tiny import ARCHITECTURE, TIMESTEPS, batches

LATENT: dict[str, Any] = ARCHITECTURE | {  # latent UNets of LDM: residual resamplers, attention on every level
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 4,
}
COND_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
DIT: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 4,
    "patch_size": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "num_embeds_ada_norm": 10,
}
TOKENS = 5
FAMILIES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "latent": ("UNet2DModel", UNetAdapter, LATENT),
    "cond_unet": ("UNet2DConditionModel", CondUNetAdapter, COND_UNET),
    "dit": ("DiTTransformer2DModel", DiTAdapter, DIT),
}

# Published architectures, for the meta device.
SD14: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
LDM4_IMAGENET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (192, 384, 576, 960),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    "cross_attention_dim": 512,
    "attention_head_dim": 1,  # heads: the name is diffusers' own mistake
}
DIT_XL_2: dict[str, Any] = {"out_channels": 8}


def network(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """Always the same random weights, in eval mode, without gradients."""
    kind, _, architecture = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(diffusers, kind)(**{**architecture, **changes})
    return model.eval().requires_grad_(False).to(dtype)


def adapter(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Adapter:
    return cast(Adapter, FAMILIES[family][1](network(family, dtype, **changes)))


def meta(family: str, **architecture: Any) -> Adapter:
    """The adapter of a network of any size that has shapes only."""
    kind, adapter_class, _ = FAMILIES[family]
    with torch.device("meta"):
        return cast(Adapter, adapter_class(getattr(diffusers, kind)(**architecture)))


def cond(family: str, num: int = 8, dtype: torch.dtype = torch.float64) -> dict[str, Tensor] | None:
    """A condition for each of `num` samples."""
    generator = torch.Generator().manual_seed(2)
    if family == "dit":
        return {"class_labels": torch.randint(11, (num,), generator=generator)}
    if family == "cond_unet":
        return {"encoder_hidden_states": torch.randn(num, TOKENS, 12, generator=generator, dtype=dtype)}
    return None


def rows(given: dict[str, Tensor] | None, index: slice) -> dict[str, Tensor] | None:
    """Part of a condition."""
    return {name: value[index] for name, value in given.items()} if given else None


def direct(family: str, model: nn.Module, sample: Tensor, timestep: Tensor, given: dict[str, Tensor] | None) -> Tensor:
    """The network's estimate without an adapter: of the noise, and of variances where it has them."""
    first = "hidden_states" if family == "dit" else "sample"
    output: Tensor = model(**{first: sample}, timestep=timestep, **(given or {})).sample
    return output


class Conditioned:
    """An adapter whose network runs under the first rows of one condition wherever none is given."""

    def __init__(self, family: str, inner: Adapter, dtype: torch.dtype) -> None:
        self.inner, self.model, self.own = inner, inner.model, cond(family, 16, dtype)

    def predict(self, sample: Tensor, timestep: Tensor, given: object) -> Tensor:
        return self.inner.predict(sample, timestep, given or rows(self.own, slice(len(sample))))

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is copied there is none yet
            raise AttributeError(name)
        return getattr(self.inner, name)


def wrapped(family: str, rules: Scheme, dtype: torch.dtype = torch.float64, **changes: Any) -> Attached:
    """The quantized twin of `network`, calibrated on `data` and `cond`."""
    conditioned = cast(Adapter, Conditioned(family, adapter(family, dtype, **changes), dtype))
    attached = attach(conditioned, rules, TIMESTEPS)
    attached.model.to(dtype)
    fit_weights(attached)
    fit_activations(attached, batches(dtype=dtype))
    return attached


def plain(*more: Rule, act: int = 8) -> Scheme:
    """Per-channel weights, per-tensor activations; `more` rules come last."""
    return Scheme([Rule("*", bits=act), Rule("*.weight", bits=4, granularity=PerChannel()), *more])
