"""Check the claims of figures against the traces of runs: statistics of activations, scales and blocks at every step.

A trace is an artifact of `dmq evaluate` (trace.json and trace.safetensors). The statistics a figure needs are kept in the
table's folder, so that the table can be written again where the artifacts are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmq_cli.papers.claims import AHEAD, BEHIND, EVEN, FAILS, HOLDS, LEARNED_ONCE, UNKNOWN, Verdict
from dmq_cli.store import read_json

if TYPE_CHECKING:  # jobs are listed without torch
    from torch import Tensor

Outcome = tuple[str, ...]  # in words, and the numbers behind it
_RESIDUAL = "resnet"
_LESS = 0.95  # balanced: the ratio shrinks to less than this fraction
_VARIES = 1.5  # a range varies if its widest over narrowest step is above this


def statistics(trace: Path) -> dict[str, Any]:
    """Compute the statistics that figures need of one trace: plain numbers by site, layer or block."""
    from dmq_cli.store.tensors import load_tensors

    summary, tensors = read_json(trace / "trace.json"), load_tensors(trace / "trace.safetensors")
    side = "corrected" if summary.get("corrected") else "quantized"  # the row is the method as a whole
    width = tensors["activations"][..., 4] - tensors["activations"][..., 0]  # (S, sites)
    ratio = width.amax(0) / width.amin(0).clamp_min(1e-12)
    follows = [_correlation(interval, wide) for interval, wide in zip(tensors["scales"].T, width.T, strict=True)]
    return {
        "range_ratio": dict(zip(summary["sites"], ratio.tolist(), strict=True)),
        "with_time": _with_time(summary, width),
        "correlation": {site: r for site, r in zip(summary["sites"], follows, strict=True) if r is not None},
        "channels": {layer: _channels(tensors, layer) for layer in summary["channels"]},
        "cosine": dict(zip(summary["blocks"], tensors[f"block_cosine.{side}"].nanmean(0).tolist(), strict=True)),
        "cosine_each": _per_sample(summary["blocks"], tensors.get(f"block_cosine_each.{side}")),
    }


def verdict(
    claim: Mapping[str, Any], by_method: Mapping[str, dict[str, Any]], learned: Collection[str] = ()
) -> Verdict:
    """Check the claim of a figure. by_method: the statistics of every row's trace, by the method as printed; a claim about one of
    several rows names it (row). learned: the methods whose network is learned: what sets them apart holds as learned once.
    """
    compared = claim["trace"] == "cosine"
    needed = {*claim["better"], *claim["worse"]} if compared else {claim.get("row", next(iter(by_method), ""))}
    if not needed <= by_method.keys():
        return Verdict(claim["says"], UNKNOWN)
    if not compared:
        return Verdict(claim["says"], *_CHECKS[claim["trace"]](claim, by_method[needed.pop()]))
    state, *details = _cosine(claim, by_method)
    return Verdict(claim["says"], state if needed.isdisjoint(learned) else LEARNED_ONCE.get(state, state), *details)


def _range_varies(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    """Compare the widest range over steps with the narrowest, layer by layer: in at_least layers, or in more than half of all."""
    ratios = sorted(r for site, r in stats["range_ratio"].items() if fnmatch(site, claim.get("layers", "*")))
    if not ratios:
        return (UNKNOWN,)
    many, middle = sum(r > _VARIES for r in ratios), ratios[len(ratios) // 2]
    state = HOLDS if many >= claim.get("at_least", len(ratios) // 2 + 1) else FAILS
    return (
        state,
        f"Widest over narrowest range is above {_VARIES} in {many} of {len(ratios)} layers; median {middle:.2f}.",
    )


def _intervals_follow(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    values = sorted(stats["correlation"].values())
    if not values:
        return (UNKNOWN,)
    many = sum(r > 0.5 for r in values)
    state = HOLDS if 2 * many > len(values) else FAILS
    return (
        state,
        f"Interval and range correlate above 0.5 over steps in {many} of {len(values)} layers; median {values[len(values) // 2]:.2f}.",
    )


def _ranges_follow_time(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    """Pearson's r between timestep and range, layer by layer: how many are above 0.5, above 0.7, and where those with less lie."""
    sizes = _strengths(stats)
    if not sizes:
        return (UNKNOWN,)
    moderate, strong = (sum(r > least for r in sizes.values()) for least in (0.5, 0.7))
    none = [site for site, r in sizes.items() if r <= 0.5]
    where = "".join(f", {n} of {of} in {part}" for part, n, of in _by_part(none, sizes))
    return (
        HOLDS if 2 * moderate > len(sizes) else FAILS,
        f"|r| is above 0.5 in {100 * moderate / len(sizes):.1f} % and above 0.7 in {100 * strong / len(sizes):.1f} % of"
        f" {len(sizes)} layers; not above 0.5 in {len(none)}{where}.",
    )


