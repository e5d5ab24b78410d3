"""Every layer's interval is drawn with the bits that the policy gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmq_cli.report.evidence import trace
from dmq_cli.report.figures.activations import covered
from dmq_cli.report.widths import input_bits
from dmq_cli.results.runs import load_result
from tests.reports import runs

POLICY = {"edge.in.input": 8, "time.embed_1.input": 4, "down:resnet.conv1.input": 4, "up:resnet.conv1.input": 6}


@pytest.mark.parametrize(
    ("layer", "bits"),
    [
        ("conv_in", 8),
        ("pos_embed.proj", 8),
        ("time_embedding.linear_1", 4),
        ("down_blocks.0.resnets.0.conv1", 4),
        ("up_blocks.0.resnets.0.conv1", 6),
        ("mid_block.resnets.0.conv1", None),
        ("nothing.known", None),
    ],
)
def test_a_layer_has_the_bits_of_its_role(layer: str, bits: int | None) -> None:
    assert input_bits(POLICY, [layer]) == ({} if bits is None else {layer: bits})


def test_an_attention_of_two_widths_is_left_out_where_its_name_does_not_tell_which() -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    both = {"attn.to_k.input": 4, "attn.cross.to_k.input": 8}
    assert input_bits(both, [layer]) == {} and input_bits({}, [layer]) == {}
    assert input_bits({**both, "attn.to_k.input": 8}, [layer]) == {layer: 8}


def test_only_sites_of_known_bits_are_drawn(tmp_path: Path) -> None:
    run_trace = trace(load_result(runs.run(tmp_path, runs.metrics("tac"))))
    assert np.isfinite(run_trace.scales).all()
    assert covered({"a": run_trace}, {"a": {"conv_in": 8, "nowhere": 4}}) == ["conv_in"]
    assert covered({"a": run_trace}, {"a": {}}) == []
