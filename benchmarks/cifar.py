"""The UNet of google/ddpm-cifar10-32 with random weights, and its quantized twin under a shipped scheme."""

from __future__ import annotations

from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.models import UNetAdapter
from dmq_cli.paths import conf_folder
from dmq_cli.sampling import DDIM, Sampler
from dmq_cli.stages.build import make
from dmq_cli.wrap import Attached, Scheme, attach

PARAMETERS = 35_746_307
SHAPE = (3, 32, 32)


def adapter() -> UNetAdapter:
    """Always the same weights, in eval mode, without gradients."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
        )
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    return UNetAdapter(model.eval().requires_grad_(False))


def scheduler(steps: int) -> DDIM:
    """DDIM over the noise schedule of that model."""
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return Sampler(steps).scheduler(schedule)


def scheme(name: str, bits: str) -> Scheme:
    """A scheme as the command line would compose it."""
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        config = compose("config", [f"scheme={name}", f"bits={bits}"])
    section: Any = OmegaConf.to_container(config.scheme, resolve=True)
    composed: Scheme = make(section)
    return composed


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, and timesteps spread over the schedule."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *SHAPE, generator=generator), torch.linspace(0, 999, size).long()


def attached(name: str = "minmax", bits: str = "w4a8", steps: int = 100, fit: bool = True) -> Attached:
    """With quantizers; `fit`: ranges of the weights from themselves, those of activations from one batch."""
    with_quantizers = attach(adapter(), scheme(name, bits), scheduler(steps).timesteps)
    if fit:
        fit_weights(with_quantizers)
        fit_activations(with_quantizers, [batch(8)])
    return with_quantizers
