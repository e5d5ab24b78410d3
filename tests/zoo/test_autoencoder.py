"""Training the first stages, and what the shipped ones make of digits they never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dmq_cli.models.importers.networks import create
from dmq_cli.paths import resolve
from dmq_cli.zoo import AutoencoderTraining, autoencoder, digit_images, split, to_float, train_autoencoder
from dmq_cli.zoo.autoencoder import KL, SIZE, VQ, encode
from tests.zoo.helpers import few_digits, stopped_and_whole, weights


def load(folder: Path) -> Any:
    from diffusers import AutoencoderKL, VQModel

    kind = VQModel if folder.name == "vqvae" else AutoencoderKL
    return kind.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)


@pytest.mark.parametrize(("kind", "name"), [("vq", "vqvae"), ("kl", "vae")])
def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str
) -> None:
    monkeypatch.setattr(autoencoder, "digit_images", few_digits)
    config = AutoencoderTraining(kind=kind, steps=4, batch_size=2, warmup=2, save_every=2)
    stopped, whole, steps, same = stopped_and_whole(
        lambda work, report: train_autoencoder(config, work, report), tmp_path, at=3
    )
    assert steps == [3, 4] and same
    resumed, direct = weights(stopped / "model"), weights(whole / "model")
    assert all(torch.equal(resumed[key], direct[key]) for key in direct) and len(direct) > 50
    assert {value.dtype for value in direct.values()} == {torch.float16}
    model, images = load(whole / "model" / name), to_float(few_digits(SIZE)[0])
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    latents = encode(model, images[split(60, 0.1, 0)[0]]) * model.config.scaling_factor
    assert latents.shape == (54, model.config.latent_channels, 8, 8)
    assert float(latents.std()) == pytest.approx(1, abs=0.01)


def test_the_loss_of_the_codebook_counts_the_way_to_the_codes() -> None:
    images = to_float(digit_images(SIZE)[0][:2])
    model = create(VQ)
    with torch.no_grad():
        error = torch.nn.functional.mse_loss(model(images).sample, images)
        distance = (model.encode(images).latents - model.quantize(model.encode(images).latents)[0]).square().mean()
        loss = autoencoder._loss(model, images, torch.Generator())
    assert float(distance) > 0 and float(loss - error) == pytest.approx(1.25 * float(distance), rel=1e-3)


def test_the_loss_of_the_other_pulls_towards_the_normal_distribution() -> None:
    images = to_float(digit_images(SIZE)[0][:2])
    model = create(KL)
    with torch.no_grad():
        code = model.encode(images).latent_dist
        rebuilt = model.decode(code.sample(torch.Generator().manual_seed(0))).sample
        loss = autoencoder._loss(model, images, torch.Generator().manual_seed(0))
    divergence = 0.5 * (code.mean**2 + code.var - 1 - code.logvar).mean()
    error = torch.nn.functional.mse_loss(rebuilt, images)
    assert float(loss) == pytest.approx(float(error + 1e-4 * divergence), rel=1e-6) and float(divergence) > 1e-3


@pytest.mark.parametrize(
    ("place", "bound"), [("ldm_digits/vqvae", 0.001), ("ldm_digits_class/vqvae", 0.001), ("sd_digits/vae", 0.001)]
)
def test_the_shipped_ones_rebuild_held_out_digits(place: str, bound: float) -> None:
    """The bound is that of grey levels: a digit's 17 of them, rounded, would be off by 0.0013."""
    folder = resolve(f"package:zoo/weights/{place}")
    images = to_float(digit_images(SIZE)[0])
    train, held_out = split(len(images), 0.1, 0)
    model, unseen = load(folder), images[held_out][:90]
    with torch.no_grad():
        rebuilt = model.decode(encode(model, unseen)).sample
    assert float((rebuilt - unseen).square().mean()) < bound
    assert float((rebuilt - unseen.roll(1, 0)).square().mean()) > 100 * bound
    scaled = encode(model, images[train][:200]) * model.config.scaling_factor
    assert float(scaled.std()) == pytest.approx(1, abs=0.05)


def test_models_share_their_autoencoders() -> None:
    for path, twin in (("ldm_digits/vqvae", "ldm_digits_class/vqvae"), ("sd_digits/vae", "dit_digits/vae")):
        first, second = (resolve(f"package:zoo/weights/{place}") for place in (path, twin))
        for file in ("config.json", "diffusion_pytorch_model.safetensors"):
            assert (first / file).read_bytes() == (second / file).read_bytes()
        assert json.loads((first / "config.json").read_text())["scaling_factor"] != 1
