"""The whole chain on a tiny model: what it leaves, and that it computes nothing twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmq_cli.stages import nodes
from dmq_cli.store import file_sha256, write_json
from tests.chain import (
    IMAGES,
    QUICK,
    STAGES,
    TAC,
    Result,
    artifact,
    artifacts,
    counting,
    dmq,
    images,
    words,
)


def test_metrics_hold_what_the_issue_lists(done: tuple[Path, Result, list[str]]) -> None:
    outputs, result, ran = done
    assert sorted(ran) == STAGES
    metrics = json.loads(result.out)
    listed = {
        "protocol",
        "num_images",
        "seeds",
        "fp",
        "quantized",
        "paired",
        "method",
        "bits",
        "model",
        "config",
    }
    assert listed | {"artifacts", "command", "cite", "policy", "cost"} <= set(metrics)
    assert (metrics["method"], metrics["bits"], metrics["model"]) == ("tac", "w3a8", "tiny")
    assert metrics["num_images"] == IMAGES and metrics["seeds"] == [f"0-{IMAGES - 1}"]
    assert len(metrics["protocol"]["hash"]) == 16 and metrics["protocol"]["extractor_sha256"]
    for twin in ("fp", "quantized"):
        assert {"fd", "is", "kid", "precision", "recall"} <= set(metrics[twin])
    assert 5 < metrics["paired"]["psnr"] < 60 and 0 < metrics["paired"]["ssim"] < 1
    assert metrics["fp"] != metrics["quantized"]
    assert metrics["command"].startswith("dmq evaluate model=") and "Yao" in metrics["cite"]
    run = Path(metrics["run"])
    on_disk = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert on_disk == {key: value for key, value in metrics.items() if key != "run"}
    assert run.parent == outputs / "runs" / "evaluate"


def test_the_run_folder(done: tuple[Path, Result, list[str]]) -> None:
    outputs, result, _ = done
    run = Path(json.loads(result.out)["run"])
    names = {
        "config.json",
        "manifest.json",
        "metrics.json",
        "run.log",
        "status.json",
        "samples.png",
        "artifacts",
    }
    assert {path.name for path in run.iterdir()} == names
    links = list((run / "artifacts").iterdir())
    assert len(links) == len(STAGES) and all(link.is_symlink() for link in links)
    assert {link.resolve() for link in links} == {artifact(outputs, stage).resolve() for stage in STAGES}
    assert not any(os.path.isabs(os.readlink(link)) for link in links), "the folder can be moved"
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert {"verb", "key", "command", "seeds", "environment", "stages", "finished", "seconds", "peak_memory_mb"} <= set(
        manifest
    )
    assert manifest["environment"]["versions"]["torch"] and manifest["peak_memory_mb"] > 50
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["status"] == "done"
    log = (run / "run.log").read_text(encoding="utf-8")
    assert all(f"{stage} " in log for stage in STAGES) and "done in" in log
    with Image.open(run / "samples.png") as picture:
        assert picture.height == 2 * (16 * 6 + 2) and len(picture.getcolors(1 << 16) or []) > 20


def test_artifacts_say_where_they_come_from(done: tuple[Path, Result, list[str]]) -> None:
    outputs, _, _ = done
    for stage in STAGES:
        folder = artifact(outputs, stage)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert (manifest["stage"], manifest["key"]) == (stage, folder.name)
        assert set(manifest["config"]) == set(nodes.NODES[stage].reads)
        assert set(manifest["inputs"]) == set(nodes.NODES[stage].needs_for({}))
        assert {record["path"] for record in manifest["files"]} == {p.name for p in folder.iterdir()} - {
            "manifest.json"
        }
        assert all(record["sha256"] == file_sha256(folder / record["path"]) for record in manifest["files"])
        assert not [p for p in folder.iterdir() if p.name.startswith(("tmp-", "."))]


def test_run_again_nothing_is_computed(model: Path, done: tuple[Path, Result, list[str]]) -> None:
    outputs, result, _ = done
    with counting() as ran:
        again = dmq(*words("evaluate", model, outputs, *TAC, "--json"))
        for verb in ("calibrate", "reconstruct", "correct", "sample"):
            assert dmq(*words(verb, model, outputs, *TAC)).code == 0
    assert ran == []
    first, second = json.loads(result.out), json.loads(again.out)
    assert first["run"] != second["run"]
    assert {**first, "run": 0} == {**second, "run": 0}


def test_a_verb_makes_what_it_needs_and_no_more(model: Path, tmp_path: Path) -> None:
    for verb, stages in (
        ("calibrate", ["calibset", "transform", "calibrate"]),
        ("correct", ["targets", "reconstruct", "correct"]),
        ("sample", ["sample_fp", "sample"]),
        ("evaluate", ["evaluate_fp", "evaluate"]),
    ):
        with counting() as ran:
            result = dmq(*words(verb, model, tmp_path))
        assert result.code == 0 and ran == stages
        (run,) = (tmp_path / "runs" / verb).iterdir()
        assert (run / "manifest.json").is_file() and (run / "metrics.json").is_file() == (verb == "evaluate")


def test_images_do_not_depend_on_the_batch_size(
    model: Path, done: tuple[Path, Result, list[str]], tmp_path: Path
) -> None:
    outputs, _, _ = done
    (tmp_path / "artifacts").mkdir()
    for stage in ("calibset", "transform", "calibrate", "targets", "reconstruct", "correct"):
        (tmp_path / "artifacts" / stage).symlink_to(outputs / "artifacts" / stage)
    with counting() as ran:
        assert dmq(*words("sample", model, tmp_path, *TAC, "runtime.batch_size=7")).code == 0
    assert ran == ["sample_fp", "sample"], "and the batch size is in no key"
    full = np.abs(images(outputs, "sample_fp") - images(tmp_path, "sample_fp"))
    assert full.shape == (IMAGES, 16, 16, 1) and full.max() <= 1 and (full > 0).mean() < 0.01
    # a rounding of float32 that falls on the other side moves an activation by a whole step
    quantized = np.abs(images(outputs, "sample") - images(tmp_path, "sample"))
    assert (quantized > 2).mean() < 0.05


def test_several_seed_ranges(model: Path, done: tuple[Path, Result, list[str]]) -> None:
    outputs, _, _ = done
    with counting() as ran:
        result = dmq(*words("evaluate", model, outputs, *TAC, "seeds=[0-39,100-139]", "--json"))
    assert result.code == 0, result.err
    assert sorted(ran) == ["evaluate", "evaluate_fp", "sample", "sample_fp"], "the first range is there already"
    metrics = json.loads(result.out)
    assert metrics["seeds"] == ["0-39", "100-139"]
    spread = metrics["quantized"]["fd_over_seeds"]
    assert len(set(spread["each"])) == 2 and spread["std"] > 0
    assert metrics["quantized"]["fd"] == pytest.approx(sum(spread["each"]) / 2)


def test_a_sweep_shares_what_it_can(small: Path, tmp_path: Path) -> None:
    quick = (*QUICK, "budget.num_samples=8", "calib.seeds=1000000-1000003")
    sweep = ("-m", "method=minmax,qdiffusion", "bits=w4a8,w3a8")
    result = dmq(*words("sample", small, tmp_path, *sweep, *quick))
    assert result.code == 0, result.err
    once, each = ("calibset", "transform", "sample_fp"), ("calibrate", "reconstruct", "correct", "sample")
    assert artifacts(tmp_path) == dict.fromkeys(once, 1) | dict.fromkeys(each, 4) | {"targets": 2}
    assert len(list((tmp_path / "runs" / "sample").iterdir())) == 4


def test_a_finished_cell_of_a_table_is_not_computed_again(
    model: Path, done: tuple[Path, Result, list[str]], tmp_path: Path
) -> None:
    outputs, _, _ = done
    command = words("evaluate", model, tmp_path, *TAC, "+table.name=mine", "--json")
    command = [word.replace("+table", "table") for word in command]
    (tmp_path / "artifacts").symlink_to(outputs / "artifacts")
    first = dmq(*command)
    assert first.code == 0, first.err
    (cell,) = (tmp_path / "tables" / "mine").iterdir()
    assert cell.name.startswith("tiny-tac-w3a8-")
    assert {path.name for path in cell.iterdir()} == {"metrics.json", "manifest.json"}
    (tmp_path / "artifacts").unlink()  # another machine has the committed cells only
    with counting() as ran:
        second = dmq(*command)
    assert second.code == 0 and ran == [] and not (tmp_path / "artifacts").exists()
    assert json.loads(second.out)["quantized"] == json.loads(first.out)["quantized"]
    (tmp_path / "artifacts").symlink_to(outputs / "artifacts")
    metrics = json.loads((cell / "metrics.json").read_text(encoding="utf-8"))
    metrics["config"]["correct"]["lambda1"] = 0.1
    write_json(cell / "metrics.json", metrics)
    again = dmq(*command)
    assert again.code == 0 and "a file was altered" in again.err
    assert json.loads(again.out)["config"] == json.loads(first.out)["config"], "what was altered is not shown"
    (cell / "manifest.json").unlink()
    assert dmq(*command).code == 0 and (cell / "manifest.json").is_file(), "a cell without its proof is not finished"
    with counting() as ran:
        assert dmq(*command, "correct.lambda1=0.4").code == 0
    assert ran == ["correct", "sample", "evaluate"], "another cell is"


def test_the_model_of_a_run_comes_back_in_python(done: tuple[Path, Result, list[str]]) -> None:
    import dmq_cli
    from dmq_cli.metrics import to_uint8

    _, result, _ = done
    loaded = dmq_cli.load(json.loads(result.out)["run"])
    sampled = Path(json.loads(result.out)["run"]) / "artifacts" / f"sample-0-{IMAGES - 1}" / "images.npz"
    with np.load(sampled, allow_pickle=False) as archive:
        stored = archive["arr_0"].astype(int)
    pixels = to_uint8(loaded.sample(f"0-{IMAGES - 1}"), "edm").permute(0, 2, 3, 1).numpy().astype(int)
    assert (np.abs(pixels - stored) > 2).mean() < 0.05
