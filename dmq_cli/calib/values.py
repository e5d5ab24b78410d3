"""Keep a bounded random part of quantizers' inputs: a function of the calibration set, however it is cut into batches."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from dmq_cli.ops import generators

MOST_DRAWN = 4096
"""Values of one sample that are kept, at most."""
KEPT_VALUES = 1 << 17
"""Values that are kept for each scale, at most."""


class Draws:
    """Draws the order in which a sample's values are kept, seeded with the sample's number in the calibration set."""

    def __init__(self) -> None:
        self._samples = range(0)
        self._places: dict[int, Tensor] = {}

    def start(self, first: int, num: int) -> None:
        """Begin a batch of the samples number first .. first + num - 1."""
        self._samples, self._places = range(first, first + num), {}

    def places(self, total: int) -> Tensor:
        """Draw places in 0..total - 1 for each sample of the batch, (B, min(total, MOST_DRAWN)), in random order.

        Each place once where they are few; drawn independently where there are more than MOST_DRAWN.
        """
        if total not in self._places:
            self._places[total] = _drawn(self._samples, total)
        return self._places[total]


def _drawn(samples: range, total: int) -> Tensor:
    uniform = torch.stack([torch.rand(MOST_DRAWN, generator=generator) for generator in generators(samples)])
    if total <= MOST_DRAWN:
        return uniform[:, :total].argsort(dim=1, stable=True)
    # A product in float32 would not reach every place of a large tensor.
    return (uniform.double() * total).long()


class Values:
    """Values of one quantizer: an equal share of every sample of a group, all halved when a scale has too many."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[Tensor]] = defaultdict(list)
        self._share: dict[int, int] = {}

    def add(self, group: int, rows: Tensor, places: Tensor) -> None:
        """rows: (B, channels, n) of this group, on any device; places: (B, k) as Draws gives them."""
        share = self._share.setdefault(group, places.shape[1])
        chosen = places[:, None, :share].expand(-1, rows.shape[1], -1)
        self._pieces[group].append(rows.gather(2, chosen.to(rows.device)).cpu())
        samples = sum(map(len, self._pieces[group]))
        while samples * share > KEPT_VALUES and share > 1:
            share //= 2
        if share < self._share[group]:
            self._share[group] = share
            self._pieces[group] = [piece[:, :, :share].clone() for piece in self._pieces[group]]

    def of(self, group: int, channel: int) -> Tensor:
        """The values kept of a channel of a group, (N,)."""
        return self.by_sample(group, channel).flatten()

    def by_sample(self, group: int, channel: int) -> Tensor:
        """The values kept of a channel of a group, (samples, share), in the order the samples came."""
        return torch.cat([piece[:, channel] for piece in self._pieces[group]])
