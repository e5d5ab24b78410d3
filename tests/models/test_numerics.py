"""A network in another precision and memory format, and a Denoiser around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli.errors import ConfigError
from dmq_cli.models import ModelDenoiser, Numerics
from tests.tiny import adapter, data


@pytest.fixture
def backends() -> Iterator[Any]:
    modules: tuple[Any, Any] = torch.backends.cuda.matmul, torch.backends.cudnn
    before, tuned = [module.allow_tf32 for module in modules], torch.backends.cudnn.benchmark
    yield modules
    for module, value in zip(modules, before, strict=True):
        module.allow_tf32 = value
    torch.backends.cudnn.benchmark = tuned


def test_tf32_is_said_on_cuda_whatever_was_before(backends: Any) -> None:
    for enabled in (True, False):
        for backend in backends:
            backend.allow_tf32 = not enabled
        Numerics(tf32=enabled).set_backends("cpu")
        assert [backend.allow_tf32 for backend in backends] == [not enabled] * 2
        Numerics(tf32=enabled).set_backends("cuda:0")
        assert [backend.allow_tf32 for backend in backends] == [enabled] * 2


def test_autotuning_is_said_on_cuda_whatever_was_before(backends: Any) -> None:
    for enabled in (True, False):
        torch.backends.cudnn.benchmark = not enabled
        Numerics(autotune=enabled).set_backends("cpu")
        assert torch.backends.cudnn.benchmark is not enabled
        Numerics(autotune=enabled).set_backends("cuda:0")
        assert torch.backends.cudnn.benchmark is enabled


def test_the_default_changes_nothing() -> None:
    full = adapter(torch.float32)
    before = {name: (p, p.data_ptr()) for name, p in full.model.named_parameters()}
    Numerics().apply(full.model, full.units)
    assert before == {name: (p, p.data_ptr()) for name, p in full.model.named_parameters()}


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_a_denoiser_keeps_the_dtype_of_its_samples(dtype: str, near: float) -> None:
    full, half = adapter(torch.float32), adapter(torch.float32)
    Numerics(dtype, channels_last=True).apply(half.model, half.units)
    parameters = list(half.model.parameters())
    assert {p.dtype for p in parameters} == {getattr(torch, dtype)}
    convolutions = [p for p in parameters if p.dim() == 4]
    assert convolutions and all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
    sample, timestep = data(4)
    expected, output = (ModelDenoiser(model)(sample.float(), timestep) for model in (full, half))
    assert output.dtype == torch.float32 and half.units() == full.units()
    assert 0 < (output - expected).abs().max() < near * expected.abs().max()


def test_compiling_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    full = adapter()
    Numerics().apply(full.model, full.units)
    assert not compiled
    with torch._dynamo.config.patch():
        Numerics(compile=True).apply(full.model, full.units)
    names = {module: name for name, module in full.model.named_modules()}
    assert [names[module] for module in compiled] == full.units()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_compiled_blocks_give_the_same() -> None:
    full, compiled = adapter(torch.float32), adapter(torch.float32)
    sample, timestep = data(4)
    Numerics(compile=True).apply(compiled.model, compiled.units)
    with torch.inference_mode():
        output = ModelDenoiser(compiled)(sample.float(), timestep)
        expected = ModelDenoiser(full)(sample.float(), timestep)
    assert torch.allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_a_dtype_that_is_not_known() -> None:
    with pytest.raises(
        ConfigError, match=r"numerics\.dtype=float64 is not known; use one of float32, bfloat16, float16\."
    ):
        Numerics("float64")
