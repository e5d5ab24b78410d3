"""Read a model's scheduler configuration strictly: which training process it belongs to, and whether each value is possible.

diffusers builds a scheduler from any configuration and ignores what its class does not know, so a flow-matching model would be
sampled as if it had been trained by DDPM.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dmq_cli.errors import ModelError, nearest

KNOWN = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "SASolverScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
"""diffusers' classes whose training process is DDPM's: a list of betas, abar as their product, whole timesteps."""

PROCESSES = {"ddpm": KNOWN}
"""Training processes of networks, with the scheduler classes that stand for them; the same samplers sample all of them."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""Kinds of prediction, as diffusers' prediction_type; see prediction.py."""

_TRAINING = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_SHARED = ("linear", "scaled_linear", "squaredcos_cap_v2")  # lists of betas that every class makes alike
# The values of these keys in DDPM's process; any other value means another process, whichever sampler is used.
_PROCESS = {
    "use_flow_sigmas": False, "use_dynamic_shifting": False, "shift_terminal": None, "timestep_type": "discrete",
    "thresholding": False, "tau_func": None,
}  # fmt: skip
_BEFORE = {"tensor_format", "timestep_values"}  # of diffusers' first versions, which say nothing about numbers
_STABLE = ("StableDiffusionPipeline", "StableDiffusionPAGPipeline")
_MOST = 100_000  # timesteps: a table of each is made
_WORDS = {
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "prediction_type": PREDICTIONS,
}


def checked(config: Mapping[str, Any], file: Path, process: str = "ddpm") -> dict[str, Any]:
    """Check a scheduler configuration, and fill in the defaults of its class for the training values that it leaves out.

    Betas that only its class can compute are stored as `trained_betas`. file: where it was read, for errors. process: of the
    network's family, a key of PROCESSES. Raises ModelError for a class or key that dmq does not know, for one that means
    another process, and for a value that is not possible.
    """
    name, classes = config.get("_class_name"), PROCESSES[process]
    if not isinstance(name, str) or name not in classes:
        problem = "names no scheduler class" if name is None else f"is of {name}"
        raise ModelError(
            f"The file {file} {problem}, whose training process dmq does not know; it samples models of {', '.join(classes)}."
        )
    for key, value in config.items():
        _check(key, value, file)
    class_defaults = {key: value for key, value in scheduler_defaults(name).items() if key in _TRAINING}
    filled = {**class_defaults, **config}
    _check_training(filled, file)
    return filled if filled["beta_schedule"] in _SHARED else {**filled, "trained_betas": _betas(name, filled, file)}


def noise_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Select the entries of a scheduler configuration that say how noise was added in training: the list of betas."""
    return {name: config[name] for name in (*_TRAINING, "rescale_betas_zero_snr") if name in config}


def in_pipeline(config: Mapping[str, Any], pipeline: object) -> dict[str, Any]:
    """Apply what the folder's pipeline overrides in a checked configuration: Stable Diffusion's moves leading timesteps by 1
    and clips no latents, whatever its scheduler says. Where that changes something, `_pipeline` names the pipeline.
    """
    moved = {"steps_offset": 1} if "steps_offset" in scheduler_defaults(config["_class_name"]) else {}
    changed = {key: value for key, value in {**moved, "clip_sample": False}.items() if config.get(key) != value}
    return {**config, **changed, "_pipeline": pipeline} if changed and pipeline in _STABLE else dict(config)


@functools.cache
def scheduler_defaults(name: str) -> dict[str, Any]:
    """Parameters of a diffusers scheduler class and their defaults."""
    import diffusers  # seconds to import

    return {
        key: parameter.default
        for key, parameter in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
        if key != "self"
    }


@functools.cache
def _kinds(key: str) -> tuple[type, ...]:
    """The types that a key has in the classes that take it."""
    return tuple({type(scheduler_defaults(name)[key]) for name in KNOWN if key in scheduler_defaults(name)})


def _check(key: str, value: Any, file: Path) -> None:
    if key.startswith("_") or key in _BEFORE:
        return
    if not (kinds := _kinds(key)):
        keys = {key_name for name in KNOWN for key_name in scheduler_defaults(name)}
        raise ModelError(
            f"The file {file} has the key {key}={value!r:.60}, which no scheduler that dmq knows reads, so what it changes is"
            f" unknown; take it out if it changes nothing.{nearest(key, keys)}"
        )
    if key in _PROCESS and value != _PROCESS[key]:
        raise ModelError(
            f"The file {file} says {key}={value!r:.60}, which dmq does not sample; where the model can do without it, write {_json(_PROCESS[key])}."
        )
    if type(None) not in kinds and not any(_fits(value, kind, key) for kind in kinds):
        _refuse(file, key, value, " or ".join(_TOLD[kind] for kind in kinds))
    if key in _WORDS and value not in _WORDS[key]:
        _refuse(file, key, value, " or ".join(_WORDS[key]))


_TOLD = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", list: "a list"}


def _fits(value: Any, kind: type, key: str) -> bool:
    if kind is float:
        return _is_number(value) and (math.isfinite(value) or (key == "lambda_min_clipped" and value == -math.inf))
    return type(value) is kind


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_training(filled: Mapping[str, Any], file: Path) -> None:
    """Numbers that a noise schedule can be made of, before any of it is."""
    total, betas = filled["num_train_timesteps"], filled["trained_betas"]
    if not 1 <= total <= _MOST:
        _refuse(file, "num_train_timesteps", total, f"1 to {_MOST}")
    for key in ("beta_start", "beta_end"):
        if betas is None and not 0 < filled[key] < 1:
            _refuse(file, key, filled[key], "a number between 0 and 1")
    if betas is not None and not (isinstance(betas, list) and len(betas) == total and all(map(_is_beta, betas))):
        _refuse(file, "trained_betas", betas, f"null or a list of {total} numbers above 0, at most 1")
    if not 0 <= filled.get("steps_offset", 0) < total:
        _refuse(file, "steps_offset", filled["steps_offset"], f"0 to {total - 1}")
    if filled.get("clip_sample_range", 1.0) <= 0:
        _refuse(file, "clip_sample_range", filled["clip_sample_range"], "a number above 0")


def _is_beta(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def _betas(name: str, filled: Mapping[str, Any], file: Path) -> list[float]:
    """The betas (T,) as the class of the folder makes them."""
    import diffusers

    try:
        scheduler = getattr(diffusers, name)(**{key: filled[key] for key in _TRAINING})
    except (NotImplementedError, ValueError) as error:
        raise ModelError(
            f"The file {file} says beta_schedule={filled['beta_schedule']!r:.60}, which {name} does not know; use {', '.join(_SHARED)},"
            " or give trained_betas."
        ) from error
    betas: list[float] = scheduler.betas.tolist()
    return betas


def _refuse(file: Path, key: str, value: Any, possible: str) -> NoReturn:
    raise ModelError(f"The file {file} says {key}={value!r:.60}, which cannot be; it has to be {possible}.")


def _json(value: Any) -> str:
    return {None: "null", False: "false"}.get(value, str(value))
