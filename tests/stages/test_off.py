"""Off means off: what is switched off by its numbers leaves the same bytes as what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.store.tensors import load_tensors
from tests.chain import QUICK, dmq, words

NOTHING = [word.replace("=2", "=0") for word in QUICK if "refine" not in word and "tune" not in word]
LEARNS = ["adaround", "brecq", "eda", "par", "qdrop", "scales", "signround", "tfmq"]
AS_BRECQ = ("par", "qdrop")  # have its passes with other settings


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


def made(verb: str, small: Path, outputs: Path, *more: str) -> dict[str, Path]:
    """The artifacts of a run."""
    result = dmq(*words(verb, small, outputs, "bits=w4a6", "budget.num_samples=4", *more, "--json"))
    assert result.code == 0, result.err
    return {name: Path(path) for name, path in json.loads(result.out)["artifacts"].items()}


def state(small: Path, outputs: Path, *more: str) -> dict[str, Tensor]:
    return load_tensors(made("reconstruct", small, outputs, *more)["reconstruct"] / "quantizers.safetensors")


def sampled(small: Path, outputs: Path, *more: str) -> np.ndarray:
    """The quantized images of four seeds."""
    with np.load(made("sample", small, outputs, "seeds=0-3", *more)["sample-0-3"] / "images.npz") as archive:
        return np.array(archive["arr_0"])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("recon", [pytest.param(r, marks=[pytest.mark.slow] if r in AS_BRECQ else []) for r in LEARNS])
def test_a_reconstruction_without_iterations_is_none(recon: str, small: Path, outputs: Path) -> None:
    """With ends of ranges stored as where nothing learns them."""
    scheme = (f"scheme={'tdq' if recon == 'scales' else 'qdiffusion'}", "scheme.range=scale")
    without = state(small, outputs, *scheme, "recon=none")
    assert len(without) > 80
    assert same(state(small, outputs, *scheme, f"recon={recon}", *NOTHING), without)
    assert not same(state(small, outputs, *scheme, f"recon={recon}", *QUICK), without)


def test_no_transform_leaves_no_tensors(small: Path, outputs: Path) -> None:
    artifacts = made("reconstruct", small, outputs)
    assert load_tensors(artifacts["transform"] / "transform.safetensors") == {}
    put = load_tensors(made("calibrate", small, outputs, "transform=tcr")["calibrate"] / "quantizers.safetensors")
    plain = load_tensors(artifacts["calibrate"] / "quantizers.safetensors")
    scaled = {key for key in put if key.endswith(".channel_scale")}
    assert len(scaled) == 10 and put.keys() - plain.keys() == scaled
    unit = load_tensors(
        made("calibrate", small, outputs, "transform=tcr", "transform.clamp=1")["calibrate"] / "quantizers.safetensors"
    )
    assert same({key: value for key, value in unit.items() if key not in scaled}, plain), "r = 1 changes nothing"


def test_a_correction_of_nothing_is_none(small: Path, outputs: Path) -> None:
    few = "correct.seeds=2000000-2000003"
    plain = sampled(small, outputs)
    off = sampled(small, outputs, "correct=tac", "correct.ner=false", "correct.ibc=false", few)
    assert np.array_equal(off, plain)
    assert not np.array_equal(sampled(small, outputs, "correct=tac", few), plain)


def test_variance_without_noise_is_off(small: Path, outputs: Path) -> None:
    ptqd = ("correct=ptqd", "correct.seeds=2000000-2000003")
    off = sampled(small, outputs, *ptqd, "correct.variance=off")
    assert np.array_equal(sampled(small, outputs, *ptqd, "correct.variance=auto"), off)
    assert not np.array_equal(sampled(small, outputs), off)
    noisy = [sampled(small, outputs, *ptqd, "sampler.eta=1", f"correct.variance={v}") for v in ("off", "auto", "on")]
    assert not np.array_equal(noisy[0], noisy[1]) and np.array_equal(noisy[1], noisy[2])


def test_the_common_policy_is_that_of_the_schemes_before(small: Path, outputs: Path) -> None:
    swept = 0
    for scheme in ("minmax", "qdiffusion"):
        folder = made("calibrate", small, outputs, f"scheme={scheme}")["calibrate"]
        policy = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        for label, bits in policy.items():
            assert bits == (8 if label.startswith("edge.") else 4 if label.endswith(".weight") else 6), label
            swept += 1
    assert swept == 2 * 28
