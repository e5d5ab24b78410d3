"""Observe a network while it runs in full precision and then quantized: means and quantiles of every call.

Implemented: the cosine similarity of every block's output to full precision (Huang et al., TFMQ-DM, CVPR 2024, Fig. II), the spread
of activations (So et al., TDQ, NeurIPS 2023, Fig. 2) with the intervals that cover them (its Fig. 9), and the greatest value of
every channel (TCAQ-DM, Fig. A and B).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.models import packed
from dmq_cli.ops import double
from dmq_cli.quant import site_quantizer
from dmq_cli.wrap import Attached, QuantMixin

VALUES = 1 << 12
"""Values of one site at one call that its quartiles are taken from, an equal share of every sample; extremes are of all values."""

_QUARTILES = (0.25, 0.5, 0.75)


class Means:
    """Running means by key, in float64."""

    def __init__(self) -> None:
        self._sums: dict[Hashable, Tensor] = {}
        self._counts: dict[Hashable, int] = defaultdict(int)

    def add(self, key: Hashable, rows: Tensor) -> None:
        """rows: (B,)."""
        total = double(rows).sum()
        self._sums[key] = self._sums[key] + total if key in self._sums else total
        self._counts[key] += len(rows)

    def take(self, key: Hashable) -> Tensor:
        """Return the mean, 0-dim on the CPU, and reset it. Raises KeyError for a key that nothing was added to."""
        return (self._sums.pop(key) / self._counts.pop(key)).cpu()


class SampleMeans:
    """Running means of every sample by key, in float64. samples: their number."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._sums: dict[Hashable, Tensor] = {}

    def add(self, key: Hashable, rows: Tensor, numbers: Tensor) -> None:
        """rows: (B,); numbers: (B,) int64, the sample of each row."""
        rows = double(rows)
        sums = self._sums.setdefault(key, torch.zeros(2, self._samples, dtype=torch.float64, device=rows.device))
        sums.index_add_(1, numbers.to(rows.device), torch.stack([rows, torch.ones_like(rows)]))

    def take(self, key: Hashable) -> Tensor:
        """Return the means, (samples,) on the CPU; NaN for a sample without values. Raises KeyError for an unknown key."""
        sums = self._sums.pop(key).cpu()
        return sums[0] / sums[1]


