"""Which locks a store gets by the file system it lies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.store import ArtifactStore, locking, mounts
from dmq_cli.store.mounts import file_system

TABLE = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/with\\040space rw - lustre mgs@tcp:/fs rw
32 27 0:42 / /scratch rw - xfs /dev/sdb rw
33 27 0:43 / /scratch rw - gpfs gpfs rw
34 27 0:44 / /home2 rw master:2 propagate_from:1 - fuse.sshfs me@there: rw
"""


@pytest.mark.parametrize(
    ("folder", "system", "kind"),
    [
        ("/work/outputs", "ext4", "flock"),
        ("/", "ext4", "flock"),
        ("/home/me/outputs/not/made/yet", "nfs4", "lease"),
        ("/home/with space/x", "lustre", "lease"),
        ("/home2/x", "fuse.sshfs", "lease"),
        ("/scratch/x", "gpfs", "lease"),
    ],
)
def test_the_deepest_and_last_mount_counts(
    folder: str, system: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    assert file_system(Path(folder), table) == system
    monkeypatch.setattr(locking, "file_system", lambda root: system)
    assert locking.kind_of("auto", Path(folder)) == kind
    assert (locking.kind_of("lease", Path(folder)), locking.kind_of("flock", Path(folder))) == ("lease", "flock")


def test_a_machine_without_the_table_has_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_system(tmp_path, tmp_path / "none") is None
    monkeypatch.setattr(locking, "file_system", lambda root: None)
    assert locking.kind_of("auto", tmp_path) == "flock"


def test_this_machine_knows_what_it_lies_on(tmp_path: Path) -> None:
    if mounts._TABLE.exists():
        assert file_system(tmp_path) is not None


def test_another_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store\.lock=mutex is not known; use auto, flock or lease"):
        ArtifactStore(tmp_path, "mutex")
