"""Whether images show what was asked for, as the digit classifier reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.interval import fraction_interval
from dmq_cli.metrics.metric import UP, Measurement, Sample, SetMetric, Shown
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference
from dmq_cli.models.digits_cnn import DIGITS

_DIGITS = {name: digit for digit, word in enumerate(DIGITS) for name in (word, str(digit))}


@dataclass(frozen=True)
class Agreement(SetMetric):
    """agreement in [0, 1]: the fraction of images that digits_cnn reads as the digit asked for."""

    name = "agreement"
    results = (Shown("agreement", "agreement", UP),)
    layers = ("logits",)
    extractors = ("digits_cnn",)
    asks = True

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Reads the images alone; nothing where nothing was asked for."""
        if images.asked is None:
            return Measurement()
        fraction = agreement(images.features["logits"], images.asked)
        return Measurement({"agreement": fraction}, {"agreement": fraction_interval(fraction, len(images.asked))})


def agreement(logits: Tensor, asked: Sequence[str]) -> float:
    """Fraction of images (N, 10 logits) that are read as the digit asked for. asked: N class numbers or prompts.

    Raises EvaluationError for another number of them.
    """
    if len(asked) != len(logits):
        raise EvaluationError(
            f"Agreement compares each image with what was asked for, but found {len(logits)} images and {len(asked)} wishes;"
            " sample them again."
        )
    wanted = torch.tensor([asked_digit(one) for one in asked])
    return float((logits.argmax(1).cpu() == wanted).double().mean())


def asked_digit(asked: str) -> int:
    """The one digit that a class number or a prompt names, as a word or a numeral. Raises EvaluationError for none or several."""
    found = {_DIGITS[word] for word in re.findall(r"[a-z]+|[0-9]+", asked.lower()) if word in _DIGITS}
    if len(found) != 1:
        raise EvaluationError(
            f"Agreement needs a prompt that names one digit, but found {asked!r}; leave the metric out of protocol.metrics."
        )
    return found.pop()
