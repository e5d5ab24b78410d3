from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from dmq_cli import choices
from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.metrics import Protocol, to_uint8
from dmq_cli.metrics.inception_score import InceptionScore
from dmq_cli.metrics.precision_recall import PrecisionRecall
from dmq_cli.stages import build
from dmq_cli.store.hashing import digest
from tests.metrics.helpers import PAIRED, protocol

NUMBERS: dict[str, Any] = {
    "extractor": "inception-v3-compat",
    "to_uint8": "trunc",
    "num_images": 301,
    "metrics": ("fd", "is"),
    "rng_seed": 2021,
    "resize": 8,
}
OPTIONS: list[dict[str, Any]] = [
    {"is": {"splits": 5}},
    {"kid": {"subset_size": 101}},
    {"kid": {"subsets": 21}},
    {"prc": {"neighbourhood": 4}},
    {"prc": {"images": 50}},
]
LABELS: dict[str, Any] = {
    "name": "other",
    "extractor_path": "/elsewhere/model.safetensors",
    "extractor_sha256": "c" * 64,
    "reference": "other",
    "reference_path": "/elsewhere/reference",
    "columns": {"fd": "FD-other"},
    "reference_sha256": "c" * 64,
    "dinov2_path": "/elsewhere/dinov2",
    "clip_path": "/elsewhere/clip",
    "lpips_path": "/elsewhere/alexnet.pth",
    "weights_sha256": {"clip": "c" * 64},
    "tabulated": False,
    "seeds": "0-299",
}


def test_these_are_all_fields() -> None:
    assert {field.name for field in dataclasses.fields(protocol())} == set(NUMBERS) | set(LABELS)


@pytest.mark.parametrize("field", NUMBERS)
def test_the_hash_changes_with_what_defines_numbers(field: str) -> None:
    assert protocol().hash("a", "b") != protocol(**{field: NUMBERS[field]}).hash("a", "b")


@pytest.mark.parametrize("options", OPTIONS)
def test_the_hash_changes_with_every_option_of_a_metric(options: dict[str, Any]) -> None:
    assert protocol().hash("a", "b") != protocol(**options).hash("a", "b")


@pytest.mark.parametrize("field", LABELS)
def test_the_hash_does_not_change_with_labels_and_places(field: str) -> None:
    assert protocol().hash("a", "b") == protocol(**{field: LABELS[field]}).hash("a", "b")


