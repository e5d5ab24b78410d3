"""Early refusals, before anything is computed: values of the wrong type, seeds that overlap, combinations that make no sense."""

from __future__ import annotations

import dataclasses
import logging
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from dmq_cli.calib import Tdac
from dmq_cli.errors import ConfigError, SchemeError, SeedError, nearest
from dmq_cli.metrics import Protocol
from dmq_cli.models import Conditions, has_mid_attention
from dmq_cli.quant import Log2
from dmq_cli.sampling import parse_range, parse_ranges, require_disjoint, show
from dmq_cli.stages import workers
from dmq_cli.stages.interfaces import check_interfaces
from dmq_cli.stages.plugins import resolve
from dmq_cli.stages.searches import resolved
from dmq_cli.stages.targets import targets_of
from dmq_cli.wrap import Scheme

_log = logging.getLogger("dmq")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_types(name: str, section: Mapping[str, Any]) -> None:
    """Compare values with the annotations of the dataclass that `_target_` names, in nested mappings too.

    Lists are left to what they are made into (a scheme checks its rules). Raises ConfigError, also for a target at any depth that
    is not there, and for a class that cannot stand where it is named.
    """
    for key, target in targets_of(section, name):
        resolve(key, target)
    check_interfaces(name, section)
    _check_types(name, section)


def _check_types(name: str, section: Mapping[str, Any]) -> None:
    hints = _hints(resolve(f"{name}._target_", section["_target_"]).value) if "_target_" in section else {}
    for key, value in section.items():
        if key in hints and not _fits(value, hints[key]):
            raise ConfigError(f"{name}.{key}={value} is not possible; give {_expected(hints[key])}.")
        if isinstance(value, Mapping):
            _check_types(f"{name}.{key}", value)


def _hints(target: Any) -> dict[str, Any]:
    """The annotations of a dataclass; {} for anything else, and for foreign annotations that exist only for type checkers."""
    if not dataclasses.is_dataclass(target):
        return {}
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}


def check_runtime(runtime: Mapping[str, Any], stages: Iterable[str]) -> None:
    """Raise ConfigError for an impossible value under `runtime`."""
    for key, least in (("batch_size", 1), ("threads", 1)):
        value = runtime[key]
        if not (_fits(value, int) and value >= least) and not (key == "threads" and value is None):
            raise ConfigError(f"runtime.{key}={value} is not possible; give a whole number, at least {least}.")
    if not isinstance(runtime["outputs"], str) or not runtime["outputs"]:
        raise ConfigError(f"runtime.outputs={runtime['outputs']} is no path; write one like runtime.outputs=outputs.")
    if runtime["upstream"] not in ("ensure", "require"):
        raise ConfigError(f"runtime.upstream={runtime['upstream']} is not known; use ensure or require.")
    if not isinstance(runtime["force"], list):
        raise ConfigError(f"runtime.force={runtime['force']} is no list of stages; write runtime.force=[reconstruct].")
    names = list(stages)
    for stage in runtime["force"]:
        if stage not in names:
            raise ConfigError(
                f"runtime.force names the stage {stage}, which does not exist.{nearest(str(stage), names)}"
            )
    workers.check(runtime)
    for device in workers.devices(runtime):
        check_device(device, "runtime.device" if runtime.get("devices") is None else "runtime.devices")


def check_device(device: object, setting: str = "runtime.device") -> str:
    """Check that torch can use a device on this machine. setting: the one that names it, for the ConfigError."""
    try:
        torch.empty(0, device=device)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{setting}={device} cannot be used here ({first}); use cpu.") from error
    if str(device).partition(":")[0] == "meta":
        raise ConfigError(f"{setting}={device} cannot be used here (it computes no numbers); use cpu.")
    return str(device)


def check_guidance(scale: Any, conditions: Conditions | None) -> None:
    """Raise ConfigError for a scale that is no number, or for guidance of an unconditional model."""
    check_scale(scale, conditions is not None)
    if scale is not None and conditions is not None:
        conditions.none()


def check_scale(scale: Any, conditional: bool) -> None:
    """check_guidance without the conditions themselves. conditional: whether the model has any."""
    if scale is None:
        return
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale < math.inf:
        raise ConfigError(f"cond.guidance={scale} is not possible; give a number, at least 0, or null for none.")
    if not conditional:
        raise ConfigError(f"cond.guidance={scale} was given, but this model is unconditional; leave it at null.")


def check_tabulated(config: Mapping[str, Any], protocol: Protocol) -> None:
    """Raise ConfigError for a table with a protocol that is only for trying things out."""
    if config.get("table") and config["table"]["name"] is not None and not protocol.tabulated:
        raise ConfigError(
            f"The table {config['table']['name']} was asked to hold numbers of protocol={protocol.name}, which is for trying"
            " things out and never tabulated; choose another protocol, or leave table out."
        )


