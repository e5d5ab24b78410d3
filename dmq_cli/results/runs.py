"""Read a finished run, or a finished cell of a table: its numbers, its manifest and its artifacts."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.results.acting import differing
from dmq_cli.results.naming import few, stage_of, with_overrides
from dmq_cli.results.record import Evaluation, as_evaluation, metrics_files, read_evaluation
from dmq_cli.store import check_artifact
from dmq_cli.store.recorded import CONFIG, MANIFEST, METRICS, STATUS, read_object


@dataclass(frozen=True)
class Result:
    """manifest: the file of that name. artifacts: stage (and its seeds) to folder, None where it is gone."""

    folder: Path
    evaluation: Evaluation
    manifest: dict[str, Any]
    artifacts: dict[str, Path | None]

    @property
    def name(self) -> str:
        """Method and bits."""
        return f"{self.evaluation.method} {self.evaluation.bits.upper()}"

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, plain values."""
        return dict(self.evaluation.config)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as {"a.b": value}; a seed range and a list of one are made equal, and so are both forms of a protocol."""
        from dmq_cli.metrics.flat import flat

        protocol = {"protocol": flat(self.config["protocol"])} if "protocol" in self.config else {}
        return flatten({**self.config, **protocol, "seeds": list(self.evaluation.seeds), "overrides": []})

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder; a cell of a table is not."""
        return (self.folder / STATUS).is_file()

    @property
    def finished(self) -> str | None:
        """When a run ended or a cell was filled, ISO 8601; None for a cell that is older than this record."""
        time = (read_object(self.folder / STATUS) if self.is_run else self.manifest).get("finished")
        return None if time is None else str(time)

    def used(self, stage: str) -> bool:
        """Whether the run had such a stage."""
        return _find(self.artifacts, stage) is not None

    def artifact(self, stage: str) -> Path | None:
        """The folder of a stage, of its first seed range, checked; None where it is gone. Raises ArtifactCorruptError."""
        name = _find(self.artifacts, stage)
        return None if name is None else self.checked(name)

    def checked(self, name: str) -> Path | None:
        """The folder of an artifact, its hashes checked; None where it is gone. Raises ArtifactCorruptError."""
        folder = self.artifacts.get(name)
        if folder is not None:
            check_artifact(folder, stage_of(name), self.evaluation.artifacts[name])
        return folder


def load_result(path: Path) -> Result:
    """Read a run folder or a cell of a table. Raises ArtifactCorruptError naming the missing file, ConfigError."""
    if not path.is_dir():
        raise ConfigError(
            f"A run was asked for at {path}, which is no folder; give a run folder, a cell or the name of a table."
        )
    _require_files(path)
    evaluation, manifest = _sampled(path) if _only_sampled(path) else read_evaluation(path)
    store = path.absolute().joinpath("../../../artifacts").resolve()
    artifacts = {name: _artifact(store, path, name, key) for name, key in evaluation.artifacts.items()}
    result = Result(path, evaluation, manifest, artifacts)
    _check_numbers(result)
    return result


def _only_sampled(path: Path) -> bool:
    """Whether it is a finished run of dmq sample, which has images, but no numbers."""
    return path.parent.name == "sample" and (path / STATUS).is_file()


