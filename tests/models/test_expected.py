"""A folder that is not the model it was given as: other networks, missing parts, other scales, damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models import check_expected, identified
from dmq_cli.models.first_stage import scaling_factor
from dmq_cli.obtain import missing
from tests.chain import tiny_folder
from tests.tiny import one_sentence

SOURCE = {"repo": "a/b", "url": "https://x.org/m.zip", "import": "ldm4_bedroom"}


def model(folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": "ldm4_bedroom", "path": str(folder), "sampling": {}, "source": SOURCE, **more}


def stage(folder: Path, name: str, **config: Any) -> Path:
    (folder / name).mkdir(exist_ok=True)
    kind = {"vae": "AutoencoderKL", "vqvae": "VQModel"}[name]
    (folder / name / "config.json").write_text(json.dumps({"_class_name": kind, **config}), encoding="utf-8")
    (folder / name / "diffusion_pytorch_model.safetensors").touch()
    return folder / name


def refused(found: dict[str, Any], kind: type[Exception] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        check_expected(found)
    assert type(caught.value) is kind
    return one_sentence(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


def parameters(folder: Path) -> int:
    from diffusers import UNet2DModel

    loaded = UNet2DModel.from_pretrained(folder / "unet")
    return sum(parameter.numel() for parameter in loaded.parameters())


def test_a_folder_that_agrees(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    expects = {key: config[key] for key in ("_class_name", "sample_size", "block_out_channels")}
    stage(folder, "vqvae", scaling_factor=1.0, latent_channels=1, vq_embed_dim=1)
    whole = model(folder, expects=expects, parameters=parameters(folder), latent=True, scaling_factor=1.0)
    check_expected(whole)
    assert set(identified(whole)) == {"name", "path", "sampling", "sha256", "first_stage"}, (
        "nothing else may enter a key"
    )


def test_another_network(folder: Path) -> None:
    text = refused(model(folder, expects={"block_out_channels": [224, 448]}))
    assert str(folder) in text and "was given as ldm4_bedroom" in text and "[224, 448]" in text
    assert "null" in refused(model(folder, expects={"cross_attention_dim": 512}))
    text = refused(model(folder, parameters=274_056_163))
    assert "274,056,163" in text and f"{parameters(folder):,}" in text


def test_a_missing_first_stage_and_a_wrong_scale(folder: Path) -> None:
    latent = model(folder, latent=True, scaling_factor=0.18215)
    assert "first stage is missing" in refused(latent)
    vae = stage(folder, "vae", scaling_factor=1.0)
    text = refused(latent)
    assert "scaled by 1.0 and not by 0.18215" in text and str(vae / "config.json") in text
    stage(folder, "vae")
    check_expected(latent)  # that of the published KL models
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    assert str(vae) in refused(latent, MissingWeightsError)
    stage(folder, "vae")
    (vae / "config.json").write_text("[1", encoding="utf-8")
    assert "could not be read as JSON" in refused(latent)
    assert scaling_factor(stage(folder, "vqvae")) == 1.0  # LDM's


def test_damaged_weights(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"\xff" * 40)
    assert "could not be read" in refused(model(folder, parameters=3))
    weights.unlink()
    text = refused(model(folder), MissingWeightsError)
    assert weights.name in text and "dmq fetch model=ldm4_bedroom" in text


def test_how_to_get_a_model(tmp_path: Path) -> None:
    text = missing(model(tmp_path / "none")) or ""
    assert refused(model(tmp_path / "none"), MissingWeightsError) == text
    parts = ["https://huggingface.co/a/b", "https://x.org/m.zip, unpack it", "dmq import model.ckpt --as ldm4_bedroom"]
    assert all(part in text for part in [*parts, f"--to {tmp_path / 'none'}", "model.path=FOLDER"])
    assert "--to" not in (missing(model(Path("outputs/models/ldm4_bedroom").absolute())) or "--to")
    source = {"repo": None, "url": None, "import": "ldm4_church", "note": "nobody published it"}
    assert "; nobody published it and convert it with: " in (missing(model(tmp_path / "none", source=source)) or "")


def test_a_folder_of_ones_own_is_not_looked_up(tmp_path: Path) -> None:
    bare = {"name": "x", "path": str(tmp_path / "none"), "sampling": {}}
    assert missing(bare) is None
    assert "does not exist" in refused(bare, MissingWeightsError)
    (tmp_path / "none").mkdir()
    assert "nor config.json" in refused({**bare, "source": SOURCE})
