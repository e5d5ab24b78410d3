"""Make images and calibration sets in shards, so that any number of processes and machines works on one artifact.

Where a stage's artifact is cut into several shards (cuts.py), each becomes an artifact, claimed by whichever process comes first; one
process then joins them to the artifact that was asked for, under the key it always had, and removes them. Images of an earlier range of
seeds are taken from its joined artifact instead of being made again.

Every image has its own noise (ops/rng.py), so that in float64 it depends on its seed alone. In float32 kernels add up in another order
for another batch size, number of threads or kind of device, which moves a few roundings. These three are therefore part of what a
shard is (`made_by`), and all shards of an artifact agree in them: its images are the same bits whatever the number of processes.
Batches begin anew with every shard, so that a batch size that divides cuts.SIZE gives the batches of a range that is not cut.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.sampling import parse_range, show
from dmq_cli.stages import workers
from dmq_cli.stages.cuts import CUTS, working
from dmq_cli.stages.progress import Progress
from dmq_cli.store import Claim, Stopwatch

if TYPE_CHECKING:
    from dmq_cli.stages.graph import Graph, Node

_LOOK_EVERY = 0.2  # seconds between two looks at what the other processes have made
_COUNT_EVERY = 1.0  # seconds between two counts of it

_log = logging.getLogger("dmq")

Part = tuple[Path, slice]
"""Images of an artifact: its folder, and which of them."""


class Shards:
    """The shards of one artifact, of which this process makes what no other one is making. node: that of the shards."""

    def __init__(self, graph: Graph, stage: str, config: Mapping[str, Any]) -> None:
        self._graph, self._stage, self._cut = graph, stage, CUTS[stage]
        self._config = {**config, "made": self._cut.made_by(config["runtime"])}
        node = graph.nodes[stage]
        self.node: Node = replace(node, name=self._cut.name, asks=(*node.asks, *self._cut.asks))
        self._pieces = self._cut.pieces(config)
        self.shared: dict[str, Any] = {}
        self._counted = math.inf  # when the work was counted; nobody looks at the progress of a process that helps
        self._parts = self._taken()
        self._keys = {show(s): self._key(s) for s in self._pieces if show(s) not in self._parts}

    def make(self) -> list[Part]:
        """Make all shards, together with other processes, and return the images of the artifact in order."""
        missing, helpers, self._counted = self._missing(self._keys), self._graph.helpers, 0.0
        if helpers is not None:
            helpers.start(len(missing))
        with workers.sharing_threads(self._config["runtime"]):
            while missing:
                if not self._make_one(missing):
                    time.sleep(_LOOK_EVERY)
                    self._report()
                if helpers is not None:
                    helpers.check()
                missing = self._missing(missing)
        store = self._graph.store
        shards = {seeds: (store.verify(self.node.name, key), slice(None)) for seeds, key in self._keys.items()}
        return [({**shards, **self._parts})[show(seeds)] for seeds in self._pieces]

    def assist(self, alive: Callable[[], bool]) -> None:
        """Make shards until the artifact is joined by another process, or that one is no longer alive."""
        missing = self._missing(self._keys)
        with workers.sharing_threads(self._config["runtime"]):
            while alive() and not self._joined():
                if not self._ready() or not self._make_one(missing):
                    time.sleep(_LOOK_EVERY)
                missing = self._missing(missing)

    def record(self) -> dict[str, Any]:
        """What the manifest of the artifact says of how its images were made."""
        how, processes = self._config["made"], working(self._stage, self._config)
        return {"made": how, "threads": how["threads"] or torch.get_num_threads(), "workers": processes}

    def there(self) -> float:
        """The share of the images, or trajectories, that are there."""
        missing = sum(len(parse_range(seeds)) for seeds in self._missing(self._keys))
        return 1 - missing / self._total()

    def artifacts(self) -> set[tuple[str, str]]:
        """Stage and key of the shards."""
        return {(self.node.name, key) for key in self._keys.values()}

    def remove(self) -> None:
        """Remove the shards."""
        self._graph.store.forget(self.node.name, set(self._keys.values()))

    def _missing(self, among: Iterable[str]) -> list[str]:
        return [seeds for seeds in among if not self._is_made(self._keys[seeds])]

    def _is_made(self, key: str) -> bool:
        """Whether a shard is there; one that was altered is removed, as it can be made again."""
        try:
            return self._graph.store.find(self.node.name, key) is not None
        except ArtifactCorruptError as error:
            _log.warning("%s It is made again.", error)
            self._graph.store.remove(self.node.name, key)
            return False

    def _make_one(self, missing: Sequence[str]) -> bool:
        """Make one of these shards that nobody is making; whether there was one."""
        store, name = self._graph.store, self.node.name
        free = [seeds for seeds in missing if not store.busy(name, self._keys[seeds])]
        if not free:
            return False
        seeds = random.choice(free)  # two processes that look at the same time hardly take the same one
        key, joined = self._keys[seeds], False
        with contextlib.suppress(BlockingIOError), store.claim(name, key, wait=False) as claim:
            joined = self._joined()  # meanwhile: a shard that is made now would stay
            if claim.done is None and not joined:
                self._compute(key, self.config_of(parse_range(seeds)), claim)
        if joined:
            store.forget(name, {key})
        return True

    def _compute(self, key: str, config: Mapping[str, Any], claim: Claim) -> None:
        graph, inputs = self._graph, self._inputs()
        task = graph.task(self.node, config, inputs, claim.work)
        with Stopwatch() as watch:
            self.node.run(replace(task, progress=Counting(self._report), shared=self.shared))
        claim.commit(graph.manifest(self.node, key, config, inputs, watch))

    def _joined(self) -> bool:
        folder = self._graph.store.root / self._stage / self._graph.key(self._stage, self._config)
        return folder.is_dir()

    def _inputs(self) -> dict[str, Path]:
        needs = self.node.needs_for(self._config)
        return {need: self._graph.store.verify(need, self._graph.key(need, self._config)) for need in needs}

    def _ready(self) -> bool:
        """Whether all that the shards are made from is there."""
        needs = self.node.needs_for(self._config)
        return all(self._graph.store.find(need, self._graph.key(need, self._config)) for need in needs)

    def config_of(self, seeds: range) -> dict[str, Any]:
        """The configuration of the shard of these seeds."""
        return self._cut.config_of(self._config, seeds)

    def _total(self) -> int:
        return sum(map(len, self._pieces))

    def _key(self, seeds: range) -> str:
        return self._graph.key_of(self.node, self.config_of(seeds))

    def _taken(self) -> dict[str, Part]:
        """The pieces that artifacts of other seeds, made in the same way, have: their part by its seeds."""
        if self._stage in self._config["runtime"]["force"] or self._cut.what != "images":
            return {}
        node = self._graph.nodes[self._stage]
        version, identity = node.version_for(self._config), node.identity(self._config)
        inputs = {need: self._graph.key(need, self._config) for need in node.needs_for(self._config)}
        parts: dict[str, Part] = {}
        for manifest in self._graph.manifests(self._stage):
            config = {**manifest["config"], "seeds": identity["seeds"]}
            same = config == identity and manifest["inputs"] == inputs and manifest["version"] == version
            if not same or manifest.get("made") != self._config["made"]:
                continue
            made_range = parse_range(manifest["config"]["seeds"])
            made_pieces = self._cut.pieces({**self._config, "seeds": manifest["config"]["seeds"]})
            for seeds in self._pieces:
                if show(seeds) not in parts and seeds in made_pieces:
                    folder = self._graph.store.verify(self._stage, manifest["key"])
                    parts[show(seeds)] = (folder, slice(seeds.start - made_range.start, seeds.stop - made_range.start))
        return parts

    def _report(self) -> None:
        """Show how much all processes have made."""
        if time.monotonic() - self._counted > _COUNT_EVERY:
            self._counted = time.monotonic()
            images = sum(self._made(parse_range(seeds), key) for seeds, key in self._keys.items())
            taken = sum(len(parse_range(seeds)) for seeds in self._parts)
            self._graph.progress.update(self._cut.what, images + taken, self._total())

    def _made(self, seeds: range, key: str) -> int:
        """Count the images or trajectories of a shard that are written."""
        store = self._graph.store
        if (store.root / self.node.name / key).is_dir():
            return len(seeds)
        attempts = store.attempts(self.node.name, key)
        chunks = [file.stem.split("-") for folder in attempts for file in folder.glob("tmp-*-*.npy")]
        return sum(int(stop) - int(start) for _, start, stop in chunks)


class Counting(Progress):
    """Progress within a shard, which is part of that of the artifact."""

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self._report = report

    def update(self, label: str, done: int, total: int, loss: float | None = None, share: float | None = None) -> None:
        """See Progress."""
        self._report()
