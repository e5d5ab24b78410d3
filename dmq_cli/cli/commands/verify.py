"""dmq verify: read stored files again, and report those that are not as they were written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from dmq_cli.cli.commands.output import HELP, aligned, outputs_of, run, show
from dmq_cli.deploy import is_exported
from dmq_cli.errors import ArtifactError, ConfigError, ModelError
from dmq_cli.results import inventory
from dmq_cli.results.naming import stage_of
from dmq_cli.sentences import with_flags
from dmq_cli.store import ArtifactStore, check_artifact, hold_json
from dmq_cli.store.recorded import CONFIG, MANIFEST, METRICS, check_recorded, read_object

Checks = Iterator[tuple[str, Callable[[], object]]]
"""Name of what is checked, and the function that raises ArtifactError if it is damaged."""


@click.command(context_settings=HELP)
@click.argument(
    "words",
    nargs=-1,
    metavar="[RUN | STAGE/KEY | EXPORTED]... [backend=NAME [least_share=0.95]] [runtime.outputs=FOLDER]",
)
@with_flags
@click.pass_context
def verify(context: click.Context, /, words: tuple[str, ...], **flags: bool) -> None:
    """Check the hashes of artifacts, of all that runs or cells of tables use, of exported models, or of everything.

    KEY may be its first characters. An exported model is also loaded, and its network has to pack to the same integers again.
    Ends with 1 if anything is damaged. With backend=openvino, onnx or pytorch the networks of runs are compared, as they are simulated and
    as they run in integers: codes, outputs of layers, images, and what really is in integers, of which least_share=0.95 asks for 95 %.
    """
    backends = [word.removeprefix("backend=") for word in words if word.startswith("backend=")]
    shares = [word.removeprefix("least_share=") for word in words if word.startswith("least_share=")]
    what = [word for word in words if not word.startswith(("runtime.outputs=", "backend=", "least_share="))]
    if backends or shares:
        run(context, flags, lambda on: _prove(what, backends, _share(shares), on))
    settings = [word for word in words if word.startswith("runtime.outputs=")]
    run(context, flags, lambda on: _verify(what, outputs_of("verify", settings), on))


def _share(words: Sequence[str]) -> float:
    """The last share that was asked for, in 0..1; 0 without. Raises ConfigError for anything else."""
    if not words:
        return 0.0
    try:
        share = float(words[-1])
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ConfigError(f"least_share={words[-1]} was asked for, but is no part of all; give a number from 0 to 1.")
    return share


def _prove(what: Sequence[str], backends: Sequence[str], least_share: float, flags: set[str]) -> None:
    if not backends:
        raise ConfigError(
            "least_share was given without backend, and only deployed networks have one; add backend=openvino."
        )
    backend = backends[-1]
    if not what:
        raise ConfigError(f"Nothing was given to be verified with backend={backend}; give the folder of a run.")
    from dmq_cli.stages.verified import verify_deployed

    proofs = {word: verify_deployed(Path(word).expanduser(), backend, least_share) for word in what}
    rows = {word: {**asdict(proof), "holds": proof.holds} for word, proof in proofs.items()}
    text = "\n".join(f"{word}\n{proof.lines()}" for word, proof in proofs.items())
    if all(proof.holds for proof in proofs.values()):
        show({"verified": rows}, text, flags)
        return
    if "json" not in flags:
        show({}, text, flags)
    failed = [word for word, proof in proofs.items() if not proof.holds]
    error = ArtifactError(
        f"{failed[0]} was verified with backend={backend}, and is not the network that was simulated, or has less in integers than was asked for; see what it printed."
    )
    error.found = {"verified": rows}
    raise error


def _verify(what: Sequence[str], outputs: Path, flags: set[str]) -> None:
    checks = dict(check for word in what for check in _of(word, outputs)) if what else dict(_all(outputs))
    rows = [_row(name, check) for name, check in checks.items()]
    damaged = [row for row in rows if row["error"]]
    lines = aligned([[row["state"], row["name"], row["error"]] for row in rows]) if rows else f"Nothing in {outputs}."
    if not damaged:
        show({"checked": rows}, lines, flags)
        return
    if "json" not in flags and "quiet" not in flags:
        show({}, lines, flags)
    error = ArtifactError(f"{len(damaged)} of {len(rows)} are damaged: {', '.join(row['name'] for row in damaged)}.")
    error.found = {"checked": rows}
    raise error


def _row(name: str, check: Callable[[], object]) -> dict[str, Any]:
    try:
        check()
    except (ArtifactError, ModelError) as error:
        return {"name": name, "state": "damaged", "error": str(error)}
    return {"name": name, "state": "ok", "error": ""}


def _all(outputs: Path) -> Checks:
    store = ArtifactStore(outputs / "artifacts")
    for stage, key in inventory.stored(store):
        yield _artifact(store, stage, key)
    cells = (file.parent for file in sorted((outputs / "tables").glob(f"*/*/{METRICS}")))
    for folder in (*inventory.run_folders(outputs), *cells):
        if (folder / METRICS).is_file():
            yield _result(folder)


def _of(word: str, outputs: Path) -> Checks:
    """Yield the checks of the folder of a run, a cell or an artifact, or of STAGE/KEY. Raises ConfigError."""
    folder = Path(word).expanduser()
    stage, _, start = word.rpartition("/")
    store = ArtifactStore(outputs / "artifacts")
    if is_exported(folder):
        yield str(folder), partial(check_exported, folder)
    elif hold_json(folder, MANIFEST) and isinstance(read_object(folder / MANIFEST).get("artifacts"), dict):
        yield from _used(folder)
    elif folder.is_dir() and folder.absolute().parents[1].name == "artifacts":
        store = ArtifactStore(folder.absolute().parents[1])
        yield _artifact(store, folder.absolute().parent.name, folder.absolute().name)
    elif keys := [key for key in store.keys(stage) if start and key.startswith(start)] if "/" not in stage else []:
        yield from (_artifact(store, stage, key) for key in keys)
    else:
        raise ConfigError(
            f"{word} was to be verified, but is neither the folder of a finished run or an exported model nor STAGE/KEY of an artifact in"
            f" {store.root}; see dmq list runs and dmq list artifacts."
        )


def _used(folder: Path) -> Checks:
    """Yield the checks of a run or cell and of every artifact it names: at its link's target, else in its outputs."""
    if (folder / METRICS).is_file():
        yield _result(folder)
    store, is_run = ArtifactStore(folder.absolute().parents[2] / "artifacts"), (folder / CONFIG).is_file()
    for name, key in read_object(folder / MANIFEST)["artifacts"].items():
        stage, link = stage_of(str(name)), folder / "artifacts" / str(name)
        if link.is_dir():
            yield f"{stage}/{key}", partial(check_artifact, link, stage, str(key))
        elif is_run or (store.root / stage / str(key)).is_dir():  # of a cell, the artifacts may be on another machine
            yield _artifact(store, stage, str(key))


def _artifact(store: ArtifactStore, stage: str, key: str) -> tuple[str, Callable[[], object]]:
    return f"{stage}/{key}", partial(store.verify, stage, key)


def check_exported(folder: Path) -> None:
    """Check an exported folder, see deploy.check. Imports torch."""
    from dmq_cli.deploy.check import check

    check(folder)


def _result(folder: Path) -> tuple[str, Callable[[], object]]:
    return str(folder), lambda: check_recorded(folder, read_object(folder / METRICS), read_object(folder / MANIFEST))
