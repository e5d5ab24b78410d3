"""Files of references, in four layouts; nothing is unpickled.

* .safetensors, dmq's own, see reference_own.py.
* .npz of openai/guided-diffusion (`mu`, `sigma` of pool_3, `mu_s`, `sigma_s` of sFID's layer, `arr_0` images for precision and
  recall), .npz of clean-fid and pytorch-fid (`mu`, `sigma`), and an .npz of images alone (`arr_0`).
* .pt of torch-fidelity's cache (`<input>-<extractor>-stat-fid-<layer>.pt`, a dictionary of `mu` and `sigma`).

A file of somebody else's statistics does not say which extractor made them: only their size can be checked.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.metrics.covariance import LARGEST, check_statistics_shapes, checked_statistics
from dmq_cli.metrics.fidelity import reference_of
from dmq_cli.metrics.reading.npz import read_arrays, read_heads, read_npz, unreadable
from dmq_cli.metrics.references.own import read_own
from dmq_cli.metrics.references.reference import Reference, Statistics
from dmq_cli.models.importers.arrays import read_arrays as read_notes
from dmq_cli.store import file_sha256

_ADM = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


def read_reference(file: Path, name: str) -> Reference:
    """The reference in a file of one of the layouts above. name: for messages. Raises as `read_stored`, and EvaluationError
    for images that cannot be; their sha256 is that of the pixels.
    """
    return read_stored(file, name) or reference_of(name, read_npz(file))


def read_stored(file: Path, name: str) -> Reference | None:
    """The statistics in a file, its images not read yet; None for an .npz of images alone.

    The sha256 is the file's; of dmq's own layout that of the images it was built from, where it has the features of all of
    them, because the numbers are then the same. Raises MissingWeightsError where there is no file, EvaluationError for one that is none of these, or whose
    statistics cannot be, and ArtifactCorruptError for one of dmq's own that was altered.
    """
    if not file.is_file():
        raise MissingWeightsError(
            f"The reference {name} should be at {file}, which is no file; set protocol.reference_path, or build it with: "
            f"dmq reference build FOLDER --as {name}{f' --to {file}' if file.suffix == '.safetensors' else ''}, with the --protocol"
            " that you measure with."
        )
    if file.suffix == ".safetensors":
        return read_own(file, name)
    return _read_torch_fidelity(file, name) if file.suffix == ".pt" else _read_npz(file, name)


def _read_npz(file: Path, name: str) -> Reference | None:
    heads = read_heads(file)
    pairs = {layer: pair for layer, pair in _ADM.items() if set(pair) <= set(heads)}
    for mu, sigma in pairs.values():
        check_statistics_shapes(heads[mu].shape, heads[sigma].shape, file, name)
    arrays = read_arrays(file, heads, [key for pair in pairs.values() for key in pair])
    found = {layer: checked_statistics(arrays[mu], arrays[sigma], file, name) for layer, (mu, sigma) in pairs.items()}
    images = functools.partial(read_npz, file) if "arr_0" in heads else None
    if found:
        layout = "adm" if images is not None or "spatial" in found else "clean-fid"
        return Reference(name, file_sha256(file), found, images=images, record=_told(layout, file, found))
    if images is None:
        raise EvaluationError(
            f"The reference {name} was to be read from {file}, but that has neither images (arr_0) nor statistics (mu and "
            "sigma); give an .npz of ADM's or clean-fid's layout."
        )
    return None


def _read_torch_fidelity(file: Path, name: str) -> Reference:
    try:
        _check_length(file)
        mu, sigma = read_notes(file, ("mu", "sigma")).values()
    except Exception as error:  # zipfile, the OS and the importers each have their own
        raise unreadable(file, "torch-fidelity's cached mu and sigma", error) from error
    found = {"features": checked_statistics(mu, sigma, file, name)}
    return Reference(name, file_sha256(file), found, record=_told("torch-fidelity", file, found))


def _check_length(file: Path) -> None:
    """Raise ValueError for a file of more than the largest statistics, or that would grow to more."""
    length = file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            length = sum(info.file_size for info in archive.infolist())
    if length > 8 * LARGEST * (LARGEST + 2):
        raise ValueError("too long")


def _told(layout: str, file: Path, found: Mapping[str, Statistics]) -> dict[str, Any]:
    sizes = {layer: len(statistics.mu) for layer, statistics in found.items()}
    return {"layout": layout, "source": str(file), "statistics": sizes}
