"""A run as one file: unpacked elsewhere, with outputs and model gone, it loads, draws the same images and is shown."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import dmq_cli
from tests.chain import TAC, dmq, tiny_folder, words
from tests.tiny import SMALL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of dmq correct on a tiny model, and the model."""
    place = tmp_path_factory.mktemp("packed")
    model = tiny_folder(place / "model", **SMALL)
    assert dmq(*words("correct", model, place / "outputs", *TAC)).code == 0
    (run,) = (place / "outputs" / "runs" / "correct").iterdir()
    return run, model


def test_a_packed_run_goes_anywhere(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, model = made
    before = dmq_cli.load(run).sample("0-1")
    result = dmq("pack", str(run), "--to", str(tmp_path / "run.zip"), "--with-model")
    assert result.code == 0 and "Packed: " in result.out
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "theirs")
    assert not any("targets" in name or "calibset" in name for name in names)
    assert {name.split("/")[0] for name in names} == {"correct"} and all(".." not in name for name in names)
    for away in (run.parents[2], model):
        shutil.move(str(away), str(away.with_name(f"{away.name}-away")))
    try:
        (unpacked,) = (tmp_path / "theirs" / "correct").iterdir()
        assert torch.equal(dmq_cli.load(unpacked).sample("0-1"), before)
    finally:
        for away in (run.parents[2], model):
            shutil.move(str(away.with_name(f"{away.name}-away")), str(away))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    result = dmq("pack", str(tmp_path))
    assert result.code == 2 and "which is no run folder" in result.sentence
