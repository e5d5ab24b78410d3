"""The work that `dmq plan` estimates, in network calls on one sample, pinned as it was when the parts began to say it themselves."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from dmq_cli.correct import CorrectionMethod, NoCorrection, Ptqd, Tac
from dmq_cli.recon import AdaRound, NoReconstruction, Pass, Quest, ReconMethod, Reconstruction
from dmq_cli.stages import build
from dmq_cli.stages.build import Parts
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.targets import trust
from dmq_cli.transform import LowRank, NoTransform, Tcr, Transform
from tests.test_conf import TRAINED, choices, composed

# transform, reconstruct, correct and trace of every method with ddim_digits (10 steps), budget=light.
LEARNED, PLAIN = (0, 29056, 0, 2432), (0, 0, 0, 2432)
PTQD, TAC = (0, 29056, 2560, 3328), (0, 29056, 3840, 3328)
WORK = {
    "adaround": (0, 20288, 0, 2432), "brecq": LEARNED, "dynamic": PLAIN, "eda": (0, 20288, 0, 2432), "minmax": PLAIN,
    "eda_released": (0, 20288, 0, 2432), "tfmq_embeddings": (0, 20288, 0, 2432),
    "ptq4dm": PLAIN, "ptqd": PTQD, "qdiffusion": LEARNED, "qdrop": (0, 20288, 0, 2432), "quest": (0, 33088, 0, 2432),
    "signround": LEARNED, "steps_n": (0, 15488, 0, 2432), "svdquant": (1280, 0, 0, 2432), "tac": TAC,
    "tac_first": TAC, "tac_ibc": TAC, "tac_ner": TAC, "tac_noise": TAC,
    **dict.fromkeys(TRAINED, (0, 128000, 0, 2432)),
    "tcaq": (1280, 113792, 0, 2432), "tdq": (0, 15488, 0, 2432), "tfmq": (0, 20288, 0, 2432),
}  # fmt: skip
GUIDED = {"tac": (0, 29056, 15360, 13312), "tcaq": (5120, 124544, 0, 9728), "svdquant": (5120, 0, 0, 9728)}  # 20 steps


def work(model: str, method: str) -> tuple[float, ...]:
    config: dict[str, Any] = composed(f"model={model}", f"method={method}")
    trust(config)
    config["calib_sampler"] = config["sampler"]
    config["model"]["cond"] = {"guidance": config["cond"]["guidance"]}
    parts = Parts(**{field.name: build.make(config[field.name]) for field in fields(Parts)})
    return tuple(NODES[name].cost(config, parts) for name in ("transform", "reconstruct", "correct", "trace"))


def test_every_method_is_listed() -> None:
    assert set(WORK) == set(choices("method"))


@pytest.mark.parametrize("method", WORK)
def test_the_work_of_a_method(method: str) -> None:
    assert work("ddim_digits", method) == WORK[method]


@pytest.mark.parametrize("method", GUIDED)
def test_two_halves_of_a_guided_estimate_are_two_samples(method: str) -> None:
    assert work("ldm_digits_class", method) == GUIDED[method]


def test_the_classes_say_it_themselves() -> None:
    """Also for mypy: dmq's own classes are what the protocols ask for."""
    corrections: list[CorrectionMethod] = [NoCorrection(), Tac("0-3"), Ptqd("0-3")]
    assert [part.cost(10) for part in corrections] == [0, 2 * 4 * 10, 2 * 4 * 10]
    transforms: list[Transform] = [NoTransform(), Tcr(), LowRank()]
    assert [part.cost(64.0) for part in transforms] == [0, 64, 64]
    once = Reconstruction({"a": Pass(3, AdaRound()), "b": Pass(0, AdaRound())}, num_samples=16, batch_size=8)
    twice = Reconstruction(once.passes, 16, 8, refine_rounds=2, refine_iterations=5)
    methods: list[ReconMethod] = [NoReconstruction(), once, twice, Quest(once, iterations=5, batch_size=4)]
    learned = 3 * 8 * 3 + 23 * 0.5 * 16
    assert [part.cost(64.0) for part in methods] == [0, learned, learned, learned + 8 * 5 * 4]
    assert [part.cost(64.0) for part in twice.refinements()] == [5 * 8 * 3 + 23 * 0.5 * 16] * 2
