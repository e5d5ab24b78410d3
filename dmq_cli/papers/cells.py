"""Find the finished cell of a table's row: the one whose recorded configuration is the row's, with its manifest beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dmq_cli.choices import composed
from dmq_cli.errors import ConfigError
from dmq_cli.overrides.bits import register_bits
from dmq_cli.results.later import as_it_acts, without_later
from dmq_cli.results.record import Evaluation, backed_evaluations
from dmq_cli.results.sweeps import Records

_MEASURED = ("model", "sampler", "protocol", "cond", "numerics")  # what the full-precision twin's numbers depend on
QUANTIZED = ("calib", "transform", "scheme", "policy", "recon", "correct", "calibrated_steps")
"""Sections that a quantized network depends on besides its model and bits."""


def configured(words: Sequence[str]) -> dict[str, Any]:
    """Compose the configuration that `dmq evaluate` makes of these words, resolved; values left to the user stay "???".

    Raises Hydra's errors for words that do not compose.
    """
    return _composed(tuple(word for word in words if not word.startswith(("runtime.", "store."))))


@cache
def _composed(words: tuple[str, ...]) -> dict[str, Any]:
    register_bits(words)
    return composed(words)


def cells(folder: Path) -> list[Evaluation]:
    """Read the finished cells of a table's folder whose manifests agree with them, see `backed_evaluations`."""
    return [cell for _, cell in backed_evaluations(folder)]


def cell_of(folder: Path, words: Sequence[str]) -> Evaluation | None:
    """Find the finished cell of a row; None if there is none. words: its job. Raises ConfigError for two of them."""
    row_config = configured(words)
    matching = {place: cell for place, cell in backed_evaluations(folder) if fits(row_config, cell.config)}
    if len(matching) > 1:
        raise ConfigError(
            f"{' and '.join(map(str, matching))} are cells of the same row; remove the one that an older version made."
        )
    return next(iter(matching.values()), None)


def failure(records: Records, words: Sequence[str]) -> str:
    """Say why the job of a row failed when it last ran; "" if it did not fail. records: of the table's jobs."""
    for file in sorted(records.folder.glob("*.json")):
        record = records.read(file.stem) or {"status": "unreadable"}
        if record["status"] == "failed" and set(words) <= set(record["overrides"]):
            return f"failed ({str(record['error']).rstrip('.')}); retry=failed tries again"
    return ""


def full_precision(folders: Sequence[Path], words: Sequence[str]) -> Evaluation | None:
    """Find a cell with the full-precision numbers of a row's model, sampler, protocol and seeds, in the first folder with one.

    words: the job of any row of the part. Method and bits do not matter.
    """
    row_config = configured(words)
    for cell in (cell for folder in folders for cell in cells(folder)):
        cell_config = cell.config
        if _seeds(cell_config) == _seeds(row_config) and all(
            _same(name, row_config, cell_config) for name in _MEASURED
        ):
            return cell
    return None


def fits(row_config: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration equals a row's in all that a key is made of, except the sha256 of files.

    row_config: as composed; recorded: as prepared, without the settings that preparing drops at their default.
    """
    from dmq_cli.results.naming import bits_name

    row_config = as_it_acts(row_config)
    named = row_config["method"]["name"] == recorded["method"]["name"]
    named = named and bits_name(row_config["bits"]) == bits_name(recorded["bits"])
    named = named and recorded.get("backend", "simulated") == row_config.get("backend", "simulated")
    seeds = recorded["seeds"] == row_config["seeds"] and recorded.get("fp_seeds") == row_config["fp_seeds"]
    return named and seeds and all(_same(name, row_config, recorded) for name in (*_MEASURED, *QUANTIZED))


def _same(section: str, row_config: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    from dmq_cli.metrics import flat
    from dmq_cli.sampling import neutral
    from dmq_cli.stages.graph import identity
    from dmq_cli.stages.prepare import correction

    want: Any = row_config[section]
    have: Any = recorded.get(section)
    if section == "model":
        return (want["name"], want.get("weights") == "random") == (have["name"], have.get("weights") == "random")
    if section == "correct":
        want = correction(want, row_config["cond"])
    if section == "sampler":
        want, have = neutral(want), neutral(have)
    if section == "protocol":
        want, have = flat(want), flat(have)
    if section in ("numerics", "cond") and have is None:  # recorded before it existed
        have = configured(())[section]
    return bool(identity(without_later(want)) == identity(without_later(have)))


def _seeds(config: Mapping[str, Any]) -> Any:
    return config.get("fp_seeds") or config["seeds"]
