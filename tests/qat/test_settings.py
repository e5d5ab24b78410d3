"""What a training is configured to be: how long the papers' are, and images that it may not be measured on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dmq_cli.choices import composed
from dmq_cli.errors import SeedError
from dmq_cli.papers.runnable import setting
from dmq_cli.papers.transcript import paper_table
from dmq_cli.stages.prepare import prepare


@pytest.mark.parametrize("seeds", ["4999900-5000099", "5000063-5000262"])
def test_images_that_trainings_are_judged_by_are_not_measured(seeds: str) -> None:
    training = composed(("method=lsq", "budget=smoke", f"seeds={seeds}", "protocol.num_images=200"))
    with pytest.raises(SeedError, match=r"candidates of a training are judged by \(5000000-5000063\) share the seeds"):
        prepare(training)


def trained(words: Sequence[str]) -> bool:
    return any(word == "method=efficientdm" or word == "method=lsq" or word.endswith("_qat") for word in words)


def test_the_papers_trainings_are_as_long_as_they_say() -> None:
    """TDQ: 200,000 updates of 128 images (32 for LDM); EfficientDM's rows of TAC's tables: 160 epochs of 100 steps."""
    training = composed(("budget=paper",))["budget"]["training"]
    assert (training["iterations"], training["batch_size"], training["warmup"]) == (200_000, 128, 5000)
    lengths = set()
    for name in ("tdq_1", "tdq_3", "tdq_4", "tdq_fig8", "tac_1"):
        table = paper_table(name)
        for row in table.rows:
            if not trained(row.overrides["paper"]):
                continue
            settings = composed((*setting(table, row, "paper"), "budget=paper"))["recon"]["settings"]
            lengths.add((row.part, settings["iterations"], settings["batch_size"], settings["lr"]))
    assert lengths == {("DDIM", 200_000, 128, 2e-4), ("LDM", 200_000, 32, 5e-5), ("DDIM", 16_000, 128, 1e-4)}
