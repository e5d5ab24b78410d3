"""The parts of a model folder: which it declares, which exist, and which of them is the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models.files import class_name, read_json
from dmq_cli.obtain import find_network

NETWORKS, STAGES = ("unet", "transformer"), ("vqvae", "vae")
_TEXTS = ("text_encoder", "tokenizer")
_READ = {**dict.fromkeys((*NETWORKS, *STAGES, "text_encoder", "class_embedding"), "config.json"), "tokenizer": ""}
# A filter of finished images and what feeds it; the encoder of pictures that only adapters read.
_WITHOUT_EFFECT = (
    "scheduler",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)  # the schedule is checked by schedule.py
_UNNAMED = "of the latents"  # stands for a first stage whose class is not recorded


def network_folder(path: Path) -> Path:
    """Find the folder with the network's config.json: `path`/unet or `path`/transformer in a pipeline, else `path` itself.

    Raises MissingWeightsError where there is no folder, ModelError where there is no network in it, or two.
    """
    if all((path / name / "config.json").is_file() for name in NETWORKS):
        raise ModelError(
            f"The folder {path} has two networks, unet/ and transformer/; give the folder of a model with one."
        )
    if folder := find_network(path):
        return folder
    if not path.is_dir():
        raise MissingWeightsError(
            f"The model folder {path} does not exist; give the path of a diffusers folder on this machine."
        )
    if foreign := _foreign(path):
        from dmq_cli.models.families import names  # diffusers takes seconds to import

        raise ModelError(
            f"The folder {path} was given as a model, but is {foreign}, which dmq does not know; families known here:"
            f" {names()}."
        )
    raise ModelError(
        f"The folder {path} was given as a model but has neither unet/config.json nor transformer/config.json nor config.json;"
        " give a diffusers folder."
    )


def network_config(path: Path) -> dict[str, Any]:
    """config.json of the network of the model at `path`. Raises as network_folder and read_json."""
    return read_json(network_folder(path) / "config.json")


def first_stage_folder(path: Path) -> Path | None:
    """Find the folder of a pipeline's autoencoder; None for a model of pixels.

    Raises ModelError for one without config.json, and for two.
    """
    folders = [path / name for name in STAGES if (path / name).is_dir()]
    if len(folders) > 1:
        raise ModelError(
            f"The folder {path} has two first stages, vqvae/ and vae/; remove the one that is not the model's."
        )
    if folders and not (folders[0] / "config.json").is_file():
        raise ModelError(f"The first stage in {folders[0]} has no config.json; copy the whole folder again.")
    return folders[0] if folders else None


def check_parts(path: Path) -> None:
    """Raise ModelError for a part that the folder declares and does not have, has as another class, or that dmq leaves out.

    What declares parts is diffusers' model_index.json, what `dmq import` noted, and what `dmq train` did.
    """
    for part, kind in _declared(path).items():
        if part in _WITHOUT_EFFECT:
            continue
        if part not in _READ:
            raise ModelError(
                f"The pipeline in {path} has a part {part} ({kind}), of which dmq knows nothing, so its images would be others;"
                " give a model without it."
            )
        if not (path / part).is_dir() or not (path / part / _READ[part]).exists():
            raise ModelError(
                f"The model in {path} declares its part {part} ({kind}), but {part}/{_READ[part]} is not there; copy the whole folder."
            )
        if _READ[part]:
            _check_kind(path, part, kind)
    if (path / "class_embedding").is_dir() and (path / "text_encoder").is_dir():
        raise ModelError(
            f"The folder {path} has class_embedding/ and text_encoder/; remove the one that is not the model's."
        )


def _check_kind(path: Path, part: str, kind: str) -> None:
    """Check that config.json of a part names the same class as model_index.json."""
    from dmq_cli.models.families import current_name  # diffusers takes seconds to import

    written = class_name(read_json(path / part / "config.json"))
    if kind != _UNNAMED and written and current_name(written) != current_name(kind):
        raise ModelError(
            f"The file {path / 'model_index.json'} declares {part} to be a {kind}, but {part}/config.json says {written}; give the"
            " folder as it was saved."
        )


def _declared(path: Path) -> dict[str, str]:
    """Parts to their classes. [null, null] in model_index.json means that a part is left out by design."""
    from dmq_cli.models.importers.recipes import RECIPES  # the importers themselves look for parts

    kinds = _indexed(path)
    if recipe := RECIPES.get(str(_noted(path / "imported.json").get("as"))):
        kinds = {network.folder: network.kind for network in recipe.networks} | kinds
    if "autoencoder" in _noted(path / "card.json") and not kinds.keys() & set(STAGES):
        kinds |= {next((name for name in STAGES if (path / name).is_dir()), STAGES[0]): _UNNAMED}
    return kinds


def _noted(file: Path) -> dict[str, Any]:
    """Read what dmq wrote beside a model; {} where there is no such file, or one that dmq did not write."""
    try:
        return read_json(file)
    except ModelError:
        return {}


def _indexed(path: Path) -> dict[str, str]:
    file = path / "model_index.json"
    entries: Mapping[str, Any] = read_json(file) if file.is_file() else {}
    pairs = {name: value for name, value in entries.items() if isinstance(value, list) and not name.startswith("_")}
    return {name: str(value[-1]) for name, value in pairs.items() if len(value) == 2 and value[-1] is not None}


def _foreign(path: Path) -> str:
    """Describe a model of an unknown family by its pipeline and parts, for an error; "" if the folder names none."""
    from dmq_cli.models.families import current_name, families  # diffusers takes seconds to import

    index = path / "model_index.json"
    whole = class_name(read_json(index)) if index.is_file() else ""
    part_kinds = {file.parent.name: class_name(read_json(file)) for file in sorted(path.glob("*/config.json"))}
    kinds = _indexed(path) | {name: kind for name, kind in part_kinds.items() if kind}
    parts = {name: kind for name, kind in kinds.items() if name not in _WITHOUT_EFFECT}
    networks = {name: kind for name, kind in parts.items() if name not in (*_TEXTS, *STAGES, "class_embedding")}
    family_names = {family.name for family in families()}
    if not networks or family_names & set(map(current_name, networks.values())):
        return ""
    return f"{whole or 'a model'} ({', '.join(f'{name}: {kind}' for name, kind in parts.items())})"
