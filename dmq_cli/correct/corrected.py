"""A correction as part of a Denoiser, for those who bring their own sampling loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import Denoiser
from dmq_cli.sampling import UNGUIDED, Correction, Guide


class CorrectedDenoiser:
    """eps(x, t) = post(denoiser(pre(x))), the correction's row looked up by timestep.

    timesteps: the sampler's own, highest first; scale: its `scale_model_input`, as the correction shifts the sampler's x. A loop
    that steps from x itself leaves out that the whole step starts from the corrected sample (eq. 24 of TAC), and the noise it
    adds is its own: a correction's `variance` (PTQD at eta > 0) cannot be applied from here. Use `correction` with dmq's loop
    for both. guide: how a conditional model is guided; `cond` of a call is then what it is told. Raises ConfigError for a timestep that the
    correction was not estimated at, and for one that has two rows, as PLMS' second timestep has.
    """

    def __init__(
        self, denoiser: Denoiser, correction: Correction | None, timesteps: Tensor,
        scale: Callable[[Tensor, int], Tensor] = lambda sample, _: sample, guide: Guide = UNGUIDED,
    ) -> None:  # fmt: skip
        self.estimator, self.correction, self.scale, self.guide = denoiser, correction, scale, guide
        self.denoiser = guide.around(denoiser)
        self._times = Counter(timesteps.tolist())
        self._calls = {int(t): call for call, t in enumerate(timesteps.tolist())}

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser: the corrected estimate, guided where the model is."""
        if self.correction is None:
            return self.guide.join(self.denoiser(sample, timestep, cond))
        first = int(timestep.flatten()[0])
        if first not in self._calls or not bool((timestep == first).all()):
            known = ", ".join(map(str, self._calls))
            raise ConfigError(
                f"The correction was asked for timestep {timestep.tolist()}, but knows one at a time of {known}; use the sampler it was estimated with."
            )
        if self._times[first] > 1:
            raise ConfigError(
                f"The correction has {self._times[first]} rows for timestep {first}, one for each time the sampler calls it, and cannot tell them apart; use dmq's own loop."
            )
        call, factor = self._calls[first], self.scale(torch.ones(()), first)
        shifted = self.correction.pre(sample / factor, call) * factor
        return self.guide.join(self.correction.post(self.denoiser(shifted, timestep, cond), call))
