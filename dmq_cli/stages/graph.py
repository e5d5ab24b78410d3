"""Stages as nodes of a graph. A node turns artifacts into an artifact, keyed by the hash of all it may read.

key = sha256(name, version, the configuration sections it reads, the code in them that is not dmq's, the keys of what it
needs): a Merkle chain. The function of a node is handed only those sections, so that nothing outside the key can change what
it makes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.metrics.flat import flat
from dmq_cli.results.naming import LABELS
from dmq_cli.stages.plugins import code_of, is_foreign
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore, Stopwatch, digest, environment, read_json

if TYPE_CHECKING:
    from dmq_cli.stages.build import Parts

Config = Mapping[str, Any]
_log = logging.getLogger("dmq")


@dataclass(frozen=True)
class Task:
    """What a node's function gets. config: only the sections it reads; inputs: folders of what it needs."""

    config: Config
    inputs: Mapping[str, Path]
    work: Path
    runtime: Config
    progress: Progress


@dataclass(frozen=True)
class Node:
    """One stage. version: to be raised with every change of what `run` makes from the same inputs; revised(config): by how
    much it was raised since for this configuration alone, where the change concerns some of them.

    needs: the stages whose artifacts it gets; a function of the configuration where only some of them need a stage.
    asks: sections that it also reads where the configuration has them: what is not the default.
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
        """The version of what it makes under this configuration."""
        return self.version + self.revised(config)

    def needs_for(self, config: Config) -> tuple[str, ...]:
        """The stages that it needs under this configuration."""
        return self.needs(config) if callable(self.needs) else self.needs

    def sections(self, config: Config) -> Config:
        """What of the configuration it is handed."""
        return {name: config[name] for name in (*self.reads, *(name for name in self.asks if name in config))}

    def identity(self, config: Config) -> dict[str, Any]:
        """These sections without labels, and as `code` the code in them that is not dmq's, see plugins.code_of."""
        sections = {name: _as_keyed(name, section) for name, section in self.sections(config).items()}
        code = {name: found for name, found in config.get("code", {}).items() if name in sections}
        return {**identity(sections), **({"code": code} if code else {})}


StageObserver = Callable[[str, str], AbstractContextManager[None]]
"""Called with the name and the key of a stage that is about to be computed; what it returns is open until that is done."""

_observers: ContextVar[tuple[StageObserver, ...]] = ContextVar("observers", default=())


@contextlib.contextmanager
def observing(observer: StageObserver) -> Iterator[None]:
    """Inside the block, have every graph of this thread tell `observer` what it computes; an error that it raises stops the run."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


class Graph:
    """The nodes and the store their artifacts live in."""

    def __init__(self, nodes: Mapping[str, Node], store: ArtifactStore, progress: Progress) -> None:
        self.nodes, self.store, self.progress = nodes, store, progress

    def key(self, name: str, config: Config) -> str:
        """The address of what node `name` makes under this configuration."""
        node = self.nodes[name]
        needed = [self.key(need, config) for need in node.needs_for(config)]
        return digest([name, node.version_for(config), node.identity(config), needed])

    def ensure(self, name: str, config: Config) -> Path:
        """The folder of the artifact: from the store, or computed now with everything upstream.

        runtime.force names stages to compute again; runtime.upstream=require makes a miss upstream an ArtifactError.
        """
        node, key = self.nodes[name], self.key(name, config)
        self._force(name, config)
        if found := self.store.find(name, key):
            _log.debug("%s %s from the cache", name, key[:8])
            return found
        inputs = {need: self._upstream(need, name, config) for need in node.needs_for(config)}
        with self.store.claim(name, key) as claim:
            if claim.done is not None:
                return claim.done
            for need, folder in inputs.items():
                self.store.verify(need, folder.name)  # whatever the size: numbers come from it
            return self._compute(node, key, config, inputs, claim)

    def _force(self, name: str, config: Config) -> None:
        """Compute the forced ones of `name` and what it rests on again, each once in a run."""
        for part in self.chain(name, config):
            made = (part, self.key(part, config))
            if part in config["runtime"]["force"] and made not in self.progress.forced:
                self.progress.forced.add(made)
                self.store.remove(*made)
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

    def _compute(self, node: Node, key: str, config: Config, inputs: Mapping[str, Path], claim: Any) -> Path:
        task = Task(node.sections(config), inputs, claim.work, config["runtime"], self.progress)
        with contextlib.ExitStack() as observed:
            for observer in (self.progress.stage, *_observers.get()):
                observed.enter_context(observer(node.name, key))
            with Stopwatch() as watch:
                node.run(task)
        manifest = {
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
        folder: Path = claim.commit(manifest)
        return folder

    def chain(self, name: str, config: Config) -> list[str]:
        """See `chain`."""
        return chain(self.nodes, name, config)

    def why_missing(self, name: str, config: Config) -> str:
        """Why an artifact has to be computed: what differs from the nearest one of the same stage."""
        kept = [manifest["config"] for manifest in self.manifests(name)]
        if not kept:
            return "never computed here"
        wanted = self.nodes[name].identity(config)
        differing = min(([s for s in {**wanted, **have} if have.get(s) != wanted.get(s)] for have in kept), key=len)
        return f"differs in {', '.join(_named(differing, wanted))}" if differing else "something upstream is new"

    def manifests(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Those of a stage's artifacts that say from which sections they were made."""
        for key in self.store.keys(name):
            with contextlib.suppress(ArtifactCorruptError):
                manifest = _manifest(self.store.root / name / key / "manifest.json")
                if isinstance(manifest, Mapping) and isinstance(manifest.get("config", {}), Mapping):
                    yield {"config": {}, **manifest}


@functools.lru_cache(maxsize=1 << 14)
def _manifest(file: Path) -> Any:
    """Of a committed artifact, which never changes; every job of a sweep asks for all of them."""
    return read_json(file)


def chain(nodes: Mapping[str, Node], name: str, config: Config) -> list[str]:
    """The nodes that `name` rests on under this configuration, upstream first, `name` last, each once."""
    seen: list[str] = []
    for need in nodes[name].needs_for(config):
        seen += [node for node in chain(nodes, need, config) if node not in seen]
    return [*seen, name]


def with_code(config: Config, nodes: Iterable[Node]) -> dict[str, Any]:
    """The configuration with `code` for the sections that these nodes read, without where all of it is dmq's own.

    Raises ConfigError for code that cannot be found, imported or told from other code.
    """
    code = code_of(config, sorted({name for node in nodes for name in (*node.reads, *node.asks)}))
    rest = {name: value for name, value in config.items() if name != "code"}
    return {**rest, "code": code} if code else rest


def _named(differing: Iterable[str], wanted: Mapping[str, Any]) -> list[str]:
    """Sections as people read them: of code, whose it is."""
    theirs = sorted({target for found in wanted.get("code", {}).values() for target in found})
    return [f"the code of {' and '.join(theirs)}" if name == "code" and theirs else name for name in differing]


def _as_keyed(name: str, section: Any) -> Any:
    return flat(section) if name == "protocol" else section


def identity(section: Any) -> Any:
    """A configuration section without labels and paths; what somebody else's class is given stays whole."""
    if isinstance(section, Mapping):
        labels = set() if is_foreign(section.get("_target_")) else LABELS
        return {k: (identity(v) if labels else v) for k, v in section.items() if k not in labels}
    return [identity(item) for item in section] if isinstance(section, list | tuple) else section
