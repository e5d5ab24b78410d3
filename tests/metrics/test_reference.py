"""Fréchet distance to statistics that somebody stored, in every layout that is read."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st

from dmq_cli.errors import ArtifactCorruptError, EvaluationError
from dmq_cli.metrics import Reference, extractor_sha256, fidelity, images_sha256
from dmq_cli.metrics.extractors import extract
from dmq_cli.metrics.reading.image_files import Framing, array_source
from dmq_cli.metrics.references.build import KEPT, Moments, build_reference
from dmq_cli.metrics.references.files import read_reference
from dmq_cli.metrics.references.own import save_reference
from dmq_cli.metrics.references.reference import SIZES, frechet
from dmq_cli.store.tensors import load_tensors, save_tensors
from tests.metrics.helpers import SHIPPED, ImageSet, digits, measured, noisy, protocol
from tests.metrics.test_fidelity import standard

Write = Callable[[Path, Any, Any], Path]


def adm(folder: Path, mu: Any, sigma: Any) -> Path:
    images = digits(300, 310)
    np.savez(folder / "adm.npz", mu=mu, sigma=sigma, mu_s=np.zeros(5), sigma_s=np.eye(5), arr_0=images)
    return folder / "adm.npz"


def clean_fid(folder: Path, mu: Any, sigma: Any) -> Path:
    np.savez(folder / "clean.npz", mu=mu, sigma=sigma)
    return folder / "clean.npz"


def cached(folder: Path, mu: Any, sigma: Any) -> Path:
    torch.save({"mu": mu.astype(np.float32), "sigma": sigma}, folder / "x-inception-v3-compat-stat-fid-2048.pt")
    return folder / "x-inception-v3-compat-stat-fid-2048.pt"


def own(folder: Path, mu: Any, sigma: Any) -> Path:
    tensors = {"mu.features": torch.from_numpy(mu), "sigma.features": torch.from_numpy(sigma)}
    record = {"count": 9, "features": 9, "images_sha256": "0" * 64}
    save_reference(folder / "own.safetensors", {**tensors, "features": torch.zeros(9, len(mu))}, record)
    return folder / "own.safetensors"


LAYOUTS = [adm, clean_fid, cached, own]


@pytest.mark.parametrize("write", LAYOUTS)
def test_frechet_distance_to_stored_statistics_of_a_gaussian(write: Write, tmp_path: Path) -> None:
    mean, a = np.array([1.0, -2.0]), np.array([[0.3, 0.0], [-1.1, 0.9]])
    file = write(tmp_path, mean, a @ a.T)
    ours = standard(100, 2, 0) * torch.tensor([2.0, 0.5])
    mine = np.diag([4.0, 0.25])
    product = mine @ a @ a.T
    # tr sqrt(M) of a 2x2 matrix is sqrt(tr M + 2 sqrt(det M))
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = mean @ mean + np.trace(mine) + np.trace(a @ a.T) - 2 * root
    plan = protocol(num_images=100, metrics=("fd",))
    assert measured({"features": ours}, read_reference(file, "gauss"), plan).numbers["fd"] == pytest.approx(
        expected, abs=1e-9
    )


def test_statistics_that_torch_fidelity_cached_give_its_own_number(tmp_path: Path) -> None:
    images, real = noisy(digits(0, 300), 30), digits(300, 800)
    theirs = torch_fidelity.calculate_metrics(
        input1=ImageSet(images),
        input2=ImageSet(real),
        input2_cache_name="real",
        feature_extractor="dmq-digits-cnn",
        feature_extractor_weights_path=SHIPPED,
        fid=True,
        cuda=False,
        cache=True,
        cache_root=str(tmp_path),
        verbose=False,
        save_cpu_ram=True,
    )
    (file,) = tmp_path.glob("real-*-stat-fid-*.pt")
    ours = fidelity(images, read_reference(file, "real"), protocol(metrics=("fd", "is")))
    assert ours["fd"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5, abs=1e-5)
    assert ours["fd"] > 1 and "kid" not in ours


def test_adm_distance_comes_from_the_stored_statistics_and_precision_from_the_images(tmp_path: Path) -> None:
    images, real = noisy(digits(0, 300), 30), digits(300, 500)
    far = np.full(64, 100.0)
    np.savez(tmp_path / "adm.npz", mu=far, sigma=np.eye(64), arr_0=real)
    numbers = fidelity(images, read_reference(tmp_path / "adm.npz", "adm"), protocol(metrics=("fd", "prc")))
    assert numbers["fd"] > 1e4
    assert numbers["precision"] == fidelity(images, real, protocol(metrics=("prc",)))["precision"] > 0
    few = protocol(metrics=("fd", "kid"), kid={"subset_size": 201})
    with pytest.raises(EvaluationError, match="at least 201 reference images, but digits has 200"):
        fidelity(images, read_reference(tmp_path / "adm.npz", "adm"), few)


@pytest.mark.parametrize("write", [clean_fid, cached])
def test_metrics_that_statistics_cannot_serve_are_named(write: Write, tmp_path: Path) -> None:
    reference = read_reference(write(tmp_path, np.zeros(64), np.eye(64)), "lsun")
    with pytest.raises(
        EvaluationError, match=r"lsun has statistics of 'features', .* serve kid, prc; write protocol.metrics.kid=null"
    ):
        fidelity(digits(0, 300), reference, protocol())
    with pytest.raises(EvaluationError, match="asked for the features 'features' of every image"):
        reference["features"]


@pytest.mark.parametrize("write", LAYOUTS[:3])
def test_statistics_of_another_feature_size(write: Write, tmp_path: Path) -> None:
    reference = read_reference(write(tmp_path, np.zeros(80), np.eye(80)), "lsun")
    with pytest.raises(EvaluationError, match="lsun has statistics of 80 features, but the extractor gives 64"):
        reference.check(protocol(metrics=("fd",)))  # before anything is sampled
    with pytest.raises(EvaluationError, match="lsun has statistics of 80 features, but the extractor gives 64"):
        frechet({"features": torch.zeros(100, 64)}, reference, "features")


def test_the_sizes_that_are_known_are_those_of_the_extractors() -> None:
    features = extract(digits(0, 20), protocol(metrics=("fd",)))
    assert features["features"].shape[1] == SIZES["digits_cnn", "features"]
    assert SIZES["inception-v3-compat", "spatial"] == 17 * 17 * 7 and len(SIZES) == 4


def test_the_sha256_that_the_protocol_asks_for(tmp_path: Path) -> None:
    real = digits(300, 500)
    np.savez(tmp_path / "real.npz", arr_0=real)
    reference = read_reference(tmp_path / "real.npz", "real")
    assert reference.sha256 == images_sha256(real)
    reference.check(protocol(reference_sha256=images_sha256(real).upper()))
    with pytest.raises(EvaluationError, match=f"sha256 {'0' * 64}, but real has {reference.sha256}"):
        fidelity(digits(0, 300), reference, protocol(reference_sha256="0" * 64))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"\(3,\) and \(4, 4\)"),
        ({"mu": np.array([1.0, np.nan]), "sigma": np.eye(2)}, "finite"),
        ({"mu": np.zeros(3)}, "neither images"),
        ({"arr_0": np.zeros((4, 8, 8, 3))}, "float64"),
        ({"arr_0": np.zeros((4, 8, 8), np.uint8)}, r"\(4, 8, 8\)"),
        ({"mu": np.array([{}, None]), "sigma": np.eye(2)}, "cannot be"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative eigenvalues"),
    ],
)
def test_files_that_cannot_be(arrays: dict[str, Any], part: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(EvaluationError, match=part) as caught:
        read_reference(tmp_path / "odd.npz", "odd")
    assert "odd.npz" in str(caught.value)


class _Dangerous:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_a_cache_that_would_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (("zip", torch.save), ("raw", lambda made, file: file.write_bytes(pickle.dumps(made)))):
        file = tmp_path / f"{name}.pt"
        write({"mu": np.zeros(2), "sigma": _Dangerous()}, file)
        with pytest.raises(EvaluationError, match="cached mu and sigma, but cannot be"):
            read_reference(file, "bad")
    assert not (tmp_path / "executed").exists()


def built(folder: Path, images: Any, **changes: Any) -> Reference:
    source = array_source("real", images, Framing())
    file = folder / "built.safetensors"
    build_reference(source, protocol(**changes), "real", file, lambda done, of: None)
    return read_reference(file, "real")


def test_what_was_built_gives_the_numbers_and_the_name_of_its_images(tmp_path: Path) -> None:
    images, real = noisy(digits(0, 300), 30), digits(300, 900)
    reference = built(tmp_path, real)
    assert reference.sha256 == images_sha256(real) == reference.record["images_sha256"]
    assert fidelity(images, reference, protocol()) == pytest.approx(
        fidelity(images, real, protocol()), rel=1e-9, abs=1e-9
    )


def test_a_subset_of_the_features_has_another_name_and_the_same_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT == 10_000
    monkeypatch.setattr("dmq_cli.metrics.references.build.KEPT", 150)
    images, real = noisy(digits(0, 300), 30), digits(300, 900)
    reference = built(tmp_path, real)
    assert reference.record["features"] == len(reference["features"]) == 150
    assert reference.sha256 != images_sha256(real)
    ours, theirs = (fidelity(images, target, protocol(metrics=("fd", "kid"))) for target in (reference, real))
    assert ours["fd"] == pytest.approx(theirs["fd"], rel=1e-9) and ours["kid"] != theirs["kid"]


def test_what_another_extractor_built_is_refused(tmp_path: Path) -> None:
    reference = built(tmp_path, digits(300, 400))
    assert reference.record["extractor_sha256"] == extractor_sha256(protocol())
    with pytest.raises(
        EvaluationError, match=r"resize None, but the protocol digits measures with .* resize 16; build it"
    ):
        reference.check(protocol(resize=16))


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    built(tmp_path, digits(300, 400))
    file = tmp_path / "built.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match="not those that were built"):
        read_reference(file, "real")
    save_tensors(file, load_tensors(file))
    with pytest.raises(EvaluationError, match="no record of where it comes from"):
        read_reference(file, "real")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.sampled_from([0.0, 1e6]), st.integers(0, 99))
def test_moments_do_not_depend_on_the_batches(sizes: list[int], offset: float, seed: int) -> None:
    features = torch.from_numpy(np.random.default_rng(seed).normal(size=(sum(sizes), 3)) + offset)
    moments = Moments()
    for batch in torch.split(features, sizes):
        moments.update(batch)
    mu, sigma = moments.statistics()
    np.testing.assert_allclose(mu, features.numpy().mean(0), rtol=1e-12, atol=1e-12)  # a mean may be near 0
    np.testing.assert_allclose(sigma, np.cov(features.numpy(), rowvar=False), atol=1e-8)


def test_one_image_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least 2 images, but real has 1"):
        built(tmp_path, digits(0, 1))


@pytest.mark.parametrize("sigma", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 0.0, -1e-8])])
def test_a_covariance_may_be_singular_and_rounded(sigma: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", mu=np.zeros(3), sigma=sigma)
    assert read_reference(tmp_path / "flat.npz", "flat").moments("features").sigma.shape == (3, 3)