def test_the_hash_changes_with_both_files_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {protocol().hash(reference, extractor) for reference in "ab" for extractor in "ab"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.5.0")
    assert len(hashes | {protocol().hash("a", "a")}) == 5


def test_the_record_holds_its_own_hash() -> None:
    record = protocol().record("a", "b")
    numbers = {k: v for k, v in record.items() if k not in ("name", "reference", "columns", "hash")}
    assert record["hash"] == protocol().hash("a", "b") == digest(numbers, length=16)
    assert re.fullmatch("[0-9a-f]{16}", record["hash"])
    assert record["reference_sha256"] == "a" and record["extractor_sha256"] == "b"
    assert record["torch_fidelity"].startswith("0.")


@pytest.mark.parametrize(
    "column", ["FID", "fid", "FID-digits", "sFID", "F.I.D.", "Fréchet FID", "IS", "KID", "Inception score"]
)
def test_only_inception_has_its_names(column: str) -> None:
    with pytest.raises(ConfigError, match="only numbers of inception-v3-compat have that name") as caught:
        protocol(columns={"fd": column})
    assert caught.value.exit_code == 2


def test_inception_may_be_named_fid() -> None:
    names = {"fd": "FID", "is": "IS", "kid": "KID"}
    assert protocol(extractor="inception-v3-compat", columns=names).columns == names


@pytest.mark.parametrize(
    "columns", [{"is": "FID"}, {"fd": "sFID"}, {"sfid": "FID"}, {"fd_dinov2": "FID-DINOv2"}, {"precision": "sFID"}]
)
def test_only_the_frechet_distance_is_an_fid_and_only_sfid_an_sfid(columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="only fd can be an FID, and only sfid an sFID"):
        protocol(extractor="inception-v3-compat", columns=columns)


def test_the_embedded_protocols_keep_the_hash_of_the_committed_tables() -> None:
    reference = "d6c306fd169a8119c0a53b48c6553c57cfc870881e4e7ee0e1e631f6402d6eea"
    digits = catalog("digits")
    assert digits.hash(reference, str(digits.extractor_sha256), {}) == "abad2ad904322c33"


def test_other_weights_define_numbers_where_they_are_used() -> None:
    plan = protocol()
    hashes = {plan.hash("a", "b", further) for further in (None, {}, {"lpips": "c"}, {"lpips": "d"}, {"clip": "c"})}
    assert len(hashes) == 4, "none is none, however it is said"
    assert plan.record("a", "b", {"clip": "c"})["weights_sha256"] == {"clip": "c"}
    assert "weights_sha256" not in plan.record("a", "b")


def test_a_protocol_for_trying_says_so() -> None:
    assert catalog("smoke").record("a", "b")["tabulated"] is False
    assert catalog("smoke").num_images == 200
    assert "tabulated" not in catalog("digits").record("a", "b")


def test_adm_is_what_guided_diffusion_computes() -> None:
    adm = catalog("adm")
    assert (adm.to_uint8, adm.num_images) == ("trunc", 50_000)
    assert adm.metrics["is"] == InceptionScore(splits=10)
    assert adm.metrics["prc"] == PrecisionRecall(neighbourhood=3, images=10_000)
    assert set(adm.metrics) == {"fd", "sfid", "is", "prc", *PAIRED}
    assert adm.columns["sfid"] == "sFID" and adm.extractor == "inception-v3-compat"


def test_coco_measures_thirty_thousand_images_and_their_prompts() -> None:
    coco = catalog("coco30k")
    assert coco.num_images == 30_000 and coco.folders() == {"clip": None}


def catalog(name: str) -> Protocol:
    """A protocol of conf/protocol, with a reference where its user has to give one."""
    section = choices.protocol(name)
    instance: Protocol = build.make(section | ({"reference": "x"} if section["reference"] == "???" else {}))
    return instance


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"extractor": "inception"}, "Did you mean inception-v3-compat"),
        ({"to_uint8": "rounded"}, "Did you mean round"),
        ({"metrics": ("sfid",)}, "asks for sfid, which only inception-v3-compat has.*metrics.sfid=null"),
        ({"metrics": ("cmmd",), "cmmd": {"sigma": 0.0}}, "metrics.cmmd.sigma=0.0; give a number above 0"),
        ({"weights_sha256": {"dino": None}}, "Did you mean dinov2"),
        ({"prc": {"images": 3}}, "metrics.prc.images=3; give at least 4"),
        ({"columns": {"fdd": "FD-digits"}}, "Did you mean fd"),
        ({"num_images": 1}, "num_images=1; give at least 2"),
        ({"is": {"splits": 301}}, "metrics.is.splits=301 with num_images=300; give at most 300"),
        ({"kid": {"subset_size": 301}}, "metrics.kid.subset_size=301 with num_images=300"),
        ({"prc": {"neighbourhood": 300}}, "metrics.prc.neighbourhood=300 with num_images=300; give at most 299"),
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        protocol(**changes)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # 127.5 x + 128 = 0.5, 127.99, 128, 191.75, 255.5, and far outside
        ("edm", [0, 127, 128, 191, 255, 0, 255]),
        # 127.5 (x + 1) = 0, 127.49, 127.5 (to even), 191.25, 255
        ("round", [0, 127, 128, 191, 255, 0, 255]),
        ("trunc", [0, 127, 127, 191, 255, 0, 255]),
    ],
)
def test_uint8_by_hand(how: str, expected: list[int]) -> None:
    images = torch.tensor([-1.0, -1e-4, 0.0, 0.5, 1.0, -7.0, 7.0])
    converted = to_uint8(images, how)
    assert converted.dtype == torch.uint8 and converted.tolist() == expected
    assert to_uint8(images.double().view(1, 7), how).tolist() == [expected]


def test_the_roundings_differ_where_they_must() -> None:
    just_above_half = torch.tensor([0.6 / 127.5 - 1, 1.4 / 127.5 - 1])
    assert to_uint8(just_above_half, "edm").tolist() == [1, 1]
    assert to_uint8(just_above_half, "round").tolist() == [1, 1]
    assert to_uint8(just_above_half, "trunc").tolist() == [0, 1]
    half_above_even = torch.tensor([1 / 255])  # 127.5 (x + 1) = 128 and 127.5 x + 128 = 128.5
    assert to_uint8(half_above_even, "edm") == 128
    assert to_uint8(torch.tensor([2 / 255]), "round") == 128  # 128.5: to the even one


@pytest.mark.parametrize("how", ["round", "edm", "trunc"])
def test_uint8_images_survive_the_way_to_float_and_back(how: str) -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    back = to_uint8(grey.double() / 127.5 - 1, how)
    # truncation may lose a level to the rounding of float32; the other two may not
    assert int((grey.int() - back.int()).abs().max()) <= (1 if how == "trunc" else 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_must_be_finite(value: float) -> None:
    with pytest.raises(NumericsError, match="NaN or infinite"):
        to_uint8(torch.tensor([0.0, value]), "edm")


def test_an_unknown_rounding() -> None:
    with pytest.raises(ConfigError, match="There is: edm, round, trunc"):
        to_uint8(torch.zeros(1), "floor")
