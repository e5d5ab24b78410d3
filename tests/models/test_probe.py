"""Models that cannot be sampled from are refused before anything is computed, by one call without numbers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import diffusers
import pytest

from dmq_cli.errors import ModelError
from dmq_cli.models import identified
from dmq_cli.models.probe import check_network
from dmq_cli.paths import PACKAGE
from tests import pipelines
from tests.chain import dmq, tiny_folder
from tests.tiny import one_sentence

COND = pipelines._COND


def model(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "path": str(folder), "sampling": {}}


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        identified(model(folder))
    assert type(caught.value) is ModelError
    return one_sentence(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: make(base / kind) for kind, make in pipelines.FOLDERS.items()}


def replaced(folder: Path, part: str, kind: str, config: dict[str, Any]) -> Path:
    shutil.rmtree(folder / part)
    getattr(diffusers, kind)(**config).save_pretrained(folder / part)
    return folder


PIXELS: list[tuple[dict[str, Any], str]] = [
    ({"in_channels": 9}, "reads 9x16x16 and estimates 1x16x16"),
    ({"out_channels": 2}, "reads 1x16x16 and estimates 2x16x16"),
    ({"in_channels": 4, "out_channels": 4}, "it has no first stage (vae/ or vqvae/) and makes 4 channels"),
    ({"sample_size": None}, "has sample_size=None in its config.json"),
    ({"sample_size": 15}, "cannot be called as dmq would"),
    ({"class_embed_type": "identity"}, "reads class_labels besides a sample, and its folder gives nothing"),
]


@pytest.mark.parametrize(("changes", "part"), PIXELS, ids=str)
def test_networks_of_pixels(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    assert part in refused(tiny_folder(tmp_path / "tiny", **changes))


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 112,
}
CONDITIONAL: list[tuple[dict[str, Any], str]] = [
    (SDXL, "has no role in dmq"),
    ({"dual_cross_attention": True}, "has no role in dmq"),
    ({"in_channels": 9}, "reads 9x8x8 and estimates 2x8x8"),
    ({"out_channels": 4}, "reads 2x8x8 and estimates 4x8x8"),
    (
        {"num_class_embeds": 4},
        "reads class_labels and encoder_hidden_states besides a sample, and its folder gives encoder",
    ),
    ({"cross_attention_dim": 32}, "reads tokens of width 32, but its text encoder gives a width of 64"),
    ({"sample_size": None}, "has sample_size=None"),
    ({"time_cond_proj_dim": 32}, "is told the guidance scale in its time embedding"),
    ({"in_channels": 3, "out_channels": 3}, "The first stage of the model"),
]


@pytest.mark.parametrize(("changes", "part"), CONDITIONAL, ids=str)
def test_networks_that_read_texts(changes: dict[str, Any], part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders["prompts"], tmp_path / "model"))
    assert part in refused(replaced(path, "unet", "UNet2DConditionModel", COND | changes))


def test_a_first_stage_that_makes_no_image(folders: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders["tokens"], tmp_path / "model"))
    config = pipelines._AUTOENCODER | {"num_vq_embeddings": 32, "vq_embed_dim": 2, "out_channels": 4}
    assert "its first stage makes 4 channels" in refused(replaced(path, "vqvae", "VQModel", config))


@pytest.mark.parametrize("verb", [["plan", "sample"], ["cost"], ["evaluate"]])
def test_every_verb_tells_before_it_computes(verb: list[str], tmp_path: Path) -> None:
    path = tiny_folder(tmp_path / "inpainting", in_channels=9)
    result = dmq(*verb, f"model={path}", f"runtime.outputs={tmp_path / 'out'}")
    assert result.code == 1 and "reads 9x16x16" in result.sentence
    assert not (tmp_path / "out" / "artifacts").exists()


@pytest.mark.parametrize("kind", pipelines.FOLDERS)
def test_what_can_be_sampled_passes(kind: str, folders: dict[str, Path]) -> None:
    identity = identified(model(folders[kind]))
    assert "sha256" in identity and "first_stage" in identity


@pytest.mark.parametrize("name", ["ddim_digits", "ldm_digits", "sd_digits", "dit_digits"])
def test_what_is_shipped_passes_fast(name: str) -> None:
    path, start = PACKAGE / "zoo" / "weights" / name, time.process_time()
    check_network(path, f"measured {name}")
    assert time.process_time() - start < 1.5, "0.1 to 0.3 s when nothing else runs"


def test_an_edited_configuration_is_looked_at_again(folders: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders["latent"], tmp_path / "model"))
    identified(model(path))
    config = json.loads((path / "unet/config.json").read_text())
    (path / "unet/config.json").write_text(json.dumps(config | {"sample_size": None}))
    assert "has sample_size=None" in refused(path)
