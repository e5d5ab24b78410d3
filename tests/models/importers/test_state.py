"""Checkpoints are read as torch reads them; broken ones end in one sentence."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models.importers import read_state
from tests.models.importers.checkpoints import FORMATS, assert_same, refused, save, tensors
from tests.tiny import one_sentence


@FORMATS
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda x: {"state_dict": x, "epoch": 3, "hooks": {nn.ReLU: None}}])
def test_a_state_dict_is_read_as_torch_reads_it(wrap: Callable[[Any], Any], zipped: bool, tmp_path: Path) -> None:
    state, average, *_ = read_state(save(tmp_path / "a.ckpt", wrap(tensors()), zipped))
    expected = torch.load(tmp_path / "a.ckpt", weights_only=wrap in (dict, OrderedDict))
    assert_same(state, expected.get("state_dict", expected))
    assert not average


@FORMATS
def test_a_module_with_its_metadata_and_the_prefix_of_data_parallel(zipped: bool, tmp_path: Path) -> None:
    module = nn.DataParallel(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))
    state, *_ = read_state(save(tmp_path / "a.pth", module.state_dict(), zipped))
    assert_same(state, dict(module.module.state_dict()))
    parameters = {name: parameter for name, parameter in module.module.named_parameters()}
    state, *_ = read_state(save(tmp_path / "b.pth", parameters, zipped))
    assert_same(state, {name: parameter.detach() for name, parameter in parameters.items()})


@FORMATS
def test_the_averages_of_a_training_state_are_taken(zipped: bool, tmp_path: Path) -> None:
    plain, average = {"module.a": torch.ones(2), "module.b": torch.ones(1)}, {"a": torch.zeros(2)}
    state, averaged, *_ = read_state(save(tmp_path / "a.pth", [plain, {"lr": 1.0}, 3, 4, average], zipped))
    assert averaged
    assert_same(state, {"a": torch.zeros(2), "b": torch.ones(1)})
    state, averaged, *_ = read_state(save(tmp_path / "b.pth", [plain, {"lr": 1.0}, 3, 4], zipped))
    assert not averaged
    assert_same(state, {"a": torch.ones(2), "b": torch.ones(1)})
    assert "no average of the first" in refused(save(tmp_path / "c.pth", [plain, {"x": torch.ones(2)}], zipped))


def test_numbers_stay_in_the_file_until_they_are_used(tmp_path: Path) -> None:
    state, *_ = read_state(save(tmp_path / "a.ckpt", {f"w{i}": torch.full((1 << 20,), float(i)) for i in range(16)}))
    storages = {tensor.untyped_storage().data_ptr() // (1 << 22) for tensor in state.values()}
    assert max(storages) - min(storages) <= 17  # one mapping of the 64 MB file, not sixteen copies
    state["w3"].zero_()
    assert float(read_state(tmp_path / "a.ckpt")[0]["w3"][0]) == 3.0  # and the file is not written to


@FORMATS
def test_truncated_files(zipped: bool, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.ckpt", tensors(), zipped).read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 150)):
        (tmp_path / "b.ckpt").write_bytes(whole[:length])
        refused(tmp_path / "b.ckpt")


@FORMATS
def test_altered_files_are_read_or_refused(zipped: bool, tmp_path: Path) -> None:
    whole, chance = save(tmp_path / "a.ckpt", tensors(), zipped).read_bytes(), random.Random(0)
    refusals = 0
    for _ in range(400):
        altered = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 20))):
            altered[chance.randrange(len(altered))] = chance.randrange(256)
        (tmp_path / "b.ckpt").write_bytes(altered)
        try:
            state, *_ = read_state(tmp_path / "b.ckpt")
            assert sum(tensor.numel() for tensor in state.values()) < 1000
        except ModelError as error:
            one_sentence(error)
            refusals += 1
    assert refusals > 20
