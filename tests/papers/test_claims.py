"""What a paper claims is held against planted cells and planted traces, and fails where it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dmq_cli.papers import claims, traces
from dmq_cli.papers.claims import AHEAD, BEHIND, EVEN, FAILS, FAILS_ONCE, HOLDS, ONCE, UNKNOWN, compare
from dmq_cli.papers.numbers import Entry, difference, measured
from dmq_cli.papers.transcript import Row, paper_table
from dmq_cli.results.learned import Relearned
from dmq_cli.results.noise import inside_noise
from dmq_cli.results.record import Number, as_evaluation
from dmq_cli.store import read_json, write_json
from tests.reports import runs


def within(value: float, half: float | None) -> Number:
    return Number(value, None if half is None else (value - half, value + half))


def unknown(first: Row, second: Row, heading: str) -> None:
    """Nothing is known of the two rows together."""


def number(value: float, half: float | None = 0.1) -> Entry:
    return Entry(within(value, half), str(value))


@pytest.mark.parametrize(
    ("heading", "better", "worse", "state"),
    [
        ("FID ↓", number(1.0), number(2.0), HOLDS),
        ("FID ↓", number(2.0), number(1.0), FAILS),
        ("IS ↑", number(2.0), number(1.0), HOLDS),
        ("IS ↑", number(1.0), number(2.0), FAILS),
        ("FID ↓", number(1.0), number(1.14), EVEN),
        ("FID ↓", number(1.0), number(1.15), HOLDS),
        ("FID ↓", number(1.0, None), number(2.0), AHEAD),
        ("FID ↓", None, number(2.0), UNKNOWN),
    ],
)
def test_an_ordering_holds_outside_the_noise_only(
    heading: str, better: Entry | None, worse: Entry | None, state: str
) -> None:
    assert compare(heading, better, worse)[0] == state


def relearned(*differences: float) -> Relearned:
    return Relearned(Number(sum(differences) / len(differences), seeds=differences))


@pytest.mark.parametrize(
    ("heading", "known", "better", "state"),
    [
        ("FID ↓", None, 1.0, HOLDS),  # nothing is learned
        ("FID ↓", Relearned(), 1.0, ONCE),
        ("FID ↓", Relearned(), 3.0, FAILS_ONCE),
        ("FID ↓", relearned(-1.0, -1.1, -0.9), 1.0, HOLDS),
        ("IS ↑", relearned(1.0, 1.1, 0.9), 3.0, HOLDS),
        ("FID ↓", relearned(1.0, 1.1, 0.9), 3.0, FAILS),
        ("FID ↓", relearned(-1.0, -0.1, 0.4), 1.0, EVEN),  # the seed decides which is below
        ("FID ↓", relearned(1.0, 1.1, 0.9), 1.0, EVEN),  # the row's own seed was the odd one
        ("FID ↓", relearned(-1.0, -0.1, 0.4), 1.99, EVEN),
        ("FID ↓", relearned(-0.17, -0.18, -0.16), 1.83, HOLDS),  # 0.17 is outside of hypot(0.025, 0.141)
        (
            "FID ↓",
            relearned(-0.15, -0.18, -0.12),
            1.85,
            EVEN,
        ),  # outside of 0.075 and of 0.141, and not of both together
    ],
)
def test_learned_rows_are_told_apart_outside_of_both_noises(
    heading: str, known: Relearned | None, better: float, state: str
) -> None:
    table = paper_table("tac_4")
    table = replace(table, columns={heading: "quantized.fd"})
    claim = {"says": "it is", "column": heading, "better": ["Ours"], "worse": ["Q-Diffusion [24]"]}
    values = {"Ours": better, "Q-Diffusion [24]": 2.0}
    verdict = claims.verdict(table, claim, lambda row, _: number(values[row.method]), unknown, lambda *_: known)
    assert verdict.short == f"{state} in all 3 comparisons"
    over_seeds = known is not None and known.difference is not None and better != 1.99
    assert ("learned with 3 seeds" in verdict.details) == over_seeds


def test_rows_of_one_twin_are_compared_by_how_far_they_are_above_it() -> None:
    def above(value: float, over: float) -> Entry:
        return Entry(within(value, 1.0), "", within(over, 0.02))

    assert inside_noise(difference(number(1.0, 1.0), number(1.2, 1.0))) is True
    assert inside_noise(difference(above(1.0, 0.1), above(1.2, 0.3))) is False
    assert inside_noise(difference(above(1.0, 0.1), number(1.2, 1.0))) is True
    assert inside_noise(difference(above(1.0, 0.1), above(1.02, 0.12))) is True
    assert inside_noise(difference(number(0.0), number(0.0, None))) is None
    assert difference(number(1.0), number(3.0), within(-2.0, 0.3)) == within(-2.0, 0.3)


def test_a_number_knows_its_noise_from_an_interval_or_from_seed_ranges() -> None:
    metrics: dict[str, Any] = {
        **runs.metrics("tac"),
        "paired": {},
        "quantized": {"fd": 1.0, "is": 8.0},
        "fp": {"fd": 0.5, "fd_over_seeds": {"std": 0.3, "each": [0.2, 0.5, 0.8]}},
        "intervals": {"quantized": {"fd": [0.8, 1.2]}},
    }
    cell = as_evaluation(metrics)
    entry = measured(cell, "quantized.fd")
    assert (
        entry is not None
        and (entry.value, entry.shown) == (1.0, "1.00 [0.80, 1.20]")
        and entry.number.half == pytest.approx(0.2)
    )
    several = measured(cell, "quantized.fd", full=True)
    assert several is not None and several.shown == "0.50 ± 0.30"
    assert several.number.half == pytest.approx(4.302653 * 0.3 / 3**0.5, rel=1e-5), (
        "Student's t of two degrees of freedom"
    )
    assert measured(cell, "quantized.is") == Entry(Number(8.0), "8.00")
    assert measured(cell, "paired.lpips") is None and measured(cell, "paired.psnr", full=True) is None


def test_a_verdict_counts_every_comparison() -> None:
    table = paper_table("tac_4")
    values = {("Ours", "w4a32"): 1.0, ("Ours", "w4a8"): 1.0, ("Ours", "w3a8"): 3.0}
    values |= {
        ("Q-Diffusion [24]", "w4a32"): 2.0,
        ("Q-Diffusion [24]", "w4a8"): 1.01,
        ("Q-Diffusion [24]", "w3a8"): 2.0,
    }

    def look(row: Row, heading: str) -> Entry | None:
        return number(values[row.method, row.setting()])

    verdict = claims.verdict(table, table.claims[0], look, unknown, unknown)
    assert verdict.short == "holds in 1, not told apart in 1, does not hold in 1 of 3 comparisons"
    assert "Holds: Q-Diffusion [24] at w4a32 (1 < 2)." in verdict.details, "the misprinted 3/8 is compared at its 4/8"
    assert "Does not hold: Q-Diffusion [24] at w3a8 (3 against 2)." in verdict.details
    paired = claims.verdict(table, table.claims[0], look, lambda *_: within(-0.01, 0.005), unknown)
    assert paired.short == "holds in 2, does not hold in 1 of 3 comparisons", "what is known of each image decides"
    assert "Q-Diffusion [24] at w4a8 (1 < 1.01: -0.01 ± 0.005)" in paired.details
    none = claims.verdict(table, table.claims[0], lambda row, heading: None, unknown, unknown)
    assert none.line().endswith(": not measured")


SITES = ["down.resnets.0.conv1", "time_embedding.linear_1", "mid.resnets.0.conv1"]


def trace(folder: Path, **changes: torch.Tensor) -> Path:
    """A trace of 8 calls in which nothing varies, but for the changes."""
    blocks = [f"down.resnets.{i}" for i in range(5)] + ["mid.attentions.0"] + [f"up.resnets.{i}" for i in range(5)]
    tensors = {
        "activations": torch.tensor([-1.0, -0.5, 0, 0.5, 1]).repeat(8, 3, 1),
        "scales": torch.full((8, 3), 0.1),
        "block_cosine.quantized": torch.full((8, 11), 0.9),
        "channel_max.full.a": torch.ones(8, 4),
        "channel_max.transformed.a": torch.ones(8, 4),
        **changes,
    }
    write_json(
        folder / "trace.json",
        {"blocks": blocks, "sites": SITES, "channels": ["a"], "timesteps": list(range(800, 0, -100))},
    )
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "trace.safetensors")
    return folder


def check(name: str, found: dict[str, Any], **more: Any) -> str:
    return traces.verdict({"says": "x", "trace": name, **more}, {"row": found}).short


def test_ranges_that_vary_over_steps_are_seen_in_the_layers_asked_for(tmp_path: Path) -> None:
    flat = traces.statistics(trace(tmp_path))
    grown = torch.linspace(1, 3, 8)[:, None, None] * torch.tensor([-1.0, -0.5, 0, 0.5, 1])
    mixed = torch.tensor([-1.0, -0.5, 0, 0.5, 1]).repeat(8, 3, 1)
    mixed[:, 1] = grown[:, 0]
    varied = traces.statistics(trace(tmp_path, activations=mixed))
    assert varied["range_ratio"][SITES[1]] == pytest.approx(3.0)
    assert check("range_varies", flat) == FAILS and check("range_varies", varied) == FAILS
    assert check("range_varies", varied, layers="*time_emb*") == HOLDS
    assert check("range_varies", varied, layers="nothing") == UNKNOWN
    assert check("range_varies", varied, at_least=1) == HOLDS and check("range_varies", flat, at_least=1) == FAILS


def test_intervals_that_follow_the_range_correlate(tmp_path: Path) -> None:
    wave = 1 + torch.linspace(0, 6, 8).sin() / 2
    activations = wave[:, None, None] * torch.tensor([-1.0, -0.5, 0, 0.5, 1]).repeat(3, 1)
    following = traces.statistics(trace(tmp_path, activations=activations, scales=wave[:, None].repeat(1, 3)))
    against = traces.statistics(trace(tmp_path, activations=activations, scales=2 - wave[:, None].repeat(1, 3)))
    none = traces.statistics(trace(tmp_path, activations=activations, scales=torch.full((8, 3), float("nan"))))
    assert list(following["correlation"].values()) == pytest.approx([1.0] * 3)
    assert check("intervals_follow", following) == HOLDS
    assert check("intervals_follow", against) == FAILS and check("intervals_follow", none) == UNKNOWN


def test_ranges_that_follow_the_timestep(tmp_path: Path) -> None:
    """Planted: one layer's range falls with the timestep, one's follows it with noise, the middle block's does not."""
    timesteps = torch.arange(800.0, 0, -100)
    noisy = timesteps + torch.tensor([350.0, -350, 350, -350, 350, -350, 350, -350])
    still = torch.tensor([1.0, -1, -1, 1, 1, -1, -1, 1])  # no trend
    widths = torch.stack([5000 - timesteps, 2000 + noisy, 9 + still], 1)
    ends = widths[:, :, None] / 2 * torch.tensor([-1.0, -0.5, 0, 0.5, 1])
    statistics = traces.statistics(trace(tmp_path, activations=ends))
    by_hand = [float(np.corrcoef(timesteps.numpy(), widths[:, i].numpy())[0, 1]) for i in range(3)]
    assert list(statistics["with_time"].values()) == pytest.approx(by_hand, abs=1e-6)
    assert by_hand[0] == pytest.approx(-1) and 0.5 < by_hand[1] < 0.7 and abs(by_hand[2]) < 0.1
    held = traces.verdict({"says": "x", "trace": "ranges_follow_time"}, {"row": statistics})
    assert held.short == HOLDS and "above 0.5 in 66.7 % and above 0.7 in 33.3 % of 3 layers" in held.details
    assert "not above 0.5 in 1, 1 of 1 in mid." in held.details
    assert check("mostly_in_the_middle", statistics) == HOLDS
    flat = traces.statistics(trace(tmp_path))
    assert check("ranges_follow_time", flat) == FAILS and check("mostly_in_the_middle", flat) == FAILS
    former = {name: value for name, value in flat.items() if name != "with_time"}
    assert check("ranges_follow_time", former) == UNKNOWN and check("mostly_in_the_middle", former) == UNKNOWN


