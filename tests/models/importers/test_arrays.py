"""NumPy arrays in a file that torch.save wrote are read as torch reads them; other entries end in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmq_cli.errors import ModelError
from dmq_cli.models.importers.arrays import read_arrays
from tests.models.importers.checkpoints import FORMATS, save
from tests.models.importers.test_hostile import ATTACKS
from tests.tiny import one_sentence

SOURCE = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "vector": SOURCE.standard_normal(5),
    "single": SOURCE.standard_normal((3, 4)).astype(np.float32),
    "columns": np.asfortranarray(SOURCE.standard_normal((3, 4))),
    "slice": SOURCE.standard_normal((6, 6))[1:4, ::2],
    "scalar": np.array(2.5),
}


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_are_read_as_they_were_written(protocol: int, zipped: bool, tmp_path: Path) -> None:
    file, tensor = tmp_path / "a.pt", torch.randn(2, 3)
    torch.save({**ARRAYS, "tensor": tensor}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    arrays = read_arrays(file, [*ARRAYS, "tensor"])
    for name, array in {**ARRAYS, "tensor": tensor.numpy()}.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


WRONG: dict[str, Any] = {
    "a list": [1.0, 2.0],
    "nothing": None,
    "objects": np.array([{"a": 1}], dtype=object),
    "whole numbers": np.arange(3),
    "complex numbers": np.ones(2, dtype=complex),
    "big-endian numbers": np.ones(2, dtype=">f8"),
    "a record": np.zeros(2, dtype=[("a", "f8")]),
    "a NumPy number": np.float64(1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_array_of_numbers_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"entry x of .* is no array") as caught:
        read_arrays(save(tmp_path / "a.pt", {"x": WRONG[name]}), ["x"])
    one_sentence(caught.value)
    with pytest.raises(ModelError, match="entry y of"):
        read_arrays(tmp_path / "a.pt", ["y"])


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(attack: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = save(tmp_path / "a.pt", {"x": ATTACKS[attack](f"touch {marker}"), "mu": np.ones(2)})
    with pytest.raises(ModelError):
        read_arrays(file, ["x"])
    assert read_arrays(file, ["mu"])["mu"].tolist() == [1, 1] and not marker.exists()


def test_a_shape_that_the_bytes_do_not_fill_is_refused(tmp_path: Path) -> None:
    class Forged:
        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

        def __reduce__(self) -> Any:
            rebuild, args, state = list(np.ones(2).__reduce__())[:3]
            return rebuild, args, (state[0], self.shape, *state[2:])

    for shape in ((3,), (1 << 40,), (-2,), (-1, -2), (True, 2)):
        with pytest.raises(ModelError, match="no array"):
            read_arrays(save(tmp_path / "a.pt", {"x": Forged(shape)}), ["x"])
    assert read_arrays(save(tmp_path / "a.pt", {"x": Forged((2, 1))}), ["x"])["x"].shape == (2, 1)
    assert os.listdir(tmp_path) == ["a.pt"]