def check_counts(config: Mapping[str, Any], protocol: Protocol) -> None:
    """Check that every measured range has the protocol's number of images. Raises SeedError."""
    for key, ranges in _measured(config).items():
        if len(ranges[0]) != protocol.num_images:  # parse_ranges made sure that they are equal
            raise SeedError(
                f"{key}={show(ranges[0])} gives {len(ranges[0])} images, but the protocol {protocol.name} measures"
                f" {protocol.num_images}; change {key}, or protocol.num_images for another protocol."
            )


def check_seeds(config: Mapping[str, Any], correction: str | None, judged: str | None = None) -> None:
    """Check that calibration, correction and the images that trainings are judged by share no seed with each other, with evaluation or
    with the trace. Raises SeedError."""
    fitted = {"calib.seeds": parse_range(config["calib"]["seeds"])}
    if judged is not None:
        fitted["the seeds that candidates of a training are judged by"] = parse_range(judged)
    if correction is not None:
        fitted["correct.seeds"] = parse_range(correction)
    for key, ranges in _measured(config).items():  # each on its own: seeds and fp_seeds may share noise
        require_disjoint({**{f"{key}[{i}]": seeds for i, seeds in enumerate(ranges)}, **fitted})
    if config.get("trace") is not None:
        require_disjoint({"trace.seeds": parse_range(config["trace"]["seeds"]), **fitted})


def check_trace(section: Any) -> None:
    """Raise ConfigError for a section `trace` that is not {seeds: ...}, and SeedError for impossible seeds."""
    if section is None:
        return
    if not isinstance(section, Mapping) or set(section) != {"seeds"}:
        raise ConfigError(
            f"trace={section} is not possible; give trace.seeds=3000000-3000063, or trace=null for no trace."
        )
    parse_range(section["seeds"])


def _measured(config: Mapping[str, Any]) -> dict[str, list[range]]:
    """The seed ranges on which images are measured, by the name of the setting."""
    keys = ["seeds", "fp_seeds"] if config.get("fp_seeds") is not None else ["seeds"]
    return {key: parse_ranges(config[key]) for key in keys}


def check_strategy(strategy: Any, model: Mapping[str, Any]) -> None:
    """Raise ConfigError for TDAC with a network that has no attention in its mid-block, whose features it compares."""
    if isinstance(strategy, Tdac) and not has_mid_attention(model):
        raise ConfigError(
            f"The calibration strategy tdac reads the attention of the mid-block, but {model['name']} has none there; use calib=uniform."
        )


def check_combination(scheme: Scheme, recon: Any) -> None:
    """Raise SchemeError for learned rounding of weights that lie on a log2 grid."""
    if not recon.learns_rounding:
        return
    for site, spec in resolved(scheme, "weight"):
        if spec.quantized and spec.bits and isinstance(spec.grid(bits=spec.bits), Log2):
            raise SchemeError(
                f"The reconstruction learns how weights are rounded, but the scheme puts {site.label} on a Log2 grid, which"
                " has no neighbours to choose between; use a Uniform grid for weights, or recon=none."
            )


def check_steps(scheme: Scheme, calibrated: Tensor, sampled: Tensor) -> None:
    """Check that tables by step have a row near every timestep of the sampler; log how many take a neighbour's row.

    calibrated, sampled: (S,) timesteps. Near is within the greatest gap between calibrated ones. Raises ConfigError.
    """
    tables = any((rule.scale is not None and rule.scale.by_step) or rule.choice is not None for rule in scheme.rules)
    distance = (sampled[:, None] - calibrated[None]).abs().amin(1)
    if not tables or not bool(distance.any()):
        return
    ordered = calibrated.sort().values
    gap = int((ordered[1:] - ordered[:-1]).max()) if len(ordered) > 1 else 0
    if int(distance.max()) > gap:
        far = int(sampled[distance.argmax()])
        raise ConfigError(
            f"The scheme has tables by step, calibrated at {len(calibrated)} timesteps ({int(ordered[0])} to {int(ordered[-1])}), and"
            f" timestep {far} of the sampler is near none of them; leave calibrated_steps at null, or take scheme=tdq (tdq_qat in a training)."
        )
    _log.info(
        "tables by step: %d of %d timesteps take the row of the nearest calibrated one",
        int((distance > 0).sum()), len(sampled),
    )  # fmt: skip


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, alternative) for alternative in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return type(value) is int
    if hint is str:  # `seeds=7` is a number for Hydra
        return isinstance(value, str) or type(value) is int
    return isinstance(value, hint) if hint in (bool, type(None)) else True


def _expected(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_expected(alternative) for alternative in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        kind, *more = get_args(hint)
        count = "" if more == [...] else f" {len(more) + 1} times"
        return f"a list of {_expected(kind)}{count}"
    return _WORDS.get(hint, str(hint))
