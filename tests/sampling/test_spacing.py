"""Lists of timesteps, and LDM's that has more than it was asked for."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st

from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Sampler, spaced
from tests.sampling.exact import SAMPLERS, settings
from tests.tiny import SCHEDULE, one_sentence, scheduler

SPACINGS = ("uniform", "quad", "trailing", "ldm", "linspace")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


@given(st.integers(1, 1000), st.sampled_from(SPACINGS))
def test_lists_go_down_within_the_training_timesteps(count: int, spacing: str) -> None:
    try:
        timesteps = spaced(1000, count, spacing)
    except ConfigError as error:
        assert spacing == "ldm" and 999 % (1000 // count) == 0, error
        return
    assert timesteps == sorted(set(timesteps), reverse=True) and timesteps[-1] >= 0 and timesteps[0] <= 999
    if spacing in ("uniform", "trailing"):
        assert len(timesteps) == count
    assert len(timesteps) <= count or spacing == "ldm"


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 50, 300, 999])
def test_trailing_and_linspace_are_diffusers_own(steps: int) -> None:
    for spacing in ("trailing", "linspace"):
        reference = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing=spacing)
        reference.set_timesteps(steps)
        assert spaced(1000, steps, spacing) == reference.timesteps.tolist()


@pytest.mark.parametrize(("asked", "taken"), [(400, 500), (300, None), (200, 200), (20, 20), (7, 8), (6, 7), (9, None), (1000, None)])  # fmt: skip
def test_ldm_takes_its_own_number_of_steps_and_says_so(
    asked: int, taken: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dmq"):
        if taken is None:
            with pytest.raises(ConfigError, match=r"visits timestep 1000, one more than the model was trained at") as e:
                Sampler(asked, spacing="ldm").scheduler(SCHEDULE)
            one_sentence(e.value)
            return
        plan = Sampler(asked, spacing="ldm").scheduler(SCHEDULE)
    published = np.asarray(list(range(0, 1000, 1000 // asked))) + 1  # ldm/modules/diffusionmodules/util.py
    assert plan.timesteps.tolist() == published[::-1].tolist() and plan.num_inference_steps == taken
    messages = [record.getMessage() for record in caplog.records if record.name == "dmq"]
    if asked == taken:
        assert messages == []
    else:
        stride = 1000 // asked
        assert messages == [f"sampler.spacing=ldm: {asked} timesteps were asked for, but range(0, 1000, {stride}) + 1 visits {taken}"]  # fmt: skip


def test_ldm_ends_at_the_noise_of_timestep_0() -> None:
    plan = scheduler(20, spacing="ldm", set_alpha_to_one=False)
    assert plan.timesteps[-1] == 1 and plan.final_alpha_cumprod == plan.alphas_cumprod[0]


def test_the_repeated_timestep_of_plms_is_diffusers_own() -> None:
    reference = PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
    reference.set_timesteps(10)
    timesteps = settings("plms", 10).scheduler(SCHEDULE).timesteps.tolist()
    assert timesteps == reference.timesteps.tolist() and len(timesteps) == 11 and timesteps[1] == timesteps[2]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("steps", "spacing", "match"), [
    (0, "uniform", r"num_inference_steps=0 does not fit a model of 1000 timesteps; use 1 to (1000|500, as each)"),
    (1001, "quad", r"num_inference_steps=1001 does not fit a model of 1000 timesteps; use 1 to"),
    (5, "cubic", r"spacing=cubic is not known; use uniform, quad, trailing, ldm or linspace"),
])  # fmt: skip
def test_what_cannot_be_is_refused(name: str, steps: int, spacing: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        settings(name, steps, spacing=spacing).scheduler(SCHEDULE)
    one_sentence(caught.value)
