"""Find the reference of a protocol: built into dmq, built by `dmq reference build`, or a published file."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics import Protocol, Reference, reference_of
from dmq_cli.metrics.extractors import check_readable
from dmq_cli.metrics.reading.image_files import Framing, ImageSource, archive_source, array_source, folder_source
from dmq_cli.metrics.reading.look import Pixels
from dmq_cli.metrics.references.build import build_reference
from dmq_cli.metrics.references.files import read_reference, read_stored
from dmq_cli.obtain import FASHION, REFERENCES, reference_file
from dmq_cli.stages.progress import Progress
from dmq_cli.store import file_sha256
from dmq_cli.zoo.digits import digit_images
from dmq_cli.zoo.fashion import fashion_images, find_fashion

OUTPUTS = "outputs"  # whose folder `references` holds what was built, unless runtime.outputs says otherwise
_log = logging.getLogger("dmq")
_FASHION_IMAGES = 10_000  # the first ones of the training part
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def find_reference(protocol: Protocol, outputs: str | Path) -> Reference | None:
    """Read the reference that the protocol compares with, and check it; None for a protocol without one. outputs: the folder
    whose `references` hold built ones.

    Raises MissingWeightsError where it does not exist, EvaluationError where it is not the one that the protocol asks for or
    lacks what the protocol needs.
    """
    if protocol.reference is None:
        return None
    reference = _read(protocol.reference, reference_file(protocol.reference, protocol.reference_path, outputs))
    reference.check(protocol)
    return reference


def known_reference(what: str, outputs: str | Path = OUTPUTS) -> Reference:
    """Read a reference by its name or its file. Raises MissingWeightsError where there is none."""
    section = reference_section(what)
    return _read(what, reference_file(what, section["reference_path"], outputs))


def reference_section(what: str) -> dict[str, str | None]:
    """Turn the name or the file of a reference into the keys of a protocol."""
    return {"reference": what, "reference_path": what if "/" in what or Path(what).is_file() else None}


def real_images(protocol: Protocol, outputs: str | Path) -> Pixels:
    """Read the reference's images, uint8 (N, H, W, C). Raises EvaluationError where it has none, or where there is no reference."""
    reference = find_reference(protocol, outputs)
    if reference is None or reference.images is None:
        holds = "there is none" if reference is None else "it has statistics alone"
        raise EvaluationError(
            f"The images of the reference {protocol.reference} were asked for, but {holds}; give one with images."
        )
    pixels: Any = reference.images()
    images: Pixels = pixels
    return images


def reference_identity(protocol: Protocol, outputs: str | Path) -> str | None:
    """The sha256 of the reference's file, None for none, an embedded one, or Fashion-MNIST, which is read only if it is the published
    one. Raises MissingWeightsError where it does not exist and EvaluationError where it is not the one that the protocol asks for, or
    lacks statistics that it needs.
    """
    if protocol.reference is None:
        return None
    file = reference_file(protocol.reference, protocol.reference_path, outputs)
    if protocol.reference == FASHION:
        find_fashion(file)
        file = None
    if protocol.reference_sha256 is not None:
        find_reference(protocol, outputs)  # of images it is the sha256 of all pixels
    elif file is not None and (stored := read_stored(file, protocol.reference)):
        stored.check(protocol)
    return None if file is None else file_sha256(file)


def image_source(what: str, framing: Framing) -> ImageSource:
    """Open the images to build a reference of. what: a folder, an .npz with uint8 (N, H, W, C) under arr_0, `digits` or `digits32`.

    Raises EvaluationError for what is none of these, and what `folder_source` raises.
    """
    if what in REFERENCES:
        return array_source(what, _digits(what), framing, "scikit-learn")
    return open_images(what, framing, lossless=False)


def open_images(what: str, framing: Framing, lossless: bool) -> ImageSource:
    """Open the images in a folder or an .npz; only names and shapes are read yet. lossless: see `folder_source`.

    Raises EvaluationError for what is neither, and what `folder_source` and `archive_source` raise.
    """
    place = Path(what).expanduser()
    if place.is_dir():
        return folder_source(place, framing, lossless)
    if not place.is_file():
        raise EvaluationError(
            f"Images were to be read from {place}, but that is neither a folder nor a file; give a folder of PNG files or an .npz "
            "with uint8 (N, H, W, C) under arr_0."
        )
    return archive_source(place, framing)


def build(
    what: str, framing: Framing, protocol: Protocol, name: str, file: Path, quiet: bool, device: str
) -> dict[str, Any]:
    """`dmq reference build`: write statistics of images to `file` and return what is recorded with them.

    Raises ConfigError for an impossible name of the reference or its file, EvaluationError for a file that exists already, and
    what `image_source` raises.
    """
    if re.fullmatch(_NAME, name) is None or name in (*REFERENCES, FASHION):
        raise ConfigError(
            f"A reference cannot be called {name}; give a name of letters, digits, '_', '-' and '.' that is none of "
            f"{', '.join((*REFERENCES, FASHION))}."
        )
    if file.suffix != ".safetensors":
        raise ConfigError(
            f"The reference {name} was to be written to {file}, but dmq reads its own only from files that end in .safetensors; "
            "give such a name with --to."
        )
    if file.exists():
        raise EvaluationError(
            f"The reference {name} is at {file} already; remove it, or give another name or --to FILE."
        )
    source, progress = image_source(what, framing), Progress(quiet)
    check_readable(source.shape[1:], protocol, source.name)
    _log.info("%s: %s", source.name, source.describe())
    with progress.stage("reference", name):
        return build_reference(
            source, protocol, name, file, lambda done, of: progress.update("images", done, of), device
        )


def _read(name: str, file: Path | None) -> Reference:
    if name == FASHION:
        return reference_of(name, _fashion(file))
    return reference_of(name, _digits(name)) if file is None else read_reference(file, name)


def _fashion(folder: Path | None) -> Pixels:
    images = fashion_images("train", None if folder is None else str(folder))[0][:_FASHION_IMAGES]
    pixels: Pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _digits(name: str) -> Pixels:
    pixels: Pixels = digit_images(REFERENCES[name])[0].permute(0, 2, 3, 1).numpy()
    return pixels
