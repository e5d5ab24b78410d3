"""Folders of which a part is missing, is another, or is one that dmq knows nothing of; and folders of other networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import DmqError, ModelError
from dmq_cli.models import folder_sha256, identified
from dmq_cli.models.families import names
from dmq_cli.paths import PACKAGE
from tests import pipelines
from tests.chain import tiny_folder
from tests.tiny import one_sentence

SHIPPED = PACKAGE / "zoo" / "weights"


def model(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "path": str(folder), "sampling": {}}


def refused(folder: Path) -> str:
    with pytest.raises(DmqError) as caught:
        identified(model(folder))
    assert isinstance(caught.value, ModelError)
    return one_sentence(caught.value)


def indexed(folder: Path, **entries: Any) -> None:
    file = folder / "model_index.json"
    before = json.loads(file.read_text()) if file.is_file() else {"_class_name": "APipeline"}
    file.write_text(json.dumps(before | entries))


@pytest.mark.parametrize(
    ("name", "part"),
    [("ldm_digits", "vqvae"), ("ldm_digits_class", "vqvae"), ("dit_digits", "vae"), ("sd_digits", "tokenizer")],
)
def test_a_copy_without_a_part(name: str, part: str, tmp_path: Path) -> None:
    """By model_index.json or, where there is none, by what the training noted."""
    path = Path(shutil.copytree(SHIPPED / name, tmp_path / "copy"))
    assert identified(model(path))["sha256"] == folder_sha256(SHIPPED / name)
    shutil.rmtree(path / part)
    assert f"declares its part {part}" in refused(path)


def test_what_was_imported_is_known_by_its_note(tmp_path: Path) -> None:
    path = tiny_folder(tmp_path / "tiny", in_channels=3, out_channels=3)
    identified(model(path))
    (path / "imported.json").write_text(json.dumps({"as": "ldm4_bedroom"}))
    assert "declares its part vqvae (VQModel)" in refused(path)
    (path / "imported.json").write_text("[]")  # somebody else's
    identified(model(path))


def test_parts_that_are_left_out_by_design_or_change_nothing(tmp_path: Path) -> None:
    path = pipelines.latent(tmp_path / "latent")
    indexed(
        path,
        safety_checker=[None, None],
        image_encoder=[None, None],
        text_encoder=[None, None],
        controlnet=[None, None],
    )
    indexed(path, feature_extractor=["transformers", "CLIPFeatureExtractor"], requires_safety_checker=False)
    identified(model(path))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda path: indexed(path, controlnet=["diffusers", "ControlNetModel"]), "has a part controlnet (ControlNetModel)"),
        (lambda path: indexed(path, vqvae=["diffusers", "AutoencoderTiny"]), "to be a AutoencoderTiny, but vqvae/config.json says"),
        (lambda path: (path / "vqvae/config.json").unlink(), "vqvae/config.json is not there"),
        (lambda path: shutil.copytree(path / "vqvae", path / "vae"), "has two first stages"),
        (lambda path: shutil.copytree(path / "unet", path / "transformer"), "has two networks"),
        (lambda path: (path / "model_index.json").write_text("[" * 200_000), "could not be read as JSON"),
        (lambda path: (path / "unet/config.json").write_text("[" * 200_000), "could not be read as JSON"),
        (lambda path: (path / "vqvae/config.json").write_text('{"a":' * 200_000), "could not be read as JSON"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be(change: Callable[[Path], Any], part: str, tmp_path: Path) -> None:
    path = pipelines.latent(tmp_path / "latent")
    change(path)
    assert part in refused(path)


def test_a_first_stage_without_its_configuration(tmp_path: Path) -> None:
    path = pipelines.tokens(tmp_path / "tokens")  # no model_index.json
    (path / "vqvae/config.json").unlink()
    assert "has no config.json" in refused(path)


FOREIGN: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], str]] = {
    "stable cascade": (
        {"_class_name": "StableCascadePriorPipeline", "prior": ["stable_cascade", "StableCascadeUNet"]},
        {"prior": {"_class_name": "StableCascadeUNet"}, "text_encoder": {"architectures": ["CLIPTextModelWithProjection"]}},
        "is StableCascadePriorPipeline (prior: StableCascadeUNet",
    ),
    "lgm": ({"_class_name": "LGMFullPipeline", "lgm": ["lgm", "LGM"]}, {"lgm": {}}, "is LGMFullPipeline (lgm: LGM)"),
    "parts alone": ({}, {"decoder": {"_class_name": "StableCascadeUNet"}}, "is a model (decoder: StableCascadeUNet)"),
    "multiview": ({}, {"unet": {"_class_name": "MultiViewUNetModel"}}, "is a MultiViewUNetModel, which dmq does not know"),
    "flux": ({}, {"transformer": {"_class_name": "FluxTransformer2DModel"}}, "is a FluxTransformer2DModel"),
    "audio": ({}, {"transformer": {"_class_name": "StableAudioDiTModel"}}, "is a StableAudioDiTModel"),
    "video": ({}, {"unet": {"_class_name": "UNetSpatioTemporalConditionModel"}}, "is a UNetSpatioTemporalConditionModel"),
    "pixart": (
        {}, {"transformer": {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}}, "is a Transformer2DModel",
    ),
    "a text model": ({}, {".": {"architectures": ["CLIPModel"]}}, "is a CLIPModel"),
    "no class": ({}, {"unet": {}}, "is a network that its config.json does not name"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_another_network_is_told_its_class_and_what_is_known(name: str, tmp_path: Path) -> None:
    index, parts, sentence = FOREIGN[name]
    if index:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part, config in parts.items():
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    message = refused(tmp_path)
    assert sentence in message and names() in message, message
