"""numerics=: what the network samples in. Fitting knows nothing of it, and the default leaves everything as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmq_cli
from dmq_cli.metrics import to_uint8
from dmq_cli.models import Numerics, load_adapter, load_schedule
from dmq_cli.results.images import load_images
from dmq_cli.sampling import Sampler, sample_images, walk
from dmq_cli.stages import build
from tests.chain import IMAGES, STEPS, TAC, Result, counting, dmq, words

SAMPLING = ["evaluate", "evaluate_fp", "sample", "sample_fp"]
BF16 = {"dtype": "bfloat16", "tf32": False, "channels_last": True, "compile": False}
Done = tuple[Path, Result, list[str]]


@pytest.fixture(scope="module")
def half(model: Path, done: Done) -> tuple[dict[str, Any], list[str]]:
    """The same run in bfloat16: what it printed and which stages ran."""
    with counting() as ran:
        result = dmq(*words("evaluate", model, done[0], *TAC, "--json", "numerics=bf16"))
    assert result.code == 0, result.err
    return json.loads(result.out), ran


def sampled(outputs: Path, found: dict[str, Any], stage: str) -> Any:
    key = found["artifacts"][f"{stage}-0-{IMAGES - 1}"]
    return load_images(outputs / "artifacts" / stage / key).astype(int)


def test_fp32_is_what_there_was_before(model: Path, done: Done) -> None:
    outputs, result, _ = done
    with counting() as ran:
        again = dmq(*words("evaluate", model, outputs, *TAC, "--json", "numerics=fp32"))
    assert again.code == 0 and ran == []
    report = json.loads(again.out)
    assert "numerics" not in report["config"] and report["artifacts"] == json.loads(result.out)["artifacts"]
    adapter, scheduler = load_adapter(model), Sampler(STEPS).scheduler(load_schedule(model))

    def network(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return adapter.predict(sample, timestep, None)

    with torch.inference_mode():
        images = sample_images(walk(network, scheduler, range(IMAGES), adapter.sample_shape()))
    expected = to_uint8(images, report["config"]["to_uint8"]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(sampled(outputs, report, "sample_fp"), expected)


def test_bf16_samples_again_and_fits_nothing_again(done: Done, half: tuple[dict[str, Any], list[str]]) -> None:
    report, ran = half
    before = json.loads(done[1].out)["artifacts"]
    assert sorted(ran) == SAMPLING and report["config"]["numerics"].items() >= BF16.items()
    other = {name.partition("-")[0] for name in before if report["artifacts"][name] != before[name]}
    assert sorted(other) == SAMPLING


@pytest.mark.parametrize(("stage", "most"), [("sample_fp", 1.0), ("sample", 6.0)])
def test_bf16_images_are_near_those_of_fp32(
    stage: str, most: float, done: Done, half: tuple[dict[str, Any], list[str]]
) -> None:
    outputs, result, _ = done
    full, reduced = sampled(outputs, json.loads(result.out), stage), sampled(outputs, half[0], stage)
    assert 0 < np.abs(full - reduced).mean() < most < np.abs(full - full.mean()).mean() / 4


def test_a_run_in_bf16_is_loaded_as_it_sampled(done: Done, half: tuple[dict[str, Any], list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        loaded = dmq_cli.load(half[0]["run"])
        patch.setattr(build, "numerics", lambda config: Numerics())
        plain = dmq_cli.load(half[0]["run"])
    assert all(p.dtype == torch.bfloat16 for p in parts(loaded.network, quantizers=False))
    wide = [*parts(loaded.network, quantizers=True), *parts(plain.network, quantizers=False)]
    assert all(p.dtype == torch.float32 for p in wide)
    baked = {name: b for name, b in plain.network.named_buffers() if name.endswith("baked")}
    buffers = dict(loaded.network.named_buffers())
    assert len(baked) > 20 and all(torch.equal(buffers[name], b.bfloat16()) for name, b in baked.items())
    images = to_uint8(loaded.sample(f"0-{IMAGES - 1}"), half[0]["config"]["to_uint8"])
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), sampled(done[0], half[0], "sample"))


def parts(network: nn.Module, quantizers: bool) -> list[Tensor]:
    """Floating-point parameters and buffers, of the quantizers or of all the rest."""
    every = [*network.named_parameters(), *network.named_buffers()]
    tensors = [t for name, t in every if ("_quantizer." in name) == quantizers and t.is_floating_point()]
    assert len(tensors) > 20
    return tensors


def test_a_dtype_that_is_not_known(model: Path, tmp_path: Path) -> None:
    result = dmq(*words("sample", model, tmp_path, "numerics.dtype=int8"))
    assert result.code == 2
    assert result.sentence == "numerics.dtype=int8 is not known; use one of float32, bfloat16, float16."
