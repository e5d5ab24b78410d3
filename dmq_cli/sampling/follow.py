"""Fill a sampler's settings from the scheduler of a model's folder.

A setting that is null in the configuration becomes that of diffusers' scheduler of the sampler's kind made by `from_config` of the
folder's: the folder's value where it is written down, else the default of that kind of scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.models import scheduler_defaults
from dmq_cli.sampling.spacing import OFFSET

_NEUTRAL: dict[str, Any] = {"steps_offset": 0, "skip_prk_steps": True, "fixed_stride": False, "posterior": False}
_CLIPPING = ("clip_sample_range", "posterior")  # act on a clipped image only
# Lists of timesteps that are neither leading nor trailing nor linspace.
_OTHER_LISTS: dict[str, Any] = {
    "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
    "lambda_min_clipped": -math.inf, "sigma_min": None, "sigma_max": None, "interpolation_type": "linear",
}  # fmt: skip
# Options of dmq's solvers: the first value is dmq's, the others are those that diffusers' class turns into it.
_ALGORITHM: dict[str, dict[str, tuple[Any, ...]]] = {
    "dpmpp_2m": {
        "algorithm_type": ("dpmsolver++", "deis"), "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
        "lower_order_final": (True,), "euler_at_final": (False,),
    },
    "dpmpp_2s": {"algorithm_type": ("dpmsolver++", "deis"), "solver_type": ("midpoint", "logrho", "bh1", "bh2")},
    "unipc": {
        "predict_x0": (True,), "solver_type": ("bh2", "midpoint", "heun", "logrho"), "lower_order_final": (True,),
        "disable_corrector": ([],), "solver_p": (None,),
    },
}  # fmt: skip
_UNREAD: dict[str, Any] = {"timestep_spacing": None, "steps_offset": 0, "set_alpha_to_one": True, "clip_sample": False}
_ORDER = 2  # of every solver that diffusers lets choose one


@dataclass(frozen=True)
class Followed:
    """A sampler's settings without null. section: as stages read them, without settings that change nothing.

    sampler: its name; scheduler: the folder's class, and its pipeline where that overrides some of it; taken: settings that
    were null, with the value of the folder or of diffusers' default; overridden: values of the folder for settings that the
    configuration gives, or an order that the sampler does not have; unread: values of the folder that diffusers' scheduler of
    the sampler's kind does not read either.
    """

    section: dict[str, Any]
    sampler: str
    scheduler: str
    taken: dict[str, Any]
    overridden: dict[str, Any]
    unread: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Describe where the settings come from, for people and programs."""
        steps = self.section["num_inference_steps"]
        sources = {"taken": self.taken, "overridden": self.overridden, "unread": self.unread}
        return {"sampler": self.sampler, "steps": steps, "scheduler": self.scheduler, **sources}


def neutral(section: Mapping[str, Any]) -> dict[str, Any]:
    """Drop a sampler's settings that change nothing, so that keys are as they were before these settings existed."""
    acting = {key: value for key, value in section.items() if key not in _NEUTRAL or value != _NEUTRAL[key]}
    unclipped = section.get("clip_sample") is False
    if unclipped or acting.get("clip_sample_range") == 1.0:
        acting.pop("clip_sample_range", None)
    return {key: value for key, value in acting.items() if not (unclipped and key in _CLIPPING)}


def followed(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any], latent: bool = False) -> Followed:
    """Fill the nulls of a sampler's section from the folder's scheduler.

    kind: the class of its settings; schedule: see `load_schedule`; latent: whether samples are decoded to images. Raises
    ConfigError where dmq's sampler cannot do what diffusers' would, naming what to give instead.
    """
    settings = _scheduler_settings(kind, section, schedule)
    null_keys = [key for key, value in section.items() if value is None and key in settings]
    if "spacing" in null_keys:
        _check_lists(schedule, section)
        null_keys.append("fixed_stride")
    if null_keys:
        _check_algorithm(kind, section, schedule)
    if "clip_sample" in null_keys:
        _check_clip(section, schedule, settings, latent)
    whole = {**section, **{key: settings[key] for key in null_keys if key in settings}}
    if "steps_offset" in null_keys and whole["spacing"] not in OFFSET:
        whole["steps_offset"] = 0
    shown = [key for key in null_keys if key != "fixed_stride"]
    differing = {
        key: settings[key]
        for key in settings
        if key in section and key not in null_keys and section[key] != settings[key]
    }
    scheduler = " in ".join(str(schedule[key]) for key in ("_class_name", "_pipeline") if key in schedule)
    return Followed(
        neutral(whole), _name(kind, section), scheduler,
        {key: whole[key] for key in shown}, {**differing, **_ordered(kind, section, schedule)},
        _unread(kind, section, schedule),
    )  # fmt: skip


