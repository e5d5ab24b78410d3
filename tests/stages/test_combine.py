"""Combinations that make no sense are refused in one sentence before anything is computed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dmq_cli.errors import SchemeError
from dmq_cli.ops import PerChannel
from dmq_cli.quant import Log2
from dmq_cli.recon import AdaRound, NoReconstruction, Pass, Reconstruction, Scales, SignSteps
from dmq_cli.stages.validate import check_combination
from dmq_cli.wrap import Rule, Scheme
from tests.chain import QUICK, counting, dmq, words
from tests.tiny import one_sentence

LOG2 = "{_target_: dmq_cli.quant.Log2, _partial_: true}"
POWERS = (
    "scheme.rules=[{_target_: dmq_cli.wrap.Rule, match: '*', bits: 8},"
    " {_target_: dmq_cli.wrap.Rule, match: 'resnet.*.weight', bits: 4, grid: " + LOG2 + "}]"
)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("recon=brecq", POWERS), "puts resnet.conv1.weight on a Log2 grid, which has no neighbours to choose between"),
        (("recon=signround", POWERS), "use a Uniform grid for weights, or recon=none"),
        (("recon=quest", POWERS), "learns how weights are rounded"),
        (("correct=ptqd", "correct.variance=on"), "correct.variance=on needs a sampler that adds noise"),
        (("recon=par", "recon.refine_rounds=0"), "recon.refine_rounds=0 refines nothing; use at least 1"),
        (("recon=par", "budget.refine_iterations=0"), "recon.refine_iterations=0 refines nothing"),
        (("recon=par", "recon.refine_iterations=null"), "belong together"),
        (("recon=qdrop", "recon.passes.joint.mix=2"), "mix and drop lie in 0..1"),
        (("recon=brecq", "recon.passes.weights.iterations=many"), "iterations=many is not possible; give a whole number."),
        (("recon=tfmq", "recon.temporal=never"), "recon.temporal=never is not possible; give one of block, joint, freeze."),
        (("transform=tcr", "transform.clamp=0.5"), "transform.clamp=0.5 is not possible"),
        (("transform=lowrank", "transform.match=resnet.conw1"), "Did you mean"),
        (("calib=tdac", "calib.radius=-1"), "calib.radius=-1"),
        (("scheme=quest", "scheme.scope=per_chanel"), "The scheme has no scope per_chanel"),
        (("scheme=ptqd_mixed", "bits=w8a4"), "BySnr was asked for bits=[4, 4]"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(more: tuple[str, ...], sentence: str, small: Path, tmp_path: Path) -> None:
    with counting() as ran:
        result = dmq(*words("sample", small, tmp_path, *QUICK, *more))
    assert result.code == 2 and sentence in result.sentence, result.err
    assert result.sentence.endswith((".", "?")) and "\n" not in result.sentence
    assert ran == [] and not (tmp_path / "artifacts").exists()


def log2_weights(bits: int) -> Scheme:
    return Scheme([Rule("*", bits=8), Rule("time.*.weight", bits=bits, grid=partial(Log2), granularity=PerChannel())])


@pytest.mark.parametrize("rounding", [AdaRound(), SignSteps()])
def test_learned_rounding_needs_neighbours(rounding: AdaRound | SignSteps) -> None:
    with pytest.raises(SchemeError) as caught:
        check_combination(log2_weights(4), Reconstruction({"one": Pass(1, rounding=rounding)}))
    assert "time.embed_1.weight" in one_sentence(caught.value)


def test_what_learns_no_rounding_or_quantizes_no_such_weight_passes() -> None:
    learns = Reconstruction({"one": Pass(1, rounding=AdaRound())})
    rests = Reconstruction({"one": Pass(0, rounding=AdaRound()), "two": Pass(1, scales=Scales())})
    for recon in (NoReconstruction(), rests):
        check_combination(log2_weights(4), recon)
    check_combination(log2_weights(32), learns)
    check_combination(Scheme([Rule("*", bits=8), Rule("attn.prob", grid=partial(Log2))]), learns)
