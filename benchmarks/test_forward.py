"""What simulated quantization adds to a forward pass: W4A8, weights rounded once, against full precision."""

from __future__ import annotations

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import cifar
from benchmarks.timing import by_turns, show_ratio
from dmq_cli.models import ModelDenoiser
from dmq_cli.wrap import QuantDenoiser, bake


@torch.inference_mode()
def test_forward(benchmark: BenchmarkFixture) -> None:
    """The CIFAR-10 UNet on 32 images, quantized at every layer and in attention; the twin has no quantizers at all."""
    full, attached = ModelDenoiser(cifar.adapter()), cifar.attached("minmax", "w4a8")
    bake(attached)
    quantized, inputs = QuantDenoiser(attached), cifar.batch(32, seed=1)
    assert not torch.equal(quantized(*inputs), full(*inputs))
    times = by_turns(benchmark, lambda: quantized(*inputs), lambda: full(*inputs), rounds=5)
    show_ratio(benchmark, "W4A8 forward / FP forward", times, "1.5")
