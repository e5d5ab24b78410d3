"""Build a network from config.json: its sizes are bounded before anything is built, and an unknown entry is an error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import no_init_weights
from torch import nn

from dmq_cli.errors import DmqError, ModelError
from dmq_cli.models.families import family_of_class
from dmq_cli.models.files import read_json

_COUNTS = ("layers_per_block", "transformer_layers_per_block", "num_layers", "num_hidden_layers")
_MOST_LAYERS = 1000  # of all levels together; the largest known networks have about a hundred
_LONGEST_LIST = 100
_LARGEST = 1 << 20  # channels, words, classes, pixels of a side
_MOST_POSITIONS = 1 << 28  # numbers in the table of a transformer's positions, which is computed while it is built
# Entries that change what a pipeline computes around the network, which dmq does not do.
_UNSUPPORTED = {"time_cond_proj_dim": "is told the guidance scale in its time embedding"}


def component_config(folder: Path, packed: bool = False) -> dict[str, Any]:
    """Read config.json of one component. packed: it may be that of a network that dmq exported.

    Raises ModelError for quantized weights otherwise, and for sizes that no network has.
    """
    file = folder / "config.json"
    config = read_json(file)
    if packed and dict(config.get("quantization_config") or {}).get("quant_method") == "dmq":
        del config["quantization_config"]
    if config.get("quantization_config") is not None:
        raise ModelError(
            f"The file {file} has a quantization_config, so its weights are quantized already; give the model in full precision."
        )
    _check_sizes(file, config)
    return config


def built(kind: Any, folder: Path, config: Mapping[str, Any], meta: bool = False) -> nn.Module:
    """Build a network of the diffusers class `kind`, on the meta device or with values that have to be overwritten.

    Raises ModelError for entries that the class does not know and for a configuration that it cannot build.
    """
    _check_entries(kind, folder / "config.json", config)
    entries = {name: value for name, value in config.items() if name in _parameters(kind) or name.startswith("_")}
    try:
        with no_init_weights(), torch.device("meta" if meta else "cpu"):
            model: nn.Module = kind.from_config(entries)
    except DmqError:
        raise
    except Exception as error:  # a stranger's values end in any kind
        raise ModelError(
            f"The file {folder / 'config.json'} describes no network ({first_line(error)}); copy the folder again."
        ) from error
    return model


def first_line(error: Exception) -> str:
    """Shorten the message of another package's error to one line without a full stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _check_entries(kind: Any, file: Path, config: Mapping[str, Any]) -> None:
    family = family_of_class(kind)
    old = family and family.former  # published folders have all entries of that class
    parameters, former = _parameters(kind), _parameters(old.kind) if old else {}
    for name, value in config.items():
        off = value is None or (name in former and former[name].default == value)
        if not name.startswith("_") and name not in parameters and not off:
            raise ModelError(
                f"The file {file} has {name}={_short(value)}, which {kind.__name__} does not know and would ignore; use the class"
                " that it was written for, or remove the entry if it changes nothing."
            )
        if name in _UNSUPPORTED and not off:
            raise ModelError(
                f"The network of {file} {_UNSUPPORTED[name]} ({name}={_short(value)}), which dmq does not do; give a model without."
            )


def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    parameters = dict(inspect.signature(kind.__init__).parameters)
    parameters.pop("self", None)
    return parameters


def _check_sizes(file: Path, config: Mapping[str, Any]) -> None:
    for name, number in _numbers(file, "", config):
        if abs(number) > _LARGEST:
            _too_large(file, f"{name}={number}", _LARGEST)
    counts = [max((abs(n) for _, n in _numbers(file, name, config.get(name))), default=1) for name in _COUNTS]
    widths = config.get("block_out_channels")
    levels = len(widths) if isinstance(widths, list) else 1
    layers = levels
    for count in counts:
        layers *= max(count, 1)
    if layers > _MOST_LAYERS:
        _too_large(file, f"{layers} layers", _MOST_LAYERS)
    sizes = [config.get(name) for name in ("sample_size", "patch_size", "num_attention_heads", "attention_head_dim")]
    if all(type(size) is int and size > 0 for size in sizes):
        side, patch, heads, width = (int(str(size)) for size in sizes)
        if (positions := (side // patch) ** 2 * heads * width) > _MOST_POSITIONS:
            _too_large(file, f"a table of {positions} numbers", _MOST_POSITIONS)


def _numbers(file: Path, name: str, value: object) -> Iterator[tuple[str, int]]:
    """Every whole number in a value, with the entry that it is in. Raises ModelError for a list that is too long."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if not key.startswith("_"):
                yield from _numbers(file, key, entry)
    elif isinstance(value, list):
        if len(value) > _LONGEST_LIST:
            _too_large(file, f"{len(value)} entries in {name}", _LONGEST_LIST)
        for entry in value:
            yield from _numbers(file, name, entry)


def _too_large(file: Path, size: str, most: int) -> None:
    raise ModelError(f"The file {file} asks for {size}, and at most {most} are possible; copy the folder again.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
