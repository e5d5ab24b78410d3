"""The folder of an exported network: diffusers' layout, with packed integers and a `quantization_config` whose quant_method is dmq.

`quantization_config` holds the version of the format, the sha256 of the weights' file and, for people, bits and method. The layout of the
quantizers is in the metadata of that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dmq_cli.deploy.index import FORMAT, check_format
from dmq_cli.deploy.packed import packed, plain_state, unpacked
from dmq_cli.deploy.records import Record
from dmq_cli.errors import ArtifactCorruptError, ModelError
from dmq_cli.models.configs import built, component_config
from dmq_cli.models.files import read_json
from dmq_cli.models.folder import adapted, network_family
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store import file_sha256, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached

METHOD = "dmq"
CORRECTION = "correction/tables.safetensors"
_SECTION = "quantization_config"


def network_name(model: nn.Module) -> str:
    """The folder of a network inside of a pipeline's: unet or transformer."""
    return "transformer" if "Transformer" in type(model).__name__ else "unet"


def write_network(folder: Path, attached: Attached, about: Mapping[str, Any]) -> None:
    """Write config.json and packed weights of a quantized network. about: plain values for people, put into quantization_config."""
    tensors, layout = packed(attached)
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt", METHOD: json.dumps({"format": FORMAT, "sites": layout})})
    config = json.loads(attached.model.to_json_string())  # type: ignore[operator]
    entries = {name: value for name, value in config.items() if name != "_name_or_path"}
    section = {"quant_method": METHOD, "format": FORMAT, "sha256": file_sha256(folder / WEIGHTS), **about}
    write_json(folder / "config.json", {**entries, _SECTION: section})


def read_network(folder: Path, tokens: int = 1) -> Attached:
    """Read an exported network: in eval mode, float32, with its quantizers. tokens: of its condition, as for full precision.

    Raises ModelError for a folder of another kind or a newer format, ArtifactCorruptError for files that are not as they were written.
    """
    config = read_json(folder / "config.json")
    file, layout = checked(folder, config.get(_SECTION))
    plain = component_config(folder, packed=True)
    model = built(network_family(folder).kind, folder, plain)
    tensors = load_tensors(file)
    fill(model, plain_state(tensors, layout, shapes_of(model)))
    return unpacked(adapted(model, tokens), tensors, layout)


def checked(folder: Path, section: Any) -> tuple[Path, dict[str, Record]]:
    """The weights' file of an exported network, and its layout, once both are known to be as they were written. See read_network."""
    if not isinstance(section, Mapping) or section.get("quant_method") != METHOD:
        raise ModelError(f"The network in {folder} was to be loaded as one that dmq exported, but its config.json says nothing of that; give the folder that dmq export printed.")  # fmt: skip
    check_format(section.get("format"), folder)
    file = folder / WEIGHTS
    if not file.is_file() or file_sha256(file) != section.get("sha256"):
        raise ArtifactCorruptError(
            f"The weights in {file} are missing or not those that were exported (their sha256 differs); copy the folder again."
        )
    return file, _layout(file)


def _layout(file: Path) -> dict[str, Record]:
    try:
        with safe_open(file, "pt") as opened:
            description = json.loads((opened.metadata() or {})[METHOD])
        check_format(description["format"], file.parent)
        layout: dict[str, Record] = dict(description["sites"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactCorruptError(
            f"The file {file} has no layout of quantizers ({error!r}); export it again."
        ) from error
    return layout


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a network."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a network's state, strictly. Raises ArtifactCorruptError for names or shapes that are not its own."""
    expected, given = shapes_of(model), {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != given:
        wrong = sorted(name for name in {*expected, *given} if expected.get(name) != given.get(name))
        raise ArtifactCorruptError(
            f"The exported weights have {len(wrong)} tensors that do not fit their config.json (first: {wrong[0]}); export again."
        )
    model.load_state_dict(state)
