"""Reads the weights of one network of a diffusers folder, strictly. Never downloads, never unpickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models.files import require_weights
from dmq_cli.store.tensors import check_finite


def load_network(kind: Any, folder: Path) -> nn.Module:
    """A network of the diffusers class `kind`, in eval mode, float32, without gradients.

    Raises MissingWeightsError, ModelError for weights that do not fit its config.json, NumericsError for NaN in them.
    """
    require_weights(folder)
    options = {
        "use_safetensors": True,
        "local_files_only": True,
        "low_cpu_mem_usage": False,
        "torch_dtype": torch.float32,
    }
    try:
        model, report = kind.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged file
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The weights in {folder} could not be read ({first}); copy the folder again.") from error
    for state in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        if report.get(state):
            _refuse(folder, state.replace("_keys", ""), list(report[state]))
    loaded: nn.Module = model
    check_finite(dict(loaded.state_dict()), f"The weights in {folder}")
    return loaded.eval().requires_grad_(False)


def _refuse(folder: Path, kind: str, keys: list[Any]) -> None:
    found = {
        "mismatched": "the wrong shape for",
        "missing": "no values for",
        "unexpected": "values that do not belong to",
    }
    raise ModelError(
        f"The checkpoint in {folder} has {found[kind]} {len(keys)} tensors of the network in its config.json"
        f" (first: {keys[0]}); use the config.json that belongs to these weights."
    )
