"""Where a run's sampling settings come from, and what it means that there is no guidance: for the plan and the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ModelError
from dmq_cli.models import model_conditions, model_schedule
from dmq_cli.sampling import Followed, followed
from dmq_cli.stages.plugins import locate

_TEXTS, _CLASSES = ("StableDiffusionPipeline", 7.5), ("DiTPipeline", 4.0)  # diffusers', and their guidance_scale


def follow(section: Mapping[str, Any], model: Mapping[str, Any], latent: bool) -> Followed | None:
    """The section `sampler` with what the model's scheduler says where it is null; None for a sampler of one's own.

    Raises what `followed`, `load_schedule` and `locate` raise.
    """
    kind = locate("sampler._target_", section["_target_"]).value if "_target_" in section else None
    if not hasattr(kind, "reference"):
        return None
    return followed(kind, section, model_schedule(model), latent)


def sampler_section(section: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """That section as stages read it. model: as `identified` gives it, or as it is composed."""
    found = follow(section, model, "first_stage" in model)
    return dict(section) if found is None else found.section


def sampled_how(composed: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    """For people and programs: `sampler`, see Followed.record, where it is one of dmq's, and `guidance`, a sentence.

    composed: the section `sampler` as it was before it was prepared; the sentence is there only where it has to be said.
    """
    found = follow(composed["sampler"], prepared["model"], "first_stage" in prepared["model"])
    unguided = _unguided(prepared["model"])
    return {
        **({} if found is None else {"sampler": found.record()}),
        **({} if unguided is None else {"guidance": unguided}),
    }


def sampler_line(record: Mapping[str, Any]) -> str:
    """A record of `sampled_how` in one line."""
    source = f"from the folder's scheduler ({record['scheduler']}): {_listed(record['taken'])}"
    parts = [f"sampler: {record['sampler']}, {record['steps']} steps", source if record["taken"] else "as configured"]
    if record["overridden"]:
        parts.append(f"overridden ({record['scheduler']} has): {_listed(record['overridden'])}")
    if record["unread"]:
        parts.append(f"nothing that this sampler has: {_listed(record['unread'])}")
    return "; ".join(parts)


def _listed(values: Mapping[str, Any]) -> str:
    words = {True: "true", False: "false"}
    shown = {key: words[value] if isinstance(value, bool) else value for key, value in values.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _unguided(model: Mapping[str, Any]) -> str | None:
    """What no guidance means, for a model that could have it."""
    told = model.get("cond")
    if told is None or told["guidance"] is not None:
        return None
    text = told["path"] is not None
    if not text and not _has_no_class(model, told):
        return None
    pipeline, scale = _TEXTS if text else _CLASSES
    what = "text" if text else "class"
    return (
        f"no guidance: images are of the estimate with the {what} alone; diffusers' {pipeline} would use {scale}; give"
        f" cond.guidance={scale} for that"
    )


def _has_no_class(model: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    conditions = model_conditions(model, told["classes"], None)
    try:
        return conditions is not None and bool(conditions.none())
    except ModelError:
        return False
