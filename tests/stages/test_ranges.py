"""What a run measures beside its quantized images: the full-precision twin on ranges of its own, and the cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.chain import Result, artifact, counting, dmq, words

Done = tuple[Path, Result, list[str]]


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """evaluate method=minmax: the outputs folder and what was found."""
    outputs = tmp_path_factory.mktemp("outputs")
    result = dmq(*words("evaluate", model, outputs, "--json"))
    assert result.code == 0, result.err
    return outputs, json.loads(result.out)


def test_full_precision_is_measured_on_its_own_ranges(model: Path, plain: tuple[Path, dict[str, Any]]) -> None:
    outputs, before = plain
    command = words("evaluate", model, outputs, "fp_seeds=[0-39,100-139,200-239]", "--json")
    rows = json.loads(dmq("plan", *command).out)["plan"]
    assert [(row["stage"], row["seeds"]) for row in rows if not row["cached"]] == [
        (stage, seeds) for seeds in ("100-139", "200-239") for stage in ("sample_fp", "evaluate_fp")
    ]
    with counting() as ran:
        result = dmq(*command)
    assert result.code == 0 and ran == ["sample_fp", "evaluate_fp"] * 2, "and seeds may share noise with fp_seeds"
    metrics = json.loads(result.out)
    assert (metrics["seeds"], metrics["fp_seeds"]) == (["0-39"], ["0-39", "100-139", "200-239"])
    each = metrics["fp"]["fd_over_seeds"]["each"]
    assert len(set(each)) == 3 and each[0] == before["fp"]["fd"]
    assert all(metrics[key] == before[key] for key in ("quantized", "paired", "cost", "policy"))
    assert metrics["intervals"] == {side: before["intervals"][side] for side in ("quantized", "paired", "over_fp")}
    assert "fp: 0-39, 100-139, 200-239" in dmq(*command[:-1]).out.splitlines()[0]
    keys = {path.name.split("-")[2] for path in (outputs / "runs" / "evaluate").iterdir()}
    assert len(keys) == 2, "another run"


def test_one_range_has_intervals_around_its_numbers(plain: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = plain
    sides = {side: set(within) for side, within in metrics["intervals"].items()}
    assert sides["fp"] == sides["quantized"] == {"fd", "is", "kid", "precision"} and sides["paired"] >= {"psnr"}
    assert sides["over_fp"] == {"fd"} and metrics["over_fp"]["fd"] == metrics["quantized"]["fd"] - metrics["fp"]["fd"]
    for side, within in metrics["intervals"].items():
        assert all(low <= metrics[side][key] <= high and low < high for key, (low, high) in within.items())


def test_without_them_nothing_speaks_of_them(plain: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = plain
    assert metrics["fp_seeds"] == metrics["seeds"] and "fp_seeds" not in metrics["config"]
    config = json.loads((Path(metrics["run"]) / "config.json").read_text(encoding="utf-8"))
    assert "fp_seeds" not in config


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1000007-1000046", "fp_seeds[0] (1000007-1000046) and calib.seeds (1000000-1000007) share the seeds"),
        ("[0-39,2000000-2000039]", "fp_seeds[1] (2000000-2000039) and correct.seeds"),
        ("0-9", "fp_seeds=0-9 gives 10 images, but the protocol digits measures 40; change fp_seeds, or"),
        ("[0-39,20-59]", "share the seeds 20-39; use ranges that do not overlap."),
        ("[]", "The list of seeds is empty"),
        ("x", "The seeds 'x' are not a range"),
    ],
)
def test_ranges_that_cannot_be(value: str, sentence: str, model: Path, tmp_path: Path) -> None:
    result = dmq(*words("evaluate", model, tmp_path, "method=tac", f"fp_seeds={value}"))
    assert result.code == 2 and sentence in result.sentence


def test_the_size_is_that_of_what_lies_there(model: Path, done: Done) -> None:
    outputs, result, _ = done
    cost = json.loads(result.out)["cost"]
    assert set(cost) == {"macs", "bops", "bops_fp", "size_bytes", "size_bytes_fp", "deployable"} and cost["deployable"]
    counted = json.loads((artifact(outputs, "calibrate") / "cost.json").read_text(encoding="utf-8"))
    quantizers = load_file(artifact(outputs, "reconstruct") / "quantizers.safetensors")
    scales = [t for name, t in quantizers.items() if name.endswith((".scale", ".zero_point", ".low"))]
    tables = load_file(artifact(outputs, "correct") / "tables.safetensors")
    stored = sum(t.numel() for t in [*scales, *tables.values()])
    assert stored > 100 and cost["size_bytes"] == counted["weight_bytes"] + counted["other_bytes"] + 4 * stored
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert cost["size_bytes_fp"] == 4 * sum(t.numel() for t in weights.values())
    assert (
        cost["bops_fp"] == 2 * 1024 * cost["macs"] > 30 * cost["bops"]
        and 3 * cost["size_bytes"] < cost["size_bytes_fp"]
    )