def _name(kind: Any, section: Mapping[str, Any]) -> str:
    return "ddpm" if section.get("posterior") else str(kind.name)


def _reference(kind: Any, section: Mapping[str, Any]) -> str:
    """diffusers' scheduler of the sampler's kind."""
    return "DDPMScheduler" if section.get("posterior") else str(kind.reference)


def _options(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The options of diffusers' scheduler of this kind: its defaults, overridden by the folder."""
    return {key: schedule.get(key, value) for key, value in scheduler_defaults(_reference(kind, section)).items()}


def _scheduler_settings(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the sampler, with the value that diffusers' scheduler of its kind would use."""
    options, name = _options(kind, section, schedule), _name(kind, section)
    listed = options.get("timestep_spacing", "linspace")  # the single-step solver knows no other
    solves = getattr(kind, "without_zero", False)
    same = {(False, "leading"): "uniform", (True, "linspace"): "linspace"}  # lists that dmq has under its own name
    settings = {
        "spacing": same.get((solves, listed), f"diffusers_{listed}"),
        "steps_offset": options.get("steps_offset", 0),
    }
    last = options.get("final_sigmas_type")  # of solvers in sigma; DDPM always ends at the clean image
    settings["set_alpha_to_one"] = options.get("set_alpha_to_one", True) if last is None else last == "zero"
    if name in ("ddim", "plms"):
        settings["fixed_stride"] = listed != "leading"  # whose stride is fixed anyway
    if name in ("ddim", "ddpm"):
        settings |= {key: options[key] for key in ("clip_sample", "clip_sample_range")}
    if name == "plms":  # PNDMScheduler begins with Runge-Kutta steps by default
        skips_by_default = schedule.get("_class_name") != "PNDMScheduler"
        settings["skip_prk_steps"] = schedule.get("skip_prk_steps", skips_by_default)
    return settings


def _check_lists(schedule: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    for key, value in _OTHER_LISTS.items():
        if schedule.get(key, value) != value:
            raise ConfigError(
                f"The model's scheduler chooses its timesteps by {key}={schedule[key]}, which no sampler of dmq does; give"
                " sampler.spacing, such as uniform, trailing or linspace, to choose them yourself."
            )


def _check_algorithm(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
    """Check the folder's options of the solver that diffusers' class of this kind reads. Raises ConfigError for other solvers."""
    read = scheduler_defaults(_reference(kind, section))
    for key, values in _ALGORITHM.get(kind.name, {}).items():
        if key in read and key in schedule and schedule[key] not in values:
            raise ConfigError(
                f"The model's scheduler says {key}={schedule[key]}, but sampler={kind.name} of dmq has {values[0]}; choose another"
                " sampler, such as sampler=ddim, or write that into scheduler_config.json if the model can do with it."
            )
    ends_low = kind.name == "dpmpp_2s" and schedule.get("lower_order_final") is True
    if ends_low and schedule.get("final_sigmas_type") == "sigma_min":
        raise ConfigError(
            "The model's scheduler says lower_order_final=true with final_sigmas_type=sigma_min, but sampler=dpmpp_2s of dmq is of"
            " second order to the end there; choose another sampler, such as sampler=ddim."
        )
    if section.get("posterior") and schedule.get("variance_type") not in (None, "fixed_small", "fixed_small_log"):
        raise ConfigError(
            f"The model's scheduler says variance_type={schedule['variance_type']}, but sampler=ddpm of dmq has the small variance;"
            " take sampler=ddim sampler.eta=1 for that."
        )


def _check_clip(
    section: Mapping[str, Any], schedule: Mapping[str, Any], settings: Mapping[str, Any], latent: bool
) -> None:
    """Raise ConfigError where neither folder nor scheduler class says whether latents are clipped, as this sampler does by default."""
    name = schedule.get("_class_name")
    unsaid = "clip_sample" not in schedule and "clip_sample" not in scheduler_defaults(str(name))
    if latent and settings["clip_sample"] and unsaid:
        raise ConfigError(
            f"The model's scheduler, a {name}, does not say whether latents are clipped, which diffusers' DDIM and DDPM do by"
            " default and its pipelines of latents do not; give sampler.clip_sample=false or true."
        )


def _ordered(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The order that the folder writes down for its solver, where the sampler has another; else {}."""
    order = schedule.get("solver_order", _ORDER)
    has = "solver_order" in scheduler_defaults(_reference(kind, section))
    return {"solver_order": order} if has and order != _ORDER else {}


def _unread(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The folder's options of sampling that this kind of scheduler does not have."""
    read = scheduler_defaults(_reference(kind, section))
    return {key: schedule[key] for key, none in _UNREAD.items() if key not in read and schedule.get(key, none) != none}
