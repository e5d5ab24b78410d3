"""What each part of a configuration must offer, and what somebody's class lacks of it: told before anything is computed."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dmq_cli.calib import Strategy
from dmq_cli.correct import CorrectionMethod
from dmq_cli.errors import ConfigError
from dmq_cli.metrics import Protocol
from dmq_cli.ops.ranges import RangeEstimator
from dmq_cli.quant import (
    ByLikelihood,
    BySnr,
    ChoiceKind,
    Grid,
    ScaleKind,
    ScaleSource,
    Slot,
    StepContext,
    Uniform,
)
from dmq_cli.recon import ReconMethod
from dmq_cli.sampling import Correction, Scheduler
from dmq_cli.stages import build
from dmq_cli.stages.plugins import is_foreign, resolve
from dmq_cli.transform import Transform


def members(protocol: type) -> tuple[str, ...]:
    """What a protocol asks for, as in INTERFACES: values first, then methods, each with how it is called."""
    public = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    methods = {name: value for name in public if inspect.isfunction(value := vars(protocol)[name])}
    values = dict.fromkeys([*inspect.get_annotations(protocol), *(name for name in public if name not in methods)])
    return (*values, *(f"{name}({_given(method)})" for name, method in methods.items()))


def _given(method: Any) -> str:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return ", ".join(f"{one.name}=" if one.kind is one.KEYWORD_ONLY else one.name for one in parameters)


# What the stages read and how they call it: "name=" is given by that name, "a or b" is one of the two.
INTERFACES: dict[str, tuple[str, ...]] = {
    "calib": members(Strategy),
    "transform": members(Transform),
    "scheme": ("rules", "fold(sites)", "resolve(sites)", "__add__(other)"),
    "recon": members(ReconMethod),
    "correct": members(CorrectionMethod),
    "sampler": ("eta", "calls", "scheduler(schedule)"),
    "numerics": ("set_tf32(device)", "apply(model, units)"),
    "protocol": (
        *Protocol.__dataclass_fields__, "folders()", "layers(asked)", "record(reference_sha256, extractor_sha256, further)",
        "hash(reference_sha256, extractor_sha256, further)",
    ),
    "metric": (
        "name", "results", "layers", "weights", "asks", "check(protocol)", "files(protocol)",
        "measure(images, reference, protocol) or compare(images, twin, protocol)",
    ),
    "logger": ("package", "log(run, found)"),
    "rule": ("match", "part", "bits", "scope", "optional", "scale", "choice", "range", "fits(site)", "changes()"),
    "scale": members(ScaleKind),
    "choice": members(ChoiceKind),
    "granularity": ("grouped(x) or channels(x)", "shape(ndim, groups)"),
    "ranges": members(RangeEstimator),
    "pass": (
        "iterations", "rounding", "scales", "p", "mix", "drop", "fine", "bias", "slots", "activations", "reads_full",
    ),
    "learner": ("start(weights, iterations)",),
    "correction in use": members(Correction),
    "scheduler": members(Scheduler),
    "grid": members(Grid),
    "source of scales": members(ScaleSource),
}  # fmt: skip

_ALSO = {"policy": "scheme", "calib_sampler": "sampler"}
_INSIDE = {
    "rules": "rule",
    "passes": "pass",
    "rounding": "learner",
    "scales": "learner",
    "base": "recon",
    "metrics": "metric",
}
_INSIDE |= {name: name for name in ("scale", "choice", "granularity", "ranges", "grid")}
_GROUPS = ("calib", "transform", "scheme", "recon", "correct", "sampler", "numerics", "protocol", "logger")
_NAMES = {
    "calib": "calibration strategy",
    "recon": "reconstruction",
    "correct": "correction",
    "ranges": "range estimator",
}
_CHOICES = (ByLikelihood, BySnr)  # calibration chooses by the kind


def check_interfaces(name: str, section: Mapping[str, Any]) -> None:
    """Compare the classes of a section, at any depth below dmq's own, with what stands in their places.

    Raises ConfigError for one without a method, or with one that cannot be called as it will be; for a section that names none.
    """
    axis = _ALSO.get(name, name)
    if axis not in INTERFACES:
        return
    if "_target_" not in section:
        raise ConfigError(
            f"The section {name}={dict(section)} names no class; give it a _target_, or choose one of the group {name}."
        )
    for key, place, part in _parts(name, axis, section):
        value = resolve(f"{key}._target_", part["_target_"]).value
        if isinstance(value, type) and not hasattr(value, "__getattr__"):
            methods = [member for member in INTERFACES[place] if "(" in member]
            _refuse(key, place, part, [member for member in methods if not _offers(value, member, True)], value)


def check_made(name: str, section: Mapping[str, Any], made: Any) -> None:
    """The same of what a section was made into, and of what that makes in turn, where the class is not dmq's own."""
    axis = _ALSO.get(name, name)
    for key, place, part in _parts(name, axis, section) if axis in INTERFACES else ():
        if is_foreign(part["_target_"]):
            own = made if part is section else build.make(part)
            own = own(bits=8) if place == "grid" and not hasattr(own, "bits") else own
            _check(key, place, part, own)
            for made_in, further in _makes(place, own):
                _check(key, made_in, part, further)
            if place == "choice" and not isinstance(own, _CHOICES):
                raise ConfigError(
                    f"{key}._target_={part['_target_']} is a choice that calibration does not know how to make; derive the class from"
                    f" {' or '.join(kind.__name__ for kind in _CHOICES)}."
                )


