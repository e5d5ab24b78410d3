"""TDQ's networks, all in one product."""

from __future__ import annotations

import torch

from dmq_cli.qat.batched import BatchedNetworks
from dmq_cli.quant import LowEnd, StepContext, StepMLP
from dmq_cli.wrap import QuantDenoiser, Rule, freeze
from tests.qat.runs import NUM, trained_network
from tests.tiny import data

TIMESTEPS = torch.tensor([0, 3, 500, 999])


def networks(num: int, **fields: object) -> list[StepMLP]:
    """Different ones, that have learned something."""
    sources = [StepMLP(StepContext(), 8, 6, 3, **fields) for _ in range(num)]  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for source in sources:
        source.fill(torch.rand((), generator=generator) + 0.1, torch.zeros(()))
        for parameter in source.net:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return sources


def test_all_at_once_are_each_by_itself_and_come_back() -> None:
    sources = [*networks(3), *networks(2, low_end=LowEnd(0, 15, learned=True))]
    single = [source._factors(TIMESTEPS) for source in sources]
    batched = BatchedNetworks(sources)
    assert [len(group) for group in batched.groups] == [3, 2]
    batched.place(TIMESTEPS)
    for source, expected in zip(sources, single, strict=True):
        assert source.given is not None
        torch.testing.assert_close(source.given.double(), expected, rtol=1e-5, atol=1e-6)
    batched.finish()
    for source, expected in zip(sources, single, strict=True):
        assert source.given is None and torch.equal(source._factors(TIMESTEPS), expected)


def test_training_one_network_leaves_the_others() -> None:
    sources = networks(3)
    before = [source.scales(TIMESTEPS).detach() for source in sources]
    batched = BatchedNetworks(sources)
    batched.place(TIMESTEPS)
    assert sources[1].given is not None
    sources[1].given.sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in batched.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    batched.finish()
    after = [source.scales(TIMESTEPS).detach() for source in sources]
    assert (
        torch.equal(after[0], before[0]) and torch.equal(after[2], before[2]) and not torch.equal(after[1], before[1])
    )


def test_networks_start_at_the_static_optimum_and_their_table_is_them() -> None:
    from dmq_cli.quant import MlpScale

    activations = "*.input|attn.q|attn.k|attn.v|attn.prob"
    static, moving = trained_network(), trained_network(Rule(activations, scale=MlpScale(8, 8, 2)))
    start = QuantDenoiser(static)(*data(NUM))
    torch.testing.assert_close(QuantDenoiser(moving)(*data(NUM)), start, rtol=0, atol=1e-12)
    freeze(moving)
    torch.testing.assert_close(QuantDenoiser(moving)(*data(NUM)), start, rtol=0, atol=1e-12)
