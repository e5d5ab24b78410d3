"""Progressively aligned reconstruction: rounds whose calibration inputs come from the quantized network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import Collection
from dmq_cli.recon.units import ModuleUnit
from dmq_cli.store import read_json
from dmq_cli.store.tensors import RowFile, load_tensors
from tests.chain import QUICK, artifact, artifacts, counting, dmq, words

PAR = ("recon=par", "scheme=qdiffusion", "bits=w3a6", "calib.seeds=1000000-1000003", "budget.num_samples=8", *QUICK)
ROUNDS, UNITS, PASSES = 2, 10, 2


@contextmanager
def collecting() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The calibration sets that are collected inside the block: samples and timesteps."""
    write_all, sets = Collection.write_all, []

    def keeping(collection: Collection, folder: Path, *rest: Any) -> None:
        write_all(collection, folder, *rest)
        timestep = load_tensors(folder / "timestep.safetensors")["data"]
        sets.append((RowFile(folder / "sample.safetensors").rows(torch.arange(len(timestep))), timestep))

    with patch.object(Collection, "write_all", keeping):
        yield sets


@contextmanager
def learning(limit: int | None = None) -> Iterator[list[str]]:
    """The units that learn inside the block, in order; Ctrl-C when `limit` of them have."""
    capture, units = ModuleUnit.capture, list[str]()

    def counted(unit: ModuleUnit, *rest: Any, **options: Any) -> Any:
        if len(units) == limit:
            raise KeyboardInterrupt
        units.append(unit.name)
        return capture(unit, *rest, **options)

    with patch.object(ModuleUnit, "capture", counted):
        yield units


Whole = tuple[Path, list[tuple[Tensor, Tensor]], list[str]]


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nobody kills: its artifact, the sets it collected, and the units that learned."""
    outputs = tmp_path_factory.mktemp("whole")
    with collecting() as sets, learning() as learned:
        assert dmq(*words("reconstruct", small, outputs, *PAR)).code == 0
    return artifact(outputs, "reconstruct"), sets, learned


def test_rounds_read_what_the_quantized_network_shows_them(whole: Whole) -> None:
    folder, sets, learned = whole
    assert len(sets) == 1 + ROUNDS and len(learned) == UNITS * PASSES * (1 + ROUNDS)
    (full, timestep), *rounds = sets
    first = timestep == timestep.max()
    assert int(first.sum()) == 4 and len(timestep) == 16
    for samples, timesteps in rounds:
        assert torch.equal(timesteps, timestep)
        differs = (samples != full).flatten(1).any(1)
        assert torch.equal(differs, ~first), "all start from the same noise, and none stays on the same path"
    assert not torch.equal(rounds[0][0], rounds[1][0]), "the network has learned in between"
    assert {path.name for path in folder.iterdir()} == {
        "quantizers.safetensors",
        "losses.json",
        "manifest.json",
    }
    passes = read_json(folder / "losses.json")["passes"]
    assert list(passes) == [
        f"{name}{turn}" for turn in ("", ", round 1", ", round 2") for name in ("weights", "scales")
    ]
    assert all(len(units) == UNITS for units in passes.values())


def test_killed_in_the_second_round_it_ends_in_the_same_bytes(small: Path, whole: Whole, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    total = UNITS * PASSES * (1 + ROUNDS)
    stop = UNITS * PASSES * ROUNDS + 5
    with learning(stop), collecting() as sets:
        assert dmq(*words("reconstruct", small, killed, *PAR)).code == 1
    assert len(sets) == 3 and artifacts(killed)["reconstruct"] == 0, "inside of the second round"
    with learning() as again, collecting() as sets, counting() as ran:
        assert dmq(*words("reconstruct", small, killed, *PAR)).code == 0
    assert ran == ["reconstruct"] and sets == [] and len(again) == total - stop, "nothing is done twice"
    folder, (other, _, learned) = artifact(killed, "reconstruct"), whole
    assert len(learned) == total
    assert folder.name == other.name
    for file in ("quantizers.safetensors", "losses.json"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()


def test_refinement_changes_what_is_learned(small: Path, whole: Whole, tmp_path: Path) -> None:
    assert dmq(*words("reconstruct", small, tmp_path, *PAR, "recon=brecq")).code == 0
    learned = [folder / "quantizers.safetensors" for folder in (whole[0], artifact(tmp_path, "reconstruct"))]
    assert learned[0].read_bytes() != learned[1].read_bytes()