def _sampled(path: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Read a run that only sampled as an evaluation without numbers, and its manifest."""
    config, manifest = read_object(path / CONFIG), read_object(path / MANIFEST)
    seeds = config["seeds"] if isinstance(config["seeds"], list) else [config["seeds"]]
    nothing: dict[str, Any] = {"fp": {}, "quantized": {}, "config": config, "artifacts": manifest["artifacts"]}
    protocol = {"name": "none", "hash": "", "columns": {}, "num_images": 0}
    names = {name: config[name]["name"] for name in ("method", "bits", "model")}
    labels = {"overrides": config.get("overrides", []), "command": manifest["command"]}
    return as_evaluation({**nothing, **names, **labels, "protocol": protocol, "seeds": seeds}, path / CONFIG), manifest


@contextmanager
def whole(folders: Sequence[Path]) -> Iterator[None]:
    """Inside, an entry of a file that is missing or of another type than `dmq evaluate` writes raises ArtifactCorruptError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ArtifactCorruptError(
            f"What dmq evaluate writes was to be read from {', '.join(map(str, folders))}, but an entry is missing or of another kind"
            f" ({type(error).__name__}: {error}); run it again."
        ) from error


def _check_numbers(result: Result) -> None:
    """Compare the numbers with those of the evaluations they are means of, where all of these exist as they were then."""
    evaluation = result.evaluation
    for side, stage, part, seeds in (
        ("quantized", "evaluate", "numbers", evaluation.seeds),
        ("paired", "evaluate", "paired", evaluation.seeds),
        ("fp", "evaluate_fp", "numbers", evaluation.fp_seeds),
    ):
        names = [f"{stage}-{ranges}" for ranges in seeds]
        folders = [result.checked(name) for name in names if not _computed_again(result, name)]
        rows = [read_object(folder / "numbers.json").get(part) or {} for folder in folders if folder is not None]
        for name in rows[0] if rows and len(rows) == len(seeds) else ():
            mean = statistics.fmean(float(row[name]) for row in rows)
            recorded = evaluation.number(side, name)
            if recorded is None or recorded.value != mean:
                raise ArtifactCorruptError(
                    f"{result.folder / METRICS} says {side} {name} {recorded and recorded.value}, but its evaluation found"
                    f" {mean}: a file was altered; run it again."
                )


def _computed_again(result: Result, name: str) -> bool:
    """Whether an artifact of the run is not the one that it used: another processor may round its numbers otherwise under the same key."""
    folder, stages = result.artifacts.get(name), result.manifest.get("stages", {})
    if folder is None or name not in stages:
        return False
    return bool(read_object(folder / "manifest.json").get("seconds") != stages[name]["seconds"])


def load_results(names: Sequence[str], outputs: Path) -> list[Result]:
    """Load the named runs: run folders, cells, and tables (all their finished cells) by name or folder, each once."""
    folders = [folder for name in names for folder in _folders(name, outputs)]
    by_path: dict[Path, Path] = {}
    for folder in folders:
        by_path.setdefault(folder.resolve(), folder)
    results = []
    for folder in by_path.values():
        with whole([folder]):
            results.append(load_result(folder))
    return results


def labels(results: Sequence[Result]) -> list[str]:
    """Make a short name for each run, all different: method and bits, the model where there are several, overrides that had an
    effect and are not in all runs (for a single run: all), and other settings that differ.
    """
    several = len({result.evaluation.model for result in results}) > 1
    names = [f"{result.evaluation.model} {result.name}" if several else result.name for result in results]
    words = [result.evaluation.overrides for result in results]
    differing_words = differing(words) if len(results) > 1 else words
    shown = [with_overrides(name, few(more)) for name, more in zip(names, differing_words, strict=True)]
    for label in [label for label in dict.fromkeys(shown) if shown.count(label) > 1]:
        alike = [index for index, text in enumerate(shown) if text == label]
        for index, more in zip(alike, _distinguish([results[index] for index in alike]), strict=True):
            shown[index] = f"{names[index]} ({more})"
    return shown


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


def _distinguish(alike: Sequence[Result]) -> list[str]:
    """Distinguish runs of one name by the settings that differ, or by their folders where these are none or too many."""
    flat = [result.settings for result in alike]
    keys = [key for key in dict.fromkeys(k for settings in flat for k in settings) if not _NO_SETTING.match(key)]
    keys = [key for key in keys if len({str(settings.get(key)) for settings in flat}) > 1]
    brief = {key: _brief(key, {name for settings in flat for name in settings}) for key in keys}
    texts = [", ".join(f"{brief[key]} {settings.get(key)}" for key in keys) for settings in flat]
    fits = 0 < len(keys) <= _MOST_SETTINGS and len(set(texts)) == len(texts)
    return texts if fits else _folder_names(alike)


def _brief(key: str, every: Iterable[str]) -> str:
    """Shorten a key to its last part, where no other key ends like it."""
    last = key.rpartition(".")[2]
    return last if sum(name.rpartition(".")[2] == last for name in every) == 1 else key


def _folder_names(alike: Sequence[Result]) -> list[str]:
    """The folders' names, with the parent folder where two are equal, and numbered where these are equal, too."""
    paths = [result.folder.resolve() for result in alike]
    for names in ([path.name for path in paths], [f"{path.parent.name}/{path.name}" for path in paths]):
        if len(set(names)) == len(names):
            return names
    return [f"{name}, {number}" for number, name in enumerate(names, 1)]


def _folders(name: str, outputs: Path) -> list[Path]:
    path = Path(name).expanduser()
    if not path.is_dir() and "/" not in name and (outputs / "tables" / name).is_dir():
        path = outputs / "tables" / name
    cells = [file.parent for file in metrics_files(path)] if path.parent.name == "tables" else []
    if path.parent.name == "tables" and path.is_dir() and not cells:
        raise ConfigError(
            f"The table {path.name} has no finished cells in {path}; fill it with: make {_target(path.name)}"
        )
    return cells or [path]


def _target(table: str) -> str:
    """The make target that fills a table; the folder of a paper's table ends in its scale."""
    name = table.removesuffix("-digits")
    return f"table-{table}" if name == table else f"table-{name} SCALE=digits"


def _require_files(path: Path) -> None:
    status = str(read_object(path / STATUS).get("status")) if (path / STATUS).is_file() else None
    required = (METRICS, MANIFEST) if status is None else (METRICS, MANIFEST, CONFIG)
    if _only_sampled(path):
        required = (MANIFEST, CONFIG)
    lost = [name for name in required if not (path / name).is_file()]
    if not lost:
        return
    if status is not None and status != "done":
        raise ConfigError(f"The run {path} did not finish ({status}), so there is nothing to show; run it again.")
    if status == "done" and lost[0] == METRICS and path.parent.name != "evaluate":
        raise ConfigError(f"The run {path} made no images; give a run of dmq sample or dmq evaluate.")
    raise ArtifactCorruptError(f"The folder {path} was to be read as a run, but it has no {lost[0]}; run it again.")


def _find(artifacts: dict[str, Path | None], stage: str) -> str | None:
    return next((name for name in artifacts if re.fullmatch(rf"{stage}(-\d.*)?", name)), None)


def _artifact(store: Path, run: Path, name: str, key: str) -> Path | None:
    places = (store / stage_of(name) / str(key), run / "artifacts" / name)
    return next((place for place in places if place.is_dir()), None)
