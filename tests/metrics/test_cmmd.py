"""CMMD against the double sum of its definition, a jackknife and simulations, and on CLIP's embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmq_cli.metrics.cmmd as module
import dmq_cli.metrics.extractors as extractors
from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.metrics import Measurement, difference_interval, extract, fidelity, further_sha256
from dmq_cli.metrics.reading.image_files import Framing, array_source
from dmq_cli.metrics.references.build import build_reference
from dmq_cli.metrics.references.files import read_reference
from tests.metrics.helpers import digits, measured, noisy, protocol
from tests.metrics.test_semantic import clip


def embeddings(count: int, seed: int, towards: float = 0.0) -> Tensor:
    """(N, 8) of length 1, as CLIP's are; towards: how far they lean to the first axis."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    vectors[:, 0] += towards
    return nn.functional.normalize(vectors)


def cmmd(images: Tensor, reference: Tensor, **options: float) -> Measurement:
    plan = protocol(num_images=len(images), metrics=("cmmd",), cmmd=options)
    return measured({"clip": images}, {"clip": reference}, plan)


def by_hand(x: Tensor, y: Tensor, sigma: float, scale: float) -> float:
    def mean(a: Tensor, b: Tensor) -> float:
        kernel = [math.exp(-(math.dist(p, q) ** 2) / (2 * sigma**2)) for p in a.tolist() for q in b.tolist()]
        return math.fsum(kernel) / len(kernel)

    return scale * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize(("sigma", "scale"), [(10.0, 1000.0), (0.5, 1.0)])
def test_it_is_the_double_sum_over_all_pairs(sigma: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(23, 0, 0.5), embeddings(17, 1)
    wanted = by_hand(x, y, sigma, scale)
    assert cmmd(x, y, sigma=sigma, scale=scale).numbers["cmmd"] == pytest.approx(wanted, rel=1e-9)
    monkeypatch.setattr(module, "_ROWS", 5)
    assert cmmd(x, y, sigma=sigma, scale=scale).numbers["cmmd"] == pytest.approx(wanted, rel=1e-9)


def test_equal_sets_are_at_distance_zero_and_order_does_not_count() -> None:
    x, y = embeddings(40, 0), embeddings(30, 1, 1.0)
    assert cmmd(x, x).numbers["cmmd"] == pytest.approx(0, abs=1e-10)
    assert cmmd(x, y).numbers["cmmd"] == pytest.approx(cmmd(x.flip(0), y.flip(0)).numbers["cmmd"], rel=1e-9)


def test_the_error_is_that_of_leaving_images_out() -> None:
    x, y = embeddings(150, 2, 1.0), embeddings(200, 3)
    left = [cmmd(x[torch.arange(150) != n], y).numbers["cmmd"] for n in range(150)]
    low, high = cmmd(x, y).intervals["cmmd"]
    assert (high - low) / 2 / 1.96 == pytest.approx(math.sqrt(149 * np.var(left)), rel=0.02)


@pytest.mark.parametrize("towards", [0.5, 0.0], ids=["apart", "of the same distribution"])
def test_the_interval_covers_the_expectation_at_its_rate(towards: float) -> None:
    reference = embeddings(200, 10_000)
    measurements = [cmmd(embeddings(200, seed, towards), reference) for seed in range(100)]
    values = np.array([measurement.numbers["cmmd"] for measurement in measurements])
    covered = [
        measurement.intervals["cmmd"][0] <= values.mean() <= measurement.intervals["cmmd"][1]
        for measurement in measurements
    ]
    assert 0.88 <= np.mean(covered) <= 0.99, "95 %, within three standard deviations of 100 tries"


def test_the_difference_of_sets_of_the_same_noise_has_a_narrower_interval_that_covers() -> None:
    reference, estimates = embeddings(200, 10_000), []
    for seed in range(100):
        images = embeddings(200, seed, 0.5)
        worse = nn.functional.normalize(images + 0.1 * embeddings(200, seed + 5000, 0.3))
        noisier, plain = cmmd(worse, reference), cmmd(images, reference)
        difference = noisier.numbers["cmmd"] - plain.numbers["cmmd"]
        low, high = difference_interval(difference, noisier.influences["cmmd"], plain.influences["cmmd"])
        estimates.append((difference, (high - low) / 2, np.diff(noisier.intervals["cmmd"])[0] / 2))
    differences, halves, alone = np.array(estimates).T
    assert np.mean(np.abs(differences - differences.mean()) <= halves) >= 0.88 and halves.mean() < alone.mean() / 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("transformers", reason="transformers is not installed (dmq[text])")
    yield clip(tmp_path_factory.mktemp("clip"))
    extractors._build.cache_clear()


def test_it_is_measured_on_the_embeddings_of_the_protocols_clip(folder: Path) -> None:
    plan = protocol(num_images=30, metrics=("cmmd",), clip_path=str(folder))
    images, real = noisy(digits(0, 30), 60), digits(30, 70)
    ours, theirs = (extract(pixels, plan)["clip"].double() for pixels in (images, real))
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(30, dtype=torch.float64))
    assert fidelity(images, real, plan) == {"cmmd": pytest.approx(by_hand(ours, theirs, 10, 1000), rel=1e-6)}
    assert set(further_sha256(plan)) == {"clip", "clip_files"}


def test_without_the_folder_or_without_real_images_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"protocol\.clip_path"):
        further_sha256(protocol(metrics=("cmmd",)))
    plan, file = protocol(num_images=30, metrics=("fd", "cmmd"), clip_path=str(folder)), tmp_path / "real.safetensors"
    build_reference(array_source("real", digits(4, 60), Framing()), plan, "real", file, lambda done, of: None)
    with pytest.raises(EvaluationError, match=r"does not serve cmmd; write protocol\.metrics\.cmmd=null"):
        fidelity(digits(0, 30), read_reference(file, "real"), plan)
