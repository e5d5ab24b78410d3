"""A finished run, or a finished cell of a table, read back for people: its numbers, its proof and what it rests on."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.results.acting import differing, overrides_of
from dmq_cli.results.naming import bits_of, few, with_overrides
from dmq_cli.store import check_artifact
from dmq_cli.store.recorded import CONFIG, MANIFEST, METRICS, STATUS, check_recorded, read_object


@dataclass(frozen=True)
class Result:
    """metrics, manifest: the files of that name. artifacts: stage (and its seeds) to folder, None where it is gone."""

    folder: Path
    metrics: dict[str, Any]
    manifest: dict[str, Any]
    artifacts: dict[str, Path | None]

    @property
    def name(self) -> str:
        """Method and bits: what tells this run from another of the same model."""
        return f"{self.metrics['method']} {self.metrics['bits'].upper()}"

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, plain values."""
        found: dict[str, Any] = self.metrics["config"]
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as {"a.b": value}; one seed range and a list of one are the same, and so are both forms of a protocol."""
        from dmq_cli.metrics.flat import flat

        protocol = {"protocol": flat(self.config["protocol"])} if "protocol" in self.config else {}
        return flatten({**self.config, **protocol, "seeds": self.metrics["seeds"], "overrides": []})

    @property
    def overrides(self) -> list[str]:
        """What sets it apart from the plain run of its model, method, bits and budget."""
        return overrides_of(self.metrics)

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder; a cell of a table is not."""
        return (self.folder / STATUS).is_file()

    def used(self, stage: str) -> bool:
        """Whether the run had such a stage at all."""
        return _find(self.artifacts, stage) is not None

    def artifact(self, stage: str) -> Path | None:
        """The folder of a stage, of its first seed range, checked; None where it is not here. Raises ArtifactCorruptError."""
        name = _find(self.artifacts, stage)
        return None if name is None else self.checked(name)

    def checked(self, name: str) -> Path | None:
        """The folder of an artifact after a look at its hashes; None where it is not here. Raises ArtifactCorruptError."""
        folder = self.artifacts.get(name)
        if folder is not None:
            check_artifact(folder, _stage(name), self.metrics["artifacts"][name])
        return folder


def load_result(path: Path) -> Result:
    """Read a run folder or a cell of a table. Raises ArtifactCorruptError naming the file it lost, ConfigError."""
    if not path.is_dir():
        raise ConfigError(
            f"A run was asked for at {path}, which is no folder; give a run folder, a cell or the name of a table."
        )
    _require_files(path)
    metrics, manifest = read_object(path / METRICS), read_object(path / MANIFEST)
    _check_shape(path, metrics)
    check_recorded(path, metrics, manifest)
    store = path.absolute().parents[2] / "artifacts"
    artifacts = {name: _artifact(store, path, name, key) for name, key in metrics["artifacts"].items()}
    result = Result(path, {**metrics, "bits": bits_of(metrics)}, manifest, artifacts)
    _check_numbers(result)
    return result


