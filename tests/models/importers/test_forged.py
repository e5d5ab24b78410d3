"""Archives and descriptions of tensors that PyTorch would not write are refused in one sentence."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli.errors import MissingWeightsError
from dmq_cli.models.importers import read_state
from tests.models.importers.checkpoints import refused, save, zipped_pickle


def push(value: object) -> bytes:
    """The opcodes that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def described(kind: str = "torch.FloatStorage", key: object = "0", count: object = 4, **view: Any) -> bytes:
    """A pickle with one tensor of four floats that says of itself what it likes."""
    offset, size, stride = view.get("offset", 0), view.get("size", (4,)), view.get("stride", (1,))
    module, _, name = kind.rpartition(".")
    reference = b"(" + push("storage") + f"c{module}\n{name}\n".encode() + push(key) + push("cpu") + push(count) + b"tQ"
    args = b"(" + reference + push(offset) + push(size) + push(stride) + b"\x89Nt"
    return b"\x80\x02}" + push("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + args + b"Rs."


BAD: dict[str, dict[str, Any]] = {
    "more numbers than there are": {"count": 5},
    "far more numbers": {"count": 1 << 62},
    "a negative number of them": {"count": -1},
    "no number": {"count": True},
    "another key": {"key": "1"},
    "a path as key": {"key": "../../etc/passwd"},
    "an odd key": {"key": ("0",)},
    "an unknown type": {"kind": "torch.ComplexFloatStorage"},
    "a call as type": {"kind": "os.system"},
    "an offset": {"offset": 1},
    "a negative offset": {"offset": -1},
    "a long stride": {"stride": (2,)},
    "a negative stride": {"stride": (-1,), "offset": 3},
    "one number many times": {"size": (1 << 40,), "stride": (0,)},
    "sizes that overflow": {"size": (1 << 40, 1 << 40, 0), "stride": (1, 1, 1)},
    "no sizes": {"size": "abc", "stride": "abc"},
    "other strides": {"stride": (1, 1)},
    "many dimensions": {"size": (1,) * 500, "stride": (1,) * 500},
}


@pytest.mark.parametrize("name", BAD)
def test_a_tensor_that_cannot_be_is_one_sentence(name: str, tmp_path: Path) -> None:
    content = struct.pack("<4f", 1, 2, 3, 4)
    state, *_ = read_state(zipped_pickle(tmp_path / "good.ckpt", described(), _0=content))
    assert state["w"].tolist() == [1, 2, 3, 4]
    refused(zipped_pickle(tmp_path / "a.ckpt", described(**BAD[name]), _0=content))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive\\..\\evil", "archive/data/../../evil"])
def test_names_that_leave_the_archive(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"w": torch.ones(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert "which no checkpoint has" in refused(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_archives_that_are_not_pytorchs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 24))
    assert "compressed or longer" in refused(tmp_path / "bomb.ckpt")
    with zipfile.ZipFile(tmp_path / "two.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", b".")
        archive.writestr("b/data.pkl", b".")
    assert "one data.pkl" in refused(tmp_path / "two.ckpt")
    path = save(tmp_path / "size.ckpt", {"w": torch.ones(1)})
    data = path.read_bytes()
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/0"))  # its entry in the central directory
    path.write_bytes(data[: place + 20] + struct.pack("<2L", 1 << 31, 1 << 31) + data[place + 28 :])
    assert "longer than the file" in refused(path)
    (tmp_path / "order.ckpt").write_bytes(data.replace(b"little", b"bigend"))
    assert "big-endian" in refused(tmp_path / "order.ckpt")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"\x80\x02K\x01.", b"<html>not found</html>", pickle.dumps({"a": 1})):
        (tmp_path / "a.ckpt").write_bytes(content)
        refused(tmp_path / "a.ckpt")
    trees: tuple[Any, ...] = (
        {},
        {"state_dict": {}},
        {"state_dict": 3},
        [],
        7,
        {"w": 1},
        {1: torch.ones(1)},
        {"state_dict": nn.Module},
    )
    for tree in trees:
        refused(save(tmp_path / "b.ckpt", tree))
    with pytest.raises(MissingWeightsError):
        read_state(tmp_path / "none.ckpt")
    with pytest.raises(MissingWeightsError):
        read_state(tmp_path)
