"""Files of references, in four layouts; nothing is unpickled.

* .safetensors, dmq's own: `mu.<layer>` and `sigma.<layer>` float64, `features` float32 of a random subset, and one JSON text
  of where they come from, `reference` in the metadata.
* .npz of openai/guided-diffusion (`mu`, `sigma` of pool_3, `mu_s`, `sigma_s` of sFID's layer, `arr_0` images for precision and
  recall), .npz of clean-fid and pytorch-fid (`mu`, `sigma`), and an .npz of images alone (`arr_0`).
* .pt of torch-fidelity's cache (`<input>-<extractor>-stat-fid-<layer>.pt`, a dictionary of `mu` and `sigma`).

A file of somebody else's statistics does not say which extractor made them: only their size can be checked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError, EvaluationError, MissingWeightsError
from dmq_cli.metrics.fidelity import reference_of
from dmq_cli.metrics.reference import Reference, Statistics
from dmq_cli.store import digest, file_sha256
from dmq_cli.store.tensors import load_tensors, save_tensors

_METADATA = "reference"
_SYMMETRIC = 1e-5  # of the largest entry
_NEGATIVE = 1e-6  # of the largest eigenvalue
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
        return _read_own(file, name)
    return _read_torch_fidelity(file, name) if file.suffix == ".pt" else _read_npz(file, name)


def read_npz(file: Path) -> NDArray[np.uint8]:
    """The images under arr_0, uint8 (N, H, W, C). Raises EvaluationError where there are none."""
    found = _npz(file, ["arr_0"])
    if "arr_0" not in found:
        raise EvaluationError(
            f"Images were to be read from {file}, but it has none under arr_0; give an .npz of images."
        )
    images: NDArray[np.uint8] = found["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise EvaluationError(
            f"{file} should have uint8 images (N, H, W, C) under arr_0, but has {images.dtype} {images.shape}; write them so."
        )
    return images


def save_reference(file: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Any]:
    """Write dmq's own layout, in one step, and return the record as it was written. record: plain values.

    Raises OSError.
    """
    whole = {**record, "tensors_sha256": tensors_sha256(tensors)}
    save_tensors(file, tensors, {_METADATA: json.dumps(whole)})
    return whole


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of named tensors: their names, types, shapes and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        state.update(f"{name} {array.dtype} {array.shape}\n".encode())
        state.update(array.data)
    return state.hexdigest()


def _read_own(file: Path, name: str) -> Reference:
    tensors, record = load_tensors(file), _record(file, name)
    if record["tensors_sha256"] != tensors_sha256(tensors):
        raise ArtifactCorruptError(
            f"The reference {name} was to be read from {file}, but its numbers are not those that were built; delete it and "
            "build it again with dmq reference build."
        )
    layers = [key.removeprefix("mu.") for key in tensors if key.startswith("mu.")]
    found = {layer: _statistics(tensors[f"mu.{layer}"], tensors[f"sigma.{layer}"], file, name) for layer in layers}
    features = {"features": tensors["features"]}
    return Reference(name, _own_sha256(record), found, features, record={"layout": "dmq", **record})


def _record(file: Path, name: str) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(_METADATA, "null")
    try:
        record: dict[str, Any] = json.loads(text)
        _own_sha256(record)
        return record
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"The reference {name} was to be read from {file}, but that has no record of where it comes from; build it with: "
            f"dmq reference build FOLDER --as {name}"
        ) from error


def _own_sha256(record: Mapping[str, Any]) -> str:
    if record["features"] == record["count"]:
        return str(record["images_sha256"])
    return digest({"images": record["images_sha256"], "tensors": record["tensors_sha256"]}, length=64)


def _read_npz(file: Path, name: str) -> Reference | None:
    arrays = _npz(file, [key for keys in _ADM.values() for key in keys])
    found = {
        layer: _statistics(arrays[mu], arrays[sigma], file, name)
        for layer, (mu, sigma) in _ADM.items()
        if mu in arrays and sigma in arrays
    }
    images = functools.partial(read_npz, file) if "arr_0" in arrays["names"] else None
    if found:
        layout = "adm" if images is not None or "spatial" in found else "clean-fid"
        return Reference(name, file_sha256(file), found, images=images, record=_told(layout, file, found))
    if images is None:
        raise EvaluationError(
            f"The reference {name} was to be read from {file}, but that has neither images (arr_0) nor statistics (mu and "
            "sigma); give an .npz of ADM's or clean-fid's layout."
        )
    return None


def _npz(file: Path, keys: list[str]) -> dict[str, Any]:
    """These arrays of an .npz, where it has them, and the `names` of all."""
    try:
        with zipfile.ZipFile(file):  # NumPy would take arrays alone, and advise to unpickle the rest
            pass
        with np.load(file, allow_pickle=False) as archive:
            return {"names": archive.files, **{key: archive[key] for key in keys if key in archive.files}}
    except Exception as error:  # zipfile, numpy and the OS each have their own
        raise _unreadable(file, "an .npz of images or statistics", error) from error


def _read_torch_fidelity(file: Path, name: str) -> Reference:
    # torch.load knows no NumPy arrays unless told: these four make an array of numbers, and run nothing else.
    made: list[Any] = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    rebuild: Any = np.empty(0).__reduce__()[0]
    named = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals([*made, *named]):
            stored = torch.load(file, map_location="cpu", weights_only=True)
        mu, sigma = np.asarray(stored["mu"]), np.asarray(stored["sigma"])
    except Exception as error:  # pickle, zipfile, torch and the OS each have their own
        raise _unreadable(file, "torch-fidelity's cached mu and sigma", error) from error
    found = {"features": _statistics(mu, sigma, file, name)}
    return Reference(name, file_sha256(file), found, record=_told("torch-fidelity", file, found))


def _unreadable(file: Path, what: str, error: Exception) -> EvaluationError:
    # Not the libraries' own words, which advise to unpickle what was refused.
    found = error.strerror if isinstance(error, OSError) else None
    found = found or "it holds something else, is cut off, or would have to be unpickled"
    return EvaluationError(
        f"{file} was to be read as {what}, but cannot be ({found}); give a file of one of the layouts that dmq reads."
    )


def _told(layout: str, file: Path, found: Mapping[str, Statistics]) -> dict[str, Any]:
    sizes = {layer: len(statistics.mu) for layer, statistics in found.items()}
    return {"layout": layout, "source": str(file), "statistics": sizes}


def _statistics(mu: Any, sigma: Any, file: Path, name: str) -> Statistics:
    mean, covariance = (np.asarray(part, dtype=np.float64) for part in (mu, sigma))
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2 or not np.isfinite(covariance.sum() + mean.sum()):
        raise EvaluationError(
            f"The reference {name} in {file} should have a mean (D,) and a covariance (D, D) of finite numbers, but has "
            f"{mean.shape} and {covariance.shape}, or NaN; give the file as it was published."
        )
    if not _is_covariance(covariance):
        raise EvaluationError(
            f"The reference {name} in {file} should have a covariance, but that is not symmetric or has negative eigenvalues; "
            "give the file as it was published."
        )
    return Statistics(mean, covariance)


def _is_covariance(matrix: NDArray[np.float64]) -> bool:
    """Whether a matrix (D, D) is symmetric and has no eigenvalue below zero, but for the rounding of float32."""
    scale = float(np.abs(matrix).max(initial=0.0))
    if np.abs(matrix - matrix.T).max(initial=0.0) > _SYMMETRIC * scale:
        return False
    try:  # much faster than eigenvalues; no entry of the diagonal is above the largest of them
        np.linalg.cholesky(matrix + _NEGATIVE * max(matrix.diagonal().max(initial=0.0), 0.0) * np.eye(len(matrix)))
        return True
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(matrix)
        return bool(values[0] >= -_NEGATIVE * values[-1])
