"""The network in onnxruntime runs its layers in integers and gives what the simulated one does, but for roundings that flip."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from dmq_cli.deploy import onnx as backend
from dmq_cli.deploy.lower import lower, product_count
from dmq_cli.deploy.onnx_product import OnnxPiece
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.models import NOISE
from dmq_cli.quant import PerStepScale
from dmq_cli.wrap import Attached, Rule
from tests import families
from tests.chain import QUICK, artifact, dmq, tiny_folder, words
from tests.deploy.test_openvino import calls, check
from tests.tiny import TIMESTEPS, one_sentence, scheme, wrapped

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is an extra"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def deployed(attached: Attached, folder: Path, limit: int = 127) -> backend.OnnxDenoiser:
    """The denoiser of a network, whose every layer runs in integers."""
    lowered = lower(attached, limit, OnnxPiece)
    backend.write_onnx(folder, lowered)
    assert (
        backend.product_counts(folder) == (calls(attached, product_count(lowered)),) * 2
        and product_count(lowered) >= 20
    )
    return backend.OnnxDenoiser(folder, NOISE, threads=1)


def test_every_layer_runs_in_integers_at_every_step_and_batch_size(tmp_path: Path) -> None:
    """Per-step scales, weights cut into two and fewer than 256 codes, all at once."""
    rules = (Rule("*.weight", bits=8), Rule("*.input", scale=PerStepScale()), Rule("edge.out.input", bits=6))
    attached = wrapped(scheme(*rules), torch.float32)
    denoiser = deployed(attached, tmp_path, 64)
    assert denoiser.sample_shape == attached.adapter.sample_shape()
    for timestep, rows in ((int(TIMESTEPS[0]), 8), (int(TIMESTEPS[-1]), 8), (int(TIMESTEPS[1]), 1)):
        check(attached, denoiser, timestep, rows=rows)


@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_conditions_are_inputs(family: str, tmp_path: Path) -> None:
    attached = families.wrapped(family, families.plain(), torch.float32)
    cast(Any, attached.adapter).inner.tokens = families.TOKENS
    cond = families.cond(family, dtype=torch.float32)
    check(attached, deployed(attached, tmp_path), int(TIMESTEPS[1]), cond)


def test_integers_are_stored_as_such(tmp_path: Path) -> None:
    """One byte each, with a scale for each output channel, and no weight beside them."""
    import onnx

    attached = wrapped(dtype=torch.float32)
    deployed(attached, tmp_path)
    tensors = onnx.load(tmp_path / backend.FILE).graph.initializer
    stored = sum(tensor.raw_data.__len__() for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8)
    weights = [layer.weight for layer in attached.layers().values()]
    assert stored == sum(weight.numel() for weight in weights)
    assert not {tuple(weight.shape) for weight in weights if weight.ndim == 4} & {
        tuple(tensor.dims) for tensor in tensors
    }


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / backend.FILE).write_bytes(b"no graph")
    with pytest.raises(ArtifactCorruptError, match="export it again") as caught:
        backend.OnnxDenoiser(tmp_path, NOISE)
    one_sentence(caught.value)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_is_asked_for_where_it_is_missing(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"package {package} .* pip install 'dmq-cli\[onnx\]'") as caught:
        backend.runtime()
    one_sentence(caught.value)


def test_the_command_samples_verifies_and_hands_it_on(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "tiny")
    run = ("method=tac", "bits=w8a8", "correct.seeds=2000000-2000007", *QUICK)
    result = dmq(*words("sample", model, tmp_path, *run, "backend=onnx", "--json"))
    assert result.code == 0, result.err
    images = np.load(artifact(tmp_path, "sample") / "images.npz")["arr_0"]
    proof = dmq("verify", json.loads(result.out)["run"], "backend=onnx", "--json")
    assert proof.code == 0, proof.err
    (row,) = json.loads(proof.out)["verified"].values()
    assert row["holds"] and row["psnr"] > 40 and row["layers"]["farthest"] <= 1 and row["layers"]["codes"] > 100_000
    assert row["products"][0] == row["products"][1] > 20
    handed = dmq(*words("export", model, tmp_path, *run, "format=onnx", "--json"))
    folder = Path(json.loads(handed.out)["exported"])
    card = (folder / "README.md").read_text()
    assert "An ONNX graph" in card and "dmq-cli[onnx]" in card and dmq("verify", str(folder)).code == 0
    plain = ["sample", f"model={folder}", "seeds=0-39", "protocol=digits", "runtime.threads=1"]
    assert dmq(*plain, f"runtime.outputs={tmp_path / 'other'}").code == 0
    assert np.array_equal(np.load(artifact(tmp_path / "other", "sample") / "images.npz")["arr_0"], images)
