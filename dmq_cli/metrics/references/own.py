"""dmq's own file of a reference: the statistics of real images, and a record of which images they are.

.safetensors with `mu.<layer>` and `sigma.<layer>` float64, `features` float32 of a random subset, and one JSON text in the
metadata, `reference`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError, EvaluationError
from dmq_cli.metrics.covariance import checked_statistics
from dmq_cli.metrics.references.reference import Reference
from dmq_cli.store.hashing import digest
from dmq_cli.store.tensors import load_tensors, save_tensors

_METADATA = "reference"
_NUMBERS = (torch.float32, torch.float64)
_NEEDED: dict[str, type] = {"count": int, "features": int, "images_sha256": str, "tensors_sha256": str}
_TEXTS = ("extractor", "extractor_sha256", "dinov2_sha256")
_COUNTS = ("kinds", "skipped")
_PLAIN = (str, int, float, bool, type(None))


def save_reference(file: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Any]:
    """Write dmq's own layout, in one step, and return the record as it was written. record: plain values.

    Raises OSError.
    """
    whole = {**record, "tensors_sha256": tensors_sha256(tensors)}
    save_tensors(file, tensors, {_METADATA: json.dumps(whole)})
    return whole


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors: their names, types, shapes and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        state.update(f"{name} {array.dtype} {array.shape}\n".encode())
        state.update(array.data)
    return state.hexdigest()


def read_own(file: Path, name: str) -> Reference:
    """Read the reference in such a file. Raises ArtifactCorruptError for a file that was cut off or altered, EvaluationError for
    one that lacks statistics or the record."""
    tensors, record = load_tensors(file), _read_record(file, name)
    _check_layout(tensors, record, file, name)
    if record["tensors_sha256"] != tensors_sha256(tensors):
        raise ArtifactCorruptError(
            f"The reference {name} was to be read from {file}, but its numbers are not those that were built; delete it and "
            "build it again with dmq reference build."
        )
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    layers = [key.removeprefix("mu.") for key in arrays if key.startswith("mu.")]
    statistics = {
        layer: checked_statistics(arrays[f"mu.{layer}"], arrays[f"sigma.{layer}"], file, name) for layer in layers
    }
    features = {"features": tensors["features"]}
    return Reference(name, _own_sha256(record), statistics, features, record={"layout": "dmq", **record})


def _read_record(file: Path, name: str) -> dict[str, Any]:
    """Read the record and check the types of its entries."""
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(_METADATA, "null")
    try:
        record: dict[str, Any] = json.loads(text, parse_constant=_no_number)
        whole = all(isinstance(record[key], kind) for key, kind in _NEEDED.items())
        texts = all(isinstance(record.get(key), str | None) for key in _TEXTS)
        has_extractor = record.get("extractor_sha256") is None or isinstance(record["extractor"], str)
        counts = all(type(count) is int for key in _COUNTS for count in (record.get(key) or {}).values())
        if not (whole and texts and has_extractor and counts and all(map(_is_plain, record.values()))):
            raise ValueError("an entry of another type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"The reference {name} was to be read from {file}, but that has no record of where it comes from; build it with: "
            f"dmq reference build FOLDER --as {name}"
        ) from error
    return record


def _is_plain(value: object) -> bool:
    """Whether a value of the record is one number or text, or a list or mapping of those."""
    inside = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    return all(isinstance(entry, _PLAIN) for entry in inside)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_layout(tensors: Mapping[str, Tensor], record: Mapping[str, Any], file: Path, name: str) -> None:
    """Raise EvaluationError for other tensors than the layout has."""
    layers = {key.partition(".")[2] for key in tensors if "." in key}
    expected = {"features", *(f"{part}.{layer}" for layer in layers for part in ("mu", "sigma"))}
    shape = (record["features"], *tensors["mu.features"].shape) if "mu.features" in tensors else ()
    if set(tensors) != expected or len(shape) != 2 or tensors["features"].shape != shape:
        given_tensors = (
            ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in sorted(tensors.items())) or "nothing"
        )
        _refuse(file, name, f"mu, sigma and {record['features']} rows of features", given_tensors)
    for key, tensor in tensors.items():
        if tensor.dtype not in _NUMBERS:
            _refuse(file, name, "numbers of float32 or float64", f"{key} of {str(tensor.dtype).removeprefix('torch.')}")
        if not bool(torch.isfinite(tensor).all()):
            _refuse(file, name, "finite numbers", f"NaN or infinity in {key}")


def _refuse(file: Path, name: str, needed: str, problem: str) -> NoReturn:
    raise EvaluationError(
        f"The reference {name} in {file} should have {needed}, but has {problem}; build it again with dmq reference build."
    )


def _own_sha256(record: Mapping[str, Any]) -> str:
    if record["features"] == record["count"]:
        return str(record["images_sha256"])
    return digest({"images": record["images_sha256"], "tensors": record["tensors_sha256"]}, length=64)
