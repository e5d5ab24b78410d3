"""Stages as nodes of a graph. A node turns artifacts into an artifact, keyed by the hash of all it may read.

key = sha256(name, version, the configuration sections it reads, the code in them that is not dmq's, the keys of the nodes it
needs): a Merkle chain. The function of a node is handed only those sections, so that nothing outside the key can change its
artifact.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.metrics.flat import flat
from dmq_cli.results.later import without_later
from dmq_cli.results.naming import LABELS
from dmq_cli.stages.cuts import is_cut
from dmq_cli.stages.plugins import code_of, is_foreign
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.shared_units import SharedUnits, is_shared, passes
from dmq_cli.store import ArtifactStore, Claim, Stopwatch, digest, environment, read_json

if TYPE_CHECKING:
    from dmq_cli.stages.build import Parts
    from dmq_cli.stages.workers import Helpers

Config = Mapping[str, Any]
_LOOKED_AT = 1000  # artifacts of a stage, for what an estimate and a sentence need; reading all would delay every start
_log = logging.getLogger("dmq")


@dataclass(frozen=True)
class Task:
    """The argument of a node's function. config: only the sections it reads; inputs: folders of the artifacts it needs, by stage.

    parts: images of other artifacts that make up this one, see shards.py; shared: what tasks of its shards keep for each other.
    """

    config: Config
    inputs: Mapping[str, Path]
    work: Path
    runtime: Config
    progress: Progress
    parts: Sequence[tuple[Path, slice]] = ()
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """One stage. version: to be raised whenever `run` makes something else from the same inputs; revised(config): added to it,
    for a change that concerns only some configurations.

    needs: the stages whose artifacts it gets; a function of the configuration where only some configurations need a stage.
    asks: optional sections, read where the configuration has them, which is where they are not the default.
    cost(config, parts) estimates the work in network calls on one sample, for `dmq plan`.
    """

    name: str
    reads: tuple[str, ...]
    run: Callable[[Task], None]
    needs: tuple[str, ...] | Callable[[Config], tuple[str, ...]] = ()
    version: int = 1
    revised: Callable[[Config], int] = field(default=lambda config: 0)
    asks: tuple[str, ...] = ()
    cost: Callable[[Config, Parts], float] = field(default=lambda config, parts: 0.0)

    def version_for(self, config: Config) -> int:
        """The version of its artifact under this configuration."""
        return self.version + self.revised(config)

    def needs_for(self, config: Config) -> tuple[str, ...]:
        """The stages that it needs under this configuration."""
        return self.needs(config) if callable(self.needs) else self.needs

    def sections(self, config: Config) -> Config:
        """Select the sections of the configuration that it is handed."""
        return {name: config[name] for name in (*self.reads, *(name for name in self.asks if name in config))}

    def identity(self, config: Config) -> dict[str, Any]:
        """What its key is made of: these sections without labels, and as `code` the hashes of foreign code, see plugins.code_of."""
        sections = {name: _as_keyed(name, section) for name, section in self.sections(config).items()}
        code = {name: hashes for name, hashes in config.get("code", {}).items() if name in sections}
        return {**identity(sections), **({"code": code} if code else {})}


StageObserver = Callable[[str, str], AbstractContextManager[None]]
"""Called with the name and key of a stage before it is computed; the context it returns is closed when that is done."""

_observers: ContextVar[tuple[StageObserver, ...]] = ContextVar("observers", default=())


@contextlib.contextmanager
def observing(observer: StageObserver) -> Iterator[None]:
    """Inside the block, call `observer` for every stage that a graph of this thread computes; its errors stop the run."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


