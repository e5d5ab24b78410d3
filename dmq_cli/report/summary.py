"""What a verb found, in a few lines for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from dmq_cli.report.costs import cost_text, latency
from dmq_cli.report.tables import columns, is_distance, is_random, number
from dmq_cli.results.naming import with_overrides
from dmq_cli.results.noise import over_full


def describe(found: dict[str, Any]) -> str:
    """A few lines about the result of a verb."""
    if "plan" in found:
        return "\n".join([_plan(found["plan"]), *_sampled(found)])
    if "macs" in found:
        return cost_text(found, _policy(found["policy"]))
    if "quantized" in found:
        return _evaluation(found)
    return "\n".join(f"{name}: {path}" for name, path in found.get("artifacts", {}).items())


def headline(found: Mapping[str, Any]) -> str | None:
    """The first number of an evaluation in a few words: "FD-digits 0.52"; None for what measured nothing."""
    for key, name in found.get("protocol", {}).get("columns", {}).items():
        if key in found.get("quantized", {}):
            return f"{name} {number(found, 'quantized', key)}"
    return None


def _evaluation(found: dict[str, Any]) -> str:
    random = " (random weights)" if is_random(found) else ""
    name = with_overrides(f"{found['model']}{random} {found['method']} {found['bits']}", found.get("overrides", []))
    head = f"{name}, {found['num_images']} images, seeds {', '.join(found['seeds'])}"
    lines = [head + (f" (fp: {', '.join(found['fp_seeds'])})" if "fp_seeds" in found else "")]
    for key, name in columns(found).items():
        lines.append(f"  {name:12s} fp {number(found, 'fp', key)}   quantized {number(found, 'quantized', key)}")
    lines.append(f"  {'PSNR to fp':12s} {number(found, 'paired', 'psnr')} dB")
    lines += [f"  {line}" for line in _differences(found)]
    lines.append(f"  {'policy':12s} {_policy(found['policy'])}")
    if spent := latency(found):
        lines.append(f"  {'latency':12s} {spent}")
    return "\n".join([*lines, f"  run: {found.get('run', 'a finished cell of the table')}"])


def _differences(found: dict[str, Any]) -> list[str]:
    """How far each distance is from full precision's, and whether that can be chance; none where its noise is not known."""
    lines = []
    for key, name in columns(found).items():
        difference, inside = over_full(found, key)
        if is_distance(key) and inside is not None:
            side = "over" if difference >= 0 else "under"
            lines.append(f"{name} {abs(difference):.2f} {side} fp, {'inside' if inside else 'outside'} the noise")
    return lines


def _policy(bits: dict[str, int]) -> str:
    """The layer policy in one line: the width of most sites, and every label that differs from its kind."""
    kinds: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
    for label, width in bits.items():
        kinds["weights" if label.endswith(".weight") else "activations"][label] = width
    parts = []
    for kind, widths in kinds.items():
        most = statistics.mode(widths.values())
        others = ", ".join(f"{label} {width}" for label, width in widths.items() if width != most)
        parts.append(f"{kind} {most} bits" + (f" but {others}" if others else ""))
    return "; ".join(parts)


def _sampled(found: Mapping[str, Any]) -> list[str]:
    """Where the sampler's settings come from, and what has to be said about guidance."""
    from dmq_cli.stages.sampler_notes import sampler_line

    lines = [sampler_line(found["sampler"])] if "sampler" in found else []
    return [*lines, *([found["guidance"]] if "guidance" in found else [])]


def _plan(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'stage':13s}{'seeds':16s}{'key':10s}{'state':12s}{'estimate':>10s}  why"]
    for row in rows:
        estimate = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        state = "cached" if row["cached"] else "to compute"
        lines.append(f"{row['stage']:13s}{row['seeds']:16s}{row['key']:10s}{state:12s}{estimate:>10s}  {row['why']}")
    return "\n".join(lines)
