"""Refuse diffusers' methods that would silently drop the quantizers of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from torch import nn

from dmq_cli.errors import ModelError

_SAVED = (
    "The quantized network was to be saved by {}, whose files hold its weights and lose its quantizers; write it by dmq"
    " export, or keep the folder of its run and load that again by dmq_cli.load(run)."
)
_REPLACED = (
    "An attention processor of the quantized network was to be replaced, by {}, and its quantizers with it; leave the"
    " processors as they are."
)


class Refusal:
    """Replaces a method of a module and raises ModelError when called; an object, so that it can be copied and pickled."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Raises ModelError, whatever it is called with."""
        raise ModelError(self.sentence)


def keep_quantizers(model: nn.Module, attentions: Iterable[nn.Module]) -> None:
    """Make diffusers' methods that would drop quantizers raise ModelError, on these objects alone."""
    for name in ("save_pretrained", "push_to_hub"):
        setattr(model, name, Refusal(_SAVED.format(name)))
    for attention in attentions:
        setattr(attention, "set_processor", Refusal(_REPLACED.format("set_processor")))  # noqa: B010