def test_channels_that_rise_and_what_tcr_does_to_them(tmp_path: Path) -> None:
    spike = torch.ones(8, 4)
    spike[7, 2] = 10.0
    statistics = traces.statistics(trace(tmp_path, **{"channel_max.full.a": spike}))
    greatest = {"full_greatest": 10.0, "transformed_greatest": 1.0}
    assert statistics["channels"]["a"] == {"rising": 0.25, "full": 2.125, "transformed": 1.0, **greatest}
    assert check("few_channels_rise", statistics) == HOLDS and check("tcr_balances", statistics) == HOLDS
    worse = traces.statistics(trace(tmp_path, **{"channel_max.transformed.a": spike}))
    assert check("few_channels_rise", worse) == FAILS and check("tcr_balances", worse) == FAILS
    halved = {"channel_max.full.a": spike, "channel_max.transformed.a": spike / 2}
    assert check("tcr_balances", traces.statistics(trace(tmp_path, **halved))) == FAILS, "narrower, but not balanced"
    hardly = {"channel_max.full.a": spike, "channel_max.transformed.a": torch.where(spike > 1, 9.8, spike)}
    assert check("tcr_balances", traces.statistics(trace(tmp_path, **hardly))) == FAILS, "by less than a twentieth"


def test_a_claim_may_be_about_one_of_several_rows(tmp_path: Path) -> None:
    spike = torch.ones(8, 4)
    spike[7, 2] = 10.0
    balanced = traces.statistics(trace(tmp_path, **{"channel_max.full.a": spike}))
    not_so = traces.statistics(
        trace(tmp_path, **{f"channel_max.{side}.a": spike.clone() for side in ("full", "transformed")})
    )
    first, second = paper_table("tcaq_figb").claims
    rows = {
        row.method: statistics
        for row, statistics in zip(paper_table("tcaq_figb").rows, (not_so, balanced), strict=True)
    }
    assert (traces.verdict(first, rows).short, traces.verdict(second, rows).short) == (FAILS, HOLDS)
    assert traces.verdict(second, {next(iter(rows)): not_so}).short == UNKNOWN


