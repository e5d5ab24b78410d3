from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from dmq_cli.errors import SchemeError
from dmq_cli.models import sites
from dmq_cli.ops import LpSearch, MinMax, PerChannel, PerInputChannel, PerTensor
from dmq_cli.quant import BySnr, DynamicScale, IntervalScale, Log2, MlpScale, PerStepScale, Uniform
from dmq_cli.wrap import Rule, Scheme, Spec, attach, deployable, policy
from tests.tiny import TIMESTEPS, adapter, one_sentence, scheme

SITES = sites(adapter())


def test_later_rules_win_field_by_field() -> None:
    rules = [
        Rule("*", bits=8),
        Rule("*.weight", bits=4, granularity=PerChannel(), ranges=LpSearch()),
        Rule("edge.*.weight", bits=6),
        Rule("attn.prob", grid=Log2),
        Rule("resnet.conv?.input", part="mid", scale=PerStepScale()),
    ]
    specs = {site.name: spec for site, spec in Scheme(rules).resolve(SITES).items()}
    assert len(specs) == 118
    first = specs["conv_in.weight_quantizer"]
    assert (first.bits, first.granularity, first.ranges) == (6, PerChannel(), LpSearch())
    inside = specs["mid_block.resnets.0.conv1.input_quantizer"]
    assert (inside.bits, inside.granularity, inside.ranges, inside.scale) == (
        8,
        PerTensor(),
        MinMax(),
        PerStepScale(),
    )
    assert not specs["mid_block.resnets.0.time_emb_proj.input_quantizer"].scale.varies
    assert not specs["up_blocks.0.resnets.0.conv1.input_quantizer"].scale.varies
    assert sum(spec.scale.varies for spec in specs.values()) == 4
    assert {spec.grid for name, spec in specs.items() if "prob" in name} == {Log2}
    assert specs["conv_in.input_quantizer"].grid is Uniform


@pytest.mark.parametrize(
    "rule", [Rule("resnet.conv3.*", bits=4), Rule("resnet.*", part="middle", bits=4), Rule("attn")]
)
def test_a_rule_that_matches_nothing_is_an_error(rule: Rule) -> None:
    with pytest.raises(SchemeError, match=r"Scheme rule 2 \(.* matches none of the 118 sites") as caught:
        Scheme([Rule("*", bits=8), rule]).resolve(SITES)
    text = one_sentence(caught.value)
    assert "resnet.conv1.weight" in text and "attn.prob" in text and caught.value.exit_code == 2


def test_a_site_without_bits_is_an_error() -> None:
    with pytest.raises(SchemeError, match=r"no bits to 4 of 118 sites \(first: .*\.prob_quantizer\)") as caught:
        Scheme([Rule("*.*[!b]", bits=8)]).resolve(SITES)
    one_sentence(caught.value)


def labels(rule: Rule) -> set[str]:
    return {site.label for site in SITES if rule.fits(site)}


def test_patterns_are_separated_by_a_bar() -> None:
    assert labels(Rule("edge.in.weight|attn.prob")) == {"edge.in.weight", "attn.prob"}
    assert labels(Rule("time.embed_?.input|resnet.time_proj.input")) == {
        "time.embed_1.input",
        "time.embed_2.input",
        "resnet.time_proj.input",
    }
    assert labels(Rule("nothing.here|edge.out.*")) == {"edge.out.input", "edge.out.weight"}
    assert labels(Rule("*.weight|*.input|attn.[qkv]|attn.prob")) == labels(Rule("*"))
    assert labels(Rule("edge.in.weight|")) == {"edge.in.weight"} and labels(Rule("edge|in.weight")) == set()
    both = [site for site in SITES if Rule("resnet.conv1.*|resnet.conv2.*", part="mid").fits(site)]
    assert len(both) == 8 and {site.part for site in both} == {"mid"}


def test_one_pattern_of_several_is_enough_for_a_rule() -> None:
    specs = Scheme([Rule("*", bits=8), Rule("nothing.here|attn.prob", bits=4)]).resolve(SITES)
    assert sum(spec.bits == 4 for spec in specs.values()) == 4
    with pytest.raises(SchemeError, match=r"Scheme rule 2 \(nothing\|here\) matches none"):
        Scheme([Rule("*", bits=8), Rule("nothing|here", bits=4)]).resolve(SITES)


