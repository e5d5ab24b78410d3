"""Format the cost of a model under a setting, and the time of sampling, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.results.naming import with_overrides
from dmq_cli.results.record import Evaluation

_KINDS = {"": "own bits", "_flat": "papers' count", "_fp": "full precision"}
_PARTS = {
    "weights": "weights",
    "other": "other parameters",
    "scales": "scales and zero points",
    "transform": "transform",
    "correction": "correction",
}
_NOTE = (
    "  Own bits: every product by the bits of its two factors; what is not a weight as it is stored. Papers' count:\n"
    "  2 x MACs x weight bits x activation bits, attention included, and parameters x weight bits / 8. MB are 10^6 bytes.\n"
    "  Denoiser only. Latency is measured, not counted: dmq benchmark."
)
_FULL = "\n  Full precision is 2 x MACs x 32 x 32. TAC's Table 2 has about half of it: 107.17 T for LDM-4, 22.17 T for LDM-8."


def cost_text(counted: Mapping[str, Any], policy: str) -> str:
    """Format the result of stages.costing.cost_of. policy: the layer policy in words."""
    name = with_overrides(f"{counted['model']} {counted['method']} {counted['bits']}", counted.get("overrides", []))
    head = f"{name}, counted from shapes: {counted['parameters'] / 1e6:.2f} M parameters"
    size, unit = (1e9, "G") if counted["macs"] >= 1e9 else (1e6, "M")
    macs = f"{counted['macs'] / size:.2f} {unit} MACs a call, {counted['macs_attention'] / size:.2f} {unit} of them attention products"
    sizes = (counted["size_bytes"], counted["size_flat_bytes"], counted["size_bytes_fp"])
    halves = " x 2" if counted["estimates"] == 2 else ""
    rows = [
        _row("", list(_KINDS.values())),
        _operations("one call", [counted[f"bops{kind}"] for kind in _KINDS]),
        _operations(f"{counted['calls']} calls{halves}", [counted[f"run_bops{kind}"] for kind in _KINDS]),
        _row("size, MB", [f"{size / 1e6:,.2f}" for size in sizes]),
    ]
    parts = ", ".join(f"{_PARTS[name]} {size / 1e6:.2f}" for name, size in counted["parts"].items() if size)
    named = [f"  {'of own bits':18s} {parts} MB", f"  {'policy':18s} {policy}"]
    note = _NOTE + (_FULL if counted["bops"] == counted["bops_fp"] else "")
    return "\n".join([f"{head}, {macs}", *rows, *named, note])


def _operations(name: str, bops: list[int]) -> str:
    unit, size = ("TBops", 1e12) if min(bops) >= 1e11 else ("GBops", 1e9)
    return _row(f"{name}, {unit}", [f"{number / size:,.2f}" for number in bops])


def _row(name: str, cells: list[str]) -> str:
    return f"  {name:18s} " + "  ".join(f"{cell:>14s}" for cell in cells)


def latency(evaluation: Evaluation) -> str | None:
    """Write the seconds per image of a finished evaluation; None where they were not recorded."""
    spent = [evaluation.seconds.get(f"sample-{seeds}") for seeds in evaluation.seeds]
    kept_seconds = [seconds for seconds in spent if seconds is not None]
    if not kept_seconds or len(kept_seconds) < len(spent):
        return None
    seconds_per_image = sum(kept_seconds) / (len(spent) * evaluation.num_images)
    if (backend := evaluation.config.get("backend", "simulated")) != "simulated":
        return f"{seconds_per_image:.3g} s an image, with {backend} in integers on this machine"
    return f"{seconds_per_image:.3g} s an image, simulated on this machine; hardware with such bits would take another time"
