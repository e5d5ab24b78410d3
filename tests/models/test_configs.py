"""Entries of config.json: limits before anything is built, none ignored unsaid, and what a first stage does with its latents."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from dmq_cli.errors import ModelError
from dmq_cli.models import identified, load_adapter
from dmq_cli.models.first_stage import load_decoder
from dmq_cli.models.folder import shapes_of_folder
from tests import pipelines
from tests.tiny import one_sentence


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: make(base / kind) for kind, make in pipelines.FOLDERS.items()}


def edited(folder: Path, to: Path, file: str, **entries: Any) -> Path:
    path = Path(shutil.copytree(folder, to))
    config = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(config | entries))
    return path


def model(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "path": str(folder), "sampling": {}}


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        identified(model(path))
    return one_sentence(caught.value)


LARGE: list[tuple[str, str, dict[str, Any], str]] = [
    ("latent", "unet", {"layers_per_block": 10_000_000}, "asks for layers_per_block=10000000"),
    ("latent", "unet", {"layers_per_block": 100_000}, "asks for 100000 layers, and at most 1000"),
    ("latent", "unet", {"block_out_channels": [8] * 5000}, "asks for 5000 entries in block_out_channels"),
    ("latent", "unet", {"block_out_channels": [1 << 40]}, "at most 1048576"),
    ("latent", "unet", {"sample_size": 10**12}, "asks for sample_size=1000000000000"),
    ("latent", "vqvae", {"layers_per_block": 5000}, "asks for 10000 layers"),
    ("latent", "vqvae", {"num_vq_embeddings": 10**10}, "asks for num_vq_embeddings=10000000000"),
    ("prompts", "unet", {"transformer_layers_per_block": [[2000]]}, "asks for 2000 layers"),
    ("transformer", "transformer", {"num_layers": 100_000}, "asks for 100000 layers"),
    ("transformer", "transformer", {"sample_size": 1_000_000}, "asks for a table of"),
    ("prompts", "text_encoder", {"num_hidden_layers": 100_000}, "asks for 100000 layers"),
    ("tokens", "class_embedding", {"num_embeddings": 10**12}, "asks for num_embeddings=1000000000000"),
]


@pytest.mark.parametrize(("kind", "part", "entries", "sentence"), LARGE)
def test_configurations_that_explode_are_refused_at_once(
    kind: str, part: str, entries: dict[str, Any], sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    path, start = edited(folders[kind], tmp_path / "model", f"{part}/config.json", **entries), time.process_time()
    assert sentence in refused(path)
    assert time.process_time() - start < 2


def test_shapes_are_compared_before_numbers_are_allocated(folders: dict[str, Path], tmp_path: Path) -> None:
    """A million words of a million numbers are 4 TB; the file beside has a few."""
    sizes = {"num_vq_embeddings": 1 << 20, "vq_embed_dim": 1 << 18}
    path = edited(folders["latent"], tmp_path / "model", "vqvae/config.json", **sizes)
    with pytest.raises(ModelError, match="has the wrong shape for"):
        load_decoder(path)


IGNORED: list[tuple[str, str, dict[str, Any], str]] = [
    ("latent", "unet", {"rescale_noise": 2.0}, "has rescale_noise=2.0, which UNet2DModel does not know"),
    ("latent", "unet", {"cross_attention_dim": 8}, "has cross_attention_dim=8, which UNet2DModel does not know"),
    ("latent", "vqvae", {"shift_factor": 0.1}, "has shift_factor=0.1, which VQModel does not know"),
    ("prompts", "vae", {"logit_scale": 3}, "has logit_scale=3, which AutoencoderKL does not know"),
    ("transformer", "transformer", {"cross_attention_dim": 8}, "which DiTTransformer2DModel does not know"),
    ("latent", "unet", {"quantization_config": {"load_in_8bit": True}}, "unet/config.json has a quantization_config"),
    ("latent", "vqvae", {"quantization_config": {"load_in_8bit": True}}, "vqvae/config.json has a quantization_config"),
    ("prompts", "text_encoder", {"quantization_config": {"bits": 4}}, "text_encoder/config.json has a quantization_config"),
    ("tokens", "class_embedding", {"quantization_config": {"bits": 4}}, "class_embedding/config.json has a quant"),
    ("prompts", "vae", {"latents_mean": [0.1, 0.2]}, "belong together as mean with std"),
    ("prompts", "vae", {"latents_mean": [0.1], "latents_std": [1.0]}, "2 finite numbers are needed"),
    ("prompts", "vae", {"latents_mean": [0.1, 0.2], "latents_std": [1.0, 0.0]}, "2 finite numbers are needed"),
    ("prompts", "vae", {"shift_factor": "much"}, "1 finite numbers are needed"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "part", "entries", "sentence"), IGNORED)
def test_no_entry_is_ignored_unsaid(
    kind: str, part: str, entries: dict[str, Any], sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = edited(folders[kind], tmp_path / "model", f"{part}/config.json", **entries)
    if kind == "tokens" or part == "text_encoder":
        with pytest.raises(ModelError) as caught:
            identified(model(path))
        assert sentence in one_sentence(caught.value)
    else:
        assert sentence in refused(path)


def test_entries_of_published_folders_that_change_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """A published DiT has all entries of the class that it once was of, and newer tools leave null where a thing is not used."""
    older: dict[str, Any] = {
        "cross_attention_dim": None,
        "double_self_attention": False,
        "num_vector_embeds": None,
        "only_cross_attention": False,
    }
    older |= {"use_linear_projection": False, "_class_name": "Transformer2DModel", "_name_or_path": "a/b"}
    path = edited(folders["transformer"], tmp_path / "dit", "transformer/config.json", **older)
    wanted = load_adapter(folders["transformer"]).model.state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in load_adapter(path).model.state_dict().items())
    assert shapes_of_folder(path).sample_shape() == shapes_of_folder(folders["transformer"]).sample_shape()
    identified(model(path))
    identified(model(edited(folders["latent"], tmp_path / "unet", "unet/config.json", later_option=None)))


def encoded(path: Path) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """An autoencoder, latents as its encoder gives them, and the images of these."""
    vae = AutoencoderKL.from_pretrained(path / "vae").eval()
    with torch.inference_mode():
        latents = vae.encode(torch.linspace(-1, 1, 512).view(2, 1, 16, 16)).latent_dist.mode()
        return vae, latents, vae.decode(latents).sample


def test_a_shift_is_undone_as_it_is_done(folders: dict[str, Path], tmp_path: Path) -> None:
    """StableDiffusion3Img2ImgPipeline encodes to (latents - shift_factor) * scaling_factor."""
    path = edited(folders["prompts"], tmp_path / "model", "vae/config.json", shift_factor=0.25, scaling_factor=1.5)
    vae, latents, images = encoded(path)
    decode = load_decoder(path)
    assert decode is not None and vae.config.shift_factor == 0.25
    assert torch.allclose(decode((latents - 0.25) * 1.5), images, atol=1e-5)
    assert not torch.allclose(decode(latents * 1.5), images, atol=1e-2)


def test_mean_and_deviation_of_each_channel(folders: dict[str, Path], tmp_path: Path) -> None:
    """StableDiffusionXLImg2ImgPipeline encodes to (latents - mean) * scaling_factor / std."""
    entries = {"latents_mean": [0.5, -1.0], "latents_std": [2.0, 0.5], "scaling_factor": 1.5}
    path = edited(folders["prompts"], tmp_path / "model", "vae/config.json", **entries)
    _, latents, images = encoded(path)
    mean, std = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1), torch.tensor([2.0, 0.5]).view(1, 2, 1, 1)
    decode = load_decoder(path)
    assert decode is not None and torch.allclose(decode((latents - mean) * 1.5 / std), images, atol=1e-5)
