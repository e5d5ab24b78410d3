"""What tests/store/test_disks.py runs where it may mount: unshare -rm python -m tests.store.disk_child FOLDER.

Prints a line of JSON for each number of kilobytes that a disk has: what came of a run, a picture, rows and an artifact on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dmq_cli.errors import NumericsError
from dmq_cli.sentences import guarded
from dmq_cli.store import ArtifactStore, create_run
from dmq_cli.store.files import aside


def picture(folder: Path) -> None:
    """Write 100 kB as pictures are."""
    with aside(folder / "samples.png") as scratch, scratch.open("wb") as file:
        file.write(bytes(100_000))


def artifact(folder: Path) -> None:
    """Compute one that needs 100 kB."""
    with ArtifactStore(folder / "artifacts").claim("sample", "0" * 32) as claim:
        if claim.done is None:
            with aside(claim.work / "images.npz") as scratch:
                scratch.write_bytes(bytes(100_000))
            claim.commit({})


def run(folder: Path) -> None:
    """A run that fails for another reason, on a disk that then has no room for its status."""
    new_run = create_run(folder / "runs", "sample", "0" * 32, {"text": "x" * 20_000})
    try:
        with (folder / "ballast").open("wb") as ballast:
            while ballast.write(bytes(4096)):
                ballast.flush()
    except OSError as error:
        new_run.finish("failed: the first reason")
        raise NumericsError(f"The first reason, in {folder}.") from error


def tried(mount: list[str], folder: Path, action: Callable[[Path], None]) -> str:
    """The files that are left of an action on a fresh disk; its sentence is on stderr."""
    subprocess.run(["mount", *mount, str(folder)], check=True)
    try:
        code = guarded(lambda: action(folder))
        left = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix in (".png", ".npz"))
        return json.dumps({"code": code, "left": left})
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def main(folder: Path) -> None:
    """Every action on every disk."""
    for action in (picture, artifact, run):
        for size in (0, 8, 24, 40, 80, 200):
            mount = ["-t", "tmpfs", "-o", f"size={4 + size}k", "tmpfs"]
            print(action.__name__, size, tried(mount, folder, action), flush=True)
    print("picture", "read-only", tried(["-t", "tmpfs", "-o", "ro", "tmpfs"], folder, picture), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
