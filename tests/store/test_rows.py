from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dmq_cli.errors import ArtifactCorruptError, ArtifactError, DiskError
from dmq_cli.store import ArtifactStore
from dmq_cli.store.tensors import RowFile, RowWriter

DTYPES = [torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8]
SHAPES = [(13,), (13, 3), (13, 2, 3, 1), (0, 4), (5, 0), (1, 7)]


def full(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 200, shape, generator=generator).to(dtype)


def write(path: Path, data: torch.Tensor, size: int = 4) -> Path:
    with RowWriter(path, data.shape, data.dtype) as writer:
        for start in range(0, len(data), size):
            writer.append(data[start : start + size])
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RowFile:
    return RowFile(write(tmp_path_factory.mktemp("rows") / "x", full((50, 3, 2), torch.float32)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_read(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    data = full(shape, dtype)
    path = write(tmp_path / "x.safetensors", data)
    loaded = load_file(path)
    assert list(loaded) == ["data"]
    assert torch.equal(loaded["data"], data)
    file = RowFile(path)
    assert (file.shape, file.dtype, len(file)) == (shape, dtype, shape[0])
    assert torch.equal(file.rows(range(len(file))), data)
    assert [len(batch) for batch in file.batches(4)] == [min(4, len(data) - start) for start in range(0, len(data), 4)]
    assert torch.equal(torch.cat([data[:0], *file.batches(4)]), data)
    assert file.rows([]).shape == (0, *shape[1:])
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


@given(st.lists(st.integers(0, 49)))
@settings(deadline=None, max_examples=60)
def test_any_rows_equal_the_full_tensors(shared: RowFile, indices: list[int]) -> None:
    expected = full((50, 3, 2), torch.float32)[torch.tensor(indices, dtype=torch.int64)]
    assert torch.equal(shared.rows(indices), expected)
    assert torch.equal(shared.rows(torch.tensor(indices, dtype=torch.int64)), expected)


@pytest.mark.parametrize("wrong", [[50], [0, -1], torch.tensor(3), torch.ones(50, dtype=torch.bool), torch.ones(2)])
def test_rows_that_are_not_there(shared: RowFile, wrong: Any) -> None:
    with pytest.raises(IndexError):
        shared.rows(wrong)


def test_safetensors_own_files_are_read(tmp_path: Path) -> None:
    data = full((6, 5), torch.float16)
    save_file({"data": data}, tmp_path / "x", metadata={"by": "safetensors"})
    file = RowFile(tmp_path / "x")
    assert torch.equal(file.rows([5, 0]), data[[5, 0]])
    file.close()
    file.close()


def test_views_and_gradients_are_written(tmp_path: Path) -> None:
    data = full((4, 6), torch.float32).requires_grad_()
    with RowWriter(tmp_path / "x", (6, 4), torch.float32) as writer:
        writer.append(data.t())
        writer.append(torch.zeros(0, 4))
    assert torch.equal(RowFile(tmp_path / "x").rows(range(6)), data.detach().t())


@pytest.mark.parametrize("batch", [torch.zeros(2, 4), torch.zeros(2, 3).double(), torch.zeros(5, 3), torch.zeros(3)])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, batch: torch.Tensor) -> None:
    with pytest.raises(ArtifactError, match=r"takes 4 rows of shape \(3,\)"):  # noqa: SIM117 - one more would hide it
        with RowWriter(tmp_path / "x", (4, 3), torch.float32) as writer:
            writer.append(batch)
    assert list(tmp_path.iterdir()) == []


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "x", (4, 3), torch.float32)
    writer.append(torch.zeros(3, 3))
    with pytest.raises(ArtifactError, match="to get 4 rows, but 3 came"):
        writer.close()
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shape", "dtype"), [((), torch.float32), ((3,), torch.bfloat16)])
def test_impossible_files(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(ArtifactError, match="was to hold rows"):
        RowWriter(tmp_path / "x", shape, dtype)


def test_abort_keeps_an_older_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x", full((4,), torch.uint8))
    writer = RowWriter(path, (4,), torch.uint8)
    writer.append(torch.zeros(4, dtype=torch.uint8))
    writer.abort()
    writer.abort()
    assert torch.equal(RowFile(path).rows(range(4)), full((4,), torch.uint8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    (tmp_path / "calibset").mkdir()
    with (
        pytest.raises(DiskError, match="No space left"),
        ArtifactStore(tmp_path).claim("calibset", "k") as claim,
    ):
        (claim.work / ".x.tmp").symlink_to("/dev/full")
        with RowWriter(claim.work / "x", (10**5,), torch.float32) as writer:
            writer.append(torch.zeros(10**5))
    assert list(claim.work.iterdir()) == []


def content(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "spoiled",
    [
        b"",
        b"\xff" * 40,
        content([]),
        content({"other": {}}),
        content({"data": {"dtype": "F32", "shape": []}}, b"0000"),
        content({"data": {"dtype": "F32", "shape": [-1]}}),
        content({"data": {"dtype": "BF16", "shape": [2]}}, b"0000"),
        content({"data": {"dtype": "F32", "shape": [2]}}, b"000000000"),
        (1 << 16).to_bytes(8, "little") + b"[" * (1 << 16),
    ],
)
def test_other_files_are_corrupt(tmp_path: Path, spoiled: bytes) -> None:
    (tmp_path / "x").write_bytes(spoiled)
    with pytest.raises(ArtifactCorruptError, match=r"Rows were to be read from .*x, but it"):
        RowFile(tmp_path / "x")


def test_missing_and_shrinking_files_are_corrupt(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorruptError, match="No such file"):
        RowFile(tmp_path / "x")
    path = write(tmp_path / "x", full((9, 4), torch.float64))
    file = RowFile(path)
    os.truncate(path, path.stat().st_size - 1)
    assert len(file.rows([0, 7])) == 2
    with pytest.raises(ArtifactCorruptError, match="ends too early"):
        file.rows([7, 8])
    with pytest.raises(ArtifactCorruptError, match="bytes instead of"):
        RowFile(path)


def test_only_the_wanted_rows_are_read(shared: RowFile, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(preadv(descriptor, buffers, offset))
        return reads[-1]

    monkeypatch.setattr(os, "preadv", counted)
    shared.rows([4, 5, 6, 30, 2])
    assert reads == [3 * 24, 24, 24], "neighbours in one read"


def test_memory_stays_flat(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    with RowWriter(tmp_path / "x", (96, 1 << 18), torch.float32) as writer:  # 96 MiB
        for _ in range(96):
            writer.append(torch.ones(1, 1 << 18))
    total = sum(float(batch[:, 0].sum()) for batch in RowFile(tmp_path / "x").batches(4))
    assert total == 96
    assert resident() - before < 64 * 2**20
