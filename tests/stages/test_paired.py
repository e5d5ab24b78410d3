"""A folder of one's own is measured against full precision alone; samples need not be images; protocols bring their seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli import choices
from dmq_cli.models.families import register, unregister
from dmq_cli.results.images import load_images
from tests import toy_family as toy
from tests.chain import artifact, dmq, tiny_folder
from tests.tiny import SCHEDULE, SMALL

FEW: tuple[str, ...] = (
    "method=minmax",
    "sampler.num_inference_steps=2",
    "calib.seeds=1000000-1000003",
    "trace.seeds=3000000-3000003",
)
FEW += ("budget=smoke", "runtime.threads=1")


def evaluate(model: Path, outputs: Path, *more: str) -> dict[str, Any]:
    result = dmq("evaluate", f"model={model}", *FEW, f"runtime.outputs={outputs}", *more, "--json")
    assert result.code == 0, result.err
    record: dict[str, Any] = json.loads(result.out)
    return record


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """outputs, and two runs of an own folder of RGB images."""
    outputs = tmp_path_factory.mktemp("own")
    model = tiny_folder(outputs / "mine", in_channels=3, out_channels=3, **SMALL)
    return outputs, [evaluate(model, outputs, f"bits={bits}") for bits in ("w8a8", "w4a4")]


def test_an_own_folder_needs_no_reference(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    outputs, (record, other) = measured
    assert record["protocol"]["name"] == "paired" and record["num_images"] == 64 and record["seeds"] == ["0-63"]
    assert record["fp"] == record["quantized"] == record["over_fp"] == {} and set(record["paired"]) == {"psnr", "ssim"}
    assert record["paired"]["psnr"] > other["paired"]["psnr"] > 0 and (Path(record["run"]) / "samples.png").is_file()
    images = np.load(artifact(outputs, "sample_fp") / "images.npz")["arr_0"]
    assert images.dtype == np.uint8 and images.shape == (64, 16, 16, 3)


def test_pages_lists_and_comparisons_show_it(measured: tuple[Path, list[dict[str, Any]]]) -> None:
    outputs, records = measured
    runs = [str(Path(record["run"])) for record in records]
    single = dmq("report", runs[0])
    assert single.code == 0 and " on mine has a PSNR to FP of" in single.out, single.err
    page = (Path(runs[0]) / "report.html").read_text(encoding="utf-8")
    assert "PSNR to FP ↑" in page and "SSIM to FP ↑" in page and '<tr class="full">' not in page
    several = dmq("report", *runs, "--to", str(outputs / "both.html"))
    assert several.code == 0 and "minmax W8A8 has the best PSNR to FP" in several.out, several.err
    compared = dmq("compare", *runs)
    assert compared.code == 0 and "PSNR to FP ↑" in compared.out and "outside the noise" in compared.out
    listed = dmq("list", "runs", f"runtime.outputs={outputs}", "protocol=paired", "--sort", "psnr")
    assert len(listed.out.splitlines()) == 2 and "PSNR" in listed.out.splitlines()[0]
    result = dmq("evaluate", f"model={outputs / 'mine'}", *FEW, f"runtime.outputs={outputs}", "bits=w8a8")
    assert "PSNR to fp" in result.out and "SSIM to fp" in result.out and " dB" in result.out
    (line,) = (line for line in dmq("list", "protocols").out.splitlines() if line.startswith("paired"))
    assert "present" in line and line.endswith("psnr, ssim, lpips")


@pytest.fixture
def registered() -> Iterator[None]:
    register(toy.FAMILY)
    yield
    unregister(toy.FAMILY.name)


def toy_folder(path: Path, shape: tuple[int, ...]) -> Path:
    import torch

    toy.network(shape, torch.float32).save_pretrained(path / "transformer")
    (path / "scheduler").mkdir()
    schedule = {"_class_name": "DDIMScheduler", "clip_sample": False, **SCHEDULE}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["vector", "film"])
def test_samples_that_are_no_images(name: str, registered: None, tmp_path: Path) -> None:
    shape, model, outputs = toy.SHAPES[name], toy_folder(tmp_path / "toy", toy.SHAPES[name]), tmp_path / "out"
    planned = dmq("plan", "evaluate", f"model={model}", *FEW, f"runtime.outputs={outputs}", "--json")
    assert json.loads(planned.out)["disk"]["images"] == 2 * 64 * 4 * np.prod(shape), planned.err
    record = evaluate(model, outputs)
    assert set(record["paired"]) == {"psnr"} and not (Path(record["run"]) / "samples.png").exists()
    images = [load_images(artifact(outputs, stage)) for stage in ("sample_fp", "sample")]
    each = [10 * np.log10(4 / np.square(a.astype(float) - b).mean()) for a, b in zip(*images, strict=True)]
    assert images[0].dtype == np.float32 and images[0].shape == (64, *shape)
    assert record["paired"]["psnr"] == pytest.approx(np.mean(np.minimum(each, 100)))
    page = dmq("report", str(Path(record["run"])))
    assert page.code == 0, page.err
    text = (Path(record["run"]) / "report.html").read_text(encoding="utf-8")
    assert "its samples are neither grey nor RGB images" in text
    refused = dmq("evaluate", f"model={model}", *FEW, f"runtime.outputs={outputs}", "protocol=digits")
    assert refused.code != 0 and "an image has channels, height and width" in refused.sentence


@pytest.mark.parametrize(
    ("words", "protocol", "seeds"),
    [
        ((), "digits", "0-1999"),
        (("protocol=smoke",), "smoke", "0-199"),
        (("protocol=smoke", "seeds=5-9"), "smoke", "5-9"),
        (("protocol=smoke", "seeds=[0-199,200-399]"), "smoke", ["0-199", "200-399"]),
        (("protocol=fid_torch_fidelity",), "fid_torch_fidelity", "0-1999"),
        (("model=folder", "model.path=/x", "model.name=x"), "paired", "0-63"),
        (("model=folder", "model.path=/x", "model.name=x", "protocol=digits"), "digits", "0-1999"),
        (("model=ldm_digits",), "digits_latent", "0-1999"),
        (("protocol=smoke", "protocol.seeds=0-9"), "smoke", "0-9"),
    ],
)
def test_which_protocol_and_seeds_a_command_takes(words: tuple[str, ...], protocol: str, seeds: object) -> None:
    config = choices.composed(words)
    assert (config["protocol"]["name"], config["seeds"]) == (protocol, seeds)
