"""What the order of images changes and what it does not.

Distances, precision, recall and agreement read sets. The inception score splits, and KID draws subsets, by a fixed seed and
by position: another order is another draw of the same statistic, and only without splits and subsets it is the same number.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmq_cli.metrics import extract
from tests.metrics.helpers import digits, measured, noisy, protocol

COUNT, OTHER = 60, 80
WHOLE: dict[str, Any] = {"is": {"splits": 1}, "kid": {"subset_size": COUNT, "subsets": 1}}
SEEDS = st.integers(0, 2**31)


def features(count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(count, 6, generator=generator).double() for name in ("features", "spatial", "dinov2")}
    return tensors | {"logits": torch.randn(count, 10, generator=generator) * 3}


def shuffled(found: dict[str, Tensor], seed: int) -> tuple[dict[str, Tensor], list[int]]:
    order = torch.randperm(len(found["logits"]), generator=torch.Generator().manual_seed(seed))
    return {name: values[order] for name, values in found.items()}, order.tolist()


@settings(max_examples=15, deadline=None)
@given(data=SEEDS, order=SEEDS)
def test_the_order_of_images_and_of_the_reference_changes_no_number_of_whole_sets(data: int, order: int) -> None:
    metrics = ("fd", "is", "kid", "prc", "sfid")
    plan = protocol(extractor="inception-v3-compat", num_images=COUNT, metrics=metrics, columns={}, **WHOLE)
    ours, theirs = features(COUNT, data), features(COUNT, data + 1)
    plain = dict(measured(ours, theirs, plan).numbers)
    mixed = dict(measured(shuffled(ours, order)[0], shuffled(theirs, order + 1)[0], plan).numbers)
    del plain["fd_inf"], mixed["fd_inf"]  # of parts that are drawn by position
    assert set(plain) == {"fd", "is", "is_std", "kid", "kid_std", "precision", "recall", "sfid"}
    assert mixed == pytest.approx(plain, rel=1e-6, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(data=SEEDS, order=SEEDS)
def test_agreement_and_the_mean_of_scores_follow_their_images(data: int, order: int) -> None:
    plan = protocol(num_images=COUNT, metrics=("agreement", "clip_score"))
    generator = torch.Generator().manual_seed(data)
    ours = features(COUNT, data) | {name: torch.rand(COUNT, 3, generator=generator) for name in ("clip", "clip_text")}
    labels = [str(number) for number in ours["logits"].roll(1, 0).argmax(1).tolist()]
    mixed, places = shuffled(ours, order)
    numbers = measured(mixed, ours, plan, [labels[place] for place in places]).numbers
    assert numbers == pytest.approx(measured(ours, ours, plan, labels).numbers) and set(numbers) == set(plan.metrics)


def test_splits_and_subsets_are_another_draw_in_another_order() -> None:
    plan = protocol(num_images=COUNT, metrics=("is", "kid"), **{"is": {"splits": 5}, "kid": {"subset_size": 20}})
    ours, theirs = features(COUNT, 0), features(OTHER, 1)
    plain, mixed = (measured(images, theirs, plan).numbers for images in (ours, shuffled(ours, 7)[0]))
    assert plain["is"] != mixed["is"] and plain["kid"] != mixed["kid"]
    assert abs(plain["is"] - mixed["is"]) < plain["is_std"] and abs(plain["kid"] - mixed["kid"]) < plain["kid_std"]


def test_images_sorted_by_class_have_the_inception_score_of_shuffled_ones() -> None:
    classes = torch.arange(10).repeat_interleave(200)
    sorted_, plan = {"logits": 20.0 * torch.eye(10)[classes]}, protocol(num_images=2000, metrics=("is",))
    unread = {"features": torch.zeros(2000, 2)}
    score = measured({**sorted_, **unread}, unread, plan).numbers["is"]
    assert score > 9.5, "in the order of the file every split would hold one class and score 1"


def test_precision_and_recall_compare_with_the_first_images_of_the_reference() -> None:
    ours, theirs = features(COUNT, 2), features(OTHER, 3)
    plan, whole = (protocol(num_images=COUNT, metrics=("prc",), prc={"images": count}) for count in (50, None))
    first = {name: values[:50] for name, values in theirs.items()}
    cut = measured(ours, theirs, plan).numbers
    assert cut == measured(ours, first, whole).numbers != measured(ours, theirs, whole).numbers


@settings(max_examples=4, deadline=None)
@given(size=st.integers(1, 40))
def test_the_batch_size_changes_no_number(size: int) -> None:
    options: dict[str, Any] = {"is": {"splits": 2}, "kid": {"subset_size": 20, "subsets": 3}}
    plan = protocol(num_images=40, **options)
    images, theirs = noisy(digits(0, 40), 30), extract(digits(40, 120), plan)
    assert measured(extract(images, plan, size), theirs, plan).numbers == pytest.approx(
        measured(extract(images, plan), theirs, plan).numbers, rel=1e-5, abs=1e-5
    )
