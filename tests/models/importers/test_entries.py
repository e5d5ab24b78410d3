"""Averages that lie beside the weights of a checkpoint are taken, what else lies there is named, and nothing is guessed."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.importers import import_checkpoint, read_state
from dmq_cli.models.importers.keymap import Source, collect
from tests.models.importers.checkpoints import FORMATS, refused, save
from tests.tiny import one_sentence


def weights(value: float, prefix: str = "") -> OrderedDict[str, Tensor]:
    return OrderedDict((f"{prefix}{name}", torch.full((2,), value)) for name in ("a.weight", "a.bias", "b.weight"))


PLAIN, AVERAGE = weights(1.0), weights(2.0)
TAKEN: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"state_dict": PLAIN, "ema_state_dict": AVERAGE}, "ema_state_dict", ("state_dict",)),
    ({"state_dict": PLAIN, "model_ema": AVERAGE, "epoch": 3}, "model_ema", ("state_dict",)),
    ({"model": PLAIN, "ema": AVERAGE}, "ema", ("model",)),
    ({"model": PLAIN, "ema": {"decay": 0.99, "shadow": AVERAGE}}, "ema.shadow", ("model",)),
    ({"state_dict": weights(1.0, "module."), "state_dict_ema": AVERAGE}, "state_dict_ema", ("state_dict",)),
    ({"state_dict": PLAIN, "ema": weights(2.0, "module.")}, "ema", ("state_dict",)),
    (
        {"model": PLAIN, "ema": {"step": torch.tensor(7), **weights(9.0, "online_model."), **weights(2.0, "ema_model.")}},
        "ema", ("model",),
    ),
    ({"state_dict": PLAIN, "callbacks": {"EMA": {"ema_weights": AVERAGE}}}, "callbacks.EMA.ema_weights", ("state_dict",)),
    ({"ema_state_dict": AVERAGE, "epoch": 3}, "ema_state_dict", ()),
    ({"state_dict": PLAIN, "ema": AVERAGE, "best": weights(3.0)}, "ema", ("state_dict", "best")),
]  # fmt: skip


@FORMATS
@pytest.mark.parametrize(("tree", "taken", "beside"), TAKEN, ids=lambda value: str(value)[:30])
def test_averages_beside_are_taken(
    tree: dict[str, Any], taken: str, beside: tuple[str, ...], zipped: bool, tmp_path: Path
) -> None:
    state = read_state(save(tmp_path / "a.ckpt", tree, zipped))
    assert state.average and state.taken == taken and state.beside == beside
    assert list(state.tensors) == list(AVERAGE) and all(
        tensor.tolist() == [2.0, 2.0] for tensor in state.tensors.values()
    )


def test_an_average_of_the_trained_tensors_alone_leaves_the_others(tmp_path: Path) -> None:
    plain, average = {**PLAIN, "counter": torch.tensor(5)}, {name: AVERAGE[name] for name in ("a.weight", "b.weight")}
    state = read_state(save(tmp_path / "a.ckpt", {"state_dict": plain, "ema": average}))
    assert {name: tensor.flatten()[0].item() for name, tensor in state.tensors.items()} == {
        "a.weight": 2, "a.bias": 1, "b.weight": 2, "counter": 5,
    }  # fmt: skip


NAMED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"state_dict": PLAIN, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, ()),
    ({"state_dict": PLAIN, "teacher": weights(3.0)}, ("teacher",)),
    ({"state_dict": PLAIN, "loss_ema": {"value": torch.ones(1)}}, ("loss_ema",)),
]


@pytest.mark.parametrize(("tree", "beside"), NAMED, ids=str)
def test_what_is_no_average_of_the_weights_is_named(
    tree: dict[str, Any], beside: tuple[str, ...], tmp_path: Path
) -> None:
    state = read_state(save(tmp_path / "a.ckpt", tree))
    assert not state.average and state.taken == "state_dict" and state.beside == beside
    assert all(tensor.tolist() == [1.0, 1.0] for tensor in state.tensors.values())


REFUSED: list[tuple[Any, str]] = [
    ({"state_dict": PLAIN, "ema_0.99": AVERAGE, "ema_0.9999": weights(3.0)}, "has several averages of its weights"),
    ({"state_dict": PLAIN, "ema": {"decay": 0.9, "shadow_params": list(AVERAGE.values())}}, "without their names"),
    ({"generator": PLAIN, "discriminator": AVERAGE}, "has no state dict that dmq finds"),
    ([PLAIN, AVERAGE, {"lr": 1.0}, 3], "no state dict of tensors|is not a state dict"),
    ([PLAIN, AVERAGE, 3, 4], "holds the same tensors once more"),
]


@pytest.mark.parametrize(("tree", "part"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_only_a_person_can_choose(tree: Any, part: str, tmp_path: Path) -> None:
    sentence = refused(save(tmp_path / "a.ckpt", tree))
    assert any(phrase in sentence for phrase in part.split("|")), sentence


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_importers_take_only_weights(dtype: torch.dtype) -> None:
    wanted = {"conv.weight": torch.ones(2, 2)}
    with pytest.raises(ModelError, match="of shape") as caught:
        collect(wanted, {"conv": Source("c")}, {"c.weight": torch.ones(2, 2).to(dtype)}, "The checkpoint")
    one_sentence(caught.value)
    half = collect(wanted, {"conv": Source("c")}, {"c.weight": torch.ones(2, 2).half()}, "The checkpoint")
    assert half["conv.weight"].dtype == torch.float32


def test_an_import_says_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the issue: the averages are what runs, and the note and the result say so."""
    from dmq_cli.models.importers.recipes import RECIPES
    from tests.models.importers.miniatures import small, state

    monkeypatch.setitem(RECIPES, "ddim_cifar10", small("ddim_cifar10"))
    plain = state("ddim_cifar10")
    average = {name: tensor * 2 for name, tensor in plain.items()}
    file = save(tmp_path / "a.ckpt", {"state_dict": plain, "ema_state_dict": average})
    done = import_checkpoint(file, "ddim_cifar10", tmp_path / "new")
    assert done.average and done.taken == "ema_state_dict" and done.beside == ("state_dict",)
    note = json.loads((tmp_path / "new/imported.json").read_text())
    assert note["average"] and (note["entry"], note["beside"]) == ("ema_state_dict", ["state_dict"])
    only = import_checkpoint(save(tmp_path / "b.ckpt", average), "ddim_cifar10", tmp_path / "only")
    imported, wanted = (
        load_file(path / "unet/diffusion_pytorch_model.safetensors") for path in (done.folder, only.folder)
    )
    assert all(torch.equal(imported[name], tensor) for name, tensor in wanted.items())
    assert not only.average and only.taken == "" and done.model_sha256 == only.model_sha256
