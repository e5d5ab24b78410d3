"""Trains `digits_cnn` and `fashion_cnn`, the feature extractors of the embedded protocols.

A classifier (cross entropy, AdamW, one cosine of the learning rate, slightly moved and noisy images) with
two further terms. A plain classifier's features collapse onto ten points (Papyan, Han, Donoho: Prevalence
of neural collapse, PNAS 2020, arXiv 2008.08186): a Fréchet distance then measures how often each digit
occurs and little of what it looks like. So a decoder, thrown away afterwards, must be able to draw the
image from the features, and the covariance term of VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv
2105.04906) keeps the 64 features from saying the same.

The last normalisation is measured again on untouched images at the end, so that the features of natural
digits have mean 0 and variance 1 before the tanh.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.models.fashion_cnn import FashionCNN
from dmq_cli.store.files import aside, write_text
from dmq_cli.zoo.data import DataName, image_parts, recorded
from dmq_cli.zoo.digits import to_float

NETWORKS: dict[str, type[DigitsCNN]] = {"digits": DigitsCNN, "fashion": FashionCNN}
"""The classifier of each data set."""

_BATCH = 2000  # images that are only read, at once: more than there are digits


@dataclass(frozen=True)
class ClassifierTraining:
    """Training of the classifier. lr: peak of the cosine; held_out: fraction never trained on; seed: of split, weights
    and order.

    reconstruction, decorrelation: weights of the two terms beside the cross entropy. data, path: see data.py.
    """

    epochs: int = 30
    batch_size: int = 96
    lr: float = 3e-3
    weight_decay: float = 0.02
    held_out: float = 0.2
    seed: int = 0
    reconstruction: float = 10.0
    decorrelation: float = 2.0
    data: DataName = "digits"
    path: str | None = None


def train_classifier(
    config: ClassifierTraining, report: Callable[[int, int, float], None]
) -> tuple[DigitsCNN, dict[str, Any]]:
    """Train on the images; the same config gives the same model on the same machine, the global generator
    is untouched.

    report(step, steps, loss) is called after every optimizer step. Returns the model in evaluation mode and
    its card: {training, parameters, num_train, num_held_out, accuracy_train, accuracy_held_out} with
    accuracies in [0, 1].
    """
    kind, settings = NETWORKS[config.data], asdict(config)
    (pixels, labels), (held_out, held_out_labels) = image_parts(settings, kind.side)
    images = to_float(pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = kind()
        _fit(model, images, labels, config, report)
    _measure_features(model, images)
    return model, {
        "training": recorded(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_train": len(images),
        "num_held_out": len(held_out),
        "accuracy_train": accuracy(model, images, labels),
        "accuracy_held_out": accuracy(model, to_float(held_out), held_out_labels),
    }


@torch.no_grad()
def accuracy(model: DigitsCNN, images: Tensor, labels: Tensor) -> float:
    """Fraction of images (B, 1, H, W) in [-1, 1] whose largest logit is their label."""
    read = torch.cat([model(batch)[1].argmax(1) for batch in torch.split(images, _BATCH)])
    return float((read == labels).float().mean())


def save_classifier(model: DigitsCNN, card: dict[str, Any], folder: Path) -> None:
    """Write model.safetensors and card.json, the two files of a folder of dmq_cli/zoo/weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    with aside(folder / "model.safetensors") as scratch:
        scratch.write_bytes(save(tensors))
    write_text(folder / "card.json", json.dumps(card, indent=2) + "\n")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 6 degrees, scale by up to 5 %, move by up to half a pixel, add noise; borders come in
    black.

    images: (B, C, H, W) in [-1, 1]; so is the result, same shape.
    """
    angle, scale, dx, dy = torch.rand(4, len(images), generator=generator).mul(2).sub(1)
    angle, scale, reach = angle * math.radians(6), 1 + 0.05 * scale, 1.0 / images.shape[-1]
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([cos, -sin, dx * reach, sin, cos, dy * reach], 1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1
    return (moved + 0.02 * torch.randn(moved.shape, generator=generator)).clamp(-1, 1)


def redundancy(features: Tensor) -> Tensor:
    """Sum of the squared covariances between different features, per feature (VICReg, eq. 4). features: (B,
    D).
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / features.shape[1]


def _fit(
    model: DigitsCNN,
    images: Tensor,
    labels: Tensor,
    config: ClassifierTraining,
    report: Callable[[int, int, float], None],
) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    decoder = nn.Sequential(nn.Linear(model.num_features, 256), nn.ReLU(), nn.Linear(256, images[0].numel()))
    parameters = [*model.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    model.train()
    batches = list(_batches(len(images), config, generator))
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        loss = _loss(model, decoder, augment(images[batch], generator), labels[batch], config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(step + 1, len(batches), float(loss.detach()))
    model.eval()


def _batches(count: int, config: ClassifierTraining, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(config.epochs):
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order, config.batch_size)[: count // config.batch_size]


def _loss(model: DigitsCNN, decoder: nn.Module, images: Tensor, labels: Tensor, config: ClassifierTraining) -> Tensor:
    features, logits = model(images)
    drawn = nn.functional.mse_loss(decoder(features), images.flatten(1))
    right = nn.functional.cross_entropy(logits, labels)
    return right + config.reconstruction * drawn + config.decorrelation * redundancy(features)


@torch.no_grad()
def _measure_features(model: DigitsCNN, images: Tensor) -> None:
    """Give the last normalisation the mean and variance of untouched images."""
    embedded = torch.cat([model.embed(model.body(batch)) for batch in torch.split(images, _BATCH)])
    model.norm.running_mean, model.norm.running_var = embedded.mean(0), embedded.var(0)
