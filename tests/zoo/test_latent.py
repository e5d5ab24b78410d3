"""Training the latent models: stops, goes on, comes to the same weights, and leaves a pipeline's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.models import load_adapter, load_schedule
from dmq_cli.models.importers.recipes import Recipe
from dmq_cli.zoo import AutoencoderTraining, LatentTraining, autoencoder, latent, train_autoencoder, train_latent
from dmq_cli.zoo.training import Predict
from tests.zoo.helpers import few_digits, stopped_and_whole, weights

KINDS = ("ldm_digits", "ldm_digits_class", "sd_digits", "dit_digits")
PARTS = {
    "ldm_digits": {"unet", "vqvae", "scheduler"},
    "ldm_digits_class": {"unet", "vqvae", "class_embedding", "scheduler"},
    "sd_digits": {"unet", "vae", "text_encoder", "tokenizer", "scheduler"},
    "dit_digits": {"transformer", "vae", "scheduler"},
}


def shrunk(recipe: Recipe) -> Recipe:
    """The same with narrower networks."""
    smaller: dict[str, Mapping[str, Any]] = {
        "unet": {"block_out_channels": (16, 32)},
        "transformer": {"num_layers": 1, "num_attention_heads": 1},
    }
    first, *others = recipe.networks
    return replace(recipe, networks=(replace(first, config={**first.config, **smaller[first.folder]}), *others))


@pytest.fixture(scope="module")
def first_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "digit_images", few_digits)
        for kind in ("vq", "kl"):
            config = AutoencoderTraining(kind=kind, steps=1, batch_size=2)
            train_autoencoder(config, folder / kind, lambda step, steps, loss: None)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(predict: Predict, alphas: Tensor, samples: Tensor) -> float:
        with torch.no_grad():
            return float(predict(samples, torch.zeros(len(samples), dtype=torch.int64)).square().mean())

    monkeypatch.setattr(latent, "digit_images", few_digits)
    monkeypatch.setattr(latent, "evaluate_loss", once)
    monkeypatch.setattr(latent, "RECIPES", {kind: shrunk(recipe) for kind, recipe in latent.RECIPES.items()})


def first_stage(folder: Path, kind: str) -> Path:
    return folder / ("vq" if kind.startswith("ldm") else "kl") / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, first_stages: Path, kind: Any) -> None:
    config = LatentTraining(kind=kind, steps=4, batch_size=4, warmup=2, save_every=2)
    first = first_stage(first_stages, kind)
    stopped, whole, steps, same = stopped_and_whole(
        lambda work, report: train_latent(config, work, report, first), tmp_path, at=3
    )
    assert steps == [3, 4] and same
    learned, expected = weights(stopped / "model"), weights(whole / "model")
    assert all(torch.equal(learned[name], expected[name]) for name in expected) and len(expected) > 80
    folder = whole / "model"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == PARTS[kind]
    assert (folder / "prompts.txt").is_file() == (kind == "sd_digits")
    _looks_like_its_model(folder, kind)


def _looks_like_its_model(folder: Path, kind: str) -> None:
    loaded = load_adapter(folder)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    shape = (3, 8, 8) if kind.startswith("ldm") else (4, 8, 8)
    assert loaded.sample_shape() == shape and len(loaded.layers()) > 10
    estimate = loaded.predict(torch.zeros(2, *shape), torch.tensor(5), loaded.blank_cond(2))
    assert estimate.shape == (2, *shape)
    betas = {"ldm": 0.0195, "sd_": 0.012, "dit": 0.02}
    schedule = load_schedule(folder)
    assert schedule["beta_end"] == betas[kind[:3]] and schedule["prediction_type"] == "epsilon"
    assert schedule["_class_name"] == ("PNDMScheduler" if kind == "sd_digits" else "DDIMScheduler")
    assert (folder / "model_index.json").is_file() == (kind != "ldm_digits_class")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("ldm_digits", {"batch_size": 2}),
        ("sd_digits", {"prompt": ["a handwritten 7", "three"], "guidance_scale": 2.0}),
        ("dit_digits", {"class_labels": [1, 2], "guidance_scale": 1.0}),
    ],
)
def test_diffusers_draws_with_the_folder(tmp_path: Path, first_stages: Path, kind: Any, call: dict[str, Any]) -> None:
    import diffusers

    config = LatentTraining(kind=kind, steps=1, batch_size=2)
    train_latent(config, tmp_path, lambda step, steps, loss: None, first_stage(first_stages, kind))
    name = json.loads((tmp_path / "model" / "model_index.json").read_text())["_class_name"]
    pipeline = getattr(diffusers, name).from_pretrained(tmp_path / "model", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(**call, num_inference_steps=2, output_type="np").images
    assert images.shape[:3] == (2, 32, 32) and 0 <= images.min() <= images.max() <= 1


def test_conditions_are_left_out_now_and_then(tmp_path: Path, first_stages: Path) -> None:
    def drawn(kind: Any, dropped: float) -> Tensor:
        folder = tmp_path / f"{kind}-{dropped}"
        shutil.copytree(first_stage(first_stages, kind), folder)
        data = latent._Data(LatentTraining(kind=kind, dropped=dropped), folder)
        return data.conditions(torch.arange(60).repeat(50), torch.Generator().manual_seed(0))

    labels = few_digits()[1].repeat(50)
    assert torch.equal(drawn("ldm_digits_class", 0.0), labels)
    some = drawn("ldm_digits_class", 0.1)
    left_out = some == 10
    assert 0.08 < float(left_out.float().mean()) < 0.12 and torch.equal(some[~left_out], labels[~left_out])
    tokens = drawn("sd_digits", 0.1)
    empty = (tokens[:, 1:] == tokens[:, -1:]).all(1)
    assert tokens.shape == (3000, 16) and torch.equal(empty, left_out)
    assert len({tuple(row) for row in tokens[labels == 7].tolist()}) == 21, "every prompt is drawn, and the empty one"
