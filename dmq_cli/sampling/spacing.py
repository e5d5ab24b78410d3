"""Choose the timesteps that a sampler visits.

uniform, quad: Song et al., DDIM, ICLR 2021 (arXiv 2010.02502), appendix D.2, as in the authors' code. ldm: Rombach et al., CVPR
2022, the released code's range(0, T, T // S) + 1: where S does not divide T it takes more steps than asked for (T = 1000,
S = 400: 500), which papers then report as S. trailing, linspace: Lin et al., WACV 2024 (arXiv 2305.08891), Table 2, as diffusers
rounds them for the DPM solvers. All are whole numbers: what would lie between two timesteps is rounded, half to even.
Deviation: timesteps that a list visits twice (quad, near 0) are visited once.
diffusers_leading, diffusers_trailing, diffusers_linspace: the same table, number by number as diffusers' scheduler of the sampler
has it, for folders that are sampled as they say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from dmq_cli.errors import ConfigError

_log = logging.getLogger("dmq")


def _quad(total: int, count: int) -> list[int]:
    return [int(t) for t in np.linspace(0, np.sqrt(0.8 * total), count) ** 2]


def _trailing(total: int, count: int) -> list[int]:
    return [round(total - i * total / count) - 1 for i in range(count)]


def _linspace(total: int, count: int) -> list[int]:
    return [int(t) for t in np.linspace(0, total - 1, count + 1).round()[1:]]


def _ldm(total: int, count: int) -> list[int]:
    timesteps = list(range(1, total + 1, total // count))
    if timesteps[-1] == total:
        raise ConfigError(
            f"sampler.spacing=ldm with {count} timesteps visits timestep {total}, one more than the model was trained at;"
            f" take a number that divides {total} and is smaller."
        )
    if len(timesteps) != count:
        _log.info(
            "sampler.spacing=ldm: %d timesteps were asked for, but range(0, %d, %d) + 1 visits %d",
            count, total, total // count, len(timesteps),
        )  # fmt: skip
    return timesteps


_SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": lambda total, count: [i * (total // count) for i in range(count)],
    "quad": _quad,
    "trailing": _trailing,
    "ldm": _ldm,
    "linspace": _linspace,
}


_DIFFUSERS = ("diffusers_leading", "diffusers_trailing", "diffusers_linspace")
OFFSET = ("uniform", "diffusers_leading")
"""The spacings that steps_offset moves."""


def spaced(
    total: int, count: int, spacing: str, per_step: int = 1, offset: int = 0, without_zero: bool = False
) -> list[int]:
    """Choose the timesteps of `count` steps with per_step timesteps each, highest first, each once; 0 to total - 1.

    T = total, S = count * per_step. uniform: i (T // S) + offset. quad: floor(linspace(0, sqrt(0.8 T), S)^2). ldm:
    range(0, T, T // S) + 1, with a log line where that is not S. trailing: round(T - i T / S) - 1. linspace:
    round(linspace(0, T - 1, S + 1)) without 0. diffusers_...: see `_diffusers_list`.
    Raises ConfigError for an unknown spacing, for an impossible number of steps, and for an offset that has no effect.
    """
    if spacing not in {*_SPACINGS, *_DIFFUSERS}:
        *names, last = _SPACINGS
        raise ConfigError(
            f"sampler.spacing={spacing} is not known; use {', '.join(names)} or {last}, or diffusers' own lists: {', '.join(_DIFFUSERS)}."
        )
    if not 1 <= count * per_step <= total:
        why = f", as each step takes {per_step} of them" if per_step > 1 else ""
        raise ConfigError(
            f"sampler.num_inference_steps={count} does not fit a model of {total} timesteps; use 1 to {total // per_step}{why}."
        )
    if offset and spacing not in OFFSET:
        raise ConfigError(
            f"sampler.steps_offset={offset} does nothing with spacing={spacing}; use 0, or spacing={' or '.join(OFFSET)}."
        )
    if spacing in _DIFFUSERS:
        return _possible(_diffusers_list(total, count * per_step, spacing, offset, without_zero), total, count, spacing)
    listed = [timestep + offset for timestep in _SPACINGS[spacing](total, count * per_step)]
    visited = sorted(set(listed), reverse=True)
    return _possible(visited, total, count, spacing) if offset else visited


def _diffusers_list(total: int, count: int, spacing: str, offset: int, without_zero: bool) -> list[float]:
    """List timesteps as diffusers does, with its rounding. without_zero: of one more point, timestep 0 is left out."""
    if spacing == "diffusers_leading":
        ratio = total // (count + without_zero)
        return [(i + without_zero) * ratio + offset for i in reversed(range(count))]
    if spacing == "diffusers_trailing":
        return [float(t) - 1 for t in np.arange(total, 0, -total / count).round()]
    if without_zero:
        return [float(t) for t in np.linspace(0, total - 1, count + 1).round()[:0:-1]]
    return [float(t) for t in np.linspace(0, total - 1, count).round()[::-1]]


def _possible(listed: Sequence[float], total: int, count: int, spacing: str) -> list[int]:
    """Check that every timestep of the list is a training timestep and appears once. Raises ConfigError."""
    timesteps = [int(timestep) for timestep in listed]
    wrong = next((f"timestep {t}, which the model was not trained at" for t in timesteps if not 0 <= t < total), None)
    if wrong is None and len(set(timesteps)) < len(timesteps):
        wrong = f"timestep {next(t for t in timesteps if timesteps.count(t) > 1)} twice"
    if wrong is not None:
        raise ConfigError(
            f"sampler.num_inference_steps={count} with spacing={spacing} visits {wrong}; take another number, or"
            " sampler.spacing=uniform sampler.steps_offset=0."
        )
    return timesteps
