"""Which file system a folder lies on, by /proc/self/mountinfo."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = frozenset(
    [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "jfs",
        "reiserfs",
        "bcachefs",
        "nilfs2",
        "overlay",
        "tmpfs",
        "ramfs",
        "vfat",
        "exfat",
        "ntfs3",
        "fuseblk",
    ]
)
"""File systems of one machine. On all others, such as nfs, lustre, gpfs, beegfs, cifs and fuse, flock may be per machine."""
_TABLE = Path("/proc/self/mountinfo")


def file_system(folder: Path, table: Path = _TABLE) -> str | None:
    """Name the file system that holds a folder, which need not exist yet; None where there is no such table."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    path, deepest, name = folder.resolve(), -1, None
    for line in lines:
        point, kind = _mount(line)
        depth = len(point.parts)
        if path.is_relative_to(point) and depth >= deepest:  # the last of several at one place hides the others
            deepest, name = depth, kind
    return name


def _mount(line: str) -> tuple[Path, str]:
    """The mount point and the type of a line: "36 35 98:0 /root /mnt/disk rw - ext4 /dev/sda rw"."""
    fields, _, source = line.partition(" - ")
    point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
    return Path(point), source.split(" ")[0]