def check_scheduler(name: str, section: Mapping[str, Any], made: Any) -> None:
    """The same of the scheduler that somebody's settings of a sampler, or strategy, give."""
    if is_foreign(section["_target_"]):
        _check(name, "scheduler", section, made)


def _parts(key: str, axis: str, section: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, place, section) of a part and of those below it; what somebody else's class is given is its own business."""
    yield key, axis, section
    if is_foreign(section["_target_"]):
        return
    for name in (name for name in section if name in _INSIDE):
        for path, part in _below(f"{key}.{name}", name, section[name]):
            if isinstance(part, Mapping) and "_target_" in part:
                yield from _parts(path, _INSIDE[name], part)


def _below(key: str, name: str, value: Any) -> list[tuple[str, Any]]:
    """(key, value) of what a parameter holds: each of a list, each of the named passes or metrics, or the one value itself."""
    if isinstance(value, list):
        return [(f"{key}.{number}", part) for number, part in enumerate(value)]
    if name in ("passes", "metrics") and isinstance(value, Mapping):
        return [(f"{key}.{one}", part) for one, part in value.items()]
    return [(key, value)]


def _check(key: str, place: str, part: Mapping[str, Any], made: Any) -> None:
    _refuse(key, place, part, [one for one in INTERFACES[place] if not _offers(made, one, False)], type(made))


def _offers(owner: Any, member: str, unbound: bool) -> bool:
    """Whether a member is there and, if it is called, takes what it will be given. unbound: of a class, before `self` is."""
    return any(_offers_one(owner, one, unbound) for one in member.split(" or "))


def _offers_one(owner: Any, member: str, unbound: bool) -> bool:
    name, called, given = re.fullmatch(r"(\w+)(\()?(.*?)\)?", member).groups()  # type: ignore[union-attr]
    if unbound and not any(name in vars(kind) for kind in owner.__mro__):
        return False
    try:
        value = getattr(owner, name)
    except AttributeError:
        return False
    except Exception:  # a property that cannot be asked yet
        return True
    return not called or (callable(value) and _takes(owner, name, given.split(", ") if given else [], unbound))


def _takes(owner: Any, name: str, given: list[str], unbound: bool) -> bool:
    by_name = {one[:-1]: None for one in given if one.endswith("=")}
    places: list[None] = [None] * (len(given) - len(by_name))
    static = unbound and not isinstance(inspect.getattr_static(owner, name), staticmethod | classmethod)
    try:
        inspect.signature(getattr(owner, name)).bind(*([None] if static else []), *places, **by_name)
    except TypeError:
        return False
    except ValueError:  # code without a signature
        return True
    return True


def _refuse(key: str, place: str, part: Mapping[str, Any], lacking: list[str], kind: type) -> None:
    if not lacking:
        return
    there = [one for one in lacking if hasattr(kind, one.partition("(")[0])]
    absent = [one for one in lacking if one not in there]
    told = [f"{', '.join(absent)}, which {kind.__name__} does not have"] if absent else []
    told += [f"{', '.join(there)}, which {kind.__name__} has with other parameters"] if there else []
    raise ConfigError(
        f"{key}._target_={part['_target_']} was asked for, but a {_NAMES.get(place, place)} needs {' and '.join(told)};"
        f" {_instead(kind) or 'add that to the class, or name another one.'}"
    )


def _instead(kind: type) -> str:
    """Where a class belongs."""
    values = {name for base in kind.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))}

    def fits(member: str) -> bool:
        return _offers(kind, member, True) if "(" in member else member in values

    fitting = [axis for axis in _GROUPS if all(map(fits, INTERFACES[axis]))]
    return f"it is one for {' or '.join(fitting)}." if fitting else ""


def _makes(place: str, made: Any) -> Iterator[tuple[str, Any]]:
    """What a part makes later, made now for nothing; nothing where it cannot be tried like this."""
    with contextlib.suppress(Exception):
        if place == "correct":
            shapes = made.shapes(2, (1, 8, 8), False)
            used = made.load({name: torch.ones(shape) for name, shape in shapes.items()})
            if used is not None:
                yield "correction in use", used
        elif place == "scale":
            yield "source of scales", made.build(Slot(Uniform(8), StepContext(), torch.tensor([0])))
