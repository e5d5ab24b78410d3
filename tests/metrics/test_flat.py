"""Metrics have sections of their own; keys of artifacts, hashes and records are those of when they were names in a list."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmq_cli import choices
from dmq_cli.metrics import Protocol, flat
from dmq_cli.papers.cells import _same
from dmq_cli.stages import build
from dmq_cli.stages.graph import identity
from dmq_cli.stages.nodes import NODES
from dmq_cli.store.hashing import digest

TABLES = Path(__file__).parents[2] / "outputs" / "tables"
# digest(identity(section)) and Protocol.hash("a", "b") of every protocol, as they were when metrics was a list.
BEFORE = {
    "adm": ("349883d445c06887", "c950894b72f0e8b5"),
    "coco30k": ("d47d053b3e326c54", "1d9134e4803ddd55"),
    "digits": ("d7754efed73ff9ee", "112d0934abb684a9"),
    "digits_latent": ("9114bde36cd76436", "8b1ae9d6e9463087"),
    "fashion": ("bbda960e26255744", "3bb1d847d2459e23"),  # came later
    "fid_torch_fidelity": ("34a064a8bb344da0", "1a2ed7f31ef7bb38"),
    "paired": ("2829431fffdaad21", "d77eea7c6be87258"),  # came later
    "smoke": ("d4987ebf847f051d", "a80285b92ff57291"),
}


@functools.cache
def now(name: str) -> dict[str, Any]:
    """The section of a protocol as conf/ has it now."""
    return choices.protocol(name)


@functools.cache
def made_now(name: str, num_images: int) -> Protocol:
    protocol: Protocol = build.make({**now(name), "num_images": num_images})
    return protocol


def cells() -> Iterator[dict[str, Any]]:
    for file in sorted(TABLES.glob("*/*/metrics.json")):
        yield json.loads(file.read_text(encoding="utf-8"))


def test_every_committed_cell_keeps_its_keys_its_record_and_its_row() -> None:
    count = 0
    for cell in cells():
        name, num_images = cell["protocol"]["name"], cell["protocol"]["num_images"]
        config = cell["config"] | {"protocol": {**now(name), "num_images": num_images}}
        protocol = made_now(name, num_images)
        weights = cell["protocol"]["reference_sha256"], config["measured_with"]["extractor"]
        assert protocol.record(*weights, {}) == cell["protocol"]
        assert _same("protocol", config, cell["config"])
        for name, seeds in ((name, seeds) for name in ("evaluate", "evaluate_fp") for seeds in cell["seeds"]):
            node = NODES[name]
            needed = [cell["artifacts"][f"{need}-{seeds}"] for need in node.needs_for(config)]
            key = digest([name, node.version_for(config), node.identity(config), needed])
            assert key == cell["artifacts"][f"{name}-{seeds}"]
            count += 1
    assert count >= 500


@pytest.mark.parametrize("name", BEFORE)
def test_every_protocol_of_conf_keeps_its_identity_and_its_hash(name: str) -> None:
    section = now(name)
    protocol: Protocol = build.make(section | ({"reference": "x"} if section["reference"] == "???" else {}))
    assert (digest(identity(flat(section)), 16), protocol.hash("a", "b")) == BEFORE[name]


def test_these_are_all_protocols() -> None:
    assert set(BEFORE) == set(choices.names("protocol"))


def test_options_and_metrics_that_came_later_have_entries_of_their_own() -> None:
    assert "further" not in flat(now("digits")) and flat(flat(now("digits"))) == flat(now("digits"))
    words = ["+metric@protocol.metrics.fd_to_twin=fd_to_twin", "+metric@protocol.metrics.sfid=sfid"]
    words += ["protocol.metrics.psnr=null", "protocol.metrics.prc=null", "protocol.metrics.is.splits=5"]
    entries = flat(choices.protocol_with("digits", words))
    assert entries["further"] == {
        "fd_to_twin": {"_target_": "dmq_cli.metrics.fd_to_twin.FrechetDistanceToTwin"},
        "psnr": None,
    }
    assert entries["metrics"] == ["fd", "sfid", "is", "kid"], "in one order, whoever adds what when"
    assert (entries["splits"], entries["kid_subset_size"], entries["prc_neighbourhood"]) == (5, 200, 3)


def test_what_came_later_changes_keys_and_hash_and_gets_a_column() -> None:
    plain: Protocol = build.make(now("digits"))
    sections = [
        choices.protocol_with("digits", ["+metric@protocol.metrics.cmmd=cmmd", f"protocol.metrics.cmmd.sigma={sigma}"])
        for sigma in (10, 5)
    ]
    protocols: list[Protocol] = [build.make(section) for section in sections]
    assert len({protocol.hash("a", "b") for protocol in (plain, *protocols)}) == 3
    assert len({digest(identity(flat(section))) for section in (now("digits"), *sections)}) == 3
    record = protocols[0].record("a", "b")
    assert record["columns"] == {"fd": "FD-digits", "is": "IS-digits", "cmmd": "CMMD"}
    assert record["further"]["cmmd"]["sigma"] == 10 and record["metrics"] == ["fd", "is", "kid", "prc"]


def test_a_metric_of_somebody_else_under_a_name_of_dmqs_is_another_one() -> None:
    section = now("digits")
    changed = section | {"metrics": section["metrics"] | {"fd": {"_target_": "mine.Fd"}}}
    assert flat(changed)["metrics"] == ["is", "kid", "prc"] and flat(changed)["further"] == {
        "fd": {"_target_": "mine.Fd"}
    }
