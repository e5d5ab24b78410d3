"""The settings of the deterministic solvers, one record for each.

Citations and deviations: solvers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dmq_cli.errors import ConfigError
from dmq_cli.sampling.settings import Deterministic
from dmq_cli.sampling.solvers import (
    EulerScheduler,
    MultiStepScheduler,
    PlmsScheduler,
    SingleStepScheduler,
    UniPCScheduler,
)


@dataclass(frozen=True)
class PLMS(Deterministic):
    """Pseudo linear multistep: S steps are S + 1 calls, as the first step takes two.

    The second call, at the second timestep, reads where the first step would end, and the step is then taken again from its
    start: a correction's `pre` changes what that call reads, not where the step starts. fixed_stride: see DDIM.
    skip_prk_steps: the first step is LDM's; Runge-Kutta's, with which diffusers begins otherwise, are not here.
    """

    spacing: str = "uniform"
    fixed_stride: bool = False
    skip_prk_steps: bool = True

    name = "plms"
    reference = "PNDMScheduler"
    solver = PlmsScheduler
    without_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.skip_prk_steps:
            raise ConfigError(
                "The scheduler is to begin with Runge-Kutta steps (skip_prk_steps=false), which sampler=plms does not take; give"
                " sampler.skip_prk_steps=true for the first step of LDM's PLMS, or choose another sampler."
            )

    @property
    def calls(self) -> int:
        """One more than steps."""
        return self.num_inference_steps + 1

    def options(self) -> dict[str, Any]:
        """LDM's first step, which is Heun's."""
        return {"skip_prk_steps": True, "set_alpha_to_one": self.set_alpha_to_one}

    def place(self, inner: Any, visited: list[int]) -> None:
        """See Deterministic."""
        inner.place(visited, inner.config.num_train_timesteps // len(visited) if self.fixed_stride else None)

    def visited(self, total: int) -> list[int]:
        """At least two timesteps. Raises ConfigError."""
        timesteps = super().visited(total)
        if len(timesteps) < 2:
            raise ConfigError(
                f"sampler.num_inference_steps={self.num_inference_steps} does not fit PLMS, whose first step needs a second timestep; use at least 2."
            )
        return timesteps


@dataclass(frozen=True)
class DPMpp2S(Deterministic):
    """DPM-Solver++(2S): num_inference_steps = M intervals, 2M calls at 2M timesteps of the spacing.

    With tau_0 > ... > tau_{2M-1} the timesteps, call 2i - 2 is at the start of interval i, t_{i-1} = tau_{2i-2}, and call 2i - 1
    at its intermediate point s_i = tau_{2i-1}, which diffusers takes from the list, so r_i is about 1/2 in t, not in lambda.
    set_alpha_to_one false: interval M ends at the noise of timestep 0, and all are of second order (the paper's algorithm).
    set_alpha_to_one true: it ends at the clean image, where lambda is infinite, and takes two steps of first order. A correction's
    `pre` at an intermediate call changes u_i, in the network and in x_0 as predicted from it, not the start of the interval.
    """

    name = "dpmpp_2s"
    reference = "DPMSolverSinglestepScheduler"
    solver = SingleStepScheduler
    per_step: ClassVar[int] = 2

    def options(self) -> dict[str, Any]:
        """Second order throughout, but for an end at the clean image."""
        return {**super().options(), "lower_order_final": self.set_alpha_to_one}

    def visited(self, total: int) -> list[int]:
        """An even number of timesteps. Raises ConfigError."""
        timesteps = super().visited(total)
        if len(timesteps) % 2:
            raise ConfigError(
                f"sampler.num_inference_steps={self.num_inference_steps} with spacing={self.spacing} gives {len(timesteps)} different timesteps, which are no pairs for DPM-Solver++(2S);"
                " use another number or sampler.spacing=linspace."
            )
        return timesteps


@dataclass(frozen=True)
class DPMpp2M(Deterministic):
    """DPM-Solver++(2M): one call at each timestep.

    The last step is of first order where it ends at the clean image, and below 15 steps.
    """

    name = "dpmpp_2m"
    reference = "DPMSolverMultistepScheduler"
    solver = MultiStepScheduler


@dataclass(frozen=True)
class UniPC(Deterministic):
    """UniPC of order 2: one call at each timestep; the last step is of first order.

    The solver corrects each sample by the estimate made at it, starting from the sample before: what a correction's `pre` shifts
    is what the network reads and x_0 as predicted from it.
    """

    name = "unipc"
    reference = "UniPCMultistepScheduler"
    solver = UniPCScheduler


@dataclass(frozen=True)
class Euler(Deterministic):
    """Euler in sigma: one call at each timestep. The images of DDIM with eta 0 on the same timesteps, but for rounding.

    set_alpha_to_one false: the image stays in the solver's units, x / sqrt(abar) at timestep 0, as diffusers leaves it.
    """

    name = "euler"
    reference = "EulerDiscreteScheduler"
    solver = EulerScheduler
    without_zero: ClassVar[bool] = False

    def options(self) -> dict[str, Any]:
        """The initial noise of `leading`, whatever dmq's own spacing is; see solvers.py."""
        has_diffusers_list = self.spacing in ("diffusers_trailing", "diffusers_linspace")
        return {
            **super().options(),
            "timestep_spacing": self.spacing.removeprefix("diffusers_") if has_diffusers_list else "leading",
        }

    def visited(self, total: int) -> list[int]:
        """The timesteps, whole numbers. Raises ConfigError where diffusers visits fractions."""
        count = self.num_inference_steps
        if self.spacing == "diffusers_linspace" and count > 1 and (total - 1) % (count - 1):
            raise ConfigError(
                f"sampler.num_inference_steps={count} with spacing=diffusers_linspace visits fractions of timesteps in diffusers'"
                f" EulerDiscreteScheduler, which dmq does not; take a number one above a divisor of {total - 1}, or"
                " sampler.spacing=linspace, trailing or uniform."
            )
        return super().visited(total)
