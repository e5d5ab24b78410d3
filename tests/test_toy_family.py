"""A family from outside, registered by one record: every stage takes its blocks, attentions, timesteps and samples as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.correct import Ptqd, Tac
from dmq_cli.diagnose import Walks, trace
from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models import Denoiser, Family, Layer, ModelDenoiser, load_adapter, packed, register, run_once
from dmq_cli.models.attention_calls import attention_callers
from dmq_cli.models.families import families, unregister
from dmq_cli.ops import PerChannel
from dmq_cli.quant import PerStepScale
from dmq_cli.recon import AdaRound, Pass, Reconstruction, Scales
from dmq_cli.recon.capture import call, capture
from dmq_cli.sampling import Sampler, walk
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, Scheme, attach, quantizing
from tests import toy_family as toy
from tests.chain import QUICK, dmq, words
from tests.tiny import SCHEDULE, one_sentence

TIMES = torch.tensor([750.5, 500.25, 250.0, 0.5], dtype=torch.float64)
shapes = pytest.mark.parametrize("shape", toy.SHAPES.values(), ids=toy.SHAPES)
DOUBLE = torch.float64


def wrapped(shape: tuple[int, ...], *rules: Rule, weight: int = 4, act: int = 8) -> Attached:
    scheme = Scheme([Rule("*", bits=act), Rule("*.weight", bits=weight, granularity=PerChannel()), *rules])
    attached = attach(toy.adapter(shape), scheme, TIMES)
    attached.model.double()
    fit_weights(attached)
    fit_activations(attached, toy.batches(shape))
    return attached


def full(attached: Attached, shape: tuple[int, ...]) -> Tensor:
    with quantizing(attached, weights=False, activations=False):
        return QuantDenoiser(attached)(*toy.data(shape))


@pytest.fixture
def registered() -> Iterator[Family]:
    register(toy.FAMILY)
    yield toy.FAMILY
    unregister(toy.FAMILY.name)


@shapes
def test_every_layer_and_attention_is_quantized(shape: tuple[int, ...]) -> None:
    attached, (sample, timestep) = wrapped(shape, Rule("*.input", scale=PerStepScale())), toy.data(shape)
    assert {layer.part for layer in attached.adapter.layers()} == {"edge", "block"}
    assert len(attached.quantizers("weight")) == 2 + 2 * 6 and len(attached.quantizers("prob")) == 2
    expected = toy.network(shape)(sample, timestep / 1000)
    assert torch.allclose(full(attached, shape), expected, rtol=0, atol=1e-12)
    output = QuantDenoiser(attached)(sample, timestep)
    assert output.shape == sample.shape and 1e-6 < float((output - expected).abs().mean()) < 0.5


def test_attention_by_keyword_is_causal_as_it_was() -> None:
    """With every operand at 16 bits the product written out is the one that was asked for."""
    shape = toy.SHAPES["image"]
    attached = wrapped(shape, Rule("attn.[qkvp]*", bits=16), Rule("*.weight", bits=32), Rule("*.input", bits=32))
    assert torch.allclose(QuantDenoiser(attached)(*toy.data(shape)), full(attached, shape), rtol=0, atol=1e-3)


@shapes
def test_blocks_are_captured_and_called_again(shape: tuple[int, ...], tmp_path: Path) -> None:
    attached = wrapped(shape)
    assert attached.units() == ["first", "blocks.0", "blocks.1", "last"]
    captured = capture(
        attached, "blocks.1", lambda: toy.batches(shape, size=3), 8, tmp_path, activations=True, reads_full=True
    )  # fmt: skip
    rows, outputs = torch.tensor([6, 1, 3]), list[Any]()
    block = attached.model.get_submodule("blocks.1")
    hook = block.register_forward_hook(lambda _m, _x, output: outputs.append(output))
    QuantDenoiser(attached)(*toy.data(shape))
    hook.remove()
    inputs, target, timesteps = captured.batch(rows)
    assert torch.equal(timesteps, toy.data(shape)[1][rows]) and timesteps.dtype == DOUBLE
    with attached.at(timesteps):
        assert torch.allclose(call(block, inputs), packed(outputs[0])[rows], rtol=0, atol=1e-12)
    with attached.at(timesteps), quantizing(attached, weights=False, activations=False):
        assert torch.allclose(call(block, captured.full(rows)), target, rtol=0, atol=1e-12)
    tokens, (memory, _) = outputs[0]
    assert packed(outputs[0]).flatten(1).shape[1] >= tokens[0].numel() + memory[0].numel()


def test_what_is_packed_counts_every_value_once() -> None:
    first, second, third = torch.ones(2, 3, 4), torch.ones(2, 5, 4), torch.full((2, 3), 2.0)
    assert packed(first) is first and packed((first, None)) is first
    assert packed([first, {"more": second}]).shape == (2, 8, 4)
    joined = packed((first, third, torch.ones(2, dtype=torch.int64)))
    assert joined.shape == (2, 4, 4) and float(joined.sum()) == 2 * (12 + 6)
    with pytest.raises(ModelError, match="a tuple without a tensor") as caught:
        packed((None, 3))
    one_sentence(caught.value)


def test_an_argument_that_changes_without_rows_is_refused(tmp_path: Path) -> None:
    shape = toy.SHAPES["image"]
    attached = wrapped(shape)
    block = attached.model.get_submodule("blocks.1")
    strengths = iter([0.1 * n for n in range(1, 100)])
    block.register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "strength": next(strengths)}), with_kwargs=True
    )
    with pytest.raises(ModelError, match="the argument strength, which is no tensor with a row") as caught:
        capture(attached, "blocks.1", lambda: toy.batches(shape), 8, tmp_path, activations=False)
    one_sentence(caught.value)


@pytest.mark.parametrize("temporal", ["block", "joint"])
def test_reconstruction_lowers_the_error(temporal: str, tmp_path: Path) -> None:
    shape = toy.SHAPES["image"]
    attached = wrapped(shape, weight=3)
    expected = full(attached, shape)

    def error() -> float:
        with quantizing(attached, weights=True, activations=False):
            return float((QuantDenoiser(attached)(*toy.data(shape)) - expected).square().mean())

    before = error()
    passes = {
        "weights": Pass(60, rounding=AdaRound(lr=0.05)),
        "scales": Pass(2, scales=Scales(lr=1e-3), fine=0.5, mix=0.5),
    }
    config = Reconstruction(passes, batch_size=8, temporal=temporal)  # type: ignore[arg-type]
    config.run(attached, lambda: toy.batches(shape), 8, tmp_path, lambda *_, **__: None)
    assert error() < 0.8 * before


@shapes
def test_a_trace_tells_of_every_block(shape: tuple[int, ...]) -> None:
    attached = wrapped(shape)

    def whole(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        with quantizing(attached, weights=False, activations=False):
            return QuantDenoiser(attached)(sample, timestep, cond)

    plan = Sampler(3).scheduler(SCHEDULE)
    traced = trace(Walks(attached, whole, QuantDenoiser(attached), plan, dtype=DOUBLE), range(4), 2)
    errors = traced.tensors["block_error.quantized"]
    assert errors.shape == (3, 4) and bool((errors > 0).all()) and bool((errors < 1).all())
    same = trace(Walks(attached, whole, whole, plan, dtype=DOUBLE), range(4), 2)
    assert float(same.tensors["block_error.quantized"].abs().max()) == 0


class Louder:
    """A quantized twin with a planted error: GROWTH times the estimate, and an offset for each channel."""

    def __init__(self, inner: Denoiser, growth: float, offset: Tensor) -> None:
        self.inner, self.growth, self.offset = inner, growth, offset

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        offset = self.offset.reshape(1, -1, *(1,) * (sample.dim() - 2))
        return self.growth * self.inner(sample, timestep, cond) + offset


@shapes
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_corrections_of_samples_of_any_shape(shape: tuple[int, ...], eta: float) -> None:
    inner = ModelDenoiser(toy.adapter(shape))
    plan = Sampler(4, eta=eta).scheduler(SCHEDULE)

    def final(denoiser: Denoiser, correction: object = None) -> Tensor:
        steps = walk(denoiser, plan, range(20, 23), shape, eta=eta, correction=correction, dtype=DOUBLE)  # type: ignore[arg-type]
        return list(steps)[-1].following

    expected, zero = final(inner), torch.zeros(shape[0], dtype=DOUBLE)
    assert expected.shape == (3, *shape)
    louder = Louder(inner, 1.25, zero)
    for method in (Ptqd("0-7"), Tac("0-7", lambda1=0.0, lambda2=0.0, k_threshold=0.0)):
        tables = method.estimate(inner, louder, plan, shape, eta=eta, dtype=DOUBLE)
        assert {name: tuple(table.shape) for name, table in tables.items()} == method.shapes(4, shape, False)
        assert torch.allclose(final(louder, method.load(tables)), expected, rtol=0, atol=1e-7)
    shifted = Louder(inner, 1.0, torch.arange(shape[0], dtype=DOUBLE) / 10)
    estimates = Ptqd("0-7", correlation=False).estimate(inner, shifted, plan, shape, eta=eta, dtype=DOUBLE)
    assert torch.allclose(estimates["bias"], shifted.offset.expand(4, -1), rtol=0, atol=1e-9)
    assert torch.allclose(final(shifted, Ptqd("0-7", correlation=False).load(estimates)), expected, rtol=0, atol=1e-7)


@shapes
def test_noise_belongs_to_seeds_whatever_the_shape(shape: tuple[int, ...]) -> None:
    denoiser, plan = ModelDenoiser(toy.adapter(shape)), Sampler(3, eta=1.0).scheduler(SCHEDULE)
    many, single = (
        list(walk(denoiser, plan, seeds, shape, eta=1.0, dtype=DOUBLE))[-1].following for seeds in ([4, 9], [9])
    )
    assert torch.allclose(many[1:], single, rtol=0, atol=1e-10)


class Unnamed(toy.ToyAdapter):
    """Forgets its attentions."""

    def attentions(self) -> list[Layer]:
        return []


class Flux(nn.Module):
    """diffusers' FluxAttention in the place of an attention that has quantizers."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.transformers.transformer_flux import FluxAttention

        self.inner = FluxAttention(query_dim=toy.WIDTH, heads=2, dim_head=4, out_dim=8)

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        output: Tensor = self.inner(hidden)
        return output