def test_an_optional_rule_may_match_nothing() -> None:
    bare = [site for site in SITES if not site.label.startswith("attn")]
    rules = [Rule("*", bits=8), Rule("attn.*", bits=4, optional=True)]
    assert {spec.bits for spec in Scheme(rules).resolve(bare).values()} == {8}
    assert sum(spec.bits == 4 for spec in Scheme(rules).resolve(SITES).values()) == 4 * 8 + 4 * 4


def test_a_rule_may_hold_for_the_first_site_alone() -> None:
    specs = Scheme([Rule("*", bits=8), Rule("resnet.conv1.input", first=True, bits=4)]).resolve(SITES)
    assert [site.module for site, spec in specs.items() if spec.bits == 4] == ["down_blocks.0.resnets.0.conv1"]
    up = Scheme([Rule("*", bits=8), Rule("resnet.conv1.*", part="up", first=True, bits=4)]).resolve(SITES)
    assert [site.module for site, spec in up.items() if spec.bits == 4] == ["up_blocks.0.resnets.0.conv1"]
    with pytest.raises(SchemeError, match="matches none of the 118 sites"):
        Scheme([Rule("*", bits=8), Rule("nothing", first=True, bits=4)]).resolve(SITES)


SCOPED = [
    Rule("*", bits=8),
    Rule("*.input", scale=PerStepScale(), scope="all"),
    Rule("time.*.input", scale=PerStepScale(), scope="embeddings"),
]


@pytest.mark.parametrize(("scope", "count"), [(None, 0), ("embeddings", 2), ("all", 51)])
def test_a_scope_says_which_of_the_marked_rules_hold(scope: str | None, count: int) -> None:
    scoped = Scheme(SCOPED, scope)
    assert len(scoped.rules) == (1 if scope is None else 2)
    assert sum(spec.scale.varies for spec in scoped.resolve(SITES).values()) == count


@pytest.mark.parametrize(
    ("rules", "words"), [(SCOPED, "use all or embeddings"), ([Rule("*", bits=8)], "use none at all")]
)
def test_a_scope_that_no_rule_has_is_refused(rules: list[Rule], words: str) -> None:
    with pytest.raises(SchemeError, match=f"no scope temporal; {words}") as caught:
        Scheme(rules, "temporal")
    one_sentence(caught.value)


def test_the_second_of_two_schemes_wins() -> None:
    method = Scheme([Rule("*", bits=4, ranges=LpSearch()), Rule("edge.*", bits=6)])
    own_layers = Scheme([Rule("edge.in.*", bits=8)])
    both = {site.label: spec for site, spec in (method + own_layers).resolve(SITES).items()}
    assert [both[f"{role}.weight"].bits for role in ("edge.in", "edge.out", "up.conv")] == [8, 6, 4]
    assert {spec.ranges for spec in both.values()} == {LpSearch()}, "what a rule leaves open stays"
    other = {site.label: spec for site, spec in (own_layers + method).resolve(SITES).items()}
    assert [other[f"{role}.weight"].bits for role in ("edge.in", "edge.out", "up.conv")] == [6, 6, 4]
    assert (len(method.rules), len(own_layers.rules)) == (2, 1), "neither is changed"


def test_two_schemes_keep_the_rules_their_scopes_chose() -> None:
    both = Scheme(SCOPED, "embeddings") + Scheme([Rule("attn.prob", bits=4), Rule("*", bits=2, scope="x")])
    assert [rule.match for rule in both.rules] == ["*", "time.*.input", "attn.prob"]
    with pytest.raises(SchemeError, match=r"Scheme rule 2 \(nothing\)"):
        (Scheme([Rule("*", bits=8)]) + Scheme([Rule("nothing", bits=8)])).resolve(SITES)


def test_folding_makes_no_demand() -> None:
    rules = Scheme([Rule("nothing.here", bits=8), Rule("edge.*.weight", bits=4)])
    specs = rules.fold(SITES)
    assert len(specs) == 118 and sum(spec.bits is None for spec in specs.values()) == 116
    assert {spec for site, spec in specs.items() if site.label == "edge.in.weight"} == {Spec(bits=4)}
    assert Scheme([]).fold([]) == {} and set(Scheme([]).fold(SITES).values()) == {Spec()}


