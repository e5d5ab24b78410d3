"""Every error a user can cause, as one tree. The message is one sentence: what was asked, what was found, what to do.

DmqError (exit 1)
  ConfigError (2)            an impossible group, key, type or value
    SchemeError (2)          quantizer rules that do not fit the model
    SeedError (2)            seeds that are empty, malformed or not disjoint
  ModelError (1)             a model folder or checkpoint that is not what it should be
    MissingWeightsError (4)  weights, statistics or extractors that are not on this machine
  NumericsError (1)          NaN or infinity where there must be numbers
  ArtifactError (1)
    ArtifactCorruptError (1) a stored file that is missing, truncated or altered
    DiskError (1)            the disk is full or not writable
  EvaluationError (1)        images that do not fit the protocol
  SweepError (1)             some jobs of a sweep failed

Stopped (75)                 by SIGTERM or SIGUSR1; no DmqError, as nothing is wrong

Only the command line catches them. `exit_code` is part of the interface.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class DmqError(Exception):
    """Base of all errors that end in one sentence instead of a traceback.

    found: results in spite of the error, printed beside the sentence with --json.
    """

    exit_code = 1
    found: Mapping[str, object] = {}


class ConfigError(DmqError):
    """An impossible group, key, type or value."""

    exit_code = 2


class SchemeError(ConfigError):
    """Quantizer rules that do not fit the model."""


class SeedError(ConfigError):
    """Seeds that are empty, malformed or not disjoint."""


class ModelError(DmqError):
    """A model folder or checkpoint that is not what it should be."""


class MissingWeightsError(ModelError):
    """Weights, statistics or extractors that are not on this machine."""

    exit_code = 4


class NumericsError(DmqError):
    """NaN or infinity where there must be numbers."""


class ArtifactError(DmqError):
    """Something stored that cannot be used as it was to be."""


class ArtifactCorruptError(ArtifactError):
    """A stored file that is missing, truncated or altered."""


class DiskError(ArtifactError):
    """The disk is full or not writable."""


class EvaluationError(DmqError):
    """Images that do not fit the protocol."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end, as that of a cluster that takes the machine away; the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class SweepError(DmqError):
    """Some jobs of a sweep failed. found: {"jobs": [...]}, the record of every job."""

    def __init__(self, sentence: str, found: Mapping[str, object]) -> None:
        super().__init__(sentence)
        self.found = found


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Write the end of a sentence that names what exists: ' Did you mean x? There is: a, b, x.'"""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"{guess} There is: {', '.join(names)}."


def must_be_given(key: str) -> str:
    """Write the sentence about a missing value that the configuration leaves to the user, such as protocol.reference."""
    last = key.rpartition(".")[2]
    example, what = _GIVEN.get(last, ("VALUE", "its YAML file in conf/ says what it is"))
    return f"There is no value for {key}, which has to be given on the command line; write {key}={example} ({what})."


_GIVEN = {
    "reference": ("NAME", "a reference that dmq reference build FOLDER --as NAME made, see dmq reference show"),
}
