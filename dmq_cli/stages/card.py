"""The model card of an embedded model, for people (README.md) and programs (card.json)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.store import write_json
from dmq_cli.store.files import write_text

_LATENT = "that draws 32x32 handwritten digits from 8x8 latents{condition}, {paper} in miniature"
_ABOUT = {
    "ddim_digits": "A `UNet2DModel` {counts} that draws 16x16 handwritten digits, in the settings of\n"
    "google/ddpm-cifar10-32 scaled down (32-64-64 channels), T = 1000, linear betas 1e-4 to 0.02.",
    "ddim_fashion": "A `UNet2DModel` {counts} that draws 32x32 pieces of clothing, in the settings of\n"
    "google/ddpm-cifar10-32 scaled down (24-48-48-48 channels), T = 1000, linear betas 1e-4 to 0.02.",
    "ldm_digits": f"A `UNet2DModel` {{counts}} {_LATENT.format(condition='', paper='LDM-4 for LSUN')}.",
    "ldm_digits_class": f"A `UNet2DConditionModel` {{counts}} {_LATENT.format(condition=' of a class', paper='LDM-4 for ImageNet')}:\n"
    "cross-attention reads one token, the class; class 10 is none, for guidance.",
    "sd_digits": f"A `StableDiffusionPipeline` {{counts}} {_LATENT.format(condition=' from a text', paper='Stable Diffusion v1.4')};\n"
    "its tokenizer and text encoder are made for the prompts it was trained on, of which prompts.txt has 50 (line i: digit i % 10).",
    "dit_digits": f"A `DiTTransformer2DModel` {{counts}} {_LATENT.format(condition=' of a class', paper='DiT')};\n"
    "class 10 is none, for guidance.",
}
_DATA = {
    "digits": "the UCI handwritten digits in scikit-learn (1,797 images, 8x8), resized to {size}x{size}; {held_out:.0%} held out",
    "fashion": "Fashion-MNIST (Xiao et al., arXiv 1708.07747; Zalando SE, MIT licence), 28x28 with a black border to {size}x{size}: 60,000\n"
    "  training images; the 10,000 test images held out",
}
_REFERENCES = {"digits": "all digits", "fashion": "10,000 training images"}
_TEXT = """---
library_name: diffusers
license: apache-2.0
tags: [diffusion, ddpm, {data}]
---
# {name}

{about} It ships with dmq so that every
path runs for real without a download.

* Data: {about_data}.
* Training: {steps:,} steps of Adam, batch {batch_size}, learning rate {lr:g} with cosine decay, EMA {ema}. Made by `{command}`.{note}
* Loss (50 timesteps, fixed noise): {loss_train:.5f} on training images, {loss_held_out:.5f} on held-out ones.{autoencoder}
"""
_AUTOENCODER = """
* Autoencoder: {steps:,} steps of batch {batch_size}; mean squared error per pixel of [-1, 1] {error_train:.5f} on training images,
  {error_held_out:.5f} on held-out ones."""
_MEASURED = """\
* FD-{data}, DDIM {num_inference_steps} steps, {num_images} images against {reference}: {fd:.2f} ± {fd_std:.2f} over {ranges} seed ranges;
  a model trained again lands between {low:.2f} and {high:.2f}.
{agreement}* At equal counts ({equal} images): the model {model:.2f}, the floor (one half of the data against the other) {floor:.2f}.
* Memorisation: median distance to the nearest training image {median_sample:.3f} for samples, {median_held_out:.3f} for unseen real
  images; {copies:.1%} of the samples are nearer than 99 % of the unseen images are (chance: 1 %).
"""
_AGREEMENT = """\
* Agreement: {agreement:.1%} of the images are read by digits_cnn as the digit that was asked for (guidance {guidance}).
"""


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json and README.md into the folder, named like the model; numbers of images only if they are there."""
    write_json(folder / "card.json", dict(card))
    text = _trained(folder.name, card) + (_measured(card) if "distance" in card else "")
    write_text(folder / "README.md", text)


def _trained(name: str, card: Mapping[str, Any]) -> str:
    training, first = card["training"], card.get("autoencoder")
    data = _data(card)
    size = 16 if data == "digits" and not first else 32
    return _TEXT.format(
        name=name,
        about=_ABOUT[name].format(counts=_counts(card)),
        data=data,
        about_data=_DATA[data].format(size=size, held_out=training["held_out"]),
        **{key: training[key] for key in ("steps", "batch_size", "lr", "ema")},
        note=f" {card['note']}" if card.get("note") else "",
        command=card["command"],
        loss_train=card["loss_train"],
        loss_held_out=card["loss_held_out"],
        autoencoder=_AUTOENCODER.format(**{**first, **first["training"]}) if first else "",
    )


def _data(card: Mapping[str, Any]) -> str:
    return str(card["training"].get("data", "digits"))


def _counts(card: Mapping[str, Any]) -> str:
    """Write the number of parameters, by part where there are several."""
    counts = card["parameters"]
    if isinstance(counts, int):
        return f"of {counts:,} parameters"
    parts = {**counts, "autoencoder": card["autoencoder"]["parameters"]}
    return f"({', '.join(f'{name} {count:,}' for name, count in parts.items())} parameters)"


def _measured(card: Mapping[str, Any]) -> str:
    distance, equal = card["distance"], card["equal_counts"]
    data = _data(card)
    return _MEASURED.format(
        data=data,
        reference=_REFERENCES[data],
        num_inference_steps=card["num_inference_steps"],
        num_images=card["num_images"],
        fd=distance["fd"],
        fd_std=distance.get("fd_over_seeds", {"std": 0.0})["std"],
        ranges=len(card["seeds"]),
        low=card["interval"][0],
        high=card["interval"][1],
        agreement=_AGREEMENT.format(**distance, guidance=card["guidance"]) if "agreement" in distance else "",
        equal=equal["num_images"],
        model=equal["model"],
        floor=equal["floor"],
        **card["memorisation"],
    )
