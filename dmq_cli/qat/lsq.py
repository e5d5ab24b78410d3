"""Learned step sizes: the gradient of a scale, balanced against that of the weights.

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153.
Implemented: eq. 3 (the gradient itself is that of `ops.fake_uniform`) times g = 1/sqrt(N Q_p) (sec. 2.2), N the number of weights, or of
the features of one sample, and Q_p the highest code; the start of weights is `ops.LsqStart` (sec. 2.1).
With an asymmetric grid for activations it is LSQ+ (Bhalgat et al., CVPRW 2020, arXiv:2004.09576), up to what `quant.low_end` says.
Deliberate deviations: activations start at a searched range, as in LSQ+, not at 2 mean|x|/sqrt(Q_p), which is for inputs behind a ReLU;
inputs within half a code outside the range still count as inside (see `ops.fake_quant`).
Adam, with which diffusion models are trained, is indifferent to a factor of the gradient, up to what it adds to its root (`adam_eps`); g is
kept for the norm at which gradients are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from dmq_cli.ops import scale_gradient
from dmq_cli.qat.stand_ins import StandIns
from dmq_cli.quant import ScaleSource
from dmq_cli.wrap import Attached


@dataclass(frozen=True)
class Lsq:
    """Scales learn from rounding errors and clipping."""

    weight_scales = True

    def start(self, attached: Attached) -> StandIns:
        """See Gradients."""
        stand_ins = StandIns(attached)
        for quantizers, weight in ((stand_ins.activations, False), (stand_ins.weights, True)):
            for quantizer in quantizers:
                stand_ins.replace(quantizer, "scale", partial(StepSize, levels=quantizer.grid.hi, weight=weight))
        return stand_ins


class StepSize(nn.Module):
    """The scales and zero points of a source, with gradients multiplied by 1/sqrt(N levels): a zero point that follows from a lower end
    has a part of the scale's gradient, and all of the lower end's. weight: whether N is all of a tensor, and not a sample of it.
    """

    def __init__(self, source: ScaleSource, levels: int, weight: bool) -> None:
        super().__init__()
        self._source, self.levels, self.weight = [source], levels, weight  # not as a module: it is part of the network
        self.varies = source.varies

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ScaleSource."""
        scale, zero_point = self._source[0](x)
        features = x.numel() if self.weight else x[0].numel()
        factor = (features * self.levels) ** -0.5
        return scale_gradient(scale, factor), scale_gradient(zero_point, factor)
