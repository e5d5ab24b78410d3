"""Loss curves: few points, means of what lies between, kept over a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.recon import curves
from dmq_cli.recon.curves import POINTS, Curve
from tests.recon.runs import FEW_UNITS, brecq, few, run


def curve(losses: list[float]) -> list[list[float]]:
    loss_curve = Curve(len(losses))
    for loss in losses:
        loss_curve.add(loss)
    return loss_curve.points


@pytest.mark.parametrize("total", [1, 3, 50, 51, 70, 1000])
def test_points_are_few_spread_evenly_and_end_with_the_last(total: int) -> None:
    points = curve([float(number) for number in range(1, total + 1)])
    places = [iteration for iteration, _ in points]
    assert len(points) == min(total, POINTS) and places[-1] == total
    gaps = {after - before for before, after in zip([0, *places], places, strict=False)}
    assert max(gaps) - min(gaps) <= 1
    starts = [0, *places]
    for start, (iteration, loss) in zip(starts, points, strict=False):
        assert loss == pytest.approx((start + 1 + iteration) / 2), "the mean of the losses since the point before"


def ends(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    return {name: list(units) for name, units in found.items()}


def test_a_resumed_run_has_the_curves_of_a_whole_one(tmp_path: Path) -> None:
    settings = brecq(weights=12, scales=3, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        run(settings, few(), tmp_path / "killed", stop=lambda name, unit: (name, unit) == ("weights", FEW_UNITS[3]))
    finished = curves(tmp_path / "killed")
    assert ends(finished) == {"weights": FEW_UNITS[:3]}
    run(settings, few(), tmp_path / "killed")
    run(settings, few(), tmp_path / "whole")
    whole = curves(tmp_path / "whole")
    assert json.dumps(curves(tmp_path / "killed")) == json.dumps(whole), "in the same order"
    assert ends(whole) == {"weights": FEW_UNITS, "scales": FEW_UNITS}
    assert [point[0] for point in whole["scales"]["conv_out"]] == [1, 2, 3]
    falls = [whole["weights"][unit][0][1] / whole["weights"][unit][-1][1] for unit in FEW_UNITS[1:]]
    assert min(falls) > 1 and max(falls) > 1.3, "but that of conv_in, whose soft rounding starts in full precision"
