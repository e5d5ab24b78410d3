"""Where the step size of a weight starts in learned step size quantization.

Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153, sec. 2.1: s = 2 mean|w| / sqrt(Q_p), Q_p the highest code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmq_cli.ops.ranges import Range, RangeGrid, extremes


@dataclass(frozen=True)
class LsqStart:
    """The range whose scale is 2 mean|w| / sqrt(Q_p), for grids that are symmetric around zero."""

    needs_values: ClassVar[bool] = True

    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """(-r, r) of each row of values (G, n). NumericsError for NaN or infinity."""
        unit = torch.ones_like(extremes(values)[0])
        highest_code = 1 / grid.parameters(-unit, unit)[0]
        reach = 2 * values.abs().mean(1).to(unit) * highest_code.sqrt()
        return -reach, reach
