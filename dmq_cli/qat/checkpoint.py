"""Checkpoints of a training: parameters, averages, the best candidate, optimizer state and curves in one file. The last two are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store.hashing import digest
from dmq_cli.store.tensors import save_tensors
from dmq_cli.zoo.training import optimizer_tensors, restore_optimizer

if TYPE_CHECKING:
    from dmq_cli.qat.loop import Loop

_KEPT = 2
_PATTERN = "tmp-training-*.safetensors"


def save(loop: Loop) -> None:
    """Write a checkpoint aside and rename it, then remove all but the last two."""
    file = loop.work / f"tmp-training-{loop.step:09d}.safetensors"
    record = {
        "settings": digest(asdict(loop.settings)),
        "step": loop.step,
        "candidates": [asdict(candidate) for candidate in loop.candidates],
        "curve": {"points": loop.curve.points, "since": loop.curve.since},
    }
    save_tensors(file, _places(loop) | optimizer_tensors(loop.optimizer), {"training": json.dumps(record)})
    for old in sorted(loop.work.glob(_PATTERN))[:-_KEPT]:
        old.unlink()


def restore(loop: Loop, folder: Path) -> None:
    """Go on from the last checkpoint in a folder, if there is one. ArtifactCorruptError for one of another training."""
    from dmq_cli.qat.loop import Candidate

    files = sorted(folder.glob(_PATTERN))
    if not files:
        return
    record, tensors = _read(files[-1])
    places = _places(loop)
    fits = record.get("settings") == digest(asdict(loop.settings))
    if not fits or any(name not in tensors or tensors[name].shape != place.shape for name, place in places.items()):
        raise _misfit(files[-1])
    for name, place in places.items():
        place.data.copy_(tensors[name])
    restore_optimizer(loop.optimizer, tensors)
    loop.step, loop.candidates = record["step"], [Candidate(**candidate) for candidate in record["candidates"]]
    loop.curve.restore(loop.step, record["curve"]["points"], record["curve"]["since"])


def _places(loop: Loop) -> dict[str, Tensor]:
    """Every tensor of a loop that a checkpoint holds, by name, without the optimizer's."""
    lists: dict[str, Sequence[Tensor]] = {"parameter": loop.parameters, "average": loop.average, "best": loop.best}
    return {f"{name}.{number}": value for name, values in lists.items() for number, value in enumerate(values)}


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            record = json.loads((opened.metadata() or {})["training"])
            return record, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has one exception for every fault of a file
        raise _misfit(file) from error


def _misfit(file: Path) -> ArtifactCorruptError:
    return ArtifactCorruptError(f"The checkpoint {file} is not one of this training; delete it and run again.")
