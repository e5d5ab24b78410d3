"""The weight of the mean error in the loss of a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmq_cli.recon import AdaRound
from tests.recon.runs import FEW_UNITS, few, joint, run


def test_bias_weighs_the_mean_error_in_the_loss_of_every_unit(tmp_path: Path) -> None:
    """With steps too small to change anything the first losses grow with the weight along a line."""
    still = AdaRound(lr=1e-300, warmup=1.0)
    first, second, third = (
        run(joint(1, bias=bias, rounding=still, scales=None), few(), tmp_path / str(bias))["joint"]
        for bias in (0.0, 0.5, 1.0)
    )
    assert list(first) == FEW_UNITS
    for unit in FEW_UNITS:
        slope = second[unit][0] - first[unit][0]
        assert slope > 0 and third[unit][0] - first[unit][0] == pytest.approx(2 * slope, rel=1e-9)
        assert 2 * slope < first[unit][0], "no more than the squared error itself"