def test_only_scales_along_the_sum_of_a_product_cannot_be_deployed() -> None:
    per_channel = Rule("*.input", granularity=PerInputChannel())
    steps = Rule("*.input", scale=PerStepScale())
    assert deployable(scheme(steps).resolve(SITES)) and deployable(scheme().resolve(SITES))
    assert not deployable(scheme(per_channel).resolve(SITES))
    assert not deployable(scheme(Rule("edge.in.input", granularity=PerInputChannel())).resolve(SITES))
    assert deployable(scheme(per_channel, Rule("*.input", bits=32)).resolve(SITES)), "what is not quantized has none"


@pytest.mark.parametrize("bits", [0, 1, -4, 17, 31, 33, True, "4", 4.0, "w4"])
def test_bad_bits(bits: Any) -> None:
    with pytest.raises(SchemeError, match=r"Scheme rule 1 \(\*\) asks for .* bits; give") as caught:
        Scheme([Rule("*", bits=bits)])
    one_sentence(caught.value)


@pytest.mark.parametrize("bits", [2, 16, 32])
def test_good_bits(bits: int) -> None:
    specs = Scheme([Rule("*", bits=bits)]).resolve(SITES).values()
    assert {spec.bits for spec in specs} == {bits} and {spec.quantized for spec in specs} == {bits != 32}


def test_policy_lists_every_label_once() -> None:
    specs = scheme(Rule("edge.*.weight", bits=8)).resolve(SITES)
    widths = policy(specs)
    assert set(widths) == {site.label for site in SITES} and len(widths) == 32
    assert widths["edge.in.weight"] == 8 and widths["resnet.conv1.weight"] == 4 and widths["attn.prob"] == 8


def test_policy_names_the_part_where_widths_differ() -> None:
    widths = policy(scheme(Rule("resnet.conv1.weight", part="mid", bits=32)).resolve(SITES))
    parts = {name: bits for name, bits in widths.items() if "resnet.conv1.weight" in name}
    assert parts == {
        "mid:resnet.conv1.weight": 32,
        "down:resnet.conv1.weight": 4,
        "up:resnet.conv1.weight": 4,
    }


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("attn.q", granularity=PerChannel()), "one range for the whole tensor"),
        (Rule("time.embed_?.input", granularity=PerChannel(1)), "one range for the whole tensor"),
        (Rule("edge.in.weight", scale=PerStepScale()), "weights have no steps"),
        (Rule("edge.in.weight", scale=IntervalScale(3)), "weights have no steps"),
        (Rule("edge.in.weight", scale=MlpScale()), "weights have no steps"),
        (Rule("edge.in.weight", scale=DynamicScale()), "weights have no steps"),
        (Rule("edge.in.weight", choice=BySnr((4, 8))), "weights have no steps"),
        (Rule("*.weight", granularity=PerInputChannel()), "PerInputChannel at .*; use PerChannel for weights"),
        *((Rule(f"attn.{slot}", granularity=PerInputChannel()), "only inputs of layers") for slot in ("q", "k", "v")),
        (Rule("attn.prob", granularity=PerInputChannel()), r"only inputs of layers have channels; match \*\.input"),
        (Rule("edge.in.input", split=True), "reads no concatenation of a skip connection"),
    ],
)
def test_what_a_site_cannot_have_is_refused(rule: Rule, words: str) -> None:
    with pytest.raises(SchemeError, match=words) as caught:
        attach(adapter(), scheme(rule), TIMESTEPS)
    one_sentence(caught.value)


def test_a_grid_s_own_limits_hold() -> None:
    attached = attach(adapter(), scheme(Rule("*.weight", grid=partial(Uniform, symmetric=True))), TIMESTEPS)
    grids = [quantizer.grid for quantizer in attached.quantizers("weight").values()]
    assert grids and all(grid.lo == -(2 ** (grid.bits - 1)) and grid.hi == 2 ** (grid.bits - 1) - 1 for grid in grids)
