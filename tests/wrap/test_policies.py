"""Every policy in conf/policy against the table of what the papers' released code quantizes (written down once more)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from dmq_cli.paths import conf_folder
from dmq_cli.report.summary import policy_text
from dmq_cli.report.widths import input_bits
from dmq_cli.stages.build import make
from dmq_cli.wrap import Scheme, attach, policy
from tests.test_conf import composed
from tests.tiny import SMALL, TIMESTEPS, adapter

FP = 32
W, A, EDGE = 4, 6, 8  # bits=w4a6: a layer is W/A, both ends and softmax are EDGE where a paper says 8
PLAIN = (W, A)
WHOLE = (FP, FP)

# weights / inputs of a few kinds of layers; then q, k, v and the probabilities
COLUMNS = ("conv_in", "conv_out", "embed 1", "embed 2", "projections", "shortcut", "down", "up", "to_q", "conv1")
ROLES = dict(
    zip(
        COLUMNS,
        (
            "edge.in",
            "edge.out",
            "time.embed_1",
            "time.embed_2",
            "resnet.time_proj",
            "resnet.shortcut",
            "down.conv",
            "up.conv",
            "attn.to_q",
            "resnet.conv1",
        ),
        strict=True,
    )
)
TABLE: dict[str, tuple[tuple[tuple[int, int], ...], tuple[int, int]]] = {
    "common": (((EDGE, EDGE), (EDGE, EDGE), *[PLAIN] * 8), (A, A)),
    "uniform": ((PLAIN,) * 10, (A, A)),
    "qdiffusion": ((PLAIN,) * 10, (A, EDGE)),
    "ptq4dm": ((PLAIN, (EDGE, EDGE), (EDGE, A), *[PLAIN] * 5, WHOLE, PLAIN), (FP, FP)),
    "ptqd": (
        ((EDGE, EDGE), (EDGE, EDGE), (EDGE, EDGE), PLAIN, PLAIN, WHOLE, WHOLE, PLAIN, PLAIN, PLAIN),
        (FP, FP),
    ),
    "tfmq": ((WHOLE, WHOLE, WHOLE, (W, FP), PLAIN, WHOLE, WHOLE, PLAIN, PLAIN, PLAIN), (FP, FP)),
    "tdq": ((WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, *[PLAIN] * 5), (FP, FP)),
    "eda": ((PLAIN, (EDGE, FP), (EDGE, A), *[PLAIN] * 4, (W, EDGE), PLAIN, PLAIN), (A, EDGE)),
    "quest": (((W, EDGE), (W, EDGE), *[PLAIN] * 8), (A, EDGE)),
}
DEEP: dict[str, Any] = {  # three levels: two upsamplings
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
}
FIRST = {"tfmq": ("resnet.conv1.input", FP)}  # of the layers of this label the first one alone


@cache
def resolved(policy: str, bits: str = "w4a6") -> tuple[tuple[str, int], ...]:
    """The bits of every site's label, as a run would have them."""
    config = composed(f"policy={policy}", f"bits={bits}")
    assert config["scheme"]["_target_"] == "dmq_cli.wrap.Scheme" and config["method"]["name"] == "minmax"
    both = make(config["scheme"]) + make(config["policy"])
    assert isinstance(both, Scheme)
    attached = attach(adapter(), both, TIMESTEPS)
    assert len(attached.specs) == 118
    return tuple((site.label, int(spec.bits or 0)) for site, spec in attached.specs.items())


def test_every_policy_is_in_the_table() -> None:
    assert set(TABLE) == {path.stem for path in (conf_folder() / "policy").glob("*.yaml")} and len(TABLE) == 9


