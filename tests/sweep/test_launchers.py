"""Jobs side by side, for real: each in a process of its own, which writes its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmq_cli.store import read_json
from tests.chain import artifacts, spawn, tiny_folder, words
from tests.tiny import SMALL


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_two_jobs_of_which_one_fails(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    model, outputs = tiny_folder(tmp_path / "tiny", **SMALL), tmp_path / "out"
    command = words("calibrate", model, outputs, "-m", f"hydra/launcher={launcher}", "bits.weight=0,4", "--json")
    for ran in (True, False):
        process = spawn(command)
        out, err = process.communicate(timeout=300)
        summary = json.loads(out)
        assert process.returncode == summary["exit_code"] == 1 and "0 bits" in summary["error"], err
        assert [(job["status"], job["ran"]) for job in summary["jobs"]] == [("failed", ran), ("done", ran)]
    assert artifacts(outputs)["calibrate"] == 1 and len(list(outputs.glob("runs/calibrate/*"))) == 1
    records = [read_json(file) for file in outputs.glob("sweeps/calibrate-*/*.json")]
    assert sorted(record["status"] for record in records) == ["done", "failed"]
