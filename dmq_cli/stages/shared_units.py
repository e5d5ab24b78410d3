"""Learn the units of a reconstruction with several processes, in passes whose units have no order.

Such a pass reads the full-precision network alone (`mix: 1.0, mixed: all`), so that a unit learns the same whatever the others have learned.
The process that reconstructs writes the state of all quantizers at the start of the pass, as an artifact; from then on every process
learns units that nobody else is learning, each an artifact of its own. The first one takes them over and removes them.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dmq_cli.errors import ArtifactError
from dmq_cli.stages import workers
from dmq_cli.stages.workers import sharing_threads
from dmq_cli.store import digest, environment, read_json, write_json
from dmq_cli.store.integrity import MANIFEST
from dmq_cli.store.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from dmq_cli.stages.graph import Graph

STARTS, UNITS = "shared_pass", "shared_unit"
"""The stages of their artifacts."""
_STATE, _COUNT = "quantizers.safetensors", "units.json"
_SCRATCH = "tmp-"  # what files of units begin with, which no artifact keeps
_LOOK_EVERY = 0.2

Learn = Callable[[int, Path], None]


def is_shared(stage: str, config: Mapping[str, Any]) -> bool:
    """Whether several processes were started and units of this reconstruction have no order."""
    return stage == "reconstruct" and workers.processes(config["runtime"]) > 1 and bool(passes(config))


def passes(config: Mapping[str, Any]) -> list[str]:
    """The passes of a configuration whose units have no order, see recon.Pass.unordered."""
    recon = config.get("recon")
    if not isinstance(recon, Mapping) or recon.get("_target_") != "dmq_cli.recon.Reconstruction":
        return []
    return [name for name, section in recon["passes"].items() if _unordered(section)]


def _unordered(section: Mapping[str, Any]) -> bool:
    return bool(section.get("iterations")) and section.get("mix") == 1 and section.get("mixed") == "all"


class SharedUnits:
    """The units of one reconstruction, of which this process learns what no other one is learning. A recon.Share."""

    def __init__(self, graph: Graph, config: Mapping[str, Any]) -> None:
        self._graph, self._config = graph, config
        self._key = graph.key("reconstruct", config)

    def __call__(self, name: str, units: int, state: Mapping[str, Tensor], learn: Learn, work: Path) -> None:
        """See recon.Share."""
        taken = work / f"{_SCRATCH}shared-{name}"
        if taken.exists():  # by an attempt that was killed later
            return
        helpers, store = self._graph.helpers, self._graph.store
        with store.claim(STARTS, self._pass_key(name)) as claim:
            if claim.done is None:
                save_tensors(claim.work / _STATE, state)
                write_json(claim.work / _COUNT, {"units": units})
                claim.commit(self._manifest(name))
        if helpers is not None:
            helpers.start(units)
        with sharing_threads(self._config["runtime"]):
            while missing := self._missing(name, units):
                if not self._learn_one(name, missing, learn):
                    time.sleep(_LOOK_EVERY)
                if helpers is not None:
                    helpers.check()
        for index in range(units):
            _take_over(store.verify(UNITS, self._unit_key(name, index)), work)
        taken.touch()
        self.remove()

    def assist(self, alive: Callable[[], bool]) -> None:
        """Learn units until the reconstruction is there, or the process that makes it is no longer alive."""
        learn: Callable[[str, int, Path], None] | None = None
        with sharing_threads(self._config["runtime"]):
            while alive() and self._graph.store.find("reconstruct", self._key) is None:
                with contextlib.suppress(ArtifactError):  # the pass is over, and what it was made of removed
                    if (begun := self._begun()) is not None:
                        name, units = begun
                        learn = learn or self._helper()
                        if self._learn_one(name, self._missing(name, units), partial(learn, name)):
                            continue
                time.sleep(_LOOK_EVERY)

    def remove(self) -> None:
        """Remove what is there of passes that have begun."""
        begun, store = self.artifacts(), self._graph.store
        for stage in (STARTS, UNITS):  # in this order: nobody learns units of a pass without a start
            store.forget(stage, {key for name, key in begun if name == stage})

    def artifacts(self) -> set[tuple[str, str]]:
        """Stage and key of what is there of passes that have begun."""
        begun: set[tuple[str, str]] = set()
        for name in passes(self._config):
            if (units := self._units(name)) is not None:
                begun |= {(STARTS, self._pass_key(name)), *((UNITS, self._unit_key(name, i)) for i in range(units))}
        return begun

    def _begun(self) -> tuple[str, int] | None:
        """The pass that is being learned, and the number of its units."""
        counts = ((name, self._units(name)) for name in passes(self._config))
        return next(((name, units) for name, units in counts if units is not None), None)

    def _units(self, name: str) -> int | None:
        """The number of units of a pass that has begun and is not over."""
        with contextlib.suppress(ArtifactError):  # removed meanwhile
            folder = self._graph.store.find(STARTS, self._pass_key(name))
            return None if folder is None else int(read_json(folder / _COUNT)["units"])
        return None

    def _learn_one(self, name: str, missing: list[int], learn: Learn) -> bool:
        """Learn one of these units that nobody is learning; whether there was one."""
        store = self._graph.store
        free = [index for index in missing if not store.busy(UNITS, self._unit_key(name, index))]
        if not free:
            return False
        index = random.choice(free)  # two processes that look at the same time hardly take the same one
        key, over = self._unit_key(name, index), False
        with contextlib.suppress(BlockingIOError), store.claim(UNITS, key, wait=False) as claim:
            over = self._units(name) is None  # meanwhile: a unit that is learned now would stay
            if claim.done is None and not over:
                learn(index, claim.work)
                for file in claim.work.glob(f"{_SCRATCH}*.*"):
                    file.rename(file.with_name(file.name.removeprefix(_SCRATCH)))
                claim.commit(self._manifest(name))
        if over:
            store.forget(UNITS, {key})
        return True

    def _helper(self) -> Callable[[str, int, Path], None]:
        """What this process does to learn a unit, of the network as it is calibrated and of the pass that has begun."""
        graph, config = self._graph, self._config
        node = graph.nodes["reconstruct"]
        inputs = {need: graph.store.verify(need, graph.key(need, config)) for need in node.needs_for(config)}
        from dmq_cli.stages.quantize import unit_helper

        learn = unit_helper(graph.task(node, config, inputs, Path()))

        def state(name: str) -> dict[str, Tensor]:
            return load_tensors(graph.store.verify(STARTS, self._pass_key(name)) / _STATE)

        return lambda name, index, folder: learn(name, index, folder, partial(state, name))

    def _missing(self, name: str, units: int) -> list[int]:
        store = self._graph.store
        return [index for index in range(units) if store.find(UNITS, self._unit_key(name, index)) is None]

    def _pass_key(self, name: str) -> str:
        return digest([STARTS, self._key, name])

    def _unit_key(self, name: str, index: int) -> str:
        return digest([UNITS, self._key, name, index])

    def _manifest(self, name: str) -> dict[str, Any]:
        return {"pass": name, "reconstruct": self._key, "environment": environment()}


def _take_over(folder: Path, work: Path) -> None:
    """Copy the files of a unit to where those of a process that learns alone would be, each in one step."""
    for file in folder.iterdir():
        if file.name != MANIFEST:
            scratch = work / f".{file.name}.tmp"
            shutil.copyfile(file, scratch)
            scratch.replace(work / f"{_SCRATCH}{file.name}")