def test_the_eighth_residual_block_is_compared(tmp_path: Path) -> None:
    near = torch.full((8, 11), 0.9)
    near[:, 8] = 0.99  # the attention block before it does not count

    def row(cosine: torch.Tensor, each: torch.Tensor | None) -> dict[str, Any]:
        tensors = {} if each is None else {"block_cosine_each.quantized": each}
        return traces.statistics(trace(tmp_path, **{"block_cosine.quantized": cosine}, **tensors))

    (claim,) = paper_table("tfmq_fig2").claims
    flat = torch.full((8, 11), 0.9)
    scatter = torch.linspace(-0.2, 0.2, 64)[:, None].double() * torch.ones(11).double()
    for each, other, states in (
        (scatter + 0.01, scatter + 0.001 * scatter.roll(1, 0), (HOLDS, FAILS)),  # samples move together
        (scatter + 0.01, scatter.flip(0), (EVEN, EVEN)),
        (None, None, (AHEAD, BEHIND)),
    ):
        rows = {"TIAR": row(near, each), "PTQD": row(flat, other)}
        held = traces.verdict(claim, rows)
        assert held.short == states[0] and "0.9900 against 0.9000" in held.details
        assert traces.verdict(claim, {"TIAR": rows["PTQD"], "PTQD": rows["TIAR"]}).short == states[1]
        learned = traces.verdict(claim, rows, {"PTQD"}).short
        assert learned == (ONCE if states[0] == HOLDS else states[0]), (
            "samples say nothing of another seed of the learning"
        )
    assert traces.verdict(claim, {"TIAR": rows["TIAR"]}).short == UNKNOWN


def test_a_corrected_network_is_compared_as_corrected(tmp_path: Path) -> None:
    raw, corrected = torch.full((8, 11), 0.8), torch.full((8, 11), 0.9)
    each = {"block_cosine_each.quantized": raw.clone(), "block_cosine_each.corrected": corrected.clone()}
    folder = trace(tmp_path, **{"block_cosine.quantized": raw, "block_cosine.corrected": corrected}, **each)
    assert set(traces.statistics(folder)["cosine"].values()) == {raw[0, 0].item()}
    write_json(folder / "trace.json", {**read_json(folder / "trace.json"), "corrected": True})
    statistics = traces.statistics(folder)
    assert set(statistics["cosine"].values()) == {corrected[0, 0].item()}
    assert set(statistics["cosine_each"]["up.resnets.0"]) == {0.9}
