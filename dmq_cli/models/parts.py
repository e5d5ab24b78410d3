"""The parts of a model folder: which it declares, which are there, and where the network is among them."""

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
)  # the schedule is asked for elsewhere
_UNNAMED = "of the latents"  # a first stage whose class nobody says


def network_folder(path: Path) -> Path:
    """Where config.json of the network lies: `path`/unet or `path`/transformer in a pipeline, `path` itself in a bare folder.

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
    if found := _foreign(path):
        from dmq_cli.models.families import names  # diffusers takes seconds to import

        raise ModelError(
            f"The folder {path} was given as a model, but is {found}, which dmq does not know; families known here:"
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
    """Where the autoencoder of a pipeline folder lies; None for a model of pixels.

    Raises ModelError for one without config.json, and for two.
    """
    there = [path / name for name in STAGES if (path / name).is_dir()]
    if len(there) > 1:
        raise ModelError(
            f"The folder {path} has two first stages, vqvae/ and vae/; remove the one that is not the model's."
        )
    if there and not (there[0] / "config.json").is_file():
        raise ModelError(f"The first stage in {there[0]} has no config.json; copy the whole folder again.")
    return there[0] if there else None


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
    """That config.json of a part names the class that model_index.json does."""
    from dmq_cli.models.families import current_name  # diffusers takes seconds to import

    found = class_name(read_json(path / part / "config.json"))
    if kind != _UNNAMED and found and current_name(found) != current_name(kind):
        raise ModelError(
            f"The file {path / 'model_index.json'} declares {part} to be a {kind}, but {part}/config.json says {found}; give the"
            " folder as it was saved."
        )


def _declared(path: Path) -> dict[str, str]:
    """Parts to their classes. [null, null] in model_index.json means that a part is left out by design."""
    from dmq_cli.models.importers.recipes import RECIPES  # the importers themselves look for parts

    found = _indexed(path)
    if recipe := RECIPES.get(str(_noted(path / "imported.json").get("as"))):
        found = {network.folder: network.kind for network in recipe.networks} | found
    if "autoencoder" in _noted(path / "card.json") and not found.keys() & set(STAGES):
        found |= {next((name for name in STAGES if (path / name).is_dir()), STAGES[0]): _UNNAMED}
    return found


def _noted(file: Path) -> dict[str, Any]:
    """What dmq wrote beside a model; nothing where there is no such file or somebody else's."""
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
    """What a folder without a network where one is looked for says that it is: its pipeline and its parts; "" if nothing."""
    from dmq_cli.models.families import current_name, families  # diffusers takes seconds to import

    index = path / "model_index.json"
    whole = class_name(read_json(index)) if index.is_file() else ""
    own_words = {file.parent.name: class_name(read_json(file)) for file in sorted(path.glob("*/config.json"))}
    kinds = _indexed(path) | {name: kind for name, kind in own_words.items() if kind}
    parts = {name: kind for name, kind in kinds.items() if name not in _WITHOUT_EFFECT}
    own = {name: kind for name, kind in parts.items() if name not in (*_TEXTS, *STAGES, "class_embedding")}
    known = {family.name for family in families()}
    if not own or known & set(map(current_name, own.values())):
        return ""
    return f"{whole or 'a model'} ({', '.join(f'{name}: {kind}' for name, kind in parts.items())})"
