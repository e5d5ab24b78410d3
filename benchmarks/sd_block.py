"""A process of its own for test_memory.py: `python -m benchmarks.sd_block SAMPLES FOLDER` prints its peaks as JSON.

It captures the largest unit of Stable Diffusion v1.4, the residual block that reads 960 channels of 64x64, with random
weights, behind one convolution that makes those channels of a latent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import cifar
from dmq_cli.calib import fit_weights
from dmq_cli.deploy.bench.process import peak_mib
from dmq_cli.models.unet_parts import UNetParts
from dmq_cli.recon.capture import capture
from dmq_cli.wrap import attach

CHANNELS, SKIP, OUT, EMBEDDING, SIZE = 960, 320, 320, 1280, 64
BATCH = 16
UNIT = "up_blocks.0.resnets.0"


class OneBlock(UNetParts):
    """A network of one residual block."""

    def __init__(self) -> None:
        from diffusers.models.resnet import ResnetBlock2D

        torch.manual_seed(0)
        block = ResnetBlock2D(in_channels=CHANNELS, out_channels=OUT, temb_channels=EMBEDDING)
        level = nn.ModuleDict({"resnets": nn.ModuleList([block])})
        parts = {"conv_in": nn.Conv2d(4, CHANNELS, 1), "up_blocks": nn.ModuleList([level])}
        self.model = nn.ModuleDict(parts).eval().requires_grad_(False)

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """(B, 4, 64, 64) -> (B, 320, 64, 64)."""
        embedding = timestep.reshape(-1, 1).expand(len(sample), EMBEDDING) / 1000
        output: Tensor = self.model.get_submodule(UNIT)(self.model["conv_in"](sample), embedding)
        return output

    def blank_cond(self, num: int) -> None:
        """There is none."""

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """Nobody asks."""
        return {}

    def sample_shape(self) -> tuple[int, int, int]:
        """Of a latent."""
        return 4, SIZE, SIZE

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """Where the shortcut's input is joined."""
        return {f"{UNIT}.conv_shortcut": (CHANNELS - SKIP, SKIP)}


def main(num: int, folder: Path) -> None:
    """Capture the block over `num` latents; print the peak before and after."""
    torch.set_num_threads(2)
    attached = attach(OneBlock(), cifar.scheme("minmax", "w4a32"), torch.tensor([0]))
    fit_weights(attached)

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(0, num, BATCH):
            yield torch.randn(BATCH, *attached.adapter.sample_shape(), generator=generator), torch.zeros(BATCH).long()

    peaks = {"start": peak_mib()}
    captured = capture(attached, UNIT, data, num, folder / "capture", activations=False)
    assert captured.batch(torch.arange(num - 1, num))[0]["0"].shape == (1, CHANNELS, SIZE, SIZE)
    peaks["capture"] = peak_mib()
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
