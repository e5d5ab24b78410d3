"""Which finished cell backs a row: the one whose recorded configuration is that of the row, with its proof beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from dmq_cli.choices import composed
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.results.record import Evaluation, metrics_files, read_evaluation
from dmq_cli.results.sweeps import Records
from dmq_cli.store.recorded import MANIFEST

_MEASURED = ("model", "sampler", "protocol", "cond", "numerics")  # what the full-precision twin's numbers depend on
_QUANTIZED = ("calib", "transform", "scheme", "policy", "recon", "correct", "calibrated_steps")


def configured(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that `dmq evaluate` makes of these words, resolved; what a user has to fill in stays "???".

    Raises Hydra's errors for words that do not compose.
    """
    return _composed(tuple(word for word in words if not word.startswith("runtime.")))


_composed = cache(composed)


def cells(folder: Path) -> list[Evaluation]:
    """The finished cells of a table's folder that their manifests back.

    A cell counts if its manifest has the key that its folder is named by and the same artifacts, and if its configuration is the
    one that was hashed.
    """
    return [cell for _, cell in _backed(folder)]


def _backed(folder: Path) -> Iterator[tuple[Path, Evaluation]]:
    for file in metrics_files(folder):
        if (file.parent / MANIFEST).is_file():
            with suppress(ArtifactCorruptError):
                yield file.parent, read_evaluation(file.parent)[0]


def cell_of(folder: Path, words: Sequence[str]) -> Evaluation | None:
    """The finished cell of a row, None if there is none. words: its job. Raises ConfigError if two cells claim it."""
    wanted = configured(words)
    found = {place: cell for place, cell in _backed(folder) if fits(wanted, cell.config)}
    if len(found) > 1:
        raise ConfigError(
            f"{' and '.join(map(str, found))} are cells of the same row; remove the one that an older version made."
        )
    return next(iter(found.values()), None)


def failure(records: Records, words: Sequence[str]) -> str:
    """Why the job of a row failed when it last ran, "" if it did not. records: of the table's jobs."""
    for file in sorted(records.folder.glob("*.json")):
        record = records.read(file.stem) or {"status": "unreadable"}
        if record["status"] == "failed" and set(words) <= set(record["overrides"]):
            return f"failed ({str(record['error']).rstrip('.')}); retry=failed tries again"
    return ""


def full_precision(folders: Sequence[Path], words: Sequence[str]) -> Evaluation | None:
    """A cell with the full-precision numbers of a row's model, sampler, protocol and seeds, in the first folder that has one.

    words: the job of any row of the part. Method and bits do not matter.
    """
    wanted = configured(words)
    for cell in (cell for folder in folders for cell in cells(folder)):
        own = cell.config
        if _seeds(own) == _seeds(wanted) and all(_same(name, wanted, own) for name in _MEASURED):
            return cell
    return None


def fits(wanted: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration is the wanted one in all that is in a key, but for the sha256 of files.

    wanted: as composed; recorded: as prepared, with what preparing leaves out at its default left out.
    """
    from dmq_cli.results.naming import bits_name

    named = wanted["method"]["name"] == recorded["method"]["name"]
    named = named and bits_name(wanted["bits"]) == bits_name(recorded["bits"])
    seeds = recorded["seeds"] == wanted["seeds"] and recorded.get("fp_seeds") == wanted["fp_seeds"]
    return named and seeds and all(_same(name, wanted, recorded) for name in (*_MEASURED, *_QUANTIZED))


def _same(section: str, wanted: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    from dmq_cli.metrics import flat
    from dmq_cli.sampling import neutral
    from dmq_cli.stages.graph import identity
    from dmq_cli.stages.prepare import correction

    want: Any = wanted[section]
    have: Any = recorded.get(section)
    if section == "model":
        return (want["name"], want.get("weights") == "random") == (have["name"], have.get("weights") == "random")
    if section == "correct":
        want = correction(want, wanted["cond"])
    if section == "sampler":
        want, have = neutral(want), neutral(have)
    if section == "protocol":
        want, have = flat(want), flat(have)
    if section in ("numerics", "cond") and have is None:  # recorded before it existed
        have = configured(())[section]
    return bool(identity(want) == identity(have))


def _seeds(config: Mapping[str, Any]) -> Any:
    return config.get("fp_seeds") or config["seeds"]
