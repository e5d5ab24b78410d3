"""Units without order learned by several processes: the same bytes as by one, whoever is killed, and nothing is left over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.recon.units import ModuleUnit
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.shared_units import STARTS, UNITS, is_shared, passes
from dmq_cli.stages.verbs import needs
from tests.chain import FEW, QUICK, dmq
from tests.stages.together import files, made_together
from tests.test_conf import composed

FULL = ("mix=1.0", "mixed=all")
SCALES = tuple(f"recon.passes.scales.{word}" for word in FULL)
BOTH = (*SCALES, *(f"+recon.passes.weights.{word}" for word in FULL))
NUM_UNITS = 10


def prepared(small: Path, outputs: Path, *given: str, workers: int = 1) -> dict[str, Any]:
    model = ("model=folder", "model.name=tiny", f"model.path={small}", "method=brecq", "bits=w4a4")
    config = prepare({**composed(*model, *FEW, *QUICK, *given, f"runtime.outputs={outputs}"), "stage": "reconstruct"})
    return {**config, "runtime": {**config["runtime"], "workers": workers}}


@contextmanager
def learning(limit: int | None = None, helped: bool = False) -> Iterator[list[tuple[str, str]]]:
    """The units that learn inside the block and in which thread; Ctrl-C when `limit` of them have.

    helped: the main thread does not learn scales before another one does.
    """
    capture, learned, others_learn = ModuleUnit.capture, list[tuple[str, str]](), threading.Event()

    def counted(unit: ModuleUnit, *rest: Any, **options: Any) -> Any:
        if len(learned) == limit:
            raise KeyboardInterrupt
        learned.append((unit.name, threading.current_thread().name))
        if threading.current_thread() is not threading.main_thread():
            others_learn.set()
        elif helped and options["activations"]:
            others_learn.wait(60)
        return capture(unit, *rest, **options)

    with patch.object(ModuleUnit, "capture", counted):
        yield learned


def made(config: dict[str, Any], helpers: int = 0) -> dict[str, bytes]:
    """The files of the reconstruction."""
    return files(made_together(config, "reconstruct", helpers))


def left(outputs: Path) -> list[Path]:
    return [path for stage in (STARTS, UNITS) for path in (outputs / "artifacts" / stage).glob("*")]


@pytest.mark.parametrize("given", [SCALES, BOTH], ids=["scales", "both"])
def test_units_are_the_same_bytes_whatever_the_processes(given: tuple[str, ...], small: Path, tmp_path: Path) -> None:
    whole = made(prepared(small, tmp_path / "whole", *given))
    with learning(helped=True) as learned:
        shared = made(prepared(small, tmp_path / "shared", *given, workers=3), helpers=2)
    assert shared == whole and set(whole) == {"quantizers.safetensors", "losses.json"}
    assert len(learned) == 2 * NUM_UNITS and len({name for name, _ in learned}) == NUM_UNITS
    assert len({thread for _, thread in learned}) > 1, "the others learn, too"
    assert not left(tmp_path / "shared")


@pytest.mark.parametrize("limit", [0, 4, NUM_UNITS + 3])
@pytest.mark.parametrize("workers", [1, 2], ids=["goes_on_alone", "goes_on_together"])
def test_one_that_is_killed_goes_on(limit: int, workers: int, small: Path, tmp_path: Path) -> None:
    whole = made(prepared(small, tmp_path / "whole", *BOTH))
    config = prepared(small, tmp_path / "killed", *BOTH, workers=2)
    with learning(limit), pytest.raises(KeyboardInterrupt):
        made(config)
    assert {(path.parent.name, path.name) for path in left(tmp_path / "killed") if path.name[0] != "."} <= needs(config)
    with learning() as learned:
        assert made({**config, "runtime": {**config["runtime"], "workers": workers}}) == whole
    assert not [path for path in left(tmp_path / "killed") if path.name[0] != "."]
    if workers == 2:
        assert len(learned) == 2 * NUM_UNITS - limit


def test_nothing_is_read_of_the_quantized_network(small: Path, tmp_path: Path) -> None:
    config, sides = prepared(small, tmp_path, *SCALES), set[str]()
    capture = ModuleUnit.capture

    def listing(unit: ModuleUnit, attached: Any, data: Any, num: int, folder: Path, **options: Any) -> Any:
        captured = capture(unit, attached, data, num, folder, **options)
        if options["activations"]:  # the pass of the scales
            sides.update(path.name for path in folder.iterdir())
        return captured

    with patch.object(ModuleUnit, "capture", listing):
        made(config)
    assert sides == {"full"}


@pytest.mark.parametrize(
    ("given", "names"),
    [((), []), (SCALES, ["scales"]), (BOTH, ["weights", "scales"]), ((*BOTH, "budget.act_iterations=0"), ["weights"])],
)
def test_which_passes_have_no_order(given: tuple[str, ...], names: list[str], small: Path, tmp_path: Path) -> None:
    config = prepared(small, tmp_path, *given, workers=2)
    assert passes(config) == names and is_shared("reconstruct", config) == bool(names)
    assert not is_shared("reconstruct", {**config, "runtime": {**config["runtime"], "workers": 1}})


@pytest.mark.slow
def test_workers_of_one_command(small: Path, tmp_path: Path) -> None:
    command = ("reconstruct", f"model={small}", *FEW, *QUICK, "method=brecq", "bits=w4a4", *BOTH)
    assert dmq(*command, f"runtime.outputs={tmp_path}/alone").code == 0
    ended = dmq(*command, f"runtime.outputs={tmp_path}/together", "runtime.workers=2")
    assert ended.code == 0, ended.err
    alone, other = (
        next((tmp_path / name).glob("artifacts/reconstruct/*/quantizers.safetensors")) for name in ("alone", "together")
    )
    assert alone.read_bytes() == other.read_bytes() and not left(tmp_path / "together")
