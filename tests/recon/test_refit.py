"""scheme.network: ranges of activations from the full-precision network, or from the one whose weights are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import fit_activations
from dmq_cli.errors import SchemeError
from dmq_cli.quant import source_of
from dmq_cli.recon import AdaRound, Pass, Quest, Reconstruction
from dmq_cli.recon.scales import Scales
from dmq_cli.wrap import Attached, QuantMixin, Scheme
from tests.recon.runs import FEW_UNITS, NUM, brecq, few, run, small
from tests.tiny import SMALL, data, network, one_sentence


def shown() -> Iterator[tuple[Tensor, Tensor]]:
    yield data(NUM)


def extremes(attached: Attached) -> dict[str, tuple[float, float]]:
    """Of what every layer reads in a plain network whose weights are those that the quantized layers have."""
    model = network(**SMALL)
    layers = {name: layer for name, layer in attached.layers().items() if isinstance(layer, QuantMixin)}
    ends: dict[str, tuple[float, float]] = {}
    for name, layer in layers.items():
        with torch.no_grad():
            place = model.get_submodule(name)
            quantizer = layer.weight_quantizer
            place.weight.copy_(quantizer(layer.weight))  # type: ignore[operator]

        def watch(_module: object, inputs: tuple[Tensor, ...], name: str = name) -> None:
            ends[name] = (min(0.0, float(inputs[0].min())), max(0.0, float(inputs[0].max())))

        place.register_forward_pre_hook(watch)
    model(*data(NUM))
    return ends


def scales(attached: Attached) -> dict[str, float]:
    inputs = attached.quantizers("input")
    return {
        path.partition(".input_quantizer")[0]: float(source_of(quantizer)(torch.zeros(1, dtype=torch.float64))[0])
        for path, quantizer in inputs.items()
        if ".parts." not in path
    }


def assert_fits(attached: Attached, ends: dict[str, tuple[float, float]], fits: bool = True) -> None:
    """Whether the 8-bit scales of all layers are those of these extremes; layers that are split have other ranges."""
    wrong = [
        name
        for name, scale in scales(attached).items()
        if scale != pytest.approx((ends[name][1] - ends[name][0]) / 255, rel=1e-9)
    ]
    assert (len(wrong) == 0) == fits, wrong


def test_ranges_are_those_of_the_network_with_quantized_weights() -> None:
    attached = small()
    ends = extremes(attached)
    fit_activations(attached, shown())
    assert_fits(attached, ends, fits=False)
    fit_activations(attached, shown(), quantized=True)
    assert_fits(attached, ends)


@pytest.mark.parametrize("quest", [False, True])
def test_they_are_taken_again_once_rounding_is_learned(tmp_path: Path, quest: bool) -> None:
    """And learned from there: with a learning rate of nearly nothing they stay."""
    tiny = Scales(lr=1e-12, relative=True)
    config: Reconstruction | Quest = brecq(steps=tiny)
    if quest:
        base = Reconstruction({"weights": Pass(4, rounding=AdaRound(lr=0.05))}, batch_size=4)
        config = Quest(base, iterations=1, batch_size=4, weight_lr=1e-12, scale_lr=1e-12)
    attached, calls = few(), []

    def refit() -> None:
        calls.append(extremes(attached))
        fit_activations(attached, shown(), quantized=True)

    run(config, attached, tmp_path, refit=refit)
    assert len(calls) == 1, "between both passes, once"
    wrong = [
        name
        for name, scale in scales(attached).items()
        if scale != pytest.approx((calls[0][name][1] - calls[0][name][0]) / 255, rel=1e-6)
    ]
    assert wrong == [] and len(scales(attached)) >= len(FEW_UNITS)
    again = few()
    run(config, again, tmp_path, refit=lambda: fit_activations(again, shown(), quantized=True))
    assert scales(again) == scales(attached), "a second attempt, with all its units from files"


@pytest.mark.parametrize(
    "passes",
    [
        {"joint": Pass(2, rounding=AdaRound(), scales=Scales())},
        {"scales": Pass(2, scales=Scales())},
        {"weights": Pass(2, rounding=AdaRound())},
        {"weights": Pass(0, rounding=AdaRound()), "scales": Pass(2, scales=Scales())},
    ],
)
def test_where_nothing_lies_between_learned_weights_and_scales_calibration_s_stay(
    passes: dict[str, Pass], tmp_path: Path
) -> None:
    calls: list[None] = []
    run(Reconstruction(passes, batch_size=4), few(), tmp_path, refit=lambda: calls.append(None))
    assert not calls


def test_values_that_are_not_known_are_refused() -> None:
    for wrong in ({"network": "half"}, {"samples": 0}):
        with pytest.raises(SchemeError, match="full or quantized") as caught:
            Scheme([], **wrong)
        one_sentence(caught.value)
    added = Scheme([], network="quantized", samples=3) + Scheme([])
    assert (added.network, added.samples) == ("quantized", 3)