class Medians:
    """Medians over samples by key, as a few samples turn into other images, whose errors would dominate a mean."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, list[Tensor]] = defaultdict(list)

    def add(self, key: Hashable, rows: Tensor) -> None:
        """rows: (B,)."""
        self._rows[key].append(double(rows))

    def take(self, key: Hashable) -> Tensor:
        """Return the median, 0-dim on the CPU, and reset it. Raises KeyError for a key that nothing was added to."""
        return torch.quantile(torch.cat(self._rows.pop(key)), 0.5).cpu()


def relative_error(output: Tensor, full: Tensor) -> Tensor:
    """|output - full|^2 / |full|^2 of every sample, (B,), float64; NaN where full is zero."""
    return compared(output, full)[0]


def compared(output: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
    """Relative error and cosine similarity to full precision of every sample, (B,), float64; NaN where full is zero."""
    rows, full_rows = _rows(output), _rows(full)
    length, reference = double(rows.square().sum(1)), double(full_rows.square().sum(1))
    reference = reference.where(reference > 0, torch.nan)
    error = double((rows - full_rows).square().sum(1)) / reference
    return error, double((rows * full_rows).sum(1)) / (length * reference).sqrt()


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))


def picked(x: Tensor, samples: Tensor, share: int) -> Tensor:
    """Pick `share` values of every row (all where it has fewer), (B, share), by the sample's number alone.

    samples: (B,) int64, the number of each row's sample.
    """
    rows = x.flatten(1)
    size = rows.shape[1]
    if size <= share:
        return rows
    places = torch.randperm(size, generator=torch.Generator().manual_seed(size))[:share]
    shifted = (places[None] + samples[:, None] * 7919) % size  # other places in every sample
    return rows.gather(1, shifted.to(rows.device))


class Watch:
    """Collects statistics of one network, inside `listening`.

    "full" runs first in every batch, and the other sides are compared with it. samples: the number of all samples, which sets
    how many values of each are kept for the quartiles.
    """

    def __init__(self, attached: Attached, samples: int) -> None:
        self.blocks = attached.units()
        self.sites: list[str] = []
        self.channels: list[str] = []
        self._attached, self._every, self._share = attached, attached.layers(), max(1, VALUES // samples)
        self._means, self._medians, self._cosines = Means(), Medians(), SampleMeans(samples)
        self._side: str | None = "full"
        self._numbers = torch.zeros(1, dtype=torch.int64)
        self._full: dict[str, list[Tensor]] = defaultdict(list)
        self._unseen: dict[str, Iterator[Tensor]] = {}
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._ends: dict[str, tuple[Tensor, Tensor]] = {}
        self._greatest: dict[str, Tensor] = {}

    def next_batch(self, start: int, num: int) -> None:
        """Begin the batch of the samples start .. start + num - 1."""
        self._numbers = torch.arange(start, start + num)
        self._full.clear()

    def turn(self, side: str | None) -> None:
        """Attribute the next calls of the network to `side`; None: do not observe them."""
        self._side = side
        self._unseen = {name: iter(outputs) for name, outputs in self._full.items()}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, every call of the network is observed."""
        with contextlib.ExitStack() as stack:
            for name in self.blocks:
                hook = self._attached.model.get_submodule(name).register_forward_hook(self._block(name))
                stack.callback(hook.remove)
            for name, layer, convolution in self._layers():
                quantizer = layer.input_quantizer
                if self._attached.spec(f"{name}.input_quantizer").quantized:
                    stack.callback(quantizer.register_forward_pre_hook(self._site(name)).remove)
                if convolution and isinstance(layer, nn.Module):
                    stack.callback(layer.register_forward_pre_hook(self._channels(name)).remove)
            yield

    def _layers(self) -> Iterator[tuple[str, QuantMixin, bool]]:
        """Name and layer, and whether it is a convolution of a residual block."""
        for layer in self._attached.adapter.layers():
            yield layer.name, self._every[layer.name], layer.role.startswith("resnet.conv")

    def _block(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, gave: Any) -> None:
            output = packed(gave)
            if self._side is None:
                return
            if self._side == "full":
                self._full[name].append(output)
                return
            full = next(self._unseen[name])  # guidance may run the network twice
            error, cosine = compared(output, full)
            self._medians.add((self._side, name), error)
            self._means.add((self._side, name), cosine)
            self._cosines.add((self._side, name), cosine, self._sample_numbers(output))

        return hook

    def _site(self, name: str) -> Callable[..., None]:
        def hook(quantizer: nn.Module, inputs: tuple[Any, ...]) -> None:
            x: Tensor = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
            if self._side == "quantized":
                self._means.add(("scales", name), site_quantizer(quantizer).interval(x).expand(len(x)))
            if self._side != "full":
                return
            if name not in self.sites:
                self.sites.append(name)
            low, high = x.aminmax()
            least, most = self._ends.get(name, (low, high))
            self._ends[name] = torch.minimum(least, low), torch.maximum(most, high)
            self._values[name].append(picked(x, self._sample_numbers(x), self._share))

        return hook

    def _sample_numbers(self, x: Tensor) -> Tensor:
        """The number of each row's sample; guidance may hold every sample twice."""
        return self._numbers[torch.arange(len(x)) % len(self._numbers)]

    def _channels(self, name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if self._side != "full":
                return
            if name not in self.channels:
                self.channels.append(name)
            greatest = inputs[0].abs().amax([dim for dim in range(inputs[0].dim()) if dim != 1])
            self._greatest[name] = torch.maximum(greatest, self._greatest.get(name, greatest))

        return hook

    def take(self, sides: list[str]) -> dict[str, Tensor]:
        """Return the statistics of the last call, by the names of the trace's tensors, and reset them."""
        tensors = {}
        for kind, by_key in (("block_error", self._medians), ("block_cosine", self._means)):
            for side in sides:
                tensors[f"{kind}.{side}"] = _stacked([by_key.take((side, name)) for name in self.blocks])
        tensors["scales"] = _stacked([self._means.take(("scales", name)) for name in self.sites])
        tensors["activations"] = _stacked([self._summary(name) for name in self.sites], 5)
        for name in self.channels:
            tensors |= self._of_channels(name)
        return tensors

    def take_samples(self, sides: list[str]) -> dict[str, Tensor]:
        """Return the mean cosine of every sample and block over all calls so far, (samples, blocks)."""
        return {
            f"block_cosine_each.{side}": torch.stack([self._cosines.take((side, name)) for name in self.blocks], 1)
            for side in sides
        }

    def _summary(self, name: str) -> Tensor:
        """Minimum, quartiles and maximum, (5,)."""
        values = torch.cat([rows.flatten() for rows in self._values.pop(name)])
        least, most = self._ends.pop(name)
        quartiles = torch.quantile(values, values.new_tensor(_QUARTILES))
        return torch.cat([least[None], quartiles, most[None]]).cpu()

    def _of_channels(self, name: str) -> dict[str, Tensor]:
        greatest, scale = self._greatest.pop(name), self._every[name].channel_scale
        tensors = {f"channel_max.full.{name}": greatest.cpu()}
        if scale is not None:
            tensors[f"channel_max.transformed.{name}"] = (greatest / scale.abs()).cpu()
        return tensors


def _stacked(rows: list[Tensor], *shape: int) -> Tensor:
    """Stack rows to (rows, *shape), also where there are none."""
    return torch.stack(rows) if rows else torch.empty(0, *shape)
