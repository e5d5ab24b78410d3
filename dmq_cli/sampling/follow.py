"""What the scheduler of a model's folder says about sampling, in the words of a sampler's settings.

A setting that is null in the configuration is what diffusers' scheduler of the sampler's kind would do if it were made
`from_config` of the folder's: the folder's value where it is written down, else the default of that kind of scheduler.
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
# What dmq's solvers are; the first value is dmq's, the others are what diffusers turns into it for that class.
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
    """A sampler's settings without null. section: as stages read them, what changes nothing left out.

    sampler: its name; scheduler: the folder's class, and its pipeline where that changes what it says; taken: settings that were null, as the folder or diffusers' default has
    them; overridden: what the folder says about settings that the configuration gives, or an order that the sampler does not
    have; unread: what it says that diffusers' scheduler of the sampler's kind does not read either.
    """

    section: dict[str, Any]
    sampler: str
    scheduler: str
    taken: dict[str, Any]
    overridden: dict[str, Any]
    unread: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """For people and programs, without the section."""
        steps = self.section["num_inference_steps"]
        kept = {"taken": self.taken, "overridden": self.overridden, "unread": self.unread}
        return {"sampler": self.sampler, "steps": steps, "scheduler": self.scheduler, **kept}


def neutral(section: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sampler without those that change nothing: a key is that of before they existed."""
    left = {key: value for key, value in section.items() if key not in _NEUTRAL or value != _NEUTRAL[key]}
    unclipped = section.get("clip_sample") is False
    if unclipped or left.get("clip_sample_range") == 1.0:
        left.pop("clip_sample_range", None)
    return {key: value for key, value in left.items() if not (unclipped and key in _CLIPPING)}


def followed(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any], latent: bool = False) -> Followed:
    """A sampler's section with what the folder's scheduler says wherever it is null.

    kind: the class of its settings; schedule: see `load_schedule`; latent: whether images are decoded from what is sampled.
    Raises ConfigError where dmq's sampler cannot do what diffusers' would, naming what to give instead.
    """
    said = _said(kind, section, schedule)
    asked = [key for key, value in section.items() if value is None and key in said]
    if "spacing" in asked:
        _check_lists(schedule, section)
        asked.append("fixed_stride")
    if asked:
        _check_algorithm(kind, section, schedule)
    if "clip_sample" in asked:
        _check_clip(section, schedule, said, latent)
    whole = {**section, **{key: said[key] for key in asked if key in said}}
    if "steps_offset" in asked and whole["spacing"] not in OFFSET:
        whole["steps_offset"] = 0
    shown = [key for key in asked if key != "fixed_stride"]
    differing = {key: said[key] for key in said if key in section and key not in asked and section[key] != said[key]}
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
    """What diffusers' scheduler of this kind is made with: its defaults, and what the folder writes down."""
    return {key: schedule.get(key, value) for key, value in scheduler_defaults(_reference(kind, section)).items()}


def _said(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that the sampler has, as diffusers' scheduler of its kind would have it."""
    options, name = _options(kind, section, schedule), _name(kind, section)
    listed = options.get("timestep_spacing", "linspace")  # the single-step solver knows no other
    solves = getattr(kind, "without_zero", False)
    same = {(False, "leading"): "uniform", (True, "linspace"): "linspace"}  # lists that dmq has under its own name
    said = {
        "spacing": same.get((solves, listed), f"diffusers_{listed}"),
        "steps_offset": options.get("steps_offset", 0),
    }
    last = options.get("final_sigmas_type")  # of solvers in sigma; DDPM always ends at the clean image
    said["set_alpha_to_one"] = options.get("set_alpha_to_one", True) if last is None else last == "zero"
    if name in ("ddim", "plms"):
        said["fixed_stride"] = listed != "leading"  # where the stride is the list's anyway
    if name in ("ddim", "ddpm"):
        said |= {key: options[key] for key in ("clip_sample", "clip_sample_range")}
    if name == "plms":  # its own class begins with Runge-Kutta's steps unless it is told not to
        own = schedule.get("_class_name") != "PNDMScheduler"
        said["skip_prk_steps"] = schedule.get("skip_prk_steps", own)
    return said


def _check_lists(schedule: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    for key, value in _OTHER_LISTS.items():
        if schedule.get(key, value) != value:
            raise ConfigError(
                f"The model's scheduler chooses its timesteps by {key}={schedule[key]}, which no sampler of dmq does; give"
                " sampler.spacing, such as uniform, trailing or linspace, to choose them yourself."
            )


def _check_algorithm(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
    """Settings of the solver itself, where the folder writes them down and diffusers' class of this kind reads them."""
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


def _check_clip(section: Mapping[str, Any], schedule: Mapping[str, Any], said: Mapping[str, Any], latent: bool) -> None:
    """Nothing says whether latents are clipped if the folder's scheduler does not clip and this sampler does by default."""
    name = schedule.get("_class_name")
    unsaid = "clip_sample" not in schedule and "clip_sample" not in scheduler_defaults(str(name))
    if latent and said["clip_sample"] and unsaid:
        raise ConfigError(
            f"The model's scheduler, a {name}, does not say whether latents are clipped, which diffusers' DDIM and DDPM do by"
            " default and its pipelines of latents do not; give sampler.clip_sample=false or true."
        )


def _ordered(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """An order that the folder writes down for its solver, where the sampler has another."""
    order = schedule.get("solver_order", _ORDER)
    has = "solver_order" in scheduler_defaults(_reference(kind, section))
    return {"solver_order": order} if has and order != _ORDER else {}


def _unread(kind: Any, section: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder says about sampling that this kind of scheduler has no setting for."""
    read = scheduler_defaults(_reference(kind, section))
    return {key: schedule[key] for key, none in _UNREAD.items() if key not in read and schedule.get(key, none) != none}
