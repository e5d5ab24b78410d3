"""The integer forms of layers compute what the simulated network does: in float64 the same up to rounding, whatever the scales are."""

from __future__ import annotations

import pytest
import torch

from dmq_cli.deploy.lower import lower, product_count
from dmq_cli.deploy.onnx_product import OnnxPiece
from dmq_cli.errors import ConfigError
from dmq_cli.quant import PerStepScale
from dmq_cli.wrap import Rule
from tests import families
from tests.deploy.test_lower import INTEGER, check
from tests.deploy.test_packed import learned, transformed
from tests.tiny import data, one_sentence, scheme, wrapped

KINDS = [("static", 127, 1), ("eight bits", 127, 1), ("eight bits", 64, 2), ("symmetric", 127, 1), ("per step", 127, 1)]
"""Of a network: its kind, the greatest integer, and how many products each layer's part takes."""


@pytest.mark.parametrize(("name", "limit", "products"), KINDS)
def test_nothing_changes(name: str, limit: int, products: int) -> None:
    attached = learned(wrapped(scheme(*INTEGER[name])), torch.float64)
    lowered = lower(attached, limit, OnnxPiece)
    pieces = sum(isinstance(module, OnnxPiece) for module in lowered.attached.model.modules())
    assert {name[-3:] for name in lowered.floating} == {".qk", ".pv"} and lowered.attention == []
    assert all("multiplies activations" in reason for reason in lowered.floating.values())
    assert pieces >= 40 and product_count(lowered) == products * pieces
    for timestep in (750, 0):
        check(attached, lowered, timestep)


def test_other_grids_and_transforms() -> None:
    """Fewer bits than 8 have fewer codes; a scaling of inputs and a branch stay around the integers."""
    for attached in (wrapped(scheme(Rule("*.input", bits=5))), transformed()):
        attached.model.double()
        check(attached, lower(attached, 127, OnnxPiece), 500)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_other_families(family: str) -> None:
    attached = learned(families.wrapped(family, families.plain(Rule("*.input", scale=PerStepScale()))), torch.float64)
    check(attached, lower(attached, 127, OnnxPiece), 250, families.cond(family))


def test_codes_are_those_of_the_quantizers_where_steps_are_mixed() -> None:
    attached = wrapped(scheme(Rule("*.input", scale=PerStepScale())))
    lowered = lower(attached, 127, OnnxPiece)
    (sample, timestep), layer = data(), lowered.attached.model.get_submodule("conv_in")
    with lowered.attached.at(timestep):
        differences = layer.code_differences(3 * sample, layer.quantized(3 * sample))  # type: ignore[operator]
    assert len(differences) == 1 and differences[0].shape == sample.shape and not differences[0].any()


def test_a_convolution_in_groups_is_refused() -> None:
    pieces = (
        module for module in lower(wrapped(), 127, OnnxPiece).attached.model.modules() if isinstance(module, OnnxPiece)
    )
    piece = next(pieces)
    (layer,) = piece.layer
    assert layer is not None
    layer.groups = 2
    with pytest.raises(ConfigError, match="in 2 groups") as caught:
        piece(data()[0])
    one_sentence(caught.value)
