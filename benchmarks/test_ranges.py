"""The search of weight ranges, all channels at once, against a Python loop over channels and candidates."""

from __future__ import annotations

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks import cifar
from benchmarks.timing import say, seconds
from dmq_cli.ops import LpSearch, PerChannel
from dmq_cli.quant import Uniform

BITS, ROWS, ROUNDS = 4, 2, 3


def loop(rows: Tensor) -> Tensor:
    """The search as released with BRECQ and Q-Diffusion (p = 2.4): channel by channel, candidate by candidate."""
    ranges, top = [], 2**BITS - 1
    for row in rows:
        best, chosen, zero = float("inf"), (0.0, 0.0), row.new_zeros(())
        high, low = torch.maximum(row.max(), zero), torch.minimum(row.min(), zero)
        for i in range(80):
            new_high, new_low = high * (1 - i * 0.01), low * (1 - i * 0.01)
            delta = (new_high - new_low) / top
            zero_point = (-new_low / delta).round()
            codes = torch.clamp(torch.round(row / delta) + zero_point, 0, top)
            score = float((row - (codes - zero_point) * delta).abs().pow(2.4).mean())
            if score < best:
                best, chosen = score, (float(new_low), float(new_high))
        ranges.append(chosen)
    return torch.tensor(ranges)


@torch.inference_mode()
def test_range_search(benchmark: BenchmarkFixture) -> None:
    """All weights of the CIFAR-10 UNet at 4 bits.

    The loop would take minutes: it is timed on some channels of every layer, spread over it, and its time is
    multiplied by channels over channels timed; the search is timed whole. Both by turns, layer by layer; the
    fastest of a few rounds counts for each layer.
    """
    kinds = (nn.Conv2d, nn.Linear)
    weights = [PerChannel().grouped(m.weight) for m in cifar.adapter().model.modules() if isinstance(m, kinds)]
    fast, slow = [[float("inf")] * len(weights) for _ in range(2)]
    agree: list[bool] = []

    def layers() -> None:
        for i, weight in enumerate(weights):
            rows = weight[torch.linspace(0, len(weight) - 1, ROWS).long()]
            by_loop: list[Tensor] = []
            slow[i] = min(slow[i], seconds(lambda: by_loop.append(loop(rows))) * len(weight) / ROWS)  # noqa: B023
            fast[i] = min(fast[i], seconds(lambda: LpSearch().fit(weight, Uniform(BITS))))  # noqa: B023
            by_search = torch.stack(LpSearch().fit(rows, Uniform(BITS)), 1)
            agree.extend(torch.isclose(by_search, by_loop[0], rtol=1e-5).all(1).tolist())

    benchmark.pedantic(layers, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    assert sum(agree) > 0.95 * len(agree)  # near ties fall either way in float32
    say(
        benchmark,
        f"loop over channels / range search: {sum(slow) / sum(fast):.1f} (target at least 10; {sum(fast):.3g} s "
        f"for {len(weights)} layers, {sum(w.numel() for w in weights):,} weights; the loop, scaled from {ROWS} "
        f"channels of each layer: {sum(slow):.4g} s)",
    )
