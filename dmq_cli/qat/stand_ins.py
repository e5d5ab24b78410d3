"""What stands in the quantizers of a network while it is trained: other gradients, the same places."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor

from dmq_cli.quant import TensorQuantizer
from dmq_cli.recon.passes import ACTIVATIONS
from dmq_cli.wrap import Attached


class Gradients(Protocol):
    """How quantizers learn: a record of a configuration."""

    @property
    def weight_scales(self) -> bool:
        """Whether scales of weights are parameters that learn."""
        ...

    def start(self, attached: Attached) -> StandIns:
        """Put stand-ins into the quantizers."""
        ...


class StandIns:
    """Parts of quantizers that are replaced until `finish`."""

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self.activations = list(attached.quantizers(*ACTIVATIONS).values())
        self.weights = list(attached.quantizers("weight").values())
        self.originals: list[tuple[TensorQuantizer, str, Any]] = []

    def replace(self, quantizer: TensorQuantizer, part: str, make: Callable[[Any], Any]) -> None:
        """Replace `scale` or `grid` of a quantizer by what `make` makes of it."""
        original = getattr(quantizer, part)
        self.originals.append((quantizer, part, original))
        setattr(quantizer, part, make(original))

    def penalty(self) -> Tensor | None:
        """A term that is added to the loss of every step, 0-dim, or none."""
        return None

    def progress(self, part: float) -> None:
        """Called before every step with the part of the training that is done, in [0, 1)."""

    def rounding(self) -> AbstractContextManager[None]:
        """A scope in which quantizers round, as they do when all is learned."""
        return nullcontext()

    def finish(self) -> None:
        """Put everything back; the learned weights are in the layers already."""
        for quantizer, part, original in self.originals:
            setattr(quantizer, part, original)
        self.originals.clear()
