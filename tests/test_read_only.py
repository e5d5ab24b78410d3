"""What only looks writes nothing: on outputs where every write is refused, as on a disk that can only be read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from tests.chain import dmq, tiny_folder, words
from tests.listening import listening
from tests.reports import runs
from tests.tiny import SMALL


class ReadOnly:
    """Refuses every write below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.refused = str(folder), list[str]()

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        """One event."""
        moving = name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
        writing = name == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if (moving or writing) and str(arguments[0]).startswith(self.folder):
            self.refused.append(f"{name} {arguments[0]}")
            raise OSError(errno.EROFS, "Read-only file system", str(arguments[0]))


def test_lists_and_reports_of_read_only_outputs(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    folders = [str(runs.run(outputs, runs.metrics(method), traced=False)) for method in ("tac", "minmax")]
    where, disk = f"runtime.outputs={outputs}", ReadOnly(outputs)
    with listening(disk):
        for command in ("list runs", "list artifacts", "clean --dry-run", "verify"):
            result = dmq(*command.split(), where)
            assert result.code == 0, result.err
        assert dmq("report", folders[0], "--to", str(tmp_path / "page.html")).code == 0
        assert dmq("compare", *folders).code == 0
        assert disk.refused == []
        refused = dmq("report", folders[0])
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert refused.code == 1 and f"at {folders[0]}/report.html; that disk can only be read" in refused.sentence


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "small", sample_size=8, **SMALL)
    disk = ReadOnly(tmp_path / "outputs")
    with listening(disk):
        planned = dmq("plan", *words("sample", model, tmp_path / "outputs"))
        assert planned.code == 0 and "never computed here" in planned.out, planned.err
        assert dmq("cost", f"model={model}", f"runtime.outputs={tmp_path / 'outputs'}").code == 0
        assert disk.refused == [] and not (tmp_path / "outputs").exists()
        sampled = dmq(*words("sample", model, tmp_path / "outputs"))
    assert sampled.code == 1 and "that disk can only be read: choose another folder" in sampled.sentence