class Graph:
    """The nodes and the store their artifacts live in. helpers: other processes that make shards, too; None: none."""

    def __init__(self, nodes: Mapping[str, Node], store: ArtifactStore, progress: Progress) -> None:
        self.nodes, self.store, self.progress = nodes, store, progress
        self.helpers: Helpers | None = None

    def key(self, name: str, config: Config) -> str:
        """The key of node `name`'s artifact under this configuration."""
        return self.key_of(self.nodes[name], config)

    def key_of(self, node: Node, config: Config) -> str:
        """The key of a node's artifact, also of one that is none of the graph's, as those of shards."""
        needed = [self.key(need, config) for need in node.needs_for(config)]
        return digest([node.name, node.version_for(config), node.identity(config), needed])

    def ensure(self, name: str, config: Config) -> Path:
        """The folder of the artifact: from the store, or computed now with everything upstream.

        runtime.force names stages to compute again; runtime.upstream=require makes a miss upstream an ArtifactError.
        """
        node, key = self.nodes[name], self.key(name, config)
        self._force(name, config)
        if artifact := self.store.find(name, key):
            _log.debug("%s %s from the cache", name, key[:8])
            return artifact
        inputs = {need: self._upstream(need, name, config) for need in node.needs_for(config)}
        with self.store.claim(name, key) as claim:
            if claim.done is not None:
                return claim.done
            for need, folder in inputs.items():
                self.store.verify(need, folder.name)  # whatever the size: numbers come from it
            return self._compute(node, key, config, inputs, claim)

    def assist(self, name: str, config: Config) -> None:
        """Take part in a stage that another process computes, in a folder that is removed; nothing where its artifact is there.

        What is upstream is ensured: whichever process is first computes it, and the others wait.
        """
        node, key = self.nodes[name], self.key(name, config)
        inputs = {need: self.ensure(need, config) for need in node.needs_for(config)}
        if self.store.find(name, key) is None:
            with tempfile.TemporaryDirectory() as folder:
                node.run(self.task(node, config, inputs, Path(folder)))

    def _force(self, name: str, config: Config) -> None:
        """Compute `name` and its upstream again as far as runtime.force names them, each once in a run."""
        for part in self.chain(name, config):
            address = (part, self.key(part, config))
            if part in config["runtime"]["force"] and address not in self.progress.forced:
                self.progress.forced.add(address)
                self.store.remove(*address)
                if is_cut(part, config):
                    Shards(self, part, config).remove()
                if part != name:
                    self.ensure(part, config)

    def _upstream(self, need: str, name: str, config: Config) -> Path:
        mode = config["runtime"]["upstream"]
        if mode == "require" and self.store.find(need, self.key(need, config)) is None:
            raise ArtifactError(
                f"{name} needs {need} {self.key(need, config)[:8]}, which is not there, and runtime.upstream=require forbids"
                f" computing it; leave that out, or run the stage {need} first."
            )
        return self.ensure(need, config)

    def _compute(self, node: Node, key: str, config: Config, inputs: Mapping[str, Path], claim: Claim) -> Path:
        shards = Shards(self, node.name, config) if is_cut(node.name, config) else None
        task = self.task(node, config, inputs, claim.work)
        if is_shared(node.name, config):
            task.shared["share"] = SharedUnits(self, config)
        with contextlib.ExitStack() as contexts:
            for observer in (self.progress.stage, *_observers.get()):
                contexts.enter_context(observer(node.name, key))
            with Stopwatch() as watch:
                node.run(task if shards is None else replace(task, parts=shards.make(), shared=shards.shared))
        manifest = self.manifest(node, key, config, inputs, watch)
        if shards is None:
            folder = claim.commit(manifest)
            if node.name == "reconstruct" and passes(config):
                SharedUnits(self, config).remove()  # of an attempt of several processes that was killed
            return folder
        folder = claim.commit({**manifest, **shards.record()})
        shards.remove()
        return folder

    def task(self, node: Node, config: Config, inputs: Mapping[str, Path], work: Path) -> Task:
        """The task of a node under this configuration. work: the folder to write into."""
        return Task(node.sections(config), inputs, work, config["runtime"], self.progress)

    def manifest(
        self, node: Node, key: str, config: Config, inputs: Mapping[str, Path], watch: Stopwatch
    ) -> dict[str, Any]:
        """What the manifest of an artifact says besides its files."""
        return {
            "stage": node.name,
            "key": key,
            "version": node.version_for(config),
            "config": node.identity(config),
            "inputs": {need: path.name for need, path in inputs.items()},
            "environment": environment(),
            "device": config["runtime"]["device"],
            "batch_size": config["runtime"]["batch_size"],
            "threads": torch.get_num_threads(),
            "seconds": round(watch.seconds, 3),
            "peak_memory_mb": round(watch.peak_memory_mb, 1),
        }

    def chain(self, name: str, config: Config) -> list[str]:
        """See `chain`."""
        return chain(self.nodes, name, config)

    def why_missing(self, name: str, config: Config) -> str:
        """Say why an artifact has to be computed: the sections in which the nearest one of the same stage differs."""
        configs = [manifest["config"] for manifest in self.manifests(name)]
        if not configs:
            return "never computed here"
        planned = self.nodes[name].identity(config)
        differing = min(
            ([s for s in {**planned, **have} if have.get(s) != planned.get(s)] for have in configs), key=len
        )
        return f"differs in {', '.join(_named(differing, planned))}" if differing else "something upstream is new"

    def manifests(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Read the manifests of a stage's newest artifacts, of those that record the sections they were made from."""
        for key in self.store.newest(name, _LOOKED_AT):
            with contextlib.suppress(ArtifactCorruptError):
                manifest = _manifest(self.store.root / name / key / "manifest.json")
                if isinstance(manifest, Mapping) and isinstance(manifest.get("config", {}), Mapping):
                    yield {"config": {}, **manifest}


@functools.lru_cache(maxsize=1 << 14)
def _manifest(file: Path) -> Any:
    """Read the manifest of a committed artifact, which never changes; every job of a sweep reads all of them."""
    return read_json(file)


def chain(nodes: Mapping[str, Node], name: str, config: Config) -> list[str]:
    """The nodes that `name` rests on under this configuration, upstream first, `name` last, each once."""
    names: list[str] = []
    for need in nodes[name].needs_for(config):
        names += [node for node in chain(nodes, need, config) if node not in names]
    return [*names, name]


def with_code(config: Config, nodes: Iterable[Node]) -> dict[str, Any]:
    """Add `code` for the sections that these nodes read to the configuration; nothing where all of it is dmq's own.

    Raises ConfigError for code that cannot be found, imported or identified by its files.
    """
    code = code_of(config, sorted({name for node in nodes for name in (*node.reads, *node.asks)}))
    sections = {name: value for name, value in config.items() if name != "code"}
    return {**sections, "code": code} if code else sections


def _named(differing: Iterable[str], sections: Mapping[str, Any]) -> list[str]:
    """Name sections for people; instead of `code`, the classes whose code it is."""
    targets = sorted({target for hashes in sections.get("code", {}).values() for target in hashes})
    return [f"the code of {' and '.join(targets)}" if name == "code" and targets else name for name in differing]


def _as_keyed(name: str, section: Any) -> Any:
    return flat(section) if name == "protocol" else without_later(section)


def identity(section: Any) -> Any:
    """Strip labels and paths from a configuration section; the arguments of a foreign class stay whole."""
    if isinstance(section, Mapping):
        labels = set() if is_foreign(section.get("_target_")) else LABELS
        return {k: (identity(v) if labels else v) for k, v in section.items() if k not in labels}
    return [identity(item) for item in section] if isinstance(section, list | tuple) else section