@pytest.mark.parametrize("policy", TABLE)
def test_a_policy_is_its_row_of_the_table(policy: str) -> None:
    layers, (operands, prob) = TABLE[policy]
    wanted = {f"{ROLES[name]}.weight": pair[0] for name, pair in zip(COLUMNS, layers, strict=True)}
    wanted |= {f"{ROLES[name]}.input": pair[1] for name, pair in zip(COLUMNS, layers, strict=True)}
    wanted |= {"attn.q": operands, "attn.k": operands, "attn.v": operands, "attn.prob": prob}
    compared, visited = 0, set()
    for label, bits in resolved(policy):
        if label in wanted:
            alone = FIRST[policy][1] if label == FIRST.get(policy, [""])[0] and label not in visited else wanted[label]
            assert bits == alone, label
            visited.add(label)
            compared += 1
    # a layer of each end, embedding, down and up; 8 projections and conv1, 5 shortcuts, 4 attentions
    assert compared == 2 * (6 + 8 + 8 + 5 + 4) + 4 * 4
    assert len(wanted) == 24 and {label for label, _ in resolved(policy)} >= set(wanted)


@pytest.mark.parametrize("policy", TABLE)
def test_what_a_policy_does_not_name_is_as_wide_as_the_rest(policy: str) -> None:
    inner = {label: bits for label, bits in resolved(policy) if label.startswith(("resnet.conv2", "up.conv"))}
    wanted = {"resnet.conv2.weight": W, "resnet.conv2.input": A, "up.conv.weight": W, "up.conv.input": A}
    assert inner == {**wanted, **({"up.conv.input": EDGE} if policy == "eda" else {})}


def test_only_the_lowest_level_s_upsampling_reads_8_bits_in_eda() -> None:
    """Of a network with two of them: its released a_list[-2], up.3.upsample.conv, runs first."""
    config = composed("policy=eda", "bits=w4a6")
    deep = attach(adapter(**DEEP), make(config["scheme"]) + make(config["policy"]), TIMESTEPS)
    bits = [(site.module, spec.bits) for site, spec in deep.specs.items() if site.label == "up.conv.input"]
    assert bits == [("up_blocks.0.upsamplers.0.conv", EDGE), ("up_blocks.1.upsamplers.0.conv", A)]


@pytest.mark.parametrize(
    ("name", "first", "alone", "rest"),
    [
        ("tfmq", "down_blocks.0.resnets.0.conv1", FP, {"down_blocks.0.resnets.1.conv1": A, "mid_block.resnets.0.conv1": A}),
        ("eda", "up_blocks.0.upsamplers.0.conv", EDGE, {"up_blocks.1.upsamplers.0.conv": A}),
    ],
)  # fmt: skip
def test_what_is_recorded_has_the_one_layer_that_differs(
    name: str, first: str, alone: int, rest: dict[str, int]
) -> None:
    config = composed(f"policy={name}", "bits=w4a6")
    deep = attach(adapter(**DEEP, layers_per_block=2), make(config["scheme"]) + make(config["policy"]), TIMESTEPS)
    recorded = policy(deep.specs)
    wanted = {site.module: spec.bits for site, spec in deep.specs.items() if site.slot == "input"}
    assert input_bits(recorded, list(wanted)) == wanted and wanted[first] == alone
    assert rest.items() <= wanted.items() and recorded[f"{first}.input"] == alone
    (line,) = [part for part in policy_text(recorded).split("; ") if part.startswith("activations")]
    assert line.startswith(f"activations {A} bits but ") and f"{first}.input {alone}" in line
    assert not any(f"{module}.input" in line for module in rest)


@pytest.mark.parametrize("policy", TABLE)
def test_a_policy_leaves_full_precision_as_it_is(policy: str) -> None:
    assert {bits for _, bits in resolved(policy, "fp")} == {FP}


@pytest.mark.parametrize("policy", TABLE)
def test_a_policy_fits_a_network_without_attention_or_levels(policy: str) -> None:
    config = composed(f"policy={policy}", "bits=w4a6")
    attached = attach(adapter(**SMALL), make(config["scheme"]) + make(config["policy"]), TIMESTEPS)
    roles = {site.role for site in attached.specs}
    assert "down.conv" not in roles and len(attached.specs) > 10


def test_no_two_policies_are_the_same() -> None:
    assert len({resolved(policy) for policy in TABLE}) == len(TABLE)
