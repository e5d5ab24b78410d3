"""Read files of references, in four layouts; nothing is unpickled.

* .safetensors, dmq's own, see reference_own.py.
* .npz of openai/guided-diffusion (`mu`, `sigma` of pool_3, `mu_s`, `sigma_s` of sFID's layer, `arr_0` images for precision and
  recall), .npz of clean-fid and pytorch-fid (`mu`, `sigma`), and an .npz of images alone (`arr_0`).
* .pt of torch-fidelity's cache (`<input>-<extractor>-stat-fid-<layer>.pt`, a dictionary of `mu` and `sigma`).

A published file of statistics does not say which extractor made them: only their size can be checked.
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
    """Read a reference in one of the layouts above. name: for errors. Raises as `read_stored`, and EvaluationError for impossible
    images; their sha256 is that of the pixels.
    """
    return read_stored(file, name) or reference_of(name, read_npz(file))


def read_stored(file: Path, name: str) -> Reference | None:
    """Read the statistics in a file, but not its images; None for an .npz of images alone.

    The sha256 is the file's; in dmq's own layout, where features of all images are kept, that of the images it was built from,
    because the numbers are then the same. Raises MissingWeightsError where there is no file, EvaluationError for another layout or
    impossible statistics, and ArtifactCorruptError for one of dmq's own that was altered.
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
    statistics = {
        layer: checked_statistics(arrays[mu], arrays[sigma], file, name) for layer, (mu, sigma) in pairs.items()
    }
    images = functools.partial(read_npz, file) if "arr_0" in heads else None
    if statistics:
        layout = "adm" if images is not None or "spatial" in statistics else "clean-fid"
        return Reference(
            name, file_sha256(file), statistics, images=images, record=_describe_source(layout, file, statistics)
        )
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
    statistics = {"features": checked_statistics(mu, sigma, file, name)}
    return Reference(name, file_sha256(file), statistics, record=_describe_source("torch-fidelity", file, statistics))


def _check_length(file: Path) -> None:
    """Raise ValueError for a file that is, or would decompress to, more than the largest statistics."""
    length = file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            length = sum(info.file_size for info in archive.infolist())
    if length > 8 * LARGEST * (LARGEST + 2):
        raise ValueError("too long")


def _describe_source(layout: str, file: Path, by_layer: Mapping[str, Statistics]) -> dict[str, Any]:
    sizes = {layer: len(layer_statistics.mu) for layer, layer_statistics in by_layer.items()}
    return {"layout": layout, "source": str(file), "statistics": sizes}