def _mostly_in_the_middle(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    """Whether ranges of the middle block follow time less often than those of the other parts."""
    sizes = _strengths(stats)
    middle = [r <= 0.5 for site, r in sizes.items() if site.startswith("mid")]
    others = [r <= 0.5 for site, r in sizes.items() if not site.startswith("mid")]
    if not middle or not others:
        return (UNKNOWN,)
    inside, outside = sum(middle) / len(middle), sum(others) / len(others)
    text = f"Without |r| > 0.5: {100 * inside:.0f} % of the layers of the middle block, {100 * outside:.0f} % of the others."
    return HOLDS if inside > outside else FAILS, text


def _strengths(stats: Mapping[str, Any]) -> dict[str, float]:
    """|r| between timestep and range, by site."""
    return {site: abs(r) for site, r in stats.get("with_time", {}).items()}


def _by_part(sites: Sequence[str], every: Iterable[str]) -> list[tuple[str, int, int]]:
    """(part of the network, how many of these sites lie in it, how many of all), where there are any of them."""
    of_all = Counter(site.partition(".")[0] for site in every)
    of_these = Counter(site.partition(".")[0] for site in sites)
    return [(part, of_these[part], count) for part, count in of_all.items() if of_these[part]]


def _few_channels_rise(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    rising = {layer: c["rising"] for layer, c in stats["channels"].items()}
    if not rising:
        return (UNKNOWN,)
    layer = max(rising, key=lambda name: float(rising[name]))
    share = sum(rising.values()) / len(rising)
    state = HOLDS if rising[layer] > 0 and share < 0.5 else FAILS
    return (
        state,
        f"{100 * share:.0f} % of channels are at some step over twice their own median; most in {layer}, {100 * rising[layer]:.0f} %.",
    )


def _tcr_balances(claim: Mapping[str, Any], stats: Mapping[str, Any]) -> Outcome:
    """Check that in most layers the widest channel at a step comes nearer to the median one.

    That the greatest value shrinks is reported but proves nothing: channels are divided by factors of one or more.
    """
    layers = [layer for layer in stats["channels"].values() if "transformed" in layer]
    if not layers:
        return (UNKNOWN,)
    balanced = sum(layer["transformed"] < _LESS * layer["full"] for layer in layers)
    before, after = (sum(layer[name] for layer in layers) / len(layers) for name in ("full", "transformed"))
    smaller = sum(layer["transformed_greatest"] / layer["full_greatest"] for layer in layers) / len(layers)
    state = HOLDS if 2 * balanced > len(layers) else FAILS
    return (
        state,
        f"At a step the widest channel over the median one is {before:.2f} before and {after:.2f} after, less by over"
        f" {100 * (1 - _LESS):.0f} % in {balanced} of {len(layers)} layers; the greatest value shrinks to {100 * smaller:.0f} %, as it must.",
    )


def _cosine(claim: Mapping[str, Any], by_method: Mapping[str, dict[str, Any]]) -> Outcome:
    """Compare mean cosines over steps at the block that the paper shows, counted from 1 among residual blocks in execution order."""
    rows = [by_method[claim[side][0]] for side in ("better", "worse")]
    block = [name for name in rows[0]["cosine"] if _RESIDUAL in name][int(claim["block"]) - 1]
    better, worse = (float(row["cosine"][block]) for row in rows)
    per_sample = [row.get("cosine_each", {}).get(block) for row in rows]
    if None in per_sample:  # traced before it was kept
        return AHEAD if better > worse else BEHIND, f"Mean over steps {better:.4f} against {worse:.4f}."
    low, high = _difference(*per_sample)
    state = HOLDS if low > 0 else FAILS if high < 0 else EVEN
    return (
        state,
        f"Mean over steps {better:.4f} against {worse:.4f}; of the same samples {low:+.5f} to {high:+.5f} apart.",
    )


def _difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of the mean of a - b over samples; samples with NaN in either are left out."""
    import torch

    from dmq_cli.metrics.interval import quantile

    apart = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    apart = apart[~apart.isnan()]
    half = quantile(len(apart) - 1) * float(apart.std()) / math.sqrt(len(apart))
    return float(apart.mean()) - half, float(apart.mean()) + half


def _per_sample(blocks: Sequence[str], cosines: Tensor | None) -> dict[str, list[float]]:
    """The cosines of every sample at residual blocks, to seven decimals."""
    columns = [] if cosines is None else cosines.T.tolist()
    named = zip(blocks, columns, strict=False)
    return {block: [round(value, 7) for value in values] for block, values in named if _RESIDUAL in block}


def _channels(tensors: Mapping[str, Tensor], layer: str) -> dict[str, float]:
    """rising: the share of channels that at some step are over twice their own median over steps. full and transformed: the widest
    channel over the median one, mean over steps; with _greatest: the greatest value of all.
    """
    values = {name: tensors.get(f"channel_max.{name}.{layer}") for name in ("full", "transformed")}  # (S, C)
    shares = {}
    for name, maxima in values.items():
        if maxima is not None:
            shares[name] = float((maxima.amax(1) / maxima.median(1).values.clamp_min(1e-12)).mean())
            shares[f"{name}_greatest"] = float(maxima.max())
    if (full := values["full"]) is not None:
        shares["rising"] = float((full.amax(0) > 2 * full.median(0).values).float().mean())
    return shares


def _with_time(summary: Mapping[str, Any], width: Tensor) -> dict[str, float]:
    """Pearson's r between the timestep and the width of the range of every site, 0 where that never varies. width: (S, sites)."""
    import torch

    timesteps = torch.tensor(summary["timesteps"], dtype=torch.float64)
    if len(timesteps) < 3:
        return {}
    return {site: _correlation(wide, timesteps) or 0.0 for site, wide in zip(summary["sites"], width.T, strict=True)}


def _correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's; None where a is NaN or does not vary."""
    import torch

    if bool(a.isnan().any()) or float(a.std()) < 1e-9 * float(a.abs().max()) or len(a) < 3:
        return None
    r = float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])
    return None if math.isnan(r) else r


_CHECKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Outcome]] = {
    "range_varies": _range_varies,
    "ranges_follow_time": _ranges_follow_time,
    "mostly_in_the_middle": _mostly_in_the_middle,
    "intervals_follow": _intervals_follow,
    "few_channels_rise": _few_channels_rise,
    "tcr_balances": _tcr_balances,
}
