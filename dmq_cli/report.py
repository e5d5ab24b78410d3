"""From metrics.json files to what people read: a summary in the terminal, Markdown tables, the README's numbers."""

from __future__ import annotations

from typing import Any


def describe(found: dict[str, Any]) -> str:
    """A few lines about the result of a verb."""
    if "plan" in found:
        return _plan(found["plan"])
    if "quantized" in found:
        return _evaluation(found)
    return "\n".join(f"{name}: {path}" for name, path in found.get("artifacts", {}).items())


def _evaluation(found: dict[str, Any]) -> str:
    columns = found["protocol"]["columns"]
    lines = [f"{found['model']} {found['method']} {found['bits']}, {found['num_images']} images, seeds {', '.join(found['seeds'])}"]
    for key, name in columns.items():
        lines.append(f"  {name:12s} fp {_number(found['fp'], key)}   quantized {_number(found['quantized'], key)}")
    lines.append(f"  {'PSNR to fp':12s} {_number(found['paired'], 'psnr')} dB")
    return "\n".join([*lines, f"  run: {found.get('run', 'from the table')}"])


def _number(numbers: dict[str, Any], key: str) -> str:
    spread = numbers.get(f"{key}_over_seeds")
    return f"{numbers[key]:.3f}" + (f" ± {spread['std']:.3f}" if spread else "")


def _plan(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'stage':13s}{'seeds':16s}{'key':10s}{'state':12s}{'estimate':>10s}  why"]
    for row in rows:
        estimate = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        state = "cached" if row["cached"] else "to compute"
        lines.append(f"{row['stage']:13s}{row['seeds']:16s}{row['key']:10s}{state:12s}{estimate:>10s}  {row['why']}")
    return "\n".join(lines)
