"""A class that cannot stand where the configuration names it is told in one sentence, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dmq_cli.calib import Uniform
from dmq_cli.correct import NoCorrection, Ptqd, PtqdCorrection, Tac, TacCorrection
from dmq_cli.errors import ConfigError
from dmq_cli.metrics.shown import classes
from dmq_cli.models import Numerics
from dmq_cli.ops import MinMax, PerChannel, PerInputChannel, PerTensor
from dmq_cli.ops.granularity import Granularity
from dmq_cli.quant import ByLikelihood, Log2, StaticScale
from dmq_cli.quant import Uniform as UniformGrid
from dmq_cli.recon import AdaRound, NoReconstruction, Pass, Reconstruction, Scales
from dmq_cli.sampling import Euler, Sampler
from dmq_cli.stages.interfaces import INTERFACES, check_made, members
from dmq_cli.stages.loggers import Logger, NoLogger, make_logger
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.validate import check_types
from dmq_cli.transform import NoTransform
from dmq_cli.wrap import Rule, Scheme
from tests.chain import counting, dmq, words
from tests.test_conf import composed
from tests.tiny import one_sentence

HERE = __name__


@dataclass(frozen=True)
class NoVariance(NoCorrection):
    """A correction whose part in use lacks a method."""

    seeds: str | None = "2000000-2000003"

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        return {"shift": (calls,)}

    def load(self, tensors: Mapping[str, Any]) -> Any:
        class Used:
            shift = tensors["shift"]
            pre = post = lambda self, sample, call: sample

        return Used()


class NoEstimate:
    seeds = None

    cost = NoCorrection.cost

    def check(self, eta: float) -> None: ...
    def shapes(self, calls: int, shape: Any, guided: bool) -> Any: ...
    def load(self, tensors: Any) -> None: ...


class OtherNumber(NoCorrection):
    def check(self) -> None: ...  # type: ignore[override]


class NoSeeds:
    cost = NoCorrection.cost
    check = NoCorrection.check
    estimate = NoCorrection.estimate
    shapes = NoCorrection.shapes
    load = NoCorrection.load


class NoTransformShapes:
    cost = NoTransform.cost

    def estimate(self, adapter: Any, data: Any, report: Any) -> Any: ...


class NoChoose(Uniform):
    choose = None  # type: ignore[assignment]


class NoRun:
    num_samples = targets = None
    learns_rounding = False
    refinements = NoReconstruction.refinements
    cost = NoReconstruction.cost


class NoCost(NoReconstruction):
    cost = None  # type: ignore[assignment]


class NoCalls:
    eta = 0.0

    def scheduler(self, schedule: Any) -> Any: ...


class HalfScheduler(Sampler):
    def scheduler(self, schedule: Any) -> Any:
        class Half:
            timesteps = super(HalfScheduler, self).scheduler(schedule).timesteps

        return Half()


class NoApply(Numerics):
    apply = None  # type: ignore[assignment]


class NoLog:
    package = None


class NoBuild:
    varies = False


class HalfSource(StaticScale):
    def build(self, slot: Any) -> Any:
        return torch.nn.Identity()


class NoGrid:
    def __init__(self, bits: int) -> None:
        self.bits = bits


class NoFit:
    needs_values = False


class OwnChoice:
    def grids(self, grid: Any) -> list[Any]:
        return [grid]


class NoStart: ...


@pytest.fixture(scope="module")
def base(small: Path) -> dict[str, Any]:
    return {**composed("model=folder", f"model.path={small}", "model.name=tiny", "method=minmax"), "stage": "sample"}


def rule(**fields: str) -> str:
    parts = ", ".join(f"{name}: {{{value}}}" for name, value in fields.items())
    return f"scheme.rules=[{{_target_: dmq_cli.wrap.Rule, match: '*', bits: 8, {parts}}}]"


def mine(name: str, more: str = "") -> str:
    return f"_target_: {HERE}.{name}{more}"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (f"correct._target_={HERE}.NoVariance", ["a correction in use needs variance(sigma, noise_gain, call=)", "Used"]),
        (f"correct._target_={HERE}.NoEstimate", ["estimate(full, quantized, scheduler, shape, eta, report=, guide=)", "does not have"]),
        (f"correct._target_={HERE}.OtherNumber", ["check(eta)", "with other parameters"]),
        (f"correct._target_={HERE}.NoSeeds", ["a correction needs seeds, which NoSeeds does not have"]),
        ("correct={_target_: dmq_cli.calib.Uniform, seeds: 5-9, num_steps: 2}", ["estimate(", "it is one for calib."]),
        ("correct._target_=torch.nn.Identity", ["a correction needs", "Identity"]),
        ("correct={_target_: builtins.dict}", ["a correction needs", "dict does not have"]),
        (f"transform._target_={HERE}.NoTransformShapes", ["shapes(adapter)"]),
        (f"calib._target_={HERE}.NoChoose", ["calibration strategy", "choose(scheduler, features)"]),
        (f"recon._target_={HERE}.NoRun", ["reconstruction", "run(attached, data, num, work, report, targets)"]),
        (f"recon._target_={HERE}.NoCost", ["a reconstruction needs cost(samples), which NoCost has with other parameters"]),
        (f"sampler={{_target_: {HERE}.NoCalls}}", ["sampler needs calls"]),
        (f"sampler._target_={HERE}.HalfScheduler", ["scheduler needs alphas_cumprod", "step(model_output, timestep, sample"]),
        (f"numerics._target_={HERE}.NoApply", ["apply(model, units)"]),
        ("scheme={_target_: dmq_cli.wrap.Rule, match: '*'}", ["fold(sites)", "Rule"]),
        ("policy={_target_: dmq_cli.calib.Uniform, seeds: 5-9, num_steps: 2}", ["it is one for calib."]),
        ("protocol={_target_: dmq_cli.sampling.Sampler, num_inference_steps: 4, to_uint8: edm}", ["a protocol needs", "it is one for sampler."]),
        (rule(scale=mine("NoBuild")), ["scheme.rules.0.scale._target_=", "build(slot)"]),
        (rule(scale=mine("HalfSource")), ["source of scales", "fill(scale, zero_point, low)"]),
        (rule(grid=mine("NoGrid", ", _partial_: true")), ["a grid needs", "parameters(minimum, maximum)"]),
        (rule(ranges=mine("NoFit")), ["range estimator", "fit(values, grid)"]),
        (rule(ranges="_target_: dmq_cli.ops.PerChannel"), ["scheme.rules.0.ranges._target_=", "fit(values, grid)"]),
        (rule(granularity="_target_: dmq_cli.ops.MinMax"), ["granularity needs", "shape(ndim, groups)"]),
        (rule(choice=mine("OwnChoice")), ["derive the class from ByLikelihood or BySnr"]),
        (f"recon={{_target_: dmq_cli.recon.Reconstruction, passes: {{a: {{_target_: dmq_cli.recon.Pass, iterations: 1, rounding: {{{mine('NoStart')}}}}}}}}}",
         ["recon.passes.a.rounding._target_=", "start(weights, iterations)"]),
        ("correct={}", ["The section correct={} names no class"]),
    ],
)  # fmt: skip
def test_what_is_lacking_is_told_in_prepare(override: str, parts: list[str], base: dict[str, Any]) -> None:
    key, _, value = override.partition("=")
    section, _, inside = key.partition(".")
    setting: Any = OmegaConf.to_container(OmegaConf.create(f"x: {value}")).get("x")  # type: ignore[union-attr]
    with pytest.raises(ConfigError) as error:
        prepare({**base, section: {**base[section], inside: setting} if inside else setting})
    assert all(part in one_sentence(error.value) for part in parts), error.value


def test_nothing_is_computed_before_it(small: Path, tmp_path: Path) -> None:
    with counting() as ran:
        result = dmq(*words("sample", small, tmp_path, "method=minmax", f"correct._target_={HERE}.NoVariance"))
    assert result.code == 2 and "variance" in result.sentence and ran == []


def test_a_logger_is_told_before_anything_is_computed() -> None:
    with pytest.raises(ConfigError, match=r"logger needs log\(run, metrics\), which NoLog does not have"):
        make_logger({"_target_": f"{HERE}.NoLog"})


@pytest.mark.parametrize(
    ("place", "asked"),
    [
        ("correct", "estimate(full, quantized, scheduler, shape, eta, report=, guide=)"),
        ("correct", "seeds"),
        ("correct", "cost(calls)"),
        ("recon", "targets"),
        ("recon", "run(attached, data, num, work, report, targets)"),
        ("correction in use", "variance(sigma, noise_gain, call=)"),
        ("scheduler", "step(model_output, timestep, sample, eta=, noise=, variance=)"),
        ("source of scales", "groups"),
        ("source of scales", "__call__(x)"),
        ("ranges", "needs_values"),
    ],
)
def test_what_is_asked_for_is_what_the_protocol_says(place: str, asked: str) -> None:
    assert asked in INTERFACES[place]


@pytest.mark.parametrize(("place", "kind"), [("granularity", Granularity), ("logger", Logger)])
def test_the_lists_by_hand_are_those_of_the_protocols(place: str, kind: type) -> None:
    by_hand = {re.sub(r" or .*", "", member) for member in INTERFACES[place]}
    assert by_hand == set(members(kind))


def test_dmqs_own_parts_have_what_is_asked_for() -> None:
    step, tables = torch.zeros(2), torch.zeros(2, 1)
    examples: dict[str, list[Any]] = {
        "calib": [Uniform("0-3", 2)],
        "transform": [NoTransform()],
        "scheme": [Scheme([Rule("*", bits=8)])],
        "recon": [NoReconstruction(), Reconstruction({"a": Pass(1, AdaRound())})],
        "correct": [NoCorrection(), Tac("0-3"), Ptqd("0-3")],
        "sampler": [Sampler(4), Euler(4)],
        "numerics": [Numerics()],
        "metric": [metric() for metric in classes().values()],
        "logger": [NoLogger()],
        "rule": [Rule("*")],
        "scale": [StaticScale()],
        "choice": [ByLikelihood()],
        "granularity": [PerTensor(), PerChannel(), PerInputChannel()],
        "ranges": [MinMax()],
        "pass": [Pass(1, AdaRound())],
        "learner": [AdaRound(), Scales()],
        "grid": [UniformGrid(8), Log2(8)],
        "correction in use": [TacCorrection(tables, tables), PtqdCorrection(step, tables, step)],
    }
    from dmq_cli.stages.interfaces import _check

    for place, parts in examples.items():
        for part in parts:
            _check("x", place, {"_target_": "y"}, part)
    assert set(INTERFACES) - set(examples) == {"protocol", "scheduler", "source of scales"}  # tried by every run


def test_somebodys_whole_class_is_taken(base: dict[str, Any]) -> None:
    argument = {"a": {"_target_": "torch.nn.Identity"}}
    config = prepare({**base, "correct": {"_target_": f"{HERE}.Whole", "given": argument}})
    assert set(config["code"]["correct"]) == {f"{HERE}.Whole", "torch.nn.Identity"}
    check_types("correct", {"_target_": f"{HERE}.made_whole"})
    check_made("correct", {"_target_": f"{HERE}.made_whole"}, made_whole())


@dataclass(frozen=True)
class Whole(NoCorrection):
    given: Any = None

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        return {"gain": (calls, shape[0]), "bias": (calls, *shape)}

    def load(self, tensors: Mapping[str, Any]) -> Any:
        return TacCorrection(tensors["gain"], tensors["bias"])


made_whole = partial(replace, Whole(), given=1)
