"""Assign the tensors of a checkpoint to its networks; every name in it must have a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.importers.keymap import some
from dmq_cli.models.importers.recipes import Recipe

_AVERAGES = "model_ema."
_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}
_LOSS = "first_stage_model.loss."  # the discriminator that a first stage was trained with
_POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"  # 0, 1, 2, ...
_TABLES = {  # functions of betas, which are compared with the recipe's schedule
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
}
_UNUSED = _TABLES | _COUNTERS | {_POSITIONS}


@dataclass(frozen=True)
class Shares:
    """tensors: for each network of the recipe, by the names behind its prefix; scale: of the latents, if it is there.

    average: whether the denoiser's weights are the exponential moving averages of training.
    """

    tensors: tuple[dict[str, Tensor], ...]
    scale: float | None
    average: bool


def share(recipe: Recipe, state: Mapping[str, Tensor], what: str) -> Shares:
    """Give every tensor its place; for LDM the averages `model_ema.*` replace the denoiser's weights where they are.

    what: the sentence's start. Raises ModelError for names without a place and for another noise schedule.
    """
    if not recipe.networks[0].prefix:
        return Shares((dict(state),), None, False)
    tensors = {k: v for k, v in state.items() if k not in _UNUSED and not k.startswith(_LOSS)}
    parts = [_behind(network.prefix, tensors) for network in recipe.networks]
    averages, scale = _behind(_AVERAGES, tensors), tensors.get("scale_factor")
    prefixes = (*(network.prefix for network in recipe.networks), _AVERAGES)
    if unplaced := [name for name in tensors if not name.startswith(prefixes) and name != "scale_factor"]:
        raise ModelError(
            f"{what} has {some(unplaced)}, which have no place; it is a checkpoint of another architecture."
        )
    if "betas" in state:
        _check_betas(state["betas"], recipe.schedule, what)
    if averages:
        parts[0] = _averaged(parts[0], averages, what)
    return Shares(tuple(parts), None if scale is None else _number(scale, what), bool(averages))


def betas(schedule: Mapping[str, Any]) -> Tensor:
    """The variances a scheduler configuration means, (T,), float64; scaled_linear is linear in the square root."""
    power = 2 if schedule["beta_schedule"] == "scaled_linear" else 1
    first, last = schedule["beta_start"] ** (1 / power), schedule["beta_end"] ** (1 / power)
    return torch.linspace(first, last, schedule["num_train_timesteps"], dtype=torch.float64) ** power


def _behind(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _averaged(plain: dict[str, Tensor], averages: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """The averages by the weights' names. LDM stores "diffusion_model.out.2.bias" as "diffusion_modelout2bias"."""
    flat = {name: f"diffusion_model{name}".replace(".", "") for name in plain}
    if len(set(flat.values())) != len(flat) or set(flat.values()) != set(averages):
        odd = sorted(set(flat.values()) ^ set(averages)) or sorted(flat)
        raise ModelError(f"{what} has averages (model_ema) that do not belong to its weights: {some(odd)}.")
    return {name: averages[flat_name] for name, flat_name in flat.items()}


def _check_betas(given_betas: Tensor, schedule: Mapping[str, Any], what: str) -> None:
    expected = betas(schedule)
    if given_betas.shape != expected.shape or float((given_betas.double() - expected).abs().max()) > 1e-6:
        raise ModelError(
            f"{what} was trained with another noise schedule than {schedule['beta_schedule']} from"
            f" {schedule['beta_start']} to {schedule['beta_end']}; choose the name of the right model."
        )


def _number(tensor: Tensor, what: str) -> float:
    value = float(tensor) if tensor.numel() == 1 else 0.0
    if not 0 < value < 1e6:
        raise ModelError(f"{what} has a scale_factor of {value}, which latents cannot have; download it again.")
    return value
