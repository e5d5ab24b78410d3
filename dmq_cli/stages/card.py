"""The model card of an embedded model, for people (README.md) and programs (card.json)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.store import write_json

_TEXT = """---
library_name: diffusers
license: apache-2.0
tags: [diffusion, ddpm, digits]
---
# ddim_digits

A `UNet2DModel` of {parameters:,} parameters that draws 16x16 handwritten digits, in the settings of
google/ddpm-cifar10-32 scaled down (32-64-64 channels), T = 1000, linear betas 1e-4 to 0.02. It ships with dmq so that every
path runs for real without a download.

* Data: the UCI handwritten digits in scikit-learn (1,797 images, 8x8), resized to 16x16; {held_out:.0%} held out.
* Training: {steps:,} steps of Adam, batch {batch_size}, learning rate {lr:g} with cosine decay, EMA {ema}. Made by `{command}`.{note}
* Loss (50 timesteps, fixed noise): {loss_train:.5f} on training images, {loss_held_out:.5f} on held-out ones.
* FD-digits, DDIM {num_inference_steps} steps, {num_images} images against all digits: {fd:.2f} ± {fd_std:.2f} over {ranges} seed ranges;
  a model trained again lands between {low:.2f} and {high:.2f}.
* At equal counts ({equal} images): the model {model:.2f}, the floor (one half of the data against the other) {floor:.2f}.
* Memorisation: median distance to the nearest training image {median_sample:.3f} for samples, {median_held_out:.3f} for unseen real
  images; {copies:.1%} of the samples are nearer than 99 % of the unseen images are (chance: 1 %).
"""


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json and README.md into the model folder."""
    write_json(folder / "card.json", dict(card))
    distance, equal = card["distance"], card["equal_counts"]
    spread = distance.get("fd_over_seeds", {"std": 0.0})["std"]
    training = card["training"]
    text = _TEXT.format(
        parameters=card["parameters"],
        **{key: training[key] for key in ("held_out", "steps", "batch_size", "lr", "ema")},
        note=f" {card['note']}" if card.get("note") else "",
        command=card["command"],
        loss_train=card["loss_train"],
        loss_held_out=card["loss_held_out"],
        num_inference_steps=card["num_inference_steps"],
        num_images=card["num_images"],
        fd=distance["fd"],
        fd_std=spread,
        ranges=len(card["seeds"]),
        low=card["interval"][0],
        high=card["interval"][1],
        equal=equal["num_images"],
        model=equal["model"],
        floor=equal["floor"],
        **card["memorisation"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
