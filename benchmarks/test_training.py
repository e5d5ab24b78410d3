"""What a step of quantization-aware training costs, against a step of full precision on the same batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from benchmarks.timing import by_turns, show_ratio
from dmq_cli.calib import fit_weights
from dmq_cli.choices import composed
from dmq_cli.qat.problems import EQUAL, Batch
from dmq_cli.qat.student import Student
from dmq_cli.recon import Scales
from dmq_cli.stages import build
from dmq_cli.stages.prepare import prepared

BATCH = Batch(torch.randn(64, 1, 16, 16), torch.arange(64) * 15, None, torch.randn(64, 1, 16, 16))
ROUNDS = 5


def step(parameters: list[nn.Parameter], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A step of AdamW, gradients clipped, as in the training's loop."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def take() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return take


def configured(method: str) -> tuple[dict[str, Any], Any]:
    config = prepared({**composed((f"method={method}", "bits=w4a4")), "stage": "reconstruct"})
    return config.config, config.parts.recon


def full_precision() -> Callable[[], None]:
    config, _ = configured("minmax")
    adapter = build.adapter(config, config["runtime"])
    parameters = list(adapter.model.requires_grad_(True).parameters())
    return step(parameters, lambda: nn.functional.mse_loss(adapter.predict(*BATCH[:3]), BATCH.target))


def quantized(method: str) -> Callable[[], None]:
    config, recon = configured(method)
    attached = build.attached(config, config["runtime"])
    fit_weights(attached)
    student = Student(
        attached, recon.weights, recon.gradients, 1e-4, Scales(1e-3, decay=False), Scales(1e-3, decay=False)
    )
    return step(
        [p for group, _ in student.rates() for p in group],
        lambda: EQUAL.loss(student(BATCH.sample, BATCH.timestep, BATCH.cond), BATCH),
    )


@pytest.mark.parametrize("method", ["lsq", "pact", "nipq", "tdq_qat", "steps_n_qat", "dynamic_qat", "efficientdm"])
def test_a_training_step(benchmark: BenchmarkFixture, method: str) -> None:
    """The embedded model, 64 images: a step with quantizers and one without, in turn. At most 2 is the aim."""
    times = by_turns(benchmark, quantized(method), full_precision(), ROUNDS)
    show_ratio(benchmark, f"{method} / full precision, a step of training", times, "2")