class Multihead(nn.Module):
    """torch's own attention, which does not call scaled_dot_product_attention by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(toy.WIDTH, 2, batch_first=True)

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        output: Tensor = self.inner(hidden, hidden, hidden)[0]
        return output


class Lenient(toy.ToyAdapter):
    """Gives every layer a role."""

    patterns = (*toy.ToyAdapter.patterns, (r"blocks\.0\.attn\..*", "attn.to_q"))


@pytest.mark.parametrize(("planted", "name"), [(Flux, "FluxAttention"), (Multihead, "MultiheadAttention")])
@pytest.mark.filterwarnings("ignore:.*nested.*")
def test_an_attention_without_quantizers_is_refused(planted: type[nn.Module], name: str) -> None:
    adapter = Lenient(toy.network((3, 4, 4)))
    adapter.model.blocks[0].attn = planted().double().eval().requires_grad_(False)
    with pytest.raises(
        ModelError, match=rf"The {name} at blocks\.0\.attn\.inner of this ToyNet computes attention"
    ) as caught:
        attach(adapter, Scheme([Rule("*", bits=8)]), TIMES)
    one_sentence(caught.value)
    before = adapter.model.blocks[1].ff
    assert type(before) is nn.Linear, "refused before anything is changed"


def test_an_attention_that_its_adapter_does_not_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"The ToyAttention at blocks\.0\.attn of this ToyNet computes attention"):
        attach(Unnamed(toy.network((3, 4, 4))), Scheme([Rule("*", bits=8)]), TIMES)
    bare = toy.adapter((3, 4, 4))
    bare.model.blocks[1].attn.processor = None
    with pytest.raises(ModelError, match=r"The attention blocks\.1\.attn of this ToyNet has no processor") as caught:
        attach(bare, Scheme([Rule("*", bits=8)]), TIMES)
    one_sentence(caught.value)


def test_who_computes_attention() -> None:
    adapter = toy.adapter((3, 4, 4))
    callers = attention_callers(adapter.model, lambda: run_once(adapter))
    assert callers == [("", f"blocks.{n}", f"blocks.{n}.attn") for n in range(2)]
    assert not adapter.model.blocks[0]._forward_hooks and not adapter.model.blocks[0]._forward_pre_hooks


def folder(path: Path, prediction: str = "epsilon") -> Path:
    toy.network((1, 16, 16), torch.float32).save_pretrained(path / "transformer")
    (path / "scheduler").mkdir()
    schedule = {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": prediction, **SCHEDULE}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule), encoding="utf-8")
    return path


def test_a_registered_family_goes_through_the_whole_command(registered: Family, tmp_path: Path) -> None:
    path = folder(tmp_path / "toy", "v_prediction")
    loaded = load_adapter(path)
    assert type(loaded) is toy.ToyAdapter and loaded.prediction.kind == "v_prediction"
    result = dmq(*words("evaluate", path, tmp_path / "out", "recon=brecq", *QUICK))
    assert result.code == 0, result.err
    unregister(registered.name)
    result = dmq(*words("evaluate", path, tmp_path / "out"))
    assert result.code == 1 and "is a ToyNet, which dmq does not know" in result.sentence


def test_records_that_cannot_be_are_refused(registered: Family, tmp_path: Path) -> None:
    builtin = families()[0]
    for family, match in (
        (Family(builtin.kind, toy.ToyAdapter), "UNet2DModel was registered, but dmq has one itself"),
        (Family(toy.ToyNet, toy.ToyAdapter, process="flow"), "with the process flow, which dmq does not sample"),
        (
            Family(toy.ToyNet, toy.ToyAdapter, predictions=("flow",)),
            "with the prediction flow, which dmq does not know",
        ),
    ):
        with pytest.raises(ConfigError, match=match) as caught:
            register(family)
        one_sentence(caught.value)
    assert families()[-1] is registered
    register(Family(toy.ToyNet, toy.ToyAdapter, predictions=("epsilon",)))
    with pytest.raises(ModelError, match="says prediction_type=sample, but a ToyNet predicts epsilon") as error:
        load_adapter(folder(tmp_path / "toy", "sample"))
    one_sentence(error.value)
