"""Files that say they are references of dmq's own: every way in which they are not is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.references.own import read_own, save_reference

RECORD = {"count": 9, "features": 9, "images_sha256": "0" * 64}


def tensors(**changes: Any) -> dict[str, torch.Tensor]:
    entries = {
        "mu.features": torch.zeros(2).double(),
        "sigma.features": torch.eye(2).double(),
        "features": torch.ones(9, 2),
    }
    return {key: value for key, value in {**entries, **changes}.items() if value is not None}


def write(file: Path, named: dict[str, torch.Tensor], **changes: Any) -> Path:
    save_reference(file, named, {**RECORD, **changes})
    return file


def test_records_from_before_there_were_counts_of_files_are_read(tmp_path: Path) -> None:
    reference = read_own(write(tmp_path / "r.safetensors", tensors()), "r")
    assert reference.sha256 == "0" * 64 and reference.record["count"] == 9
    more = {"size": [4, 4, 1], "kinds": {"RGB": 9}, "skipped": {"hidden": 3, ".txt": 1}, "resize": None}
    assert read_own(write(tmp_path / "s.safetensors", tensors(), **more), "s").record["skipped"]["hidden"] == 3


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"features": None}, "9 rows of features, but has mu.features (2,), sigma.features (2, 2);"),
        ({"sigma.features": None}, "9 rows of features"),
        ({"mu.features": None, "sigma.features": None}, "9 rows of features"),
        ({"mu.features": torch.zeros(())}, "9 rows of features"),
        ({"features": torch.ones(8, 2)}, "9 rows of features"),
        ({"features": torch.ones(9, 3)}, "9 rows of features"),
        ({"features": torch.full((9, 2), float("nan"))}, "NaN or infinity in features"),
        ({"mu.features": torch.tensor([0.0, float("inf")])}, "NaN or infinity in mu.features"),
        ({"sigma.features": torch.eye(3)}, "(2,) and (3, 3)"),
        ({"sigma.features": -torch.eye(2)}, "negative eigenvalues"),
        ({"features": torch.ones(9, 2).half()}, "features of float16"),
        ({"mu.features": torch.zeros(2, dtype=torch.int64)}, "mu.features of int64"),
        ({"extra": torch.zeros(1)}, "but has extra (1,)"),
    ],
)
def test_tensors_that_are_no_reference(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    file = write(tmp_path / "r.safetensors", tensors(**changes))
    with pytest.raises(EvaluationError) as caught:
        read_own(file, "r")
    assert part in str(caught.value)


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    file, named = tmp_path / "r.safetensors", tensors(features=torch.ones(9, 2).bfloat16())
    save_file(named, file, {"reference": json.dumps({**RECORD, "tensors_sha256": "0" * 64})})
    with pytest.raises(EvaluationError, match="numbers of float32 or float64, but has features of bfloat16"):
        read_own(file, "r")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        "null",
        "[]",
        '"text"',
        json.dumps(RECORD),  # without the sha256 of its numbers
        json.dumps({**RECORD, "tensors_sha256": 7}),
        json.dumps({**RECORD, "tensors_sha256": "0", "count": "9"}),
        json.dumps({**RECORD, "tensors_sha256": "0", "extractor_sha256": "0"}),
        json.dumps({**RECORD, "tensors_sha256": "0", "dinov2_sha256": [1]}),
        json.dumps({**RECORD, "tensors_sha256": "0", "skipped": {"hidden": "many"}}),
        json.dumps({**RECORD, "tensors_sha256": "0", "skipped": 3}),
        json.dumps({**RECORD, "tensors_sha256": "0", "size": [[[1]]]}),
        json.dumps({**RECORD, "tensors_sha256": "0", "resize": float("nan")}),
    ],
)
def test_records_that_are_none(text: str, tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "r.safetensors", {"reference": text})
    with pytest.raises(EvaluationError, match="has no record of where it comes from"):
        read_own(tmp_path / "r.safetensors", "r")
