"""Agreement: the fraction of images that the digit classifier reads as the digit of their class or prompt."""

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
    """agreement in [0, 1]: the fraction of images that digits_cnn reads as the digit of their class or prompt."""

    name = "agreement"
    results = (Shown("agreement", "agreement", UP),)
    layers = ("logits",)
    extractors = ("digits_cnn",)
    asks = True

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Reads the images alone; no number for images without classes or prompts."""
        if images.asked is None:
            return Measurement()
        fraction = agreement(images.features["logits"], images.asked)
        return Measurement({"agreement": fraction}, {"agreement": fraction_interval(fraction, len(images.asked))})


def agreement(logits: Tensor, subjects: Sequence[str]) -> float:
    """Fraction of images, by logits (N, 10), that are read as the digit of their class or prompt. subjects: N of these.

    Raises EvaluationError for another number of them.
    """
    if len(subjects) != len(logits):
        raise EvaluationError(
            f"Agreement compares each image with its class or prompt, but found {len(logits)} images and {len(subjects)} of"
            " these; sample them again."
        )
    digits = torch.tensor([named_digit(subject) for subject in subjects])
    return float((logits.argmax(1).cpu() == digits).double().mean())


def named_digit(subject: str) -> int:
    """Find the digit that a class number or a prompt names, as a word or a numeral. Raises EvaluationError for none or several."""
    digits = {_DIGITS[word] for word in re.findall(r"[a-z]+|[0-9]+", subject.lower()) if word in _DIGITS}
    if len(digits) != 1:
        raise EvaluationError(
            f"Agreement needs a prompt that names one digit, but found {subject!r}; leave the metric out of protocol.metrics."
        )
    return digits.pop()
