"""store.lock on the command line: in no key, and seen by the commands that look at the outputs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from dmq_cli.store import ArtifactStore, create_run, read_json
from tests.chain import dmq, tiny_folder, words
from tests.tiny import SMALL


def test_both_kinds_share_artifacts_and_what_is_under_way_is_left_alone(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    command = words("calibrate", tiny_folder(tmp_path / "tiny", **SMALL), outputs)
    leased = json.loads(dmq(*command, "store.lock=lease", "--json").out)["artifacts"]
    (artifact,) = (outputs / "artifacts" / "calibrate").glob("[0-9a-f]*")
    assert (artifact.parent / f".lease-{artifact.name}" / "1").is_file()
    locked = json.loads(dmq(*command, "store.lock=flock", "--json").out)["artifacts"]
    assert locked == leased and not list(artifact.parent.glob(".lock-*"))

    where = f"runtime.outputs={outputs}"
    store, key = ArtifactStore(outputs / "artifacts", "lease"), "ab" * 16
    with store.claim("calibset", key) as claim:
        assert dmq("clean", "--yes", where).out == "Nothing to remove.\n"
    assert "calibset (leftover)" in dmq("clean", "--dry-run", where).out
    (config,) = [read_json(path) for path in sorted(outputs.glob("runs/calibrate/*/config.json"))[:1]]
    run = create_run(outputs / "runs", "calibrate", key, config, "lease")
    assert "2 runs" in dmq("clean", "--runs", "--dry-run", where).out
    assert [row["state"] for row in listed(where)] == ["done", "done", "running"]
    run._release.detach()
    long_ago = time.time() - 86400
    os.utime(run.path / ".lease" / "1", (long_ago, long_ago))
    assert [row["state"] for row in listed(where)] == ["done", "done", "killed"]
    assert "3 runs" in dmq("clean", "--runs", "--yes", where).out and not run.path.exists()
    assert dmq("clean", "--yes", where).code == 0 and not claim.work.exists()


def listed(where: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(dmq("list", "runs", where, "--json").out)["runs"]
    return rows
