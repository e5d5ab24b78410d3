"""One call of a model's network, and of its decoder, on the meta device: whether they fit together, before any numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dmq_cli.errors import DmqError, ModelError
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.attention_calls import check_attentions
from dmq_cli.models.conditions import embedding_sizes, told_at
from dmq_cli.models.configs import component_config, first_line
from dmq_cli.models.first_stage import shapes_of_decoder
from dmq_cli.models.folder import shapes_of_folder
from dmq_cli.models.structure import zeros

_LABELS, _TOKENS = "class_labels", "encoder_hidden_states"
_TOLD = {
    "none": set[str](),
    "labels": {_LABELS},
    "tokens": {_TOKENS},
    "prompts": {_TOKENS},
}
_IMAGES = (1, 3)  # channels of an image
_T = TypeVar("_T")


@functools.lru_cache(maxsize=64)
def check_network(path: Path, *identity: str | None) -> None:
    """probe, once for the same identity in a process."""
    probe(path)


def probe(path: Path) -> None:
    """Call the network of a folder, and its decoder, without numbers; weights need not be there.

    Raises ModelError where a layer has no role, an attention no place for quantizers, the network needs what the folder does not give, its estimate has not the
    shape of a sample, or images have neither 1 nor 3 channels; and for whatever the calls raise.
    """
    adapter = shapes_of_folder(path)
    sample = _tried(path, "network", lambda: _estimated(path, adapter))
    decode = shapes_of_decoder(path)
    with _NormsPass():
        images = sample if decode is None else _tried(path, "first stage", lambda: decode(sample))
    if decode is None and sample.dim() != 4:
        return  # samples that are not meant to be images
    if images.dim() != 4 or images.shape[1] not in _IMAGES:
        maker = "its first stage makes" if decode else "it has no first stage (vae/ or vqvae/) and makes"
        raise ModelError(
            f"The model in {path} was to make images, but {maker} {images.shape[1]} channels, and an image has 1 or 3; give a model of"
            " images with all its parts."
        )


class _NormsPass(TorchFunctionMode):
    """Leaves out group norms, which keep every shape and are half of the time that a call takes on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        gains = arguments.get("weight")
        if func is F.group_norm and gains is not None and len(gains) == args[0].shape[1]:
            return args[0]
        return func(*args, **arguments)


def _estimated(path: Path, adapter: Adapter) -> Tensor:
    """The estimate for one sample of zeros."""
    adapter.layers()
    adapter.skip_splits()
    _check_inputs(path, adapter)
    sample, timestep = zeros(adapter.model, adapter.sample_shape())
    estimates: list[Tensor] = []

    def run() -> None:
        estimates.append(adapter.predict(sample, timestep, adapter.blank_cond(1)))

    with torch.no_grad(), _NormsPass():
        check_attentions(adapter, run)
        if not estimates:
            run()
    estimate = estimates[0]
    if estimate.shape != sample.shape:
        raise ModelError(
            f"The network in {path} reads {_shape(sample)} and estimates {_shape(estimate)}, so it does not estimate the noise of what it"
            " reads alone (as an inpainting network or one that learned variances does not); give another model."
        )
    return sample


def _check_inputs(path: Path, adapter: Adapter) -> None:
    """Check that the folder's encoder gives the condition that the network reads, in its width."""
    kind, blank = told_at(path).kind, adapter.blank_cond(1) or {}
    if set(blank) != _TOLD[kind]:
        raise ModelError(
            f"The network in {path} reads {_listed(set(blank))} besides a sample, and its folder gives {_listed(_TOLD[kind])}; dmq has no"
            " other way of telling it."
        )
    if _TOKENS in blank and (width := _width(path, kind)) != (needed := blank[_TOKENS].shape[-1]):
        raise ModelError(
            f"The network in {path} reads tokens of width {needed}, but its {'text encoder' if kind == 'prompts' else 'class embedding'}"
            f" gives a width of {width}; use the two that belong together."
        )


def _width(path: Path, kind: str) -> object:
    if kind == "tokens":
        return embedding_sizes(path / "class_embedding")[1]
    return component_config(path / "text_encoder").get("hidden_size", 512)


def _tried(path: Path, part: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except DmqError:
        raise
    except Exception as error:  # a stranger's architecture ends in any kind
        raise ModelError(
            f"The {part} of the model in {path} cannot be called as dmq would ({first_line(error)}); give a model of a family that dmq"
            " knows."
        ) from error


def _listed(names: set[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[1:]))
