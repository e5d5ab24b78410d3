"""Check the values of images: sets that cannot be samples, or were written in another range, are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dmq_cli.errors import EvaluationError

Pixels = NDArray[np.uint8]
DARK = 64
"""If all values of a set lie below this, of 255, their range is probably another one."""

_log = logging.getLogger("dmq")


def looked_at(batches: Iterable[Pixels], name: str) -> Iterator[Pixels]:
    """Pass batches on, uint8 (B, H, W, C), and check them; after the last one raises EvaluationError for an impossible set.

    Impossible are: every image of a single colour, all images equal, no value above 1 (of 255). A set without a value above DARK
    gets a warning. name: where the images are.
    """
    look = _Look()
    for batch in batches:
        look.add(batch)
        yield batch
    look.check(name)


class _Look:
    def __init__(self) -> None:
        self.count, self.largest, self.varied, self.different = 0, 0, False, False
        self._first: Pixels | None = None

    def add(self, batch: Pixels) -> None:
        """Add a batch; stops checking as soon as the set has passed, mostly at the first batch."""
        if self._first is None:
            self._first = batch[:1].copy()
        self.count += len(batch)
        self.varied = self.varied or bool((batch != batch[:, :1, :1]).any())
        self.different = self.different or bool((batch != self._first).any())
        if self.largest < DARK:
            self.largest = max(self.largest, int(batch.max(initial=0)))

    def check(self, name: str) -> None:
        if not self.varied:
            raise EvaluationError(
                f"Every one of the {self.count} images of {name} is a single colour, and so no sample of anything; look at how they"
                " were written."
            )
        if self.count > 1 and not self.different:
            raise EvaluationError(
                f"All {self.count} images of {name} are the same image, and so no set of samples; look at how they were written."
            )
        if self.largest <= 1:
            raise EvaluationError(
                f"The images of {name} should have values from 0 to 255, but have none above 1; multiply them by 255 before they"
                " are written as uint8."
            )
        if self.largest < DARK:
            _log.warning("The images of %s have no value above %d of 255: is that their range?", name, self.largest)
