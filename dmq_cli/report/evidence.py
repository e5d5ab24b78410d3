"""What a run's artifacts have to show, or the reason why there is nothing: traces, tables of the correction, losses, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmq_cli.results.images import are_pictures, load_images
from dmq_cli.results.runs import Result
from dmq_cli.results.trace import Trace, load_trace
from dmq_cli.store import read_json
from dmq_cli.store.tensors import load_tensors

Array = NDArray[Any]
S = TypeVar("S")
T = TypeVar("T")
# In the `_target_` of a configuration.
NO_TRANSFORM, NO_RECONSTRUCTION, NO_CORRECTION = "NoTransform", "NoReconstruction", "NoCorrection"
Losses = dict[str, dict[str, list[tuple[int, float]]]]  # pass, unit, (iteration, loss)


class Absent(Exception):
    """A run has nothing of this kind; the message is why, to follow `label: `."""


@dataclass(frozen=True)
class Gathered(Generic[T]):
    """What several runs have: by label, and the reason for each run that has nothing."""

    present: dict[str, T]
    absent: dict[str, str]

    def then(self, read: Callable[[T], S]) -> Gathered[S]:
        """What can be read of what is there; the reasons of both."""
        gathered = gather(self.present, read)
        return Gathered(gathered.present, self.absent | gathered.absent)

    def without(self) -> list[str]:
        """A sentence for each reason, naming the runs it holds for."""
        reasons: dict[str, list[str]] = {}
        for label, reason in self.absent.items():
            reasons.setdefault(reason, []).append(label)
        return [f"Not shown for {_listed(names)}: {reason}." for reason, names in reasons.items()]


def gather(sources: Mapping[str, S], read: Callable[[S], T]) -> Gathered[T]:
    """Read one kind of evidence of every source, a run or what was read of it, by the label of the run."""
    present, absent = {}, {}
    for label, source in sources.items():
        try:
            present[label] = read(source)
        except Absent as reason:
            absent[label] = str(reason)
    return Gathered(present, absent)


def trace(result: Result) -> Trace:
    """Where along the way it errs. Raises Absent, ArtifactCorruptError."""
    if not result.used("trace"):
        raise Absent("made before traces existed; evaluate again to have one")
    folder = result.artifact("trace")
    if folder is None:
        raise Absent("the trace is not on this machine any more; evaluate again to make it")
    return load_trace(folder)


def with_errors(traced: Trace) -> Trace:
    """The same trace, if its run is not full precision bit for bit. Raises Absent."""
    errors = [error for kind in (traced.trajectory, traced.eps, traced.block_error) for error in kind.values()]
    if not any((error > 0).any() for error in errors):
        raise Absent("it does what full precision does, so there is no error")
    return traced


def transformed(result: Result) -> Trace:
    """The trace of a run whose transform rescales channels. Raises Absent."""
    if NO_TRANSFORM in str(result.config.get("transform")):
        raise Absent("nothing is rewritten before quantizing (transform=none)")
    traced = trace(result)
    if not traced.channel_max["transformed"]:
        raise Absent("the transform rescales no channels of these layers")
    return traced


def corrections(result: Result) -> dict[str, Array]:
    """gain K (S, C) and bias B (S, ...), as a sample, of TAC's correction, and slope (S, C) where the trace has it. Raises Absent."""
    if NO_CORRECTION in _target(result, "correct"):
        raise Absent(_UNCORRECTED)
    folder = result.artifact("correct")
    if folder is None:
        raise Absent("the tables of the correction are not on this machine any more; evaluate again to make them")
    tables = {name: table.numpy() for name, table in load_tensors(folder / "tables.safetensors").items()}
    if "gain" not in tables:  # PTQD's tables have a bias of another kind
        raise Absent(_UNCORRECTED)
    shown = {name: tables[name] for name in ("gain", "bias")}
    slope = None if result.artifact("trace") is None else trace(result).slope
    return shown if slope is None or slope.shape != shown["gain"].shape else {**shown, "slope": slope}


def is_inert(tables: Mapping[str, Array]) -> bool:
    """Whether a gain, as `corrections` gives it, changes next to nothing although it was solved."""
    off = np.abs(tables["gain"] - 1)
    return bool(off.max() < INERT and off.max() > 0)


def losses(result: Result) -> Losses:
    """Loss curves of reconstruction. Raises Absent."""
    if NO_RECONSTRUCTION in _target(result, "recon"):
        raise Absent("nothing is learned block by block (recon=none)")
    folder = result.artifact("reconstruct")
    if folder is None:
        raise Absent("what was learned is not on this machine any more; evaluate again to make it")
    file = folder / "losses.json"
    if not file.is_file():
        raise Absent(
            "reconstructed before losses were kept; evaluate again with runtime.force=[reconstruct] to have them"
        )
    passes: Losses = read_json(file)["passes"]
    if not any(passes.values()):
        raise Absent("the reconstruction kept no losses")
    return passes


def pictures(result: Result) -> dict[str, Array]:
    """full, quantized and, where one acts, corrected images of the same noise, uint8 (k, H, W, C). Raises Absent.

    From the trace, else from the samples, which are what the run made: corrected if it corrects.
    """
    samples = _sampled(result)
    if not are_pictures(samples["full"]):
        raise Absent("its samples are neither grey nor RGB images")
    return samples


def _sampled(result: Result) -> dict[str, Array]:
    """The samples themselves, whatever they are."""
    if result.artifact("trace") is not None:
        return dict(trace(result).images)
    full, quantized = result.artifact("sample_fp"), result.artifact("sample")
    if full is None or quantized is None:
        raise Absent("neither trace nor samples are on this machine; evaluate again to make them")
    return {"full": load_images(full)[:_MOST], "sampled": load_images(quantized)[:_MOST]}


INERT = 0.003
"""A gain that is nowhere further from 1 than this changes no image that anybody could tell."""

_UNCORRECTED = "nothing is corrected by K and B (correct=none, or a correction of another kind)"
_MOST = 16  # images, as in a trace


def _target(result: Result, section: str) -> str:
    return str((result.config.get(section) or {}).get("_target_"))


def _listed(names: Sequence[str]) -> str:
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
