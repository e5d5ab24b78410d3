"""The full-precision side of reconstruction is computed once, and changes nothing but time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmq_cli.stages import quantize
from tests.chain import QUICK, artifact, artifacts, counting, dmq, words

LITTLE = ("calib.seeds=1000000-1000003", "budget.num_samples=8", *QUICK)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"manifest.json"}


@pytest.mark.slow
def test_a_sweep_over_methods_computes_them_once(small: Path, tmp_path: Path) -> None:
    sweep = ("-m", "method=brecq,qdiffusion", "bits=w4a8", "seeds=0-3")  # over bits, too: test_chain
    with counting() as ran:
        result = dmq(*words("sample", small, tmp_path, *LITTLE, *sweep))
    assert result.code == 0, result.err
    once, each = ("targets", "calibset", "transform", "sample_fp"), ("calibrate", "reconstruct", "correct", "sample")
    assert {name: ran.count(name) for name in ran} == dict.fromkeys(once, 1) | dict.fromkeys(each, 2)
    planned = {
        recon: plan_of_targets(small, tmp_path, recon) for recon in ("brecq", "par", "qdrop", "tfmq", "adaround")
    }
    assert [row["cached"] for row in planned.values()] == [True, True, True, False, False]
    assert len({row["key"] for row in planned.values()}) == 3, "no inputs (tfmq); layers (adaround)"


def plan_of_targets(small: Path, outputs: Path, recon: str) -> dict[str, Any]:
    """What `dmq plan` says of the targets of a reconstruction."""
    result = dmq("plan", *words("reconstruct", small, outputs, *LITTLE, f"recon={recon}"), "--json")
    (row,) = [row for row in json.loads(result.out)["plan"] if row["stage"] == "targets"]
    return dict(row)


@pytest.mark.slow
def test_every_reconstruction_takes_those_that_are_there(small: Path, tmp_path: Path) -> None:
    with counting() as ran:
        for recon in ("brecq", "par", "qdrop"):  # other methods that read the same
            assert dmq(*words("reconstruct", small, tmp_path, *LITTLE, f"recon={recon}")).code == 0
    assert ran.count("targets") == 1 and ran.count("reconstruct") == 3
    with counting() as ran:
        for recon in ("tfmq", "adaround"):  # no inputs; layers
            assert dmq(*words("reconstruct", small, tmp_path, *LITTLE, f"recon={recon}")).code == 0
    assert ran.count("targets") == 2 and artifacts(tmp_path)["targets"] == 3


def test_there_are_none_where_nothing_is_learned(small: Path, tmp_path: Path) -> None:
    assert dmq(*words("reconstruct", small, tmp_path, *LITTLE, "recon=none")).code == 0
    assert names(artifact(tmp_path, "targets")) == set()


@pytest.mark.parametrize(("recon", "files"), [("brecq", 26), ("eda", 26), ("adaround", 25), ("tfmq", 10)])
def test_what_is_learned_does_not_depend_on_them(
    recon: str, files: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    for limit in (quantize._TARGETS_LIMIT, 0):
        monkeypatch.setattr(quantize, "_TARGETS_LIMIT", limit)
        outputs = tmp_path / str(limit)
        assert dmq(*words("reconstruct", small, outputs, *LITTLE, f"recon={recon}", "bits=w3a6")).code == 0
        stored = names(artifact(outputs, "targets"))
        assert len(stored) == (files if limit else 0), stored
        learned.append((artifact(outputs, "reconstruct") / "quantizers.safetensors").read_bytes())
    assert learned[0] == learned[1]


def test_a_disk_without_room_for_them(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 10))
    result = dmq(*words("reconstruct", small, tmp_path, *LITTLE, "recon=brecq"))
    assert result.code == 1
    assert result.sentence.startswith("Capturing the targets of all units writes 0.00 GiB to ")
    assert result.sentence.endswith("use fewer recon.num_samples, or another folder with runtime.outputs.")
    assert artifacts(tmp_path)["targets"] == 0 and not list(tmp_path.rglob("*--target.safetensors"))
