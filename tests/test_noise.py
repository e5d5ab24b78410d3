"""What is inside the noise is said so, in tables and in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmq_cli import report
from dmq_cli.results.noise import alike, inside_noise, over_full
from dmq_cli.results.record import Evaluation, Number, as_evaluation, over_ranges
from tests.test_report import cell, fill


def single(fd: float, half: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    """A cell of one seed range: full precision at 1.0 +- 0.1, the quantized network at fd +- half."""
    settings = {"num_images": 40, "policy": {"a.weight": 4, "a.input": 8}, "seeds": ["0-39"]}
    numbers = {"fp": {"fd": 1.0, "is": 8.0}, "quantized": {"fd": fd, "is": 7.0}, "paired": {"psnr": 20.0}}
    record = cell("tac", fd, **settings, **numbers)
    if half is not None:
        record["intervals"] = {
            "fp": {"fd": [0.9, 1.1], "is": [7.9, 8.1]},
            "quantized": {"fd": [fd - half, fd + half], "is": [6.9, 7.1]},
            "paired": {"psnr": [19.5, 20.5]},
        }
    return {**record, **changes}


def test_half_widths_add_in_squares() -> None:
    near, far, above = Number(1.0, (0.7, 1.3)), Number(1.51, (1.11, 1.91)), Number(1.49, (1.09, 1.89))
    assert inside_noise(near, above) and inside_noise(far, near) is False
    assert inside_noise(Number(1.0), near) is None


def test_runs_of_one_twin_are_compared_by_how_far_they_are_above_it() -> None:
    def above(fd: float, over: float, twin: str) -> Evaluation:
        record = single(fd, 0.5, artifacts={"sample_fp-0-39": twin}, seeds=["0-39"], over_fp={"fd": over})
        record["intervals"]["over_fp"] = {"fd": [over - 0.02, over + 0.02]}
        return as_evaluation(record)

    first, second = above(1.0, 0.1, "a"), above(1.1, 0.2, "a")
    assert alike(first, second, "quantized", "fd") is False
    assert alike(first, above(1.1, 0.2, "b"), "quantized", "fd") is True, "other images of full precision: independent"
    assert alike(first, second, "quantized", "lpips") is None


def test_several_ranges_have_students_interval() -> None:
    number = over_ranges([{"fd": 0.44}, {"fd": 0.5}, {"fd": 0.56}])["fd"]
    assert number.value == pytest.approx(0.5) and number.half == pytest.approx(4.30265 * 0.06 / 3**0.5, rel=1e-5)


def test_tables_show_intervals_and_mark_what_is_like_full_precision(tmp_path: Path) -> None:
    cells = [single(1.1), single(2.0, method="minmax"), single(1.0, None, method="qdiffusion")]
    lines = report.table(fill(tmp_path / "t", cells)).splitlines()
    assert "| full precision | 1.00 [0.90, 1.10] | 8.00 [7.90, 8.10] |" in lines[2]
    assert "| minmax | 2.00 [1.90, 2.10] | 7.00 [6.90, 7.10] | 20.00 [19.50, 20.50] dB |" in lines[3]
    assert "| qdiffusion | 1.00 | 7.00 | 20.00 dB |" in lines[4], "from before intervals"
    assert "| tac | 1.10 [1.00, 1.20] ≈ fp | 7.00 [6.90, 7.10] |" in lines[5]
    assert "95 % interval" in lines[-1] and "≈ fp: " in lines[-1]
    old = report.table(fill(tmp_path / "old", [single(1.0, None)]))
    assert "[" not in old and "≈" not in old and "interval" not in old


def test_the_limit_stands_beside_the_distance(tmp_path: Path) -> None:
    new, old = single(2.0), single(1.5, method="minmax")
    new["fp"], new["quantized"] = {**new["fp"], "fd_inf": 0.9}, {**new["quantized"], "fd_inf": 1.9}
    lines = report.table(fill(tmp_path / "t", [old, new])).splitlines()
    assert lines[0].startswith("| bits | method | FD-digits ↓ | FD-digits∞ ↓ | IS-digits ↑ |")
    assert "1.00 [0.90, 1.10] | 0.90 | 8.00" in lines[2] and "2.00 [1.90, 2.10] | 1.90 |" in lines[4]
    assert "1.50 [1.40, 1.60] |  | 7.00" in lines[3] and "infinitely many" in lines[-1]


@pytest.mark.parametrize(
    ("fd", "half", "line"),
    [
        (1.1, 0.1, "FD-digits 0.10 over fp, inside the noise"),
        (0.8, 0.1, "FD-digits 0.20 under fp, outside the noise"),
        (1.1, None, None),
    ],
)
def test_the_summary_says_whether_a_difference_is_noise(fd: float, half: float | None, line: str | None) -> None:
    record = single(fd, half)
    lines = [text.strip() for text in report.describe(record).splitlines()]
    assert (line in lines) if line else not any("noise" in text for text in lines)
    assert over_full(as_evaluation(record), "fd")[0] == pytest.approx(fd - 1)
    assert over_full(as_evaluation(record), "fd")[1] is (None if half is None else "inside" in str(line))


def test_the_difference_from_the_same_noise_decides_where_it_is_known() -> None:
    record = single(1.1, over_fp={"fd": 0.1})
    assert over_full(as_evaluation(record), "fd") == (0.1, None)
    record["intervals"]["over_fp"] = {"fd": [0.05, 0.15]}
    assert over_full(as_evaluation(record), "fd") == (0.1, False), "as independent numbers they could not be told apart"
    record["over_fp"] = {"fd": 0.1, "fd_over_seeds": {"std": 0.05, "each": [0.05, 0.1, 0.15]}}
    assert over_full(as_evaluation(record), "fd") == (0.1, True)
    assert "FD-digits 0.10 over fp, inside the noise" in report.describe(record)
