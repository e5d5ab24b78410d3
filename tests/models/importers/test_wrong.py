"""Checkpoints that are not what their name says end in one sentence, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, DiskError, ModelError, NumericsError
from dmq_cli.models import load_adapter
from dmq_cli.models.importers import convert, import_checkpoint
from tests.models.importers.miniatures import state
from tests.tiny import one_sentence

Checkpoint = Callable[..., Path]


def drop(start: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: [found.pop(key) for key in list(found) if key.startswith(start)]


def put(**more: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found.update({key.replace("__", "."): value for key, value in more.items()})


WRONG: list[tuple[str, Callable[[dict[str, Tensor]], object], str]] = [
    ("ddim_cifar10", drop("mid.attn_1.q"), "lacks 2 tensors (mid.attn_1.q.bias, mid.attn_1.q.weight)"),
    ("ddim_cifar10", put(extra=torch.ones(1)), "has 1 tensor (extra)"),
    ("ddim_cifar10", put(conv_in__weight=torch.ones(8, 3, 1, 1)), "conv_in.weight of shape (8, 3, 1, 1)"),
    ("ddim_cifar10", put(mid__attn_1__q__weight=torch.ones(16, 16, 3, 3)), "(16, 16, 3, 3)"),
    ("ddim_cifar10", put(conv_in__bias=torch.ones(8, dtype=torch.int64)), "torch.int64"),
    ("ldm4_bedroom", drop("model."), "do not belong to its weights"),
    ("ldm4_bedroom", drop("model_ema.diffusion_modelout2bias"), "(diffusion_modelout2bias)"),
    ("ldm4_bedroom", drop("first_stage_model.decoder.mid"), "lacks"),
    ("ldm4_bedroom", put(logvar=torch.ones(1000)), "has 1 tensor (logvar)"),
    ("ldm4_bedroom", put(betas=torch.ones(1000)), "another noise schedule"),
    ("ldm8_church", drop("scale_factor"), "no scale_factor"),
    ("ldm8_church", put(scale_factor=torch.tensor(float("nan"))), "scale_factor of nan"),
    ("ldm4_imagenet", drop("cond_stage_model"), "lacks 1 tensor (embedding.weight)"),
    ("ldm4_bedroom", put(model_ema__diffusion_modelout2bias=torch.full((3,), torch.inf)), "infinite"),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_checkpoints_leave_nothing(
    name: str, change: Callable[[dict[str, Tensor]], object], words: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    file = checkpoint(name, change)
    with pytest.raises(NumericsError if words == "infinite" else ModelError) as caught:
        import_checkpoint(file, name, tmp_path / "models" / "out")
    assert words in one_sentence(caught.value) and name in one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_another_architecture(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, other in (
        ("ddim_cifar10", "ldm4_bedroom"),
        ("ldm4_bedroom", "ddim_cifar10"),
        ("ldm8_church", "ldm4_bedroom"),
    ):
        with pytest.raises(ModelError, match="another"):
            import_checkpoint(checkpoint(name), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_weights_where_there_are_no_averages(checkpoint: Checkpoint, tmp_path: Path) -> None:
    done = import_checkpoint(checkpoint("ldm4_bedroom", drop("model_ema.")), "ldm4_bedroom", tmp_path / "out")
    bias = load_adapter(done.folder).model.state_dict()["conv_out.bias"]
    assert not done.average and torch.equal(bias, state("ldm4_bedroom")["model.diffusion_model.out.2.bias"])


def test_a_full_disk_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = checkpoint("ldm4_bedroom")
    monkeypatch.setattr(convert, "write_rest", full)
    with pytest.raises(DiskError):
        import_checkpoint(file, "ldm4_bedroom", tmp_path / "models/out")
    assert list((tmp_path / "models").iterdir()) == []
    with pytest.raises(ConfigError, match="exists already"):
        import_checkpoint(file, "ldm4_bedroom", tmp_path / "models")
