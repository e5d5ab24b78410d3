"""The network with oneDNN's int8 kernels gives what the simulated one does, but for roundings that flip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmq_cli
from dmq_cli.deploy import pytorch as backend
from dmq_cli.deploy.folder import write_network
from dmq_cli.deploy.lower import lower, product_count
from dmq_cli.deploy.onednn import OnednnPiece
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.errors import ConfigError
from dmq_cli.models import NOISE
from dmq_cli.quant import PerStepScale
from dmq_cli.wrap import Attached, QuantDenoiser, Rule
from tests import families
from tests.chain import QUICK, artifact, dmq, tiny_folder, words
from tests.tiny import TIMESTEPS, data, one_sentence, scheme, wrapped

RULES = {
    "static": [],
    "eight bits": [Rule("*.weight", bits=8)],
    "per step": [Rule("*.input", scale=PerStepScale()), Rule("edge.out.input", bits=6)],
}


def check(attached: Attached, limit: int = 127, cond: Any = None, rows: int = 8) -> None:
    """Flips move an estimate by a small part of what quantization does to it."""
    denoiser = backend.PytorchDenoiser(lower(attached, limit, OnednnPiece), NOISE)
    assert denoiser.sample_shape == attached.adapter.sample_shape()
    for timestep in TIMESTEPS[:1], TIMESTEPS[-1:]:
        sample = data(rows, torch.float32)[0]
        expected, estimate = QuantDenoiser(attached)(sample, timestep, cond), denoiser(sample, timestep, cond)
        assert estimate.shape == expected.shape and estimate.dtype == torch.float32
        assert (estimate - expected).abs().mean() < 0.02 * expected.std()


@pytest.mark.parametrize("limit", [127, 64])
@pytest.mark.parametrize("name", RULES)
def test_it_is_the_simulated_network(name: str, limit: int) -> None:
    check(wrapped(scheme(*RULES[name]), torch.float32), limit)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_other_families(family: str) -> None:
    attached = families.wrapped(family, families.plain(Rule("*.input", scale=PerStepScale())), torch.float32)
    check(attached, cond=families.cond(family, dtype=torch.float32))


def test_the_kernels_are_those_of_integers(tmp_path: Path) -> None:
    """As PyTorch's profiler sees one call of the network that was read from packed integers."""
    attached = wrapped(scheme(Rule("edge.out.*", bits=32)), torch.float32)
    write_network(tmp_path / "unet", attached, {})
    every = product_count(lower(attached, weight_limit(), OnednnPiece)) + 1
    assert backend.product_counts(tmp_path) == (every - 1, every) and every > 40


def test_a_build_without_the_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no int8 kernels") as caught:
        backend.runtime()
    one_sentence(caught.value)


def test_one_timestep_at_a_time() -> None:
    denoiser = backend.PytorchDenoiser(lower(wrapped(dtype=torch.float32), 127, OnednnPiece), NOISE)
    with pytest.raises(ConfigError, match="one timestep at a time") as caught:
        denoiser(data(2, torch.float32)[0], torch.tensor([1, 2]))
    one_sentence(caught.value)


@pytest.mark.slow
def test_the_command_samples_verifies_and_hands_it_on_and_python_loads_it(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "tiny")
    run = ("method=tac", "bits=w8a8", "correct.seeds=2000000-2000007", *QUICK)
    result = dmq(*words("sample", model, tmp_path, *run, "backend=pytorch", "--json"))
    assert result.code == 0, result.err
    images = np.load(artifact(tmp_path, "sample") / "images.npz")["arr_0"]
    folder = Path(json.loads(result.out)["run"])
    proof = dmq("verify", str(folder), "backend=pytorch", "--json")
    assert proof.code == 0, proof.err
    (row,) = json.loads(proof.out)["verified"].values()
    assert (
        row["holds"]
        and row["psnr"] > 40
        and row["layers"]["farthest"] <= 1
        and row["products"][0] == row["products"][1] > 20
    )
    handed = dmq(*words("export", model, tmp_path, *run, "format=pytorch", "--json"))
    exported = Path(json.loads(handed.out)["exported"])
    assert "int8 kernels" in (exported / "README.md").read_text() and dmq("verify", str(exported)).code == 0
    assert (exported / "unet").is_dir() and not hasattr(dmq_cli.load(exported, backend="pytorch"), "network")
    plain = ["sample", f"model={exported}", "seeds=0-39", "protocol=digits", "runtime.threads=1"]
    assert dmq(*plain, f"runtime.outputs={tmp_path / 'other'}").code == 0
    assert np.array_equal(np.load(artifact(tmp_path / "other", "sample") / "images.npz")["arr_0"], images)
    simulated = dmq_cli.load(exported).sample("0-3")
    for loaded in (exported, folder):
        deployed = dmq_cli.load(loaded, backend="pytorch").sample("0-3")
        assert 0 < (deployed - simulated).abs().mean() < 0.01
    with pytest.raises(ConfigError, match="backend=pytorc is not known"):
        dmq_cli.load(exported, backend="pytorc")
