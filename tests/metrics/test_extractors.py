from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torch_fidelity.utils import create_feature_extractor

import dmq_cli.metrics.extractors as module
import dmq_cli.metrics.weights as weights
from dmq_cli.errors import DmqError, EvaluationError, MissingWeightsError
from dmq_cli.metrics import INCEPTION_SHA256, INCEPTION_URL, extract, extractor_sha256
from dmq_cli.paths import resolve
from dmq_cli.store.tensors import load_tensors, save_tensors
from tests.metrics.helpers import SHIPPED, digits, inception_state, protocol


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", refuse)


def test_features_are_bounded_and_spread() -> None:
    outputs = extract(digits(0, 1797), protocol())
    features, logits = outputs["features"], outputs["logits"]
    assert features.shape == (1797, 64) and logits.shape == (1797, 10) and features.dtype == torch.float32
    assert float(features.abs().max()) < 1
    assert float(features.mean(0).abs().max()) < 0.15 and float(features.var(0).min()) > 0.2
    spectrum = torch.linalg.eigvalsh(torch.cov(features.T.double()))
    # a plain classifier's features collapse onto ten points: 9 directions; these use more
    assert float(spectrum.sum() ** 2 / spectrum.square().sum()) > 18


def test_three_equal_channels_are_one() -> None:
    images = digits(0, 5)
    grey, three = extract(images, protocol()), extract(np.repeat(images, 3, axis=3), protocol())
    assert torch.equal(grey["features"], three["features"]) and torch.equal(grey["logits"], three["logits"])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((2, 16, 16, 1), np.float32), "uint8 .N, H, W, 1 or 3., but found float32"),
        (np.zeros((2, 1, 16, 16), np.uint8), r"but found uint8 \(2, 1, 16, 16\)"),
        (np.zeros((0, 16, 16, 1), np.uint8), r"but found uint8 \(0, 16, 16, 1\)"),
        (np.zeros((2, 32, 32, 1), np.uint8), r"16x16 pixels, but found \(C, H, W\) = \(1, 32, 32\)"),
        (np.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3).astype(np.uint8), "channels that differ"),
    ],
)
def test_images_of_another_kind(images: np.ndarray[Any, Any], sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        extract(images, protocol())


def test_the_extractor_is_built_once() -> None:
    assert module.load_extractor(protocol()) is module.load_extractor(protocol(num_images=400))


def test_building_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    create_feature_extractor(
        "dmq-digits-cnn", ["logits"], cuda=False, verbose=False, feature_extractor_weights_path=SHIPPED
    )
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    data = resolve(SHIPPED).read_bytes()
    file.write_bytes(data)
    first = extract(digits(0, 2), protocol(extractor_path=str(file)))["logits"]
    file.write_bytes(data[:-4] + bytes(4))
    assert not torch.equal(first, extract(digits(0, 2), protocol(extractor_path=str(file)))["logits"])


def test_the_sha256_is_recorded_and_checked() -> None:
    digest = extractor_sha256(protocol())
    assert digest == hashlib.sha256(resolve(SHIPPED).read_bytes()).hexdigest()
    assert extractor_sha256(protocol(extractor_sha256=digest.upper())) == digest
    with pytest.raises(EvaluationError, match=f"must have the sha256 {'0' * 64}, but .* has {digest}"):
        extract(digits(0, 2), protocol(extractor_sha256="0" * 64))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda weight: weight.half(), "embed.weight is torch.float16, not torch.float32"),
        (lambda weight: (weight * 99).to(torch.int32), "does not hold a DigitsCNN"),
        (lambda weight: weight[1:], "does not hold a DigitsCNN"),
        (lambda weight: weight / 0, "embed.weight are NaN or infinite"),
    ],
)
def test_weights_that_are_not_those_of_the_network(tmp_path: Path, change: Any, part: str) -> None:
    state = load_tensors(resolve(SHIPPED))
    save_tensors(tmp_path / "model.safetensors", {**state, "embed.weight": change(state["embed.weight"])})
    with pytest.raises(DmqError, match=part):
        extract(digits(0, 2), protocol(extractor_path=str(tmp_path / "model.safetensors")))


@pytest.mark.parametrize("keep", [0, 5, 1000, 500_000])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(resolve(SHIPPED).read_bytes()[:keep])
    with pytest.raises(EvaluationError, match=r"does not hold a DigitsCNN .* dmq train model=ddim_digits"):
        extract(digits(0, 2), protocol(extractor_path=str(file)))


def test_missing_digits_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"none\.safetensors is not a file; .*dmq train") as caught:
        extract(digits(0, 2), protocol(extractor_path=str(tmp_path / "none.safetensors")))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("path", ["inception.pth", "."])
def test_missing_inception_says_which_from_where_and_where_to(tmp_path: Path, path: str) -> None:
    plan = protocol(extractor="inception-v3-compat", extractor_path=str(tmp_path / path), columns={})
    with pytest.raises(MissingWeightsError) as caught:
        extract(digits(0, 2), plan)
    message = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in message
    assert str(tmp_path / path) in message and "protocol.extractor_path" in message
    assert INCEPTION_URL in message and INCEPTION_URL == theirs.URL_INCEPTION_V3


def test_inception_without_a_path() -> None:
    with pytest.raises(MissingWeightsError, match="no path was given"):
        create_feature_extractor("dmq-inception", ["2048"], cuda=False, verbose=False)


def test_another_file_is_not_inception(tmp_path: Path) -> None:
    file = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for wanted in (None, digest):  # a protocol cannot declare another network to be Inception
        plan = protocol(extractor="inception-v3-compat", extractor_path=str(file), extractor_sha256=wanted, columns={})
        with pytest.raises(EvaluationError, match=f"sha256 {INCEPTION_SHA256}, but .*{digest}; download"):
            extract(digits(0, 2), plan)
    assert INCEPTION_SHA256.startswith(file.stem[-8:])


def test_inception_is_torch_fidelitys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, file = inception_state(), tmp_path / "inception.pth"
    torch.save(state, file)
    monkeypatch.setattr(weights, "INCEPTION_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    plan = protocol(extractor="inception-v3-compat", extractor_path=str(file), columns={"fd": "FID"})
    images = digits(0, 2)
    ours = extract(images, plan)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: state)
    network = theirs.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
    features, logits = network(torch.from_numpy(images).permute(0, 3, 1, 2).repeat(1, 3, 1, 1))
    assert ours["features"].shape == (2, 2048) and ours["logits"].shape == (2, 1008)
    torch.testing.assert_close(ours["features"], features)
    torch.testing.assert_close(ours["logits"], logits)
    assert extractor_sha256(plan) == weights.INCEPTION_SHA256
    module._build.cache_clear()
