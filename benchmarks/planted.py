"""Fill a folder of outputs with artifacts and runs such as many sweeps leave, by copies of what one run left."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

from dmq_cli.store import digest, file_sha256, read_json


def plant_artifacts(outputs: Path, count: int) -> None:
    """Add `count` artifacts: of each stage in turn, with the manifest of the first one, other seeds, and a key that follows from them."""
    originals = sorted(outputs.glob("artifacts/*/*/manifest.json"))
    for number, original in zip(range(count), itertools.cycle(originals)):
        manifest = read_json(original)
        manifest["config"] = {**manifest["config"], "seeds": f"{1000 * number}-{1000 * number + 999}"}
        inputs = list(manifest["inputs"].values())
        key = digest([manifest["stage"], manifest["version"], manifest["config"], inputs])
        folder = original.parents[1] / key
        folder.mkdir()
        (folder / "values").write_text(str(number), encoding="utf-8")
        record = {"path": "values", "size": len(str(number)), "sha256": file_sha256(folder / "values")}
        text = json.dumps({**manifest, "key": key, "files": [record]}, indent=1)
        (folder / "manifest.json").write_text(text, encoding="utf-8")  # not synced, which would take minutes
        (original.parents[1] / f".lock-{key}").touch()


def plant_runs(outputs: Path, count: int) -> None:
    """Add `count` copies of the first run."""
    (first, *_) = sorted(outputs.glob("runs/evaluate/*"))
    for number in range(count):
        shutil.copytree(first, first.with_name(f"20200101-{number:06d}-{number:08x}"), symlinks=True)
