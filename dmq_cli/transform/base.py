"""The interface of a transform: tensors to put into layers, estimated before any quantizer is fitted.

The layers use them (wrap/layers.py); `wrap.load_extra_state` puts them in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from torch import Tensor

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.models import Adapter, Call, Layer, fits
from dmq_cli.models.roles import ROLES

Data = Callable[[], Iterable[Call]]
"""One pass over calibration inputs: batches of (sample (B, C, H, W), timestep (B,)) and condition, where there is one; called once
for each pass."""

BatchReport = Callable[[int], None]
"""Called with the number of samples done."""


class Transform(Protocol):
    """Finds a rewrite of a network."""

    def estimate(self, adapter: Adapter, data: Data, report: BatchReport = ...) -> dict[str, Tensor]:
        """Estimate tensors named `<layer path>.channel_scale` (in,), `.branch_down` (rank, in, ...) or `.branch_up` (out, rank).

        adapter: the full-precision network, which is not changed; the result has its dtype and device.
        """
        ...

    def shapes(self, adapter: Adapter) -> dict[str, Tensor]:
        """The tensors of `estimate` on the meta device: names and shapes, which need no data."""
        ...

    def cost(self, samples: float) -> float:
        """The work of `estimate`, in network calls on one sample. samples: rows of the calibration set."""
        ...


@dataclass(frozen=True)
class NoTransform:
    """No transform: the network as it is."""

    def estimate(self, adapter: Adapter, data: Data, report: BatchReport = lambda done: None) -> dict[str, Tensor]:
        """See Transform: no tensors; the data are not read."""
        return {}

    def shapes(self, adapter: Adapter) -> dict[str, Tensor]:
        """See Transform: no tensors."""
        return {}

    def cost(self, samples: float) -> float:
        """See Transform: 0."""
        return 0.0


def check_match(match: str) -> None:
    """Raise ConfigError for a pattern that fits none of the roles in models/roles.py, whatever the network."""
    for pattern in match.split("|"):
        if not any(fnmatchcase(role, pattern) for role in ROLES):
            raise ConfigError(
                f"transform.match={match} has the pattern {pattern!r}, which fits no role.{nearest(pattern, ROLES)}"
            )


def matching(adapter: Adapter, match: str) -> list[Layer]:
    """Find the layers whose role fits one of the patterns, which are separated by "|". Raises ConfigError if there are none."""
    layers = adapter.layers()
    matched = [layer for layer in layers if fits(layer.role, match)]
    if not matched:
        roles = ", ".join(sorted({layer.role for layer in layers}))
        raise ConfigError(
            f"transform.match={match} fits none of the {len(layers)} layers of this model; roles here: {roles}."
        )
    return matched
