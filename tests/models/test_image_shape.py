"""The shape of a model's images, against images that it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dmq_cli import choices
from dmq_cli.models import image_shape, load_adapter
from dmq_cli.models.first_stage import load_decoder
from dmq_cli.paths import resolve
from tests.chain import dmq, tiny_folder, words

SHIPPED = ["ddim_digits", "ldm_digits", "sd_digits", "dit_digits"]


def drawn(path: Path) -> tuple[int, ...]:
    """The shape of one image, from running the first stage."""
    sample = torch.zeros(1, *load_adapter(path).sample_shape())
    decode = load_decoder(path)
    image = sample if decode is None else decode(sample)
    return tuple(image[0].permute(1, 2, 0).shape)


@pytest.mark.parametrize("name", SHIPPED)
def test_shapes_are_those_of_what_is_drawn(name: str) -> None:
    path = resolve(f"package:zoo/weights/{name}")
    assert image_shape({"name": name, "path": str(path)}) == drawn(path)


def test_settings_that_a_first_stage_leaves_out_are_those_of_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    folder = tiny_folder(tmp_path / "m", in_channels=4, out_channels=4, sample_size=8)
    AutoencoderKL(norm_num_groups=8).save_pretrained(folder / "vae")
    config: dict[str, Any] = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    for key in ("out_channels", "block_out_channels"):
        del config[key]
    (folder / "vae" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert image_shape({"name": "m", "path": str(folder)}) == drawn(folder) == (8, 8, 3)


def test_random_weights_have_the_shapes_of_the_published_model() -> None:
    model = {"name": "ldm4_bedroom", "weights": "random", "seed": 0}
    assert image_shape(model) == (256, 256, 3)


@pytest.mark.parametrize(
    ("verb", "changes", "protocol", "part"),
    [
        (
            ["evaluate"],
            {"in_channels": 3, "out_channels": 3},
            "smoke",
            "reads grey images of 16x16 pixels, but those of the model",
        ),
        (["plan", "evaluate"], {"sample_size": 32}, "digits", "(H, W, C) = (32, 32, 1)"),
        (["plan", "evaluate"], {"in_channels": 3, "out_channels": 3}, "digits_latent", "reads grey images, but"),
    ],
)
def test_a_model_that_the_protocol_cannot_read_is_refused_before_it_samples(
    verb: list[str], changes: dict[str, Any], protocol: str, part: str, tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / "m", **changes)
    command = [*verb[:-1], *words(verb[-1], folder, tmp_path / "outputs", f"protocol={protocol}")]
    refused = dmq(*command)
    assert refused.code == 1 and part in refused.sentence and "dmq list protocols" in refused.sentence
    assert not list((tmp_path / "outputs").glob("artifacts/*"))


def test_what_is_sampled_only_is_asked_for_no_protocol(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m", in_channels=3, out_channels=3)
    assert dmq("plan", *words("sample", folder, tmp_path / "outputs")).code == 0
    assert choices.protocol("digits")["extractor"] == "digits_cnn"
