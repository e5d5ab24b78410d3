"""The deployed network runs its layers in integers and gives what the simulated one does, but for roundings that flip."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import dmq_cli
from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.deploy import backends, processor
from dmq_cli.deploy import openvino as backend
from dmq_cli.deploy.constants import integer_constant
from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.executed import executed
from dmq_cli.deploy.lower import lower, product_count
from dmq_cli.errors import ArtifactCorruptError, ArtifactError, ConfigError
from dmq_cli.models import NOISE
from dmq_cli.models.folder import load_adapter
from dmq_cli.paths import resolve
from dmq_cli.quant import PerStepScale
from dmq_cli.stages.layerwise import Differences
from dmq_cli.stages.verified import Proof
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, attach
from tests import families
from tests.chain import QUICK, artifact, dmq, words
from tests.tiny import TIMESTEPS, data, one_sentence, scheme, wrapped

# Slow, and by themselves: where openvino is imported in a process, pytest later finds the streams closed that it captures.
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is an extra"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
RULES = {
    "static": [],
    "eight bits": [Rule("*.weight", bits=8)],
    "per step": [Rule("*.input", scale=PerStepScale())],
}


def calls(attached: Attached, products: int) -> int:
    """How often so many products run in one call: diffusers' transformer embeds the timestep, with two layers, once more at its end."""
    return products + (2 if type(attached.model).__name__ == "DiTTransformer2DModel" else 0)


def deployed(attached: Attached, folder: Path) -> backend.OpenVinoDenoiser:
    """The denoiser of a network, whose every layer runs in integers."""
    lowered = lower(attached, processor.weight_limit())
    backend.write_openvino(folder, lowered)
    denoiser = backend.OpenVinoDenoiser(folder, NOISE, threads=1)
    file = folder / backend.FILE
    runs = executed(backend.of_rows(file, 8), backend.compiled(file, 1, 8))
    products = calls(attached, product_count(lowered))
    assert len(runs.every) == products + 2 * len(attached.adapter.attentions()) and len(runs.every) > 20
    assert sum(product.kind != "MatMul" for product in runs.integer) == products
    return denoiser


def check(attached: Attached, denoiser: DeployedDenoiser, timestep: int, cond: Any = None, rows: int = 8) -> None:
    """Flips move an estimate by a small part of what quantization does to it."""
    sample, time = data(rows, torch.float32)[0], torch.tensor([timestep])
    expected, estimate = QuantDenoiser(attached)(sample, time, cond), denoiser(sample, time, cond)
    assert estimate.shape == expected.shape and estimate.dtype == torch.float32
    assert (estimate - expected).abs().mean() < 0.02 * expected.std()


@pytest.mark.parametrize(
    "name", [name if name == "per step" else pytest.param(name, marks=pytest.mark.slow) for name in RULES]
)
def test_every_layer_runs_in_integers_at_every_step_and_batch_size(name: str, tmp_path: Path) -> None:
    attached = wrapped(scheme(*RULES[name]), torch.float32)
    denoiser = deployed(attached, tmp_path)
    assert denoiser.sample_shape == attached.adapter.sample_shape()
    for timestep, rows in ((int(TIMESTEPS[0]), 8), (int(TIMESTEPS[-1]), 8), (int(TIMESTEPS[1]), 1)):
        check(attached, denoiser, timestep, rows=rows)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_conditions_are_inputs(family: str, tmp_path: Path) -> None:
    attached = families.wrapped(family, families.plain(), torch.float32)
    cond = families.cond(family, dtype=torch.float32)
    cast(Any, attached.adapter).inner.tokens = families.TOKENS
    check(attached, deployed(attached, tmp_path), int(TIMESTEPS[1]), cond)


@pytest.mark.slow
def test_integers_do_not_overflow_on_any_processor(tmp_path: Path) -> None:
    """Inputs of 255 and weights of 127 everywhere: on AVX2 two such products saturate, unless weights are cut."""
    attached = wrapped(scheme(Rule("*.weight", bits=8)), torch.float32)
    layer = attached.layers()["conv_in"]
    layer.weight.fill_(1.0)
    quantizer: Any = layer.weight_quantizer
    quantizer.scale.scale.fill_(1 / 127)
    quantizer.scale.zero_point.fill_(128)
    denoiser = deployed(attached, tmp_path)
    sample, time = torch.full((2, *attached.adapter.sample_shape()), 10.0), torch.tensor([500])
    expected = QuantDenoiser(attached)(sample, time)
    assert (denoiser(sample, time) - expected).abs().mean() < 0.05 * expected.std()


