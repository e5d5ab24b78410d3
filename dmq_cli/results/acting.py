"""Find the overrides that have an effect: those that distinguish a job from the plain one of its model, method, bits and budget.

A job is compared with the configuration that Hydra composes of its choices alone. So it does not matter whether a value came from
the command line, a table or a file of the user's own, and a value that equals the default does not count.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from dmq_cli.results.naming import LABELS, bits_overrides
from dmq_cli.store.hashing import digest

_GROUPS = ("calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "numerics")
_NAMED = ("model", "method", "bits", "budget")  # shown in columns of their own, as are the protocol and the seeds
_COMPARED = (*_GROUPS, "model", "budget", "protocol", "cond", "calibrated_steps", "layer_bits", "backend")
_TRAINED = ("loss", "lr", "min_snr")  # of `train`; the rest changes no result or is of `dmq train`
_DATA_SET = "data.name"  # no label: it says which data set is loaded
_SHOWN = re.compile(r"protocol\.(num_images|reference|columns.*)")  # shown elsewhere
_LONGEST = 60  # characters of a value
_UNREAD = re.compile(
    r"[~+]*(runtime\.|store\.|hydra|table|trace|seeds|fp_seeds|retry|scale|logger|stage|train(?!\.(loss|lr|min_snr)=)|(model|method|bits|budget|protocol)(=|$)"
    r"|bits\.(weight|act)=|model\.(path|name)=|protocol\.num_images=)"
)


@dataclass(frozen=True)
class ChoiceSource:
    """Where Hydra finds choices. Two are equal if they have the same name and places, the folders of the search path."""

    name: str
    places: tuple[str, ...]
    loader: Any = field(compare=False)


@dataclass(frozen=True)
class _Plain:
    """A composed configuration, flat. written: values as in the files; resolved: with interpolations resolved."""

    choices: Mapping[str, str]
    written: Mapping[str, Any]
    resolved: Mapping[str, Any]


def acting(config: Any, choices: Mapping[str, str], source: ChoiceSource) -> list[str]:
    """List the overrides that have an effect, such as correct.ner=false and scheme=quest.

    config: of a job, composed by Hydra; choices: by group.

    Raises Hydra's errors for choices that do not compose.
    """
    words = _words(choices, _NAMED)
    stock = _composed(source, words)
    groups = (*_GROUPS, "data") if _reads_data(config) else _GROUPS
    acting_words = [f"{group}={choices[group]}" for group in groups if choices.get(group) != stock.choices.get(group)]
    if acting_words or choices.get("protocol") != stock.choices.get("protocol"):
        words = _words(choices, (*_NAMED, "protocol", *groups))
        stock = _composed(source, words)
    if metrics := _metrics(choices, stock.choices):
        acting_words, stock = [*acting_words, *metrics], _composed(source, (*words, *metrics))
    job = _Plain(choices, _flattened(config, False), _flattened(config, True))
    return [*acting_words, *bits_overrides(config.bits), *dict.fromkeys(_differing(job, _of_same_kind(stock, job)))]


def from_command(command: str) -> list[str]:
    """List them from a recorded command, for runs that do not record them: the words as given."""
    try:
        return from_words(shlex.split(command)[2:])
    except ValueError:
        return []


def differing(every: Sequence[Sequence[str]]) -> list[list[str]]:
    """Drop from each list of overrides those that all lists have; a single list becomes empty."""
    common = set(every[0]).intersection(*every[1:]) if every else set()
    return [[word for word in words if word not in common] for words in every]


def from_words(words: Sequence[str]) -> list[str]:
    """Select the words that may have an effect, as given."""
    return [word for word in words if "=" in word and not word.startswith("-") and not _UNREAD.match(word)]


def _metrics(choices: Mapping[str, str], stock: Mapping[str, str]) -> list[str]:
    """The words that add metrics to the protocol."""
    chosen = {
        group: name for group, name in choices.items() if group.startswith("metric@") and stock.get(group) != name
    }
    return [f"{'' if group in stock else '+'}{group}={name}" for group, name in chosen.items()]


def _words(choices: Mapping[str, str], groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{group}={choices[group]}" for group in groups if choices.get(group) is not None)


@lru_cache(maxsize=256)
def _composed(source: ChoiceSource, words: tuple[str, ...]) -> _Plain:
    """Compose some choices alone; values left to the user stay "???"."""
    from hydra.types import RunMode

    config = source.loader.load_configuration(source.name, ["stage=evaluate", *words], RunMode.RUN, from_shell=False)
    return _Plain(dict(config.hydra.runtime.choices), _flattened(config, False), _flattened(config, True))


def _of_same_kind(stock: _Plain, job: _Plain) -> _Plain:
    """A plain configuration without data, where the job reads none."""
    if any(key.startswith("data.") for key in job.written):
        return stock
    written, resolved = (
        {key: value for key, value in values.items() if not key.startswith("data.")}
        for values in (stock.written, stock.resolved)
    )
    return replace(stock, written=written, resolved=resolved)


def _differing(job: _Plain, stock: _Plain) -> Iterator[str]:
    """Yield a word for every value that differs both as written and as resolved; one that follows from another value is left out."""
    for key in dict.fromkeys([*job.written, *stock.written]):
        label = key.rpartition(".")[2] in LABELS and key != _DATA_SET
        if label or _SHOWN.fullmatch(key) or stock.written.get(key) == "???":
            continue
        if key not in job.written:
            yield from _taken_away(key, job.written)
        elif job.written[key] != stock.written.get(key, job) and job.resolved[key] != stock.resolved.get(key, job):
            yield f"{key}={shown(job.resolved[key])}"


def _taken_away(key: str, written: Mapping[str, Any]) -> Iterator[str]:
    """Yield a word for a key that was removed, or for its removed section; nothing below a key that has a value."""
    parts = key.split(".")
    path = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    if not any(name in written for name in path):
        yield "~" + next(
            name for name in path if not any(written_key.startswith(f"{name}.") for written_key in written)
        )


def _flattened(config: Any, resolve: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf

    compared = OmegaConf.masked_copy(config, [key for key in (*_COMPARED, "train", "data") if key in config])
    whole = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]) if resolve else compared
    plain: Any = OmegaConf.to_container(whole, resolve=resolve)
    sections = {key: plain[key] for key in _COMPARED if key in plain}
    if _trains(config):
        sections["train"] = {name: value for name, value in plain["train"].items() if name in _TRAINED}
    if _reads_data(config):
        sections["data"] = plain["data"]
    return dict(_flat(sections))


def _trains(config: Any) -> bool:
    return (
        "train" in config and "_target_" in (config.get("recon") or {}) and config.recon._target_ == "dmq_cli.qat.Qat"
    )


def _reads_data(config: Any) -> bool:
    return "data" in config and _trains(config) and config.recon.loss == "noise"


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys in full and values; a list is one value."""
    if isinstance(node, Mapping) and node:
        for key, child in node.items():
            yield from _flat(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def shown(value: Any) -> str:
    """Write a value as on a command line; a long one is cut, with a hash that distinguishes it from others."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple):
        text = f"[{','.join(map(shown, value))}]"
    else:
        text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…{digest(value, 8)}"
