"""A calibration set made by several processes: the same bytes as by one, and a killed one costs its batch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.calib import Collection
from dmq_cli.stages.cuts import CUTS, is_cut, working
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.verbs import graph
from tests.chain import FEW, QUICK
from tests.stages.together import files, made_together
from tests.test_conf import composed

EIGHT = "calib.seeds=1000000-1000007"
CONDITIONED = ("model=ldm_digits_class", "sampler=ddim", "sampler.num_inference_steps=2")


def prepared(outputs: Path, *given: str, batch_size: int = 3, **runtime: Any) -> dict[str, Any]:
    words = [*FEW, *QUICK, "method=minmax", "bits=w4a8", *given, EIGHT, f"runtime.outputs={outputs}"]
    config = prepare({**composed(*words), "stage": "calibrate"})
    return {**config, "runtime": {**config["runtime"], "batch_size": batch_size, **runtime}}


def made(config: dict[str, Any], helpers: int = 0) -> dict[str, bytes]:
    """The files of the set."""
    return files(made_together(config, "calibset", helpers))


def uncut(config: dict[str, Any]) -> dict[str, bytes]:
    """The same set, made as one."""
    with patch.dict(CUTS):
        del CUTS["calibset"]
        return made(config)


def left(outputs: Path) -> list[Path]:
    return [path for path in (outputs / "artifacts" / CUTS["calibset"].name).glob("*")]


def of_folder(small: Path) -> tuple[str, ...]:
    return ("model=folder", "model.name=tiny", f"model.path={small}")


@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("calib", ["uniform", "random_t", "tdac"])
def test_a_set_is_the_same_bytes_whatever_the_processes(calib: str, helpers: int, small: Path, tmp_path: Path) -> None:
    overrides = (*of_folder(small), f"calib={calib}")
    whole = uncut(prepared(tmp_path / "whole", *overrides))
    shared = made(prepared(tmp_path / "shared", *overrides, workers=helpers + 1), helpers)
    assert shared == whole and set(whole) == {"sample.safetensors", "timestep.safetensors"}
    assert not left(tmp_path / "shared")


def test_conditions_and_guidance_are_those_of_the_whole_set(tmp_path: Path) -> None:
    whole = uncut(prepared(tmp_path / "whole", *CONDITIONED))
    shared = made(prepared(tmp_path / "shared", *CONDITIONED), helpers=1)
    names = {"sample", "timestep", "condition", "index"}
    assert shared == whole and set(whole) == {f"{name}.safetensors" for name in names}


def test_a_killed_one_goes_on_with_the_batches_that_are_missing(small: Path, tmp_path: Path) -> None:
    config, write = prepared(tmp_path, *of_folder(small)), Collection.write
    walked = list[range]()

    def stopping(self: Collection, folder: Path, seeds: range, *rest: Any) -> None:
        if len(walked) == 2:
            raise KeyboardInterrupt
        walked.append(seeds)
        write(self, folder, seeds, *rest)

    with patch.object(Collection, "write", stopping), pytest.raises(KeyboardInterrupt):
        made(config)
    stage_graph = graph(config, Progress(quiet=True))
    before = {seeds.start: len(seeds) for seeds in walked}
    assert Shards(stage_graph, "calibset", config).there() == sum(before.values()) / 8
    walked.clear()
    with patch.object(Collection, "write", lambda *a: (walked.append(a[2]), write(*a))):  # type: ignore[func-returns-value]
        made(config)
    assert len(walked) == 1 and not {seeds.start for seeds in walked} & set(before)


def test_a_set_of_one_batch_is_not_cut(small: Path, tmp_path: Path) -> None:
    config = prepared(tmp_path, *of_folder(small), workers=4)
    assert is_cut("calibset", config) and working("calibset", config) == 3
    assert not is_cut("calibset", prepared(tmp_path, *of_folder(small), batch_size=8))
