"""Products counted by hooks are those of torch's own counter, in every family; and shapes foretell what stages store."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dmq_cli.correct import NoCorrection, Ptqd, Tac
from dmq_cli.diagnose import flat_bops, flat_bytes, product_macs
from dmq_cli.models import Adapter
from dmq_cli.models.random_weights import shapes_of_architecture
from dmq_cli.sampling import Guide
from dmq_cli.transform import LowRank, NoTransform, Tcr
from dmq_cli.wrap import attach, observing
from tests.families import COND_UNET, DIT, LATENT, meta, plain
from tests.tiny import SHAPE, TIMESTEPS, adapter, batches, scheduler

ADAPTERS = {
    "latent": lambda: meta("latent", **LATENT),
    "cond_unet": lambda: meta("cond_unet", **COND_UNET),
    "dit": lambda: meta("dit", **DIT),
    "ldm4_bedroom": lambda: shapes_of_architecture("ldm4_bedroom"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_flops_are_twice_the_macs(name: str) -> None:
    """With the attention products written out: the counter does not know the fused ones of CPUs."""
    network: Adapter = ADAPTERS[name]()
    attached = attach(network, plain(), TIMESTEPS)
    macs = product_macs(attached)
    sample, timestep = (
        torch.zeros(1, *network.sample_shape(), device="meta"),
        torch.zeros(1, dtype=torch.int64, device="meta"),
    )
    with observing(attached), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.predict(sample, timestep, network.blank_cond(1))
    assert counter.get_total_flops() == 2 * sum(macs.values())
    assert any(site.slot == "q" for site, _ in macs)


def test_the_papers_formulas() -> None:
    assert flat_bops(10, 4, 8) == 640 and flat_bytes(10, 3) == 3.75


@pytest.mark.parametrize("made", [NoTransform(), Tcr(), LowRank(rank=3), LowRank(rank=500)])
def test_a_transform_has_the_shapes_it_foretells(made: Any) -> None:
    network = adapter(torch.float32)
    tensors = made.estimate(network, lambda: batches(dtype=torch.float32))
    foretold = made.shapes(network)
    assert {name: value.shape for name, value in foretold.items()} == {
        name: value.shape for name, value in tensors.items()
    }
    assert all(value.is_meta for value in foretold.values())


class Told:
    """A condition for a network that reads none."""

    def of(self, seeds: Any) -> dict[str, torch.Tensor]:
        return {"class_labels": torch.zeros(len(seeds))}

    def none(self) -> dict[str, torch.Tensor]:
        return {"class_labels": torch.zeros(1)}

    def subjects(self, seeds: Any) -> list[str]:
        return ["" for _ in seeds]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        NoCorrection(),
        Ptqd("0-3"),
        Tac("0-3"),
        Tac("0-3", noise_bias=True, ibc=False),
        Tac("0-3", target="uncond"),
        Tac("0-3", target="both", noise_bias=True),
        Tac("0-3", target="guided"),
    ],
)
def test_a_correction_has_the_shapes_it_foretells(made: Any, guided: bool) -> None:
    def denoise(sample: torch.Tensor, timestep: torch.Tensor, cond: object = None) -> torch.Tensor:
        return sample * 0.5

    def rounded(sample: torch.Tensor, timestep: torch.Tensor, cond: object = None) -> torch.Tensor:
        return (sample * 4).round() / 8

    target = getattr(made, "target", None)
    guide = Guide(Told(), 2.0, 2, target) if guided else Guide()
    steps = scheduler(5)
    tensors = made.estimate(denoise, rounded, steps, SHAPE, guide=guide)
    assert {k: tuple(v.shape) for k, v in tensors.items()} == made.shapes(len(steps.timesteps), SHAPE, guided)
