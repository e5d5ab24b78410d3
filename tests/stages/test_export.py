"""dmq export: the folder, and every way to load it, gives the images of the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import dmq_cli
from dmq_cli.deploy.check import check
from dmq_cli.deploy.index import write_index
from dmq_cli.errors import ArtifactCorruptError, ConfigError, DmqError, ModelError
from dmq_cli.stages.nodes import NODES
from dmq_cli.store import read_json, write_json
from tests.chain import FEW, IMAGES, QUICK, artifact, dmq, words
from tests.test_conf import composed
from tests.tiny import one_sentence

RUN = ("method=tac", "bits=w4a8", "correct.seeds=2000000-2000007", *QUICK)
MEASURED = tuple(word for word in FEW if word.split(".")[0].split("=")[0] in ("protocol", "seeds", "runtime", "trace"))
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def plain(verb: str, folder: Path, outputs: Path, *more: str) -> list[str]:
    """A command on an exported folder, of which nothing but what is measured can be chosen."""
    return [verb, f"model={folder}", *MEASURED, f"runtime.outputs={outputs}", *more]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def exported(model: Path, outputs: Path) -> Path:
    """The folder of a corrected run, which was also evaluated."""
    assert dmq(*words("evaluate", model, outputs, *RUN)).code == 0
    result = dmq(*words("export", model, outputs, *RUN, "--json"))
    assert result.code == 0, result.err
    return Path(json.loads(result.out)["exported"])


@pytest.fixture(scope="module")
def pixels(exported: Path, outputs: Path) -> Any:
    return np.load(artifact(outputs, "sample") / "images.npz")["arr_0"]


def as_pixels(images: list[Any]) -> Any:
    return np.stack([np.asarray(image)[..., None] for image in images])


def test_a_pipeline_of_diffusers_gives_the_images_of_the_run(exported: Path, pixels: Any) -> None:
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(exported)
    assert type(pipeline).__name__ == "DmqPipeline" and set(pipeline.components) == {"unet", "transformer", "scheduler"}
    assert np.array_equal(as_pixels(pipeline(seeds=f"0-{IMAGES - 1}").images), pixels)
    assert pipeline.to("cpu") is pipeline
    with pytest.raises(ConfigError, match="copy the folder") as caught:
        pipeline.save_pretrained("elsewhere")
    one_sentence(caught.value)


def test_a_fresh_process_needs_dmq_imported_and_nothing_else(exported: Path, pixels: Any) -> None:
    """And without dmq diffusers says that it does not know the method."""
    code = (
        "import sys, numpy as np\n{first}from diffusers import DiffusionPipeline\n"
        "images = DiffusionPipeline.from_pretrained(sys.argv[1])(seeds='0-1').images\n"
        "np.save(sys.argv[2], np.stack([np.asarray(image) for image in images]))\n"
    )
    file = exported.parent / "two.npy"
    command = [sys.executable, "-c", code.format(first="import dmq_cli\n"), str(exported), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(file), pixels[:2, ..., 0])


def test_it_is_loaded_like_a_run(exported: Path, outputs: Path) -> None:
    loaded = dmq_cli.load(exported)
    (run,) = (outputs / "runs" / "evaluate").iterdir()
    assert torch.equal(loaded.sample("0-3"), dmq_cli.load(run).sample("0-3")) and loaded.correction is not None


def test_the_network_alone_keeps_its_quantizers_and_refuses_to_lose_the_correction(exported: Path) -> None:
    network: Any = diffusers.UNet2DModel.from_pretrained(exported, subfolder="unet")
    loaded = dmq_cli.load(exported)
    sample, timestep = torch.ones(2, 1, 16, 16), loaded.scheduler.timesteps[:1]
    with pytest.raises(ConfigError, match="leave its correction out") as caught:
        network(sample, timestep)
    one_sentence(caught.value)
    network.hf_quantizer.uncorrected = True
    for call in ((sample, timestep), (sample, int(timestep))):
        assert torch.equal(network(*call).sample, loaded.estimator(sample, timestep))
    assert torch.equal(
        network(sample=sample, timestep=timestep, return_dict=False)[0], loaded.estimator(sample, timestep)
    )
    with pytest.raises(ConfigError, match="codes belong to float32"):
        diffusers.UNet2DModel.from_pretrained(exported, subfolder="unet", torch_dtype=torch.float16)


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_verbs_take_it_as_a_model(exported: Path, pixels: Any, tmp_path: Path, verb: str) -> None:
    result = dmq(*plain(verb, exported, tmp_path, "--json"))
    assert result.code == 0, result.err
    assert np.array_equal(np.load(artifact(tmp_path, "sample") / "images.npz")["arr_0"], pixels)
    assert not (tmp_path / "artifacts" / "reconstruct").exists()
    if verb == "evaluate":
        metrics, (run,) = json.loads(result.out), (exported.parents[2] / "evaluate").iterdir()
        before = read_json(run / "metrics.json")
        for side in ("fp", "quantized", "paired", "method", "bits", "cost", "policy"):
            assert metrics[side] == before[side], side


@pytest.mark.parametrize(
    ("verb", "more", "says"),
    [
        ("reconstruct", (), "quantized already"),
        ("evaluate", ("method=qdiffusion",), "method=qdiffusion was asked"),
        ("evaluate", ("bits=w3a8",), "bits=w3a8 was asked"),
        ("sample", ("correct=none",), "is tac w4a8 as it was exported"),
        ("sample", ("sampler.num_inference_steps=7",), "is tac w4a8 as it was exported"),
    ],
)
def test_what_it_does_not_have_is_refused(
    exported: Path, tmp_path: Path, verb: str, more: tuple[str, ...], says: str
) -> None:
    result = dmq(*plain(verb, exported, tmp_path, *more))
    assert result.code == 2 and says in result.sentence


def test_without_its_base_it_samples_and_is_not_evaluated(exported: Path, pixels: Any, tmp_path: Path) -> None:
    """A colleague has the folder alone."""
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    index = read_json(folder / "dmq.json")
    index["config"]["model"]["path"] = str(tmp_path / "nowhere")
    write_index(folder, {name: value for name, value in index.items() if name not in ("files", "sha256")})
    assert dmq(*plain("sample", folder, tmp_path / "outputs")).code == 0
    assert np.array_equal(np.load(artifact(tmp_path / "outputs", "sample") / "images.npz")["arr_0"], pixels)
    result = dmq(*plain("evaluate", folder, tmp_path / "outputs"))
    assert result.code == 4 and "dmq sample" in result.sentence


def test_another_base_is_refused(exported: Path, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    base = Path(shutil.copytree(model, tmp_path / "base"))
    weights = load_file(base / WEIGHTS)
    save_file({name: value + 1e-3 for name, value in weights.items()}, base / WEIGHTS, {"format": "pt"})
    index = read_json(folder / "dmq.json")
    index["config"]["model"]["path"] = str(base)
    write_index(folder, {name: value for name, value in index.items() if name not in ("files", "sha256")})
    result = dmq(*plain("evaluate", folder, tmp_path / "outputs"))
    assert result.code == 1 and "is not the one that it was made from" in result.sentence


def weights_altered(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "conv_out.bias": tensors["conv_out.bias"] + 1}, folder / WEIGHTS, {"format": "pt"})


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def correction_lost(folder: Path) -> None:
    (folder / "correction" / "tables.safetensors").unlink()


def index_edited(folder: Path) -> None:
    index = read_json(folder / "dmq.json")
    index["config"]["correct"]["ibc"] = False
    write_json(folder / "dmq.json", index)


def newer(folder: Path) -> None:
    index = read_json(folder / "dmq.json")
    write_index(
        folder, {**{name: value for name, value in index.items() if name not in ("files", "sha256")}, "format": 2}
    )


@pytest.mark.parametrize("damage", [weights_altered, truncated, correction_lost, index_edited, newer])
def test_a_damaged_folder_is_refused_before_anything_runs(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    assert dmq("verify", str(folder)).code == 0
    damage(folder)
    with pytest.raises((ArtifactCorruptError, ModelError)) as caught:
        dmq_cli.load(folder)
    one_sentence(caught.value)
    assert dmq("verify", str(folder)).code == 1
    assert dmq(*plain("sample", folder, tmp_path / "outputs")).code == 1
    if damage is weights_altered:
        with pytest.raises(DmqError, match="sha256 differs"):
            diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")


def test_the_card_has_the_numbers_of_the_evaluation(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    (run,) = (exported.parents[2] / "evaluate").iterdir()
    metrics = read_json(run / "metrics.json")
    assert (
        f"{metrics['quantized']['fd']:.2f}" in card
        and metrics["protocol"]["hash"] in card
        and metrics["command"] in card
    )
    assert "base_model_relation: quantized" in card and metrics["config"]["model"]["sha256"] in card


def test_a_second_export_computes_nothing(exported: Path, model: Path, outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (outputs / "artifacts").rglob("*.safetensors")}
    assert dmq(*words("export", model, outputs, *RUN)).code == 0
    assert {path: path.stat().st_mtime_ns for path in (outputs / "artifacts").rglob("*.safetensors")} == before


def test_an_unknown_format_is_refused(model: Path, tmp_path: Path) -> None:
    result = dmq(*words("export", model, tmp_path, "format=openvin"))
    assert result.code == 2 and "format=openvin is not known" in result.sentence


@pytest.mark.parametrize("transform", ["none", "tcr", "lowrank"])
def test_an_export_with_a_transform_is_intact(transform: str, model: Path, tmp_path: Path) -> None:
    result = dmq(*words("export", model, tmp_path, "method=minmax", f"transform={transform}", "bits=w4a8", "--json"))
    assert result.code == 0, result.err
    exported = Path(json.loads(result.out)["exported"])
    assert check(exported) > 100
    verified = dmq("verify", str(exported))
    assert verified.code == 0, verified.err


@pytest.mark.parametrize(("method", "more"), [("tac", 0), ("efficientdm", 0), ("lsq", 1), ("tdq_qat", 1)])
def test_exports_whose_recorded_size_counted_biases_twice_are_made_again(method: str, more: int) -> None:
    node, config = NODES["export"], composed(f"method={method}")
    assert node.version_for(config) == node.version + more
    assert node.version_for({**config, "format": "openvino"}) == node.version + more + 3
