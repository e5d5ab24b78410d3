"""Extract features of uint8 images by the extractors a protocol names; torch-fidelity finds them by name (registered.py).

Each reads its weights from files the user names and never downloads: `dmq-digits-cnn` and `dmq-fashion-cnn` (digits.py),
`dmq-inception` (inception.py), `dmq-dinov2` and `dmq-clip` (semantic.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics.protocol import EXTRACTORS, SIDES, SPATIAL, Protocol
from dmq_cli.metrics.weights import FOLDERS, find_folder, read_weights
from dmq_cli.models import Numerics
from dmq_cli.paths import resolve

Images = np.ndarray[Any, Any] | Tensor
"""uint8 (N, H, W, C) with 1 or 3 channels."""

_EXTRACTOR_LAYERS = ("features", "logits", SPATIAL)  # layers of the protocol's extractor
_SEMANTIC_BATCH = 50  # of vision transformers, whose images are made 224x224


def extractor_sha256(protocol: Protocol) -> str | None:
    """Hash the weights a protocol uses, and check them against the sha256 it asks for; None without an extractor. Raises as
    `read_weights`."""
    if protocol.extractor is None:
        return None
    return read_weights(protocol.extractor, protocol.extractor_path, protocol.extractor_sha256)[1]


def further_sha256(protocol: Protocol) -> dict[str, str]:
    """Hash and check every other file that the protocol's numbers depend on; {} for most protocols.

    Keys: dinov2, clip, lpips, of weights; dinov2_files, clip_files, of what lies beside them. Errors as in `read_weights`.
    """
    hashes: dict[str, str] = {}
    for metric in protocol.metrics.values():
        hashes |= metric.files(protocol)
    return hashes


def load_extractor(protocol: Protocol) -> Any:
    """Load the torch-fidelity extractor of a protocol, in evaluation mode, weights checked, once per process.

    It gives the features of the Fréchet distance, those of the inception score and, if the protocol needs them, those of sFID.
    Raises ConfigError for a protocol without an extractor; otherwise as `read_weights`.
    """
    if protocol.extractor is None:
        raise ConfigError(
            f"Features were to be read of images, but the protocol {protocol.name} has no extractor; give protocol.extractor"
            " and protocol.extractor_path, or another protocol."
        )
    from dmq_cli.metrics.registered import layer_for

    sha256 = read_weights(protocol.extractor, protocol.extractor_path, protocol.extractor_sha256)[1]
    registered, path = EXTRACTORS[protocol.extractor], str(resolve(str(protocol.extractor_path)))
    more = (SPATIAL,) if SPATIAL in protocol.layers() else ()
    layers = (layer_for(registered, "fid"), layer_for(registered, "isc"), *more)
    return _build(registered, layers, path, sha256)


@torch.no_grad()
def extract(
    images: Images,
    protocol: Protocol,
    batch_size: int = 250,
    subjects: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    layers: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Extract the features that the protocol's metrics read, computed on `device`, float32 on the CPU, first axis the images.

    images: uint8 (N, H, W, 1 or 3). "features" (N, D) and "logits" (N, classes); "spatial" (N, 2023); "dinov2" and "clip"
    (N, D); "clip_text" (N, D) of the prompts, where `subjects` has the class or prompt of each image. layers: those to extract;
    None: the first two, and all that the metrics read. The batch size changes nothing beyond the rounding of float32.
    Raises EvaluationError for images of another kind; errors of weights as in `read_weights`.
    """
    Numerics().set_backends(device)
    needed = protocol.layers(subjects is not None) if layers is None else set(layers)
    if not needed:
        return {}
    pixels, features = _channels_first(images), dict[str, Tensor]()
    if needed & set(_EXTRACTOR_LAYERS):
        extractor = load_extractor(protocol).to(device)
        features |= zip(_EXTRACTOR_LAYERS, _batched(extractor, pixels, batch_size, protocol.resize), strict=False)
    for name in (name for name in FOLDERS if name in needed):
        network = _semantic(name, protocol).to(device)
        (features[name],) = _batched(network, pixels, min(batch_size, _SEMANTIC_BATCH))
    if "clip_text" in needed and subjects is not None:
        from dmq_cli.metrics.semantic import clip_texts

        features["clip_text"] = clip_texts(_semantic("clip", protocol).to(device), subjects, len(pixels))
    return features


def check_readable(shape: Sequence[int], protocol: Protocol, name: str, drawn: bool = False) -> None:
    """Raise EvaluationError for images of a shape (H, W, C) that the protocol's extractor cannot read.

    digits_cnn reads 16x16, fashion_cnn 32x32, or any size where the protocol has `resize`, and three channels only where they are equal,
    which they are not in a network's images (drawn). Inception, DINOv2 and CLIP scale images themselves. name: of the images.
    """
    height, width, channels = shape
    embedded = protocol.extractor in SIDES
    sides = SIDES[str(protocol.extractor)] if embedded and protocol.resize is None else None
    kinds = {1: "grey"} if embedded and drawn else {1: "grey", 3: "RGB"}
    if channels not in kinds or (sides is not None and (height, width) != sides):
        size = f" of {sides[0]}x{sides[1]} pixels" if sides else ""
        raise EvaluationError(
            f"The protocol {protocol.name} reads {' or '.join(kinds.values())} images{size}, but those of {name} have (H, W, C) = "
            f"{tuple(shape)}; choose the protocol that belongs to them, see: dmq list protocols."
        )


def as_tensor(images: Images) -> Tensor:
    """Move images to the CPU in row-major order, copied only if read-only or in another order."""
    if isinstance(images, np.ndarray):
        return torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return images.cpu().contiguous()


def _batched(extractor: Any, pixels: Tensor, batch_size: int, resize: int | None = None) -> list[Tensor]:
    device = next(extractor.parameters()).device
    pieces = [extractor(_resized(batch.to(device), resize)) for batch in torch.split(pixels, batch_size)]
    return [torch.cat(piece).cpu() for piece in zip(*pieces, strict=True)]


def _channels_first(images: Images) -> Tensor:
    pixels = as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[3] not in (1, 3) or len(pixels) == 0:
        raise EvaluationError(
            "Images to evaluate must be uint8 (N, H, W, 1 or 3), but found "
            f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}; convert them with to_uint8 "
            "and put the channels last."
        )
    return pixels.permute(0, 3, 1, 2)


def _resized(pixels: Tensor, side: int | None) -> Tensor:
    """Mean of every square of pixels, float (B, C, side, side); unchanged where side is None."""
    return pixels if side is None else nn.functional.interpolate(pixels.float(), (side, side), mode="area")


def _semantic(name: str, protocol: Protocol) -> Any:
    folder, sha256 = find_folder(name, protocol.folders()[name], protocol.weights_sha256.get(name))
    return _build(f"dmq-{name}", (name,), str(folder), sha256)


@functools.lru_cache(maxsize=4)
def _build(registered: str, layers: tuple[str, ...], path: str, _sha256: str) -> Any:
    from dmq_cli.metrics.registered import build

    return build(registered, layers, path)
