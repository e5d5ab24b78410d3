"""What the files of conf/scheme come to, where a paper or an issue names it."""

from __future__ import annotations

from dmq_cli.ops import LpSearch, MinMax, PerChannel, PerTensor, SearchedEma
from dmq_cli.paths import conf_folder
from dmq_cli.quant import Choice, Dynamic, Intervals, PerStep, Split, Static, StepMLP, TensorQuantizer, Uniform
from dmq_cli.stages.build import make
from dmq_cli.wrap import Attached, attach
from tests.test_conf import composed
from tests.tiny import TIMESTEPS, adapter

SOURCES = {"tdq": StepMLP, "steps_n": Intervals, "dynamic": Dynamic, "quest": PerStep, "quest_symmetric": PerStep}


def made(*overrides: str) -> Attached:
    config = composed(*overrides)
    return attach(adapter(), make(config["scheme"]) + make(config["policy"]), TIMESTEPS)


def grids(attached: Attached, *slots: str) -> list[Uniform]:
    all_grids = [quantizer.grid for quantizer in attached.quantizers(*slots).values()]
    assert all(isinstance(grid, Uniform) for grid in all_grids) and all_grids
    return [grid for grid in all_grids if isinstance(grid, Uniform)]


def test_every_scheme_fits_the_tiny_network() -> None:
    names = sorted(path.stem for path in (conf_folder() / "scheme").glob("*.yaml"))
    for name in names:
        assert len(made(f"scheme={name}").quantizers()) >= 118
    assert len(names) == 21


def test_frozen_layers_keep_their_extremes() -> None:
    specs = made("method=brecq", "scheme=mse_frozen").specs
    temporal = {site for site in specs if site.role.startswith(("time.", "resnet.time_proj"))}
    assert len(temporal) == 2 * (2 + 8) and {site.slot for site in temporal} == {"input", "weight"}
    assert all(isinstance(spec.ranges, MinMax) == (site in temporal) for site, spec in specs.items())
    before = made("method=brecq").specs
    assert {site for site, spec in specs.items() if spec.ranges != before[site].ranges} == temporal


def test_every_shortcut_of_the_up_path_is_split_and_no_other() -> None:
    attached = made("scheme=qdiffusion")
    split = {name.rpartition(".")[0] for name, m in attached.model.named_modules() if isinstance(m, Split)}
    shortcuts = {layer.name for layer in attached.adapter.layers() if layer.role == "resnet.shortcut"}
    up = {name for name in shortcuts if name.startswith("up_blocks.")}
    assert split == up == set(attached.adapter.skip_splits()) and len(up) == 4 and shortcuts > up
    for name in up:
        layer = attached.model.get_submodule(name)
        for slot in ("input_quantizer", "weight_quantizer"):
            sizes = layer.get_submodule(slot).sizes
            assert isinstance(sizes, tuple) and sum(sizes) == layer.in_channels


def test_activations_of_qdiffusion_are_asymmetric_or_symmetric() -> None:
    plain = grids(made("scheme=qdiffusion"), "input", "q", "k", "v")
    signed = grids(made("scheme=qdiffusion", "scheme.scope=symmetric"), "input", "q", "k", "v")
    assert not any(grid.symmetric for grid in plain) and all(grid.symmetric for grid in signed)
    assert all(grid.from_zero for grid in grids(made("scheme=qdiffusion", "scheme.scope=symmetric"), "prob"))


def test_eda_as_released_searches_symmetric_ranges_on_the_network_with_quantized_weights() -> None:
    attached = made("method=eda_released", "bits=w4a4")
    assert {type(spec.ranges) for spec in attached.specs.values()} == {SearchedEma}
    weights = {spec.granularity for site, spec in attached.specs.items() if site.slot == "weight"}
    assert weights == {PerChannel()} and len(attached.choices()) == 0
    assert not any(grid.symmetric for grid in grids(attached)), "codes from 0: the range is symmetric, not the grid"
    config = composed("method=eda_released")
    assert config["scheme"]["network"] == "quantized" and config["policy"] == composed("policy=eda")["policy"]
    eda, built = composed("method=eda"), composed("method=qdiffusion")
    assert eda["scheme"] == built["scheme"] and eda["policy"] == composed()["policy"]


def test_ptqd_as_released_has_one_range_for_a_weight() -> None:
    specs = made("method=ptqd", "scheme=ptqd").specs
    assert {spec.granularity for spec in specs.values()} == {PerTensor()}
    assert {type(spec.ranges) for spec in specs.values()} == {LpSearch}
    assert not any(spec.split for spec in specs.values())
    of_weights = {spec.granularity for site, spec in made("method=ptqd").specs.items() if site.slot == "weight"}
    assert of_weights == {PerChannel()}


def test_attention_probabilities_may_have_16_bits() -> None:
    attached = made("scheme=qdiffusion", "bits.prob=16")
    assert {grid.bits for grid in grids(attached, "prob")} == {16}
    assert {grid.bits for grid in grids(attached, "q", "k", "v")} == {8}


def test_scales_of_activations_change_as_the_scheme_says() -> None:
    for name, kind in SOURCES.items():
        attached = made(f"scheme={name}")
        activations = attached.quantizers("input", "q", "k", "v", "prob")
        assert {type(q.scale) for q in activations.values()} == {kind}
        assert {type(q.scale) for q in attached.quantizers("weight").values()} == {Static}


def test_the_finite_set_is_that_of_the_embeddings_or_of_everything() -> None:
    assert composed("scheme=tfmq", "scheme.scope=embeddings")["scheme"] == composed("method=tfmq_embeddings")["scheme"]
    for scope in ("embeddings", "all"):
        attached = made("scheme=tfmq" if scope == "all" else "method=tfmq_embeddings")
        roles = {layer.name: layer.role for layer in attached.adapter.layers()}
        for path, quantizer in attached.quantizers("input", "q", "k", "v", "prob").items():
            role = roles.get(path.partition(".input_quantizer")[0], "attn")
            assert isinstance(quantizer.scale, PerStep) == (scope == "all" or role.startswith(("time.", "resnet.time")))


def test_quest_s_activations_are_signed_where_its_scripts_say_so() -> None:
    signed = grids(made("scheme=quest_symmetric"), "input", "q", "k", "v")
    assert all(grid.symmetric for grid in signed) and len(signed) == 51 + 4 + 3 * 4
    assert not any(grid.symmetric for grid in grids(made("scheme=quest"), "input", "q", "k", "v"))
    assert all(grid.from_zero for grid in grids(made("scheme=quest_symmetric"), "prob"))


def test_choices_stand_where_their_papers_have_them() -> None:
    attentions = len(adapter().attentions())
    likelihood, snr = made("scheme=tcaq").choices(), made("scheme=ptqd_mixed", "bits=w4a8").choices()
    assert len(likelihood) == attentions and all(name.endswith("prob_quantizer") for name in likelihood)
    assert len(snr) > 20 and all("input_quantizer" in name for name in snr)
    for choice in snr.values():
        assert isinstance(choice, Choice)
        assert [p.grid.bits for p in choice.parts if isinstance(p, TensorQuantizer)] == [8, 4]
