"""Choose the bits of each step: the fewest whose quantization noise stays below the noise of the diffusion process.

The step-aware mixed precision of He et al., PTQD, NeurIPS 2023, arXiv:2305.10657, which the released code has not; the equations
are written out, as the paper's text was not at hand. For step k at timestep t and a width of b bits:

    SNR_Q,b(k) = ||eps||^2 / ||eps_q,b - eps||^2      norms over all calibration samples of the step, on the full-precision path
    SNR_F(k) = abar_t / (1 - abar_t)

and the step takes the fewest bits with SNR_Q,b > SNR_F, or the most where none is enough. SNR_F is tiny at the noisy end.

Choices: one decision for all layers of a step, made with all of them at b bits and everything else quantized as it is; where
weights alone cost more than SNR_F allows, this ends at the widest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmq_cli.calib.daq import Batches, put_choice
from dmq_cli.calib.fit import FitReport
from dmq_cli.errors import ConfigError
from dmq_cli.models import Call
from dmq_cli.ops import double
from dmq_cli.quant import BySnr, Choice
from dmq_cli.wrap import Attached, QuantDenoiser, quantizing


@torch.no_grad()
def choose_by_snr(
    attached: Attached, data: Batches, alphas_cumprod: Tensor, report: FitReport = lambda done: None
) -> None:
    """Set every choice of kind BySnr, all of them alike; part 0 is the widest.

    data() gives batches as for fit_activations; each is run in full precision and once for each width, with the
    fitted quantizers. alphas_cumprod: abar of the training timesteps, (1000,). Steps without data take the choice of the
    nearest one with data. Raises ConfigError for choices among different widths, NumericsError for an empty set.
    """
    choices, grid = by_snr(attached), attached.grid.timesteps
    if not choices:
        return
    energies, done = Energies(len(grid), len(next(iter(choices.values())).parts)), 0
    for batch in data():
        full, estimates = estimate(attached, list(choices.values()), batch)
        energies.update(attached.grid(batch[1].to(grid.device)).cpu(), double(full), estimates)
        done += len(full)
        report(done)
    parts = fewest(energies.snr(), forward_snr(alphas_cumprod, grid))
    for name, choice in choices.items():
        put_choice(name, choice, parts, energies.signal > 0)


class Energies:
    """Running sums of squares at each of S steps: of the noise estimate, and of its error at each width."""

    def __init__(self, steps: int, widths: int) -> None:
        self.signal = torch.zeros(steps, dtype=torch.float64)
        self.noise = torch.zeros(widths, steps, dtype=torch.float64)

    def update(self, step: Tensor, full: Tensor, estimates: list[Tensor]) -> None:
        """step: (B,); full: eps, estimates: eps_q at each width, (B, C, H, W)."""
        self.signal.index_add_(0, step, power(full))
        for width, estimated in enumerate(estimates):
            self.noise[width].index_add_(0, step, power(double(estimated) - full))

    def snr(self) -> Tensor:
        """SNR_Q (widths, S) float64, without meaning at steps without data."""
        return self.signal / self.noise


def by_snr(attached: Attached) -> dict[str, Choice]:
    """The choices of this kind by their path. Raises ConfigError unless all choose among the same widths."""
    kinds = {name: choice.kind for name, choice in attached.choices().items()}
    widths = {tuple(kind.bits) for kind in kinds.values() if isinstance(kind, BySnr)}
    if len(widths) > 1:
        raise ConfigError(
            f"The scheme has BySnr with bits {' and '.join(str(list(bits)) for bits in sorted(widths))}, but all layers of a step decide together; give every rule the same bits."
        )
    return {name: choice for name, choice in attached.choices().items() if isinstance(kinds[name], BySnr)}


def estimate(attached: Attached, choices: list[Choice], batch: Call) -> tuple[Tensor, list[Tensor]]:
    """Estimate the noise (B, C, H, W) in full precision, and with all choices set to each part in turn; they stay at the last."""
    denoiser, estimates = QuantDenoiser(attached), []
    with quantizing(attached, weights=False, activations=False):
        full = denoiser(*batch)
    with quantizing(attached, weights=True, activations=True):
        for part in range(len(choices[0].parts)):
            for choice in choices:
                choice.choice.fill_(part)
            estimates.append(denoiser(*batch))
    return full, estimates


def power(x: Tensor) -> Tensor:
    """Sum of squares of each sample, (B,) float64, on the CPU. x: (B, ...)."""
    return double(x).square().flatten(1).sum(1).cpu()


def forward_snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """SNR_F (S,) float64 >= 0, infinite where abar = 1. timesteps: (S,) in 0..999."""
    abar = alphas_cumprod.cpu().double()[timesteps.long().cpu()]
    return abar / (1 - abar)


def fewest(snr: Tensor, needed: Tensor) -> Tensor:
    """Choose at each step the last part (fewest bits) with enough SNR, else the first, (S,) int64. snr: (parts, S); needed: (S,)."""
    enough = snr > needed
    position = torch.arange(len(snr))[:, None] * enough
    return position.amax(0)
