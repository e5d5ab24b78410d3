"""Notes for the plan and the log: where a run's sampling settings come from, and what running without guidance means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ModelError
from dmq_cli.models import model_conditions, model_schedule
from dmq_cli.sampling import Followed, followed
from dmq_cli.stages.plugins import locate

_TEXTS, _CLASSES = ("StableDiffusionPipeline", 7.5), ("DiTPipeline", 4.0)  # diffusers', and their guidance_scale


def follow(section: Mapping[str, Any], model: Mapping[str, Any], latent: bool) -> Followed | None:
    """Fill the nulls of the section `sampler` from the model's scheduler; None for a foreign sampler.

    Raises what `followed`, `load_schedule` and `locate` raise.
    """
    kind = locate("sampler._target_", section["_target_"]).value if "_target_" in section else None
    if not hasattr(kind, "reference"):
        return None
    return followed(kind, section, model_schedule(model), latent)


def sampler_section(section: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the section as in `follow`, or copy it. model: as `identified` gives it, or as it is composed."""
    settings = follow(section, model, "first_stage" in model)
    return dict(section) if settings is None else settings.section


def sampled_how(composed: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how a run samples: `sampler`, see Followed.record, for one of dmq's, and `guidance`, a sentence.

    composed: the configuration before it was prepared. `guidance` is there only for a conditional model run without it.
    """
    settings = follow(composed["sampler"], prepared["model"], "first_stage" in prepared["model"])
    unguided = _unguided(prepared["model"])
    return {
        **({} if settings is None else {"sampler": settings.record()}),
        **({} if unguided is None else {"guidance": unguided}),
    }


def sampler_line(record: Mapping[str, Any]) -> str:
    """Write a record of `sampled_how` in one line."""
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
    """Explain sampling without guidance, for a model that could have it; else None."""
    cond = model.get("cond")
    if cond is None or cond["guidance"] is not None:
        return None
    text = cond["path"] is not None
    if not text and not _has_no_class(model, cond):
        return None
    pipeline, scale = _TEXTS if text else _CLASSES
    what = "text" if text else "class"
    return (
        f"no guidance: images are of the estimate with the {what} alone; diffusers' {pipeline} would use {scale}; give"
        f" cond.guidance={scale} for that"
    )


def _has_no_class(model: Mapping[str, Any], cond: Mapping[str, Any]) -> bool:
    conditions = model_conditions(model, cond["classes"], None)
    try:
        return conditions is not None and bool(conditions.none())
    except ModelError:
        return False
