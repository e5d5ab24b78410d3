from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics import extract, fidelity, images_sha256, reference_features
from tests.metrics.helpers import SHIPPED, ImageSet, digits, measured, noisy, protocol

module = importlib.import_module("dmq_cli.metrics.fidelity")  # the package names its function so, too
Sets = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def sets() -> Sets:
    return noisy(digits(0, 300), 30), digits(300, 800)


def standard(count: int, dims: int, seed: int) -> Tensor:
    """Samples whose mean is 0 and whose covariance is the identity, exactly."""
    x = torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x -= x.mean(0)
    whitener: Tensor = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1)))
    return x @ whitener.T


def frechet(ours: Tensor, theirs: Tensor) -> float:
    plan = protocol(num_images=len(ours), metrics=("fd",))
    return measured({"features": ours}, {"features": theirs}, plan).numbers["fd"]


def test_frechet_distance_of_axis_aligned_gaussians() -> None:
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    ours = standard(200, 3, 0) * torch.tensor([1.0, 2.0, 3.0]) + mean
    theirs = standard(150, 3, 1) * torch.tensor([2.0, 2.0, 0.5])
    # |m1 - m2|^2 + sum (s1 - s2)^2
    assert frechet(ours, theirs) == pytest.approx((1 + 4 + 0.25) + (1 + 0 + 6.25), abs=1e-9)


def test_frechet_distance_of_correlated_gaussians() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double(), torch.tensor([[0.3, 0.0], [-1.1, 0.9]]).double()
    s1, s2 = a @ a.T, b @ b.T
    product = s1 @ s2
    # tr sqrt(M) of a 2x2 matrix is sqrt(tr M + 2 sqrt(det M))
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float(s1.trace() + s2.trace()) - 2 * root
    assert frechet(standard(100, 2, 0) @ a.T, standard(90, 2, 1) @ b.T) == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_to_itself_is_zero() -> None:
    x = standard(100, 5, 0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_inception_score_of_certain_and_of_empty_answers() -> None:
    certain = {"logits": 100 * torch.eye(4).repeat(50, 1)}
    plan = protocol(num_images=200, metrics=("is",), **{"is": {"splits": 1}})
    unread = {"features": torch.zeros(200, 4)}
    assert measured({**certain, **unread}, unread, plan).numbers["is"] == pytest.approx(4)
    nothing = {"logits": torch.zeros(200, 4)}
    assert measured({**nothing, **unread}, unread, plan).numbers == {"is": 1.0, "is_std": 0.0}


def test_equals_torch_fidelity_end_to_end(sets: Sets, capfd: pytest.CaptureFixture[str]) -> None:
    plan = protocol()
    ours = fidelity(*sets, plan)
    printed = capfd.readouterr()
    theirs = torch_fidelity.calculate_metrics(
        input1=ImageSet(sets[0]),
        input2=ImageSet(sets[1]),
        feature_extractor="dmq-digits-cnn",
        feature_extractor_weights_path=SHIPPED,
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        kid_subset_size=100,
        kid_subsets=20,
        batch_size=77,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    assert printed.out == printed.err == ""
    assert ours["fd"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5, abs=1e-5)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert ours["is_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert ours["precision"] == theirs["precision"] and ours["recall"] == theirs["recall"]
    assert len(ours) == 7 and ours["fd"] > 1


def test_only_what_the_protocol_asks_for(sets: Sets) -> None:
    assert set(fidelity(*sets, protocol(metrics=("fd",)))) == {"fd"}
    assert set(fidelity(*sets, protocol(metrics=("prc", "is")))) == {"precision", "recall", "is", "is_std"}


def test_order_does_not_change_fd(sets: Sets) -> None:
    images, reference = sets
    plan = protocol(metrics=("fd",))
    mixed = images[np.random.default_rng(0).permutation(len(images))]
    assert fidelity(mixed, reference[::-1].copy(), plan)["fd"] == pytest.approx(
        fidelity(images, reference, plan)["fd"], abs=1e-5
    )


def test_batch_size_does_not_change_anything(sets: Sets) -> None:
    images, reference = sets
    plan = protocol()
    theirs = extract(reference, plan)
    results = [measured(extract(images, plan, size), theirs, plan).numbers for size in (1, 7, 300)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5, abs=1e-5)


def test_worse_images_are_further_away() -> None:
    images, reference = digits(0, 800), digits(800, 1600)
    plan = protocol(num_images=800, metrics=("fd", "kid"))
    results = [fidelity(noisy(images, sigma), reference, plan) for sigma in (0, 20, 40, 80)]
    for metric in ("fd", "kid"):
        values = [result[metric] for result in results]
        assert values == sorted(values) and values[-1] > 5 * values[0]


def test_the_same_twice(sets: Sets) -> None:
    before = torch.random.get_rng_state()
    assert fidelity(*sets, protocol()) == fidelity(*sets, protocol())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_reference_is_extracted_once(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(images: Any, plan: Any, **more: Any) -> dict[str, Tensor]:
        calls.append(len(images))
        return extract(images, plan, **more)

    monkeypatch.setattr(module, "_remembered", {})
    monkeypatch.setattr(module, "extract", counting)
    images, reference = sets
    for _ in range(3):
        fidelity(images, torch.from_numpy(reference), protocol())
    assert calls.count(len(reference)) == 1 and calls.count(len(images)) == 3
    for start in (0, 10, 20):
        reference_features(digits(start, start + 200), protocol())
    assert len(module._remembered) == 2


def test_images_sha256_knows_shape_and_bytes() -> None:
    images = digits(0, 4)
    flat = images.reshape(4, 8, 32, 1)
    changed = images.copy()
    changed[3, 15, 15, 0] ^= 1
    hashes = {images_sha256(x) for x in (images, flat, changed, images[:3], torch.from_numpy(images))}
    assert len(hashes) == 4
    turned = images[:, ::-1]
    copied = turned.copy()
    copied.flags.writeable = False
    assert images_sha256(turned) == images_sha256(copied)


@pytest.mark.parametrize("count", [299, 301])
def test_the_number_of_images_is_the_protocols(count: int) -> None:
    with pytest.raises(EvaluationError, match=f"exactly 300 images, but {count} were given") as caught:
        fidelity(digits(0, count), digits(300, 800), protocol())
    assert caught.value.exit_code == 1


def test_a_reference_that_is_too_small() -> None:
    with pytest.raises(EvaluationError, match="at least 100 reference images, but digits has 99"):
        fidelity(digits(0, 300), digits(0, 99), protocol())
