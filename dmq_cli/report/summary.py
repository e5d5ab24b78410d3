"""What a verb found, in a few lines for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from dmq_cli.metrics import shown
from dmq_cli.printing import duration
from dmq_cli.report.benchmark import benchmark_text
from dmq_cli.report.costs import cost_text, latency
from dmq_cli.report.tables import columns, paired_shown
from dmq_cli.results.benchmark import Benchmark
from dmq_cli.results.naming import with_overrides
from dmq_cli.results.noise import over_full
from dmq_cli.results.record import Evaluation, Number, as_evaluation
from dmq_cli.results.verdict import verdict, with_noise


def describe(result: dict[str, Any]) -> str:
    """A few lines about the result of a verb."""
    if "plan" in result:
        return "\n".join([_plan(result["plan"]), *_room(result), *_sampled(result)])
    if "machine" in result:
        return benchmark_text(Benchmark(result), result.get("run", "a finished cell of the table"))
    if "macs" in result:
        return cost_text(result, policy_text(result["policy"]))
    if "quantized" in result:
        return _evaluation(as_evaluation(result), result.get("run", "a finished cell of the table"))
    lines = [f"{name}: {path}" for name, path in result.get("artifacts", {}).items()]
    return "\n".join([*lines, f"exported: {result['exported']}"] if "exported" in result else lines)


def headline(result: Mapping[str, Any]) -> str | None:
    """The first number of an evaluation in a few words: "FD-digits 0.52"; None for what measured nothing."""
    if "quantized" not in result:
        return None
    evaluation = as_evaluation(result)
    number = None if evaluation.headline is None else evaluation.number(*evaluation.headline)
    if evaluation.headline is None or number is None:
        return None
    how = shown(evaluation.headline[1])
    return f"{evaluation.protocol['columns'].get(how.key, how.heading)} {_with_unit(number, how.key)}"


def _evaluation(evaluation: Evaluation, run: str) -> str:
    random = " (random weights)" if evaluation.random else ""
    name = with_overrides(f"{evaluation.model}{random} {evaluation.method} {evaluation.bits}", evaluation.overrides)
    head = f"{name}, {evaluation.num_images} images, seeds {', '.join(evaluation.seeds)}"
    fp_differs = evaluation.fp_seeds != evaluation.seeds
    lines = [head + (f" (fp: {', '.join(evaluation.fp_seeds)})" if fp_differs else "")]
    for key, title in columns(evaluation).items():
        full, quantized = with_noise(evaluation.fp[key], key), with_noise(evaluation.quantized[key], key)
        lines.append(f"  {title:12s} fp {full}   quantized {quantized}")
    for key in paired_shown([evaluation]):
        how = shown(key)
        lines.append(f"  {how.heading.replace('FP', 'fp'):12s} {_with_unit(evaluation.paired[key], key)}")
    lines += [f"  {line}" for line in _differences(evaluation)]
    lines.append(f"  {'policy':12s} {policy_text(evaluation.policy)}")
    if spent := latency(evaluation):
        lines.append(f"  {'latency':12s} {spent}")
    return "\n".join([*lines, f"  run: {run}"])


def _with_unit(number: Number, key: str) -> str:
    return with_noise(number, key) + (f" {number.unit}" if number.unit else "")


def _differences(evaluation: Evaluation) -> list[str]:
    """How far each distance is from full precision's, and whether that can be chance; none where its noise is not known."""
    lines = []
    for key, name in columns(evaluation).items():
        difference, inside = over_full(evaluation, key)
        if shown(key).distance and inside is not None:
            side = "over" if difference >= 0 else "under"
            lines.append(f"{name} {abs(difference):.{shown(key).digits}f} {side} fp, {verdict(inside)}")
    return lines


def policy_text(bits: Mapping[str, int]) -> str:
    """The layer policy in one line: the width of most sites, and every label that differs from its kind."""
    kinds: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
    for label, width in bits.items():
        kinds["weights" if label.endswith(".weight") else "activations"][label] = width
    parts = []
    for kind, widths in kinds.items():
        most = statistics.mode(widths.values())
        exceptions = ", ".join(f"{label} {width}" for label, width in widths.items() if width != most)
        parts.append(f"{kind} {most} bits" + (f" but {exceptions}" if exceptions else ""))
    return "; ".join(parts)


def _sampled(result: Mapping[str, Any]) -> list[str]:
    """Where the sampler's settings come from, and what has to be said about guidance."""
    from dmq_cli.stages.sampler_notes import sampler_line

    lines = [sampler_line(result["sampler"])] if "sampler" in result else []
    return [*lines, *([result["guidance"]] if "guidance" in result else [])]


def _plan(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'stage':13s}{'seeds':16s}{'key':10s}{'state':12s}{'estimate':>10s}  why"]
    for row in rows:
        estimate = "" if row["seconds"] is None else duration(row["seconds"])
        state = "cached" if row["cached"] else "to compute"
        lines.append(f"{row['stage']:13s}{row['seeds']:16s}{row['key']:10s}{state:12s}{estimate:>10s}  {row['why']}")
    waiting = [row for row in rows if not row["cached"]]
    if waiting:
        timed = sum(row["from"] == "earlier runs" for row in waiting)
        basis = f"{timed} of {len(waiting)} stages by earlier runs, the others by a call of the network timed now"
        lines.append(f"about {duration(sum(row['seconds'] for row in waiting))} in all ({basis})")
    return "\n".join(lines)


def _room(result: Mapping[str, Any]) -> list[str]:
    """A warning where the images would not fit on the disk."""
    disk = result.get("disk", {})
    if not disk.get("free") or disk["images"] < disk["free"]:
        return []
    return [f"The images take {disk['images'] / 1e9:.1f} GB, but only {disk['free'] / 1e9:.1f} GB are free there."]
