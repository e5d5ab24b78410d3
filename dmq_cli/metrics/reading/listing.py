"""Which files of a folder are its images, and what else lies there: nothing is left out unsaid."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmq_cli.errors import EvaluationError

READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
"""The ends of names that are read as images."""

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
_KINDS = 20  # of other files, told apart


@dataclass(frozen=True)
class Listing:
    """files: the images of a folder and of all below it, sorted by path. skipped: what else is there, how many of each kind:
    `hidden`, two kinds of links, and the ends of the names of other files.
    """

    files: tuple[Path, ...]
    skipped: Mapping[str, int]


def list_images(folder: Path) -> Listing:
    """The images of a folder, by the ends of their names in either case.

    Links to files and folders count as what they lead to; a folder counts once, so that links in a circle end. A file is
    an image as often as it is listed. Hidden are names that begin with a dot, what operating systems put beside files, and all
    below those. Raises EvaluationError for images of a format that is not read, and for a folder that cannot be listed.
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
    """`15 hidden, 3 other files (.json 1, .txt 2)`; empty where nothing was skipped."""
    known = {kind: skipped[kind] for kind in (_HIDDEN, _LOST, _AGAIN) if kind in skipped}
    others = {suffix: count for suffix, count in skipped.items() if suffix not in known}
    total = sum(others.values())
    each = ", ".join(f"{suffix} {count}" for suffix, count in others.items())
    last = [f"{total} other file{'s' if total > 1 else ''} ({each})"] if others else []
    return ", ".join([*(f"{count} {kind}" for kind, count in known.items()), *last])


def tell_kinds(kinds: Mapping[str, int]) -> str:
    """` of mixed kinds (RGB 37, grey 3)`; empty where all images have one kind of pixels."""
    each = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    return f" of mixed kinds ({each})" if len(kinds) > 1 else ""


def _few(kinds: Counter[str]) -> dict[str, int]:
    """Kinds and counts, the rarest of very many together as `more`."""
    known = {kind: kinds.pop(kind) for kind in (_HIDDEN, _LOST, _AGAIN) if kind in kinds}
    kept = dict(sorted(kinds.most_common(_KINDS)))
    more = kinds.total() - sum(kept.values())
    return {**known, **kept, **({"more": more} if more else {})}


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, and why it does not count. What is there itself comes before what links lead to."""
    seen, links = set[str](), [folder]
    while links:
        below = [links.pop(0)]
        while below:
            place = below.pop()
            if (real := os.path.realpath(place)) in seen:
                yield place, _AGAIN
                continue
            seen.add(real)
            for path in _entries(place):
                if path.name[0] == "." or path.name in _OF_THE_SYSTEM:
                    yield from ((hidden, _HIDDEN) for hidden in _files_below(path))
                elif not path.is_dir():
                    yield path, None if path.is_file() else _LOST
                else:
                    (links if path.is_symlink() else below).append(path)


def _files_below(path: Path) -> Iterator[Path]:
    """The path itself, or all files below it where it is a folder; no links are followed."""
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
