"""What is on this machine and what is not: models, feature extractors, references; for what is missing, how to get it.

And how processes that share the outputs exclude each other, by the file system that they lie on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dmq_cli import choices
from dmq_cli.errors import DmqError, MissingWeightsError
from dmq_cli.obtain import FASHION, fashion_missing, find_network, reference_file
from dmq_cli.paths import resolve

_LOCK = "lock"


@dataclass(frozen=True)
class Finding:
    """One thing that jobs need. where: its place; sha256: of its file; error: why it cannot be used, None if it can."""

    kind: str
    name: str
    where: str | None = None
    sha256: str | None = None
    error: DmqError | None = None

    @property
    def state(self) -> str:
        """present, missing or wrong."""
        if self.error is None:
            return "present"
        return "missing" if isinstance(self.error, MissingWeightsError) else "wrong"

    def row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        advice = None if self.error is None else str(self.error)
        return {
            "kind": self.kind,
            "name": self.name,
            "state": self.state,
            "where": self.where,
            "sha256": self.sha256,
            "advice": advice,
        }


def examine(chosen: Sequence[str], outputs: str) -> list[Finding]:
    """The models that were chosen, by name or path of a folder; without a choice all models, extractors and references, and locks.

    Raises ConfigError for an unknown name.
    """
    models = {name: _model(name, outputs) for name in chosen or choices.names("model")}
    findings = [_finding("model", name, partial(_network, model)) for name, model in models.items()]
    return (
        findings if chosen else [*findings, *_measures(choices.protocols(), outputs), *_built(outputs), _lock(outputs)]
    )


def lines(findings: Iterable[Finding]) -> list[list[str]]:
    """For each kind, name, state, and where it is with its hash, or what to do."""
    return [[finding.kind, finding.name, finding.state, _place_or_advice(finding)] for finding in findings]


def summary(findings: Sequence[Finding]) -> str:
    """How much is here: "models 4 of 19 present; extractors 1 of 4 present; references 2 of 8 present"."""
    kinds = dict.fromkeys(finding.kind for finding in findings if finding.kind != _LOCK)
    parts = []
    for kind in kinds:
        states = [finding.state for finding in findings if finding.kind == kind]
        wrong = f", {states.count('wrong')} wrong" if "wrong" in states else ""
        parts.append(f"{kind}s {states.count('present')} of {len(states)} present{wrong}")
    return "; ".join(parts)


def _place_or_advice(finding: Finding) -> str:
    if finding.error is not None:
        return str(finding.error)
    return f"{finding.where}" + (f"  sha256 {finding.sha256[:16]}" if finding.sha256 else "")


def _model(name: str, outputs: str) -> dict[str, Any]:
    if "/" in name or name in (".", ".."):
        return {"name": Path(name).name, "path": name}
    return choices.model(name, outputs)


def _finding(kind: str, name: str, look: Callable[[], tuple[str, str | None]]) -> Finding:
    """What `look` returns, its place and sha256, or the error that it ends in."""
    try:
        return Finding(kind, name, *look())
    except DmqError as error:
        return Finding(kind, name, error=error)


def _network(model: Mapping[str, Any]) -> tuple[str, str | None]:
    from dmq_cli.models import check_expected, load_schedule
    from dmq_cli.models.weights import weight_files
    from dmq_cli.store import file_sha256

    check_expected(model)
    path = resolve(model["path"])
    load_schedule(path)  # raises if there is none
    network = find_network(path) or path
    return str(path), file_sha256(weight_files(network)[0])  # of shards that of their index


def _measures(protocols: Iterable[Mapping[str, Any]], outputs: str) -> list[Finding]:
    """Extractors and references of the protocols, each once."""
    from dmq_cli.metrics.shown import classes
    from dmq_cli.metrics.weights import FOLDERS

    findings: dict[tuple[str, str], Finding] = {}
    for protocol in protocols:
        reference = protocol["name"] if protocol["reference"] == "???" else protocol["reference"]
        extractor = protocol["extractor"]
        rows = [_finding("extractor", extractor, partial(_extractor, protocol))] if extractor else []
        read = {classes()[name].weights for name, section in protocol["metrics"].items() if section is not None}
        rows += [_finding("extractor", name, partial(_semantic, name, protocol)) for name in FOLDERS if name in read]
        rows += [_finding("reference", reference, partial(_reference, protocol, outputs))] if reference else []
        findings |= {(row.kind, row.name): row for row in rows}
    return sorted(findings.values(), key=lambda row: row.kind)


def _extractor(protocol: Mapping[str, Any]) -> tuple[str, str]:
    from dmq_cli.metrics.weights import read_weights

    path = protocol["extractor_path"]
    return str(resolve(path)), read_weights(protocol["extractor"], path, protocol["extractor_sha256"])[1]


def _semantic(name: str, protocol: Mapping[str, Any]) -> tuple[str, str]:
    from dmq_cli.metrics.weights import find_folder

    folder, sha256 = find_folder(name, protocol[f"{name}_path"], protocol["weights_sha256"][name])
    return str(folder), sha256


def _reference(protocol: Mapping[str, Any], outputs: str) -> tuple[str, None]:
    file = reference_file(protocol["reference"], protocol["reference_path"], outputs)
    if file is not None and protocol["reference"] == FASHION:
        if sentence := fashion_missing(file):
            raise MissingWeightsError(sentence)
        return str(file), None
    if file is None or file.is_file():
        return "comes with scikit-learn" if file is None else str(file), None
    raise MissingWeightsError(
        f"The protocol {protocol['name']} compares with images of your own, and no file of them is part of dmq; build their"
        f" statistics with: dmq reference build FOLDER --as NAME --protocol {protocol['name']}; or give a file of statistics, or"
        " an .npz of uint8 (N, H, W, C) under arr_0, as protocol.reference_path and a name for it as protocol.reference."
    )


def _built(outputs: str) -> list[Finding]:
    """What `dmq reference build` left below `outputs`, in the order of names."""
    files = sorted(resolve(outputs).glob("references/*.safetensors"))
    return [_finding("reference", file.stem, partial(_statistics, file)) for file in files]


def _lock(outputs: str) -> Finding:
    """What store.lock=auto is for this folder."""
    from dmq_cli.store.locking import kind_of
    from dmq_cli.store.mounts import file_system

    folder = resolve(outputs)
    kind, system = kind_of("auto", folder), file_system(folder) or "a file system of unknown type"
    reach = "processes of one machine share it" if kind == "flock" else "many machines may share it"
    return Finding(_LOCK, kind, f"{folder} on {system}: {reach}; store.lock=flock or lease to say otherwise")


def _statistics(file: Path) -> tuple[str, str]:
    from dmq_cli.metrics.references.files import read_reference

    return str(file), read_reference(file, file.stem).sha256