@pytest.mark.slow
def test_one_timestep_at_a_time(tmp_path: Path) -> None:
    denoiser = deployed(wrapped(dtype=torch.float32), tmp_path)
    with pytest.raises(ConfigError, match="one timestep at a time") as caught:
        denoiser(data(2, torch.float32)[0], torch.tensor([1, 2]))
    one_sentence(caught.value)


def test_a_damaged_ir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / backend.FILE).write_text("<net>", encoding="utf-8")
    with pytest.raises(ArtifactCorruptError, match="export it again") as caught:
        backend.OpenVinoDenoiser(tmp_path, NOISE)
    one_sentence(caught.value)


def test_the_package_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'dmq-cli\[openvino\]'") as caught:
        backend.runtime()
    one_sentence(caught.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.chain import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def test_the_command_samples_and_measures_with_it(small: Path, tmp_path: Path) -> None:
    """Its images have a key of their own, are those of the simulated network but for flips, and the export is loaded by itself."""
    run = ("method=tac", "bits=w8a8", "correct.seeds=2000000-2000007", *QUICK)
    assert dmq(*words("evaluate", small, tmp_path, *run)).code == 0
    simulated = np.load(artifact(tmp_path, "sample") / "images.npz")["arr_0"].astype(float)
    result = dmq(*words("evaluate", small, tmp_path, *run, "backend=openvino", "--json"))
    assert result.code == 0, result.err
    report = json.loads(result.out)
    images = np.load(Path(report["run"]) / "artifacts" / "sample-0-39" / "images.npz")["arr_0"].astype(float)
    error = np.maximum(((images - simulated) ** 2).mean((1, 2, 3)), 1e-3)
    assert (10 * np.log10(255**2 / error)).mean() > 40
    exported = artifact(tmp_path, "export")
    about = json.loads((exported / "dmq.json").read_text())["about"]
    assert about["floating"] == {} and about["instruction_set"]
    proof = dmq("verify", report["run"], "backend=openvino", "least_share=0.9", "--json")
    assert proof.code == 0, proof.err
    (row,) = json.loads(proof.out)["verified"].values()
    assert row["holds"] and row["psnr"] > 40 and row["layers"]["farthest"] <= 1 and row["layers"]["codes"] > 100_000
    assert 0.9 < row["share"] <= 1 and row["layers"]["outputs"] > 100_000
    assert about["integer_share"] == 1 and row["products"][0] > 50
    handed = dmq(*words("export", small, tmp_path, *run, "format=openvino", "--json"))
    card = (Path(json.loads(handed.out)["exported"]) / "README.md").read_text()
    assert "of all multiplications" in card and about["instruction_set"] in card and "DiffusionPipeline" not in card
    assert dmq("verify", str(exported)).code == 0
    with pytest.raises(ConfigError, match="format openvino"):
        dmq_cli.load(exported)
    plain = [
        "sample",
        f"model={exported}",
        "seeds=0-39",
        "protocol=digits",
        "runtime.threads=1",
        f"runtime.outputs={tmp_path / 'other'}",
    ]
    assert dmq(*plain).code == 0
    assert np.array_equal(np.load(artifact(tmp_path / "other", "sample") / "images.npz")["arr_0"], images)


def test_an_export_for_another_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers up to 127 overflow where two products are added in 16 bits."""
    (tmp_path / "dmq.json").write_text(
        json.dumps({"about": {"limit": 127, "instruction_set": "avx512_vnni"}}), encoding="utf-8"
    )
    monkeypatch.setattr(processor, "instruction_set", lambda: "avx512_vnni")
    backends.check_limit(tmp_path)
    monkeypatch.setattr(processor, "instruction_set", lambda: "avx2")
    with pytest.raises(ArtifactError, match="its products overflow") as caught:
        backends.check_limit(tmp_path)
    one_sentence(caught.value)


def test_a_network_that_is_not_the_same_is_told() -> None:
    counts: dict[str, Any] = {"flips": 100, "codes": 10**6, "farthest": 1, "far": 100, "outputs": 10**6}
    rest: dict[str, Any] = {"images": 64, "products": (9, 10), "least_share": 0.9}

    def proof(psnr: float = 40.0, share: float = 0.9, there: int = 8, **worse: int) -> Proof:
        return Proof("openvino", "avx2", (there, 8), Differences(**{**counts, **worse}), psnr=psnr, share=share, **rest)

    assert proof().holds and "9 of 10" in proof().lines()
    for other in (
        proof(there=7),
        proof(flips=101),
        proof(farthest=2),
        proof(far=101),
        proof(psnr=39.9),
        proof(share=0.89),
    ):
        assert not other.holds and "NOT the same network" in other.lines()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_digits_model_executes_nearly_all_in_integers(bits: int, tmp_path: Path) -> None:
    """With scales by step, in attention too; and the file holds integers: weights take their bits, and little is added."""
    adapter = load_adapter(resolve("package:zoo/weights/ddim_digits"))
    rules = scheme(Rule("*.input|attn.q|attn.k|attn.v|attn.prob", scale=PerStepScale()), weight=bits)
    attached = attach(adapter, rules, TIMESTEPS)
    noise = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    fit_weights(attached)
    fit_activations(attached, [(noise, TIMESTEPS)])
    lowered = lower(attached, processor.weight_limit())
    backend.write_openvino(tmp_path, lowered)
    file = tmp_path / backend.FILE
    assert executed(backend.of_rows(file, 4), backend.compiled(file, 1, 4)).share >= 0.95
    if processor.weight_limit() == 127:
        parameters = sum(layer.weight.numel() for layer in attached.layers().values())
        assert file.with_suffix(".bin").stat().st_size < parameters * bits / 8 + 150_000
    denoiser = backend.OpenVinoDenoiser(tmp_path, NOISE, threads=1)
    for timestep in TIMESTEPS[:2]:
        expected = QuantDenoiser(attached)(noise, timestep[None])
        assert (denoiser(noise, timestep[None]) - expected).abs().mean() < 0.02 * expected.std()


@pytest.mark.parametrize("span", [15, 200])
def test_weights_take_four_bits_in_the_file_where_they_fit(span: int, tmp_path: Path) -> None:
    """Against integers that numpy convolves: what is read is what was written."""
    from openvino import Model, opset13, save_model  # type: ignore[import-untyped]

    generator = np.random.default_rng(0)
    least = generator.integers(-15, 1, (8, 1, 1, 1)) if span == 15 else np.full((8, 1, 1, 1), -100)
    integers = least + generator.integers(0, span + 1, (8, 5, 1, 1))
    scale = generator.uniform(0.01, 0.02, (8, 1, 1, 1)).astype(np.float32)
    numbers = (integers * scale).astype(np.float32)
    x = opset13.parameter([2, 5, 4, 4], np.float32)
    weight = integer_constant(numbers, -128 * scale, 127 * scale, 256)
    ends = (np.float32(0), np.float32(255))
    codes = opset13.fake_quantize(x, *(opset13.constant(end) for end in ends + ends), 256)
    graph = Model([opset13.convolution(codes, weight, [1, 1], [0, 0], [0, 0], [1, 1])], [x])
    file = tmp_path / "network.xml"
    save_model(graph, file, compress_to_fp16=False)
    assert file.with_suffix(".bin").stat().st_size < integers.size * (0.5 if span == 15 else 1) + 200
    network = backend.compile_model(backend.read_model(file), 1)
    (ran,) = executed(backend.read_model(file), network).integer
    inputs = generator.integers(0, 256, (2, 5, 4, 4)).astype(np.float32)
    expected = np.einsum("oc,bchw->bohw", integers[:, :, 0, 0], inputs) * scale[:, 0][None]
    np.testing.assert_allclose(network([inputs])[0], expected, rtol=1e-5, atol=1e-3)
    assert ran.macs == 2 * 16 * 8 * 5


def test_what_is_no_run_is_not_verified(tmp_path: Path) -> None:
    for word in ([str(tmp_path)], []):
        result = dmq("verify", *word, "backend=openvino")
        assert result.code in (1, 2) and "run" in result.sentence


@pytest.mark.parametrize(
    ("verb", "more", "says"),
    [
        ("sample", ("backend=openvin",), "backend=openvin is not known"),
        ("reconstruct", ("backend=openvino",), "only samples"),
        ("sample", ("backend=openvino", "numerics=bf16"), "leave numerics"),
    ],
)
def test_what_does_not_fit_is_refused(small: Path, tmp_path: Path, verb: str, more: tuple[str, ...], says: str) -> None:
    result = dmq(*words(verb, small, tmp_path, *more))
    assert result.code == 2 and says in result.sentence
