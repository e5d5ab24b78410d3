"""The members that each part of a configuration must have, checked on foreign classes before anything is computed."""

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
    """List the members of a protocol as in INTERFACES: values first, then methods with their parameters."""
    public = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    methods = {name: value for name in public if inspect.isfunction(value := vars(protocol)[name])}
    values = dict.fromkeys([*inspect.get_annotations(protocol), *(name for name in public if name not in methods)])
    return (*values, *(f"{name}({_parameters(method)})" for name, method in methods.items()))


def _parameters(method: Any) -> str:
    """Positional ones with a default are left out: they are passed only where a user asks for what they do."""
    every = list(inspect.signature(method).parameters.values())[1:]
    parameters = [p for p in every if p.default is p.empty or p.kind is p.KEYWORD_ONLY]
    return ", ".join(
        f"{parameter.name}=" if parameter.kind is parameter.KEYWORD_ONLY else parameter.name for parameter in parameters
    )


# Members that the stages read or call: a parameter "name=" is passed by keyword, "a or b" means one of the two.
INTERFACES: dict[str, tuple[str, ...]] = {
    "calib": members(Strategy),
    "transform": members(Transform),
    "scheme": ("rules", "fold(sites)", "resolve(sites)", "__add__(other)"),
    "recon": members(ReconMethod),
    "correct": members(CorrectionMethod),
    "sampler": ("eta", "calls", "scheduler(schedule)"),
    "numerics": ("set_backends(device)", "apply(model, units)"),
    "protocol": (
        *Protocol.__dataclass_fields__, "folders()", "layers(with_subjects)", "record(reference_sha256, extractor_sha256, further)",
        "hash(reference_sha256, extractor_sha256, further)",
    ),
    "metric": (
        "name", "results", "layers", "weights", "asks", "check(protocol)", "files(protocol)",
        "measure(images, reference, protocol) or compare(images, twin, protocol)",
    ),
    "logger": ("package", "log(run, metrics)"),
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
    """Compare the foreign classes of a section, at any depth, with the interface of the place where each stands.

    Raises ConfigError for a class without a needed method, or with other parameters, and for a section without a class.
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


def check_made(name: str, section: Mapping[str, Any], part_object: Any) -> None:
    """Check likewise the object that a section was made into, and those that it makes in turn, where its class is foreign."""
    axis = _ALSO.get(name, name)
    for key, place, part in _parts(name, axis, section) if axis in INTERFACES else ():
        if is_foreign(part["_target_"]):
            part_made = part_object if part is section else build.make(part)
            part_made = part_made(bits=8) if place == "grid" and not hasattr(part_made, "bits") else part_made
            _check(key, place, part, part_made)
            for made_in, further in _makes(place, part_made):
                _check(key, made_in, part, further)
            if place == "choice" and not isinstance(part_made, _CHOICES):
                raise ConfigError(
                    f"{key}._target_={part['_target_']} is a choice that calibration does not know how to make; derive the class from"
                    f" {' or '.join(kind.__name__ for kind in _CHOICES)}."
                )


def check_scheduler(name: str, section: Mapping[str, Any], scheduler: Any) -> None:
    """Check likewise the scheduler that a foreign sampler or strategy gives."""
    if is_foreign(section["_target_"]):
        _check(name, "scheduler", section, scheduler)


def _parts(key: str, axis: str, section: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (key, place, section) of a part and of those below it, but not below a foreign class, whose arguments are its own."""
    yield key, axis, section
    if is_foreign(section["_target_"]):
        return
    for name in (name for name in section if name in _INSIDE):
        for path, part in _below(f"{key}.{name}", name, section[name]):
            if isinstance(part, Mapping) and "_target_" in part:
                yield from _parts(path, _INSIDE[name], part)


def _below(key: str, name: str, value: Any) -> list[tuple[str, Any]]:
    """List (key, value) of the parts in a parameter: each of a list, each of the named passes or metrics, or the value itself."""
    if isinstance(value, list):
        return [(f"{key}.{number}", part) for number, part in enumerate(value)]
    if name in ("passes", "metrics") and isinstance(value, Mapping):
        return [(f"{key}.{part_name}", part) for part_name, part in value.items()]
    return [(key, value)]


def _check(key: str, place: str, part: Mapping[str, Any], part_object: Any) -> None:
    _refuse(
        key,
        place,
        part,
        [member for member in INTERFACES[place] if not _offers(part_object, member, False)],
        type(part_object),
    )


def _offers(owner: Any, member: str, unbound: bool) -> bool:
    """Whether a member exists and, if it is a method, takes the parameters. unbound: `owner` is a class, not an instance."""
    return any(_offers_one(owner, alternative, unbound) for alternative in member.split(" or "))


def _offers_one(owner: Any, member: str, unbound: bool) -> bool:
    name, called, parameters = re.fullmatch(r"(\w+)(\()?(.*?)\)?", member).groups()  # type: ignore[union-attr]
    if unbound and not any(name in vars(kind) for kind in owner.__mro__):
        return False
    try:
        value = getattr(owner, name)
    except AttributeError:
        return False
    except Exception:  # a property that cannot be read yet
        return True
    return not called or (
        callable(value) and _takes(owner, name, parameters.split(", ") if parameters else [], unbound)
    )


def _takes(owner: Any, name: str, parameters: list[str], unbound: bool) -> bool:
    by_name = {parameter[:-1]: None for parameter in parameters if parameter.endswith("=")}
    places: list[None] = [None] * (len(parameters) - len(by_name))
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
    mismatched = [member for member in lacking if hasattr(kind, member.partition("(")[0])]
    absent = [member for member in lacking if member not in mismatched]
    problems = [f"{', '.join(absent)}, which {kind.__name__} does not have"] if absent else []
    problems += [f"{', '.join(mismatched)}, which {kind.__name__} has with other parameters"] if mismatched else []
    raise ConfigError(
        f"{key}._target_={part['_target_']} was asked for, but a {_NAMES.get(place, place)} needs {' and '.join(problems)};"
        f" {_instead(kind) or 'add that to the class, or name another one.'}"
    )


def _instead(kind: type) -> str:
    """Suggest the groups whose interface a class fits."""
    values = {name for base in kind.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))}

    def fits(member: str) -> bool:
        return _offers(kind, member, True) if "(" in member else member in values

    fitting = [axis for axis in _GROUPS if all(map(fits, INTERFACES[axis]))]
    return f"it is one for {' or '.join(fitting)}." if fitting else ""


def _makes(place: str, part_object: Any) -> Iterator[tuple[str, Any]]:
    """Yield (place, object) of what a part makes later, made now on a small example; nothing where that fails."""
    with contextlib.suppress(Exception):
        if place == "correct":
            shapes = part_object.shapes(2, (1, 8, 8), False)
            used = part_object.load({name: torch.ones(shape) for name, shape in shapes.items()})
            if used is not None:
                yield "correction in use", used
        elif place == "scale":
            yield "source of scales", part_object.build(Slot(Uniform(8), StepContext(), torch.tensor([0])))
