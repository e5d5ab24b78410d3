"""List the images of a folder, and count the other files by kind, so that nothing is skipped silently."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmq_cli.errors import EvaluationError

READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
"""Suffixes of files that are read as images."""

_OTHER_IMAGES = tuple(
    f".{suffix}"
    for suffix in [
        "bmp",
        "gif",
        "tif",
        "tiff",
        "apng",
        "avif",
        "heic",
        "heif",
        "jp2",
        "j2k",
        "jxl",
        "mpo",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "pfm",
        "tga",
        "ico",
        "psd",
        "exr",
        "hdr",
        "pcx",
        "dds",
        "qoi",
    ]
)
_OF_THE_SYSTEM = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")
_HIDDEN, _LOST, _AGAIN = "hidden", "broken links or devices", "folders met before"
_KINDS = 20  # of other files, counted separately


@dataclass(frozen=True)
class Listing:
    """files: the images of a folder and of all below it, sorted by path. skipped: number of other files by kind: `hidden`, two
    kinds of links, and the suffixes of the others.
    """

    files: tuple[Path, ...]
    skipped: Mapping[str, int]


def list_images(folder: Path) -> Listing:
    """List the images of a folder, by their suffixes in either case.

    Links to files and folders are followed; a folder counts once, so that circular links end. A file is an image as often as it is
    listed. Hidden are names that begin with a dot, files of operating systems, and all below those. Raises EvaluationError for
    images of a format that is not read, and for a folder that cannot be listed.
    """
    files, skipped = [], Counter[str]()
    for path, kind in _walk(folder):
        suffix = path.suffix.lower()
        if kind is not None:
            skipped[kind] += 1
        elif suffix in READ:
            files.append(path)
        elif suffix in _OTHER_IMAGES:
            raise EvaluationError(
                f"{path} is {suffix[1:].upper()} by its name, but images are read from PNG, JPEG and WEBP; convert it to PNG, or"
                " take it out."
            )
        else:
            skipped[suffix or "no suffix"] += 1
    return Listing(tuple(sorted(files)), _few(skipped))


def tell_skipped(skipped: Mapping[str, int]) -> str:
    """Write `15 hidden, 3 other files (.json 1, .txt 2)`; empty where nothing was skipped."""
    listed = {kind: skipped[kind] for kind in (_HIDDEN, _LOST, _AGAIN) if kind in skipped}
    by_suffix = {suffix: count for suffix, count in skipped.items() if suffix not in listed}
    total = sum(by_suffix.values())
    suffix_counts = ", ".join(f"{suffix} {count}" for suffix, count in by_suffix.items())
    last = [f"{total} other file{'s' if total > 1 else ''} ({suffix_counts})"] if by_suffix else []
    return ", ".join([*(f"{count} {kind}" for kind, count in listed.items()), *last])


def tell_kinds(kinds: Mapping[str, int]) -> str:
    """Write ` of mixed kinds (RGB 37, grey 3)`; empty where all images have one kind of pixels."""
    kind_counts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    return f" of mixed kinds ({kind_counts})" if len(kinds) > 1 else ""


def _few(kinds: Counter[str]) -> dict[str, int]:
    """Limit the kinds: the rarest of very many are added up as `more`."""
    listed = {kind: kinds.pop(kind) for kind in (_HIDDEN, _LOST, _AGAIN) if kind in kinds}
    commonest = dict(sorted(kinds.most_common(_KINDS)))
    more = kinds.total() - sum(commonest.values())
    return {**listed, **commonest, **({"more": more} if more else {})}


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield every file below a folder, and why it is skipped, if it is. The targets of links come last."""
    visited, links = set[str](), [folder]
    while links:
        below = [links.pop(0)]
        while below:
            place = below.pop()
            if (real := os.path.realpath(place)) in visited:
                yield place, _AGAIN
                continue
            visited.add(real)
            for path in _entries(place):
                if path.name[0] == "." or path.name in _OF_THE_SYSTEM:
                    yield from ((hidden, _HIDDEN) for hidden in _files_below(path))
                elif not path.is_dir():
                    yield path, None if path.is_file() else _LOST
                else:
                    (links if path.is_symlink() else below).append(path)


def _files_below(path: Path) -> Iterator[Path]:
    """Yield the path itself, or all files below a folder; no links are followed."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for place, _, names in os.walk(path):
        yield from (Path(place, name) for name in names)


def _entries(folder: Path) -> Sequence[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        raise EvaluationError(
            f"The images of {folder} were to be listed, but it cannot be read ({error.strerror}); make it readable, or leave it"
            " out."
        ) from error