@contextmanager
def whole(folders: Sequence[Path]) -> Iterator[None]:
    """Inside, an entry that is missing or of another kind than `dmq evaluate` writes is an ArtifactCorruptError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ArtifactCorruptError(
            f"What dmq evaluate writes was to be read from {', '.join(map(str, folders))}, but an entry is missing or of another kind"
            f" ({type(error).__name__}: {error}); run it again."
        ) from error


_SHAPE: dict[str, type] = {
    "method": str, "bits": str, "model": str, "protocol": dict, "config": dict, "artifacts": dict, "seeds": list,
    "fp": dict, "quantized": dict,
}  # fmt: skip


def _check_shape(path: Path, metrics: Mapping[str, Any]) -> None:
    """Raise ArtifactCorruptError for metrics that lack an entry or have one of another kind."""
    lacking = [key for key in _SHAPE if key not in metrics]
    if lacking:
        raise ArtifactCorruptError(
            f"{path / METRICS} has no {', '.join(lacking)}, so it is no result of dmq evaluate; run that command again."
        )
    wrong = [key for key, kind in _SHAPE.items() if not isinstance(metrics[key], kind)]
    if wrong:
        raise ArtifactCorruptError(
            f"{path / METRICS} was to be read as a result of dmq evaluate, but its {', '.join(wrong)} is of another kind;"
            " run that command again."
        )


def _check_numbers(result: Result) -> None:
    """Compare the numbers with those of the evaluations they are means of, where all of these are here."""
    ranges = result.metrics["seeds"]
    sides = [("quantized", "evaluate", "numbers", ranges), ("paired", "evaluate", "paired", ranges)]
    sides.append(("fp", "evaluate_fp", "numbers", result.metrics.get("fp_seeds", ranges)))
    for side, stage, part, seeds in sides:
        folders = [result.checked(f"{stage}-{seed}") for seed in seeds]
        rows = [read_object(one / "numbers.json").get(part) or {} for one in folders if one is not None]
        for name in rows[0] if rows and len(rows) == len(seeds) else ():
            mean = statistics.fmean(float(row[name]) for row in rows)
            if result.metrics[side][name] != mean:
                raise ArtifactCorruptError(
                    f"{result.folder / METRICS} says {side} {name} {result.metrics[side][name]}, but its evaluation found"
                    f" {mean}: a file was altered; run it again."
                )


def load_results(names: Sequence[str], outputs: Path) -> list[Result]:
    """Every run that is meant: run folders, cells, and tables (all their finished cells) by name or folder, each once."""
    folders = [folder for name in names for folder in _folders(name, outputs)]
    kept: dict[Path, Path] = {}
    for folder in folders:
        kept.setdefault(folder.resolve(), folder)
    results = []
    for folder in kept.values():
        with whole([folder]):
            results.append(load_result(folder))
    return results


def labels(results: Sequence[Result]) -> list[str]:
    """A short name for each run, all different: method and bits, the model where there are several, what acted in it and not in
    all, or for a single run at all, and other settings that differ.
    """
    several = len({result.metrics["model"] for result in results}) > 1
    names = [f"{result.metrics['model']} {result.name}" if several else result.name for result in results]
    words = [result.overrides for result in results]
    own = differing(words) if len(results) > 1 else words
    found = [with_overrides(name, few(more)) for name, more in zip(names, own, strict=True)]
    for label in [label for label in dict.fromkeys(found) if found.count(label) > 1]:
        alike = [index for index, other in enumerate(found) if other == label]
        for index, more in zip(alike, _told_apart([results[index] for index in alike]), strict=True):
            found[index] = f"{names[index]} ({more})"
    return found


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Nested plain values as {"a.b.0.c": value}; an empty list or dictionary is a value."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    nested = {
        k: v for name, child in children for k, v in flatten(child, f"{key}.{name}" if key else str(name)).items()
    }
    return nested or {key: value}


_NO_SETTING = re.compile(
    r"runtime\.|table\.|train\.|overrides|model\.sampling\.|calib_sampler\.|method\.cite|.*_target_$"
)
_MOST_SETTINGS = 2


def _told_apart(alike: Sequence[Result]) -> list[str]:
    """For runs of one name: the settings that differ, or the folder where that would be none or too much."""
    flat = [result.settings for result in alike]
    keys = [key for key in dict.fromkeys(k for one in flat for k in one) if not _NO_SETTING.match(key)]
    keys = [key for key in keys if len({str(one.get(key)) for one in flat}) > 1]
    brief = {key: _brief(key, {other for one in flat for other in one}) for key in keys}
    told = [", ".join(f"{brief[key]} {one.get(key)}" for key in keys) for one in flat]
    fits = 0 < len(keys) <= _MOST_SETTINGS and len(set(told)) == len(told)
    return told if fits else _folder_names(alike)


def _brief(key: str, every: Iterable[str]) -> str:
    """The last part of a key, where no other key ends like it."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in every) == 1 else key


def _folder_names(alike: Sequence[Result]) -> list[str]:
    """The folders' names, with the folder above where two are alike, and numbered where that is alike, too."""
    paths = [result.folder.resolve() for result in alike]
    for names in ([path.name for path in paths], [f"{path.parent.name}/{path.name}" for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{name}, {number}" for number, name in enumerate(names, 1)]


def _folders(name: str, outputs: Path) -> list[Path]:
    path = Path(name).expanduser()
    if not path.is_dir() and "/" not in name and (outputs / "tables" / name).is_dir():
        path = outputs / "tables" / name
    cells = sorted(file.parent for file in path.glob(f"*/{METRICS}")) if path.parent.name == "tables" else []
    if path.parent.name == "tables" and path.is_dir() and not cells:
        raise ConfigError(
            f"The table {path.name} has no finished cells in {path}; fill it with: make {_target(path.name)}"
        )
    return cells or [path]


def _target(table: str) -> str:
    """What make fills a table by; a folder of a paper's table ends in its scale."""
    name = table.removesuffix("-digits")
    return f"table-{table}" if name == table else f"table-{name} SCALE=digits"


def _require_files(path: Path) -> None:
    status = str(read_object(path / STATUS).get("status")) if (path / STATUS).is_file() else None
    wanted = (METRICS, MANIFEST) if status is None else (METRICS, MANIFEST, CONFIG)
    lost = [name for name in wanted if not (path / name).is_file()]
    if not lost:
        return
    if status is not None and status != "done":
        raise ConfigError(f"The run {path} did not finish ({status}), so there is nothing to show; run it again.")
    if status == "done" and lost[0] == METRICS and path.parent.name != "evaluate":
        raise ConfigError(f"The run {path} measured no images; give a run of dmq evaluate.")
    raise ArtifactCorruptError(f"The folder {path} was to be read as a run, but it has no {lost[0]}; run it again.")


def _find(artifacts: dict[str, Path | None], stage: str) -> str | None:
    return next((name for name in artifacts if re.fullmatch(rf"{stage}(-\d.*)?", name)), None)


def _artifact(store: Path, run: Path, name: str, key: str) -> Path | None:
    places = (store / _stage(name) / str(key), run / "artifacts" / name)
    return next((place for place in places if place.is_dir()), None)


def _stage(name: str) -> str:
    """sample for sample-0-1999."""
    return re.sub(r"-\d.*", "", name)
