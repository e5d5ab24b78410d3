from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open

from dmq_cli.errors import ArtifactCorruptError, DiskError, NumericsError
from dmq_cli.store import ArtifactStore, tensors
from dmq_cli.store.tensors import check_finite, load_tensors, save_tensors


def test_round_trip(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    saved = {
        "whole": base,
        "same": base,
        "view": base[1:3],
        "transposed": base.t(),
        "leaf": torch.ones(2, requires_grad=True),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "empty too": torch.zeros(0, 3),
    }
    save_tensors(tmp_path / "x.safetensors", saved, {"format": "1"})
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert set(loaded) == set(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "1"}
    assert (tmp_path / "x.safetensors").stat().st_size < 1500, "a view is saved without its base"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("spoil", [truncate, lambda path: path.write_text("hello, world"), Path.unlink])
def test_load_of_something_else(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(8)}, None)
    spoil(path)
    with pytest.raises(ArtifactCorruptError, match=r"x\.safetensors, but it is missing, truncated or not"):
        load_tensors(path)


def test_what_the_umask_allows_may_read_it(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(1)})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_that_safetensors_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(DiskError, match="No space left on device") as caught:  # noqa: SIM117 - one more would hide it
        with ArtifactStore(tmp_path).claim("calibrate", "k") as claim:
            save_tensors(claim.work / "x.safetensors", {"a": torch.ones(1)})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert list(claim.work.iterdir()) == []


def test_other_safetensors_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*arguments: Any, **keywords: Any) -> None:
        raise SafetensorError("odd")

    monkeypatch.setattr(tensors, "save_file", odd)
    with pytest.raises(SafetensorError, match="odd"):
        save_tensors(tmp_path / "x", {})


def test_check_finite() -> None:
    good = {"count": torch.arange(3), "empty": torch.zeros(0), "half": torch.ones(2, dtype=torch.float16)}
    check_finite(good, "The state")
    bad = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])
    with pytest.raises(NumericsError, match="The state must be finite, but 3 of the 4 values of scale are NaN"):
        check_finite({**good, "scale": bad, "later": bad[1:]}, "The state")
