from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import extract
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.models.fashion_cnn import FashionCNN
from dmq_cli.obtain import FASHION_FOLDER, fashion_missing
from dmq_cli.paths import resolve
from dmq_cli.stages import build
from dmq_cli.store import file_sha256
from dmq_cli.zoo.classifier import (
    ClassifierTraining,
    accuracy,
    augment,
    redundancy,
    save_classifier,
    train_classifier,
)
from dmq_cli.zoo.digits import digit_images, split, to_float
from dmq_cli.zoo.fashion import fashion_images
from tests.test_conf import composed
from tests.zoo.idx import small_fashion

SHIPPED = resolve("package:zoo/weights/digits_cnn")


def shipped() -> DigitsCNN:
    model = DigitsCNN()
    model.load_state_dict(load_file(SHIPPED / "model.safetensors"))
    return model.eval()


def test_the_shipped_weights_read_the_held_out_digits() -> None:
    card = json.loads((SHIPPED / "card.json").read_text(encoding="utf-8"))
    recorded = ClassifierTraining(**card["training"])
    pixels, labels = digit_images()
    train, held_out = split(len(pixels), recorded.held_out, recorded.seed)
    assert recorded.held_out == 0.2 and len(held_out) == card["num_held_out"] == 359
    assert not set(train.tolist()) & set(held_out.tolist())
    score = accuracy(shipped(), to_float(pixels[held_out]), labels[held_out])
    assert score >= 0.985 and score == pytest.approx(card["accuracy_held_out"], abs=1e-6)
    assert card["parameters"] == sum(p.numel() for p in shipped().parameters())


def test_the_shipped_weights_come_from_the_default_training() -> None:
    card = json.loads((SHIPPED / "card.json").read_text(encoding="utf-8"))
    assert ClassifierTraining(**card["training"]) == ClassifierTraining()


def test_a_short_training() -> None:
    steps: list[tuple[int, int]] = []
    config = ClassifierTraining(epochs=1, held_out=0.8, seed=5)

    def report(step: int, total: int, loss: float) -> None:
        steps.append((step, total))
        assert loss > 0

    before = torch.random.get_rng_state()
    model, card = train_classifier(config, report)
    again, _ = train_classifier(config, report)
    assert torch.equal(before, torch.random.get_rng_state()) and not model.training
    assert steps[:3] == [(1, 3), (2, 3), (3, 3)] and len(steps) == 6
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert card["num_train"] == 359 and card["num_held_out"] == 1438
    assert card["training"]["seed"] == 5 and 0 <= card["accuracy_held_out"] <= 1


def test_features_are_standard_before_the_tanh() -> None:
    model, _ = train_classifier(ClassifierTraining(epochs=1, held_out=0.8), lambda *_: None)
    images = to_float(digit_images()[0][split(1797, 0.8, 0)[0]])
    with torch.no_grad():
        embedded = model.embed(model.body(images))
    torch.testing.assert_close(model.norm.running_mean, embedded.mean(0))
    torch.testing.assert_close(model.norm.running_var, embedded.var(0))


def test_saved_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "digits_cnn"
    model = shipped()
    save_classifier(model, {"parameters": 1}, folder)
    assert (folder / "model.safetensors").read_bytes() == (SHIPPED / "model.safetensors").read_bytes()
    assert json.loads((folder / "card.json").read_text()) == {"parameters": 1}


def test_augmentation_moves_little_and_stays_in_range() -> None:
    images = to_float(digit_images()[0][:64])
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.min() >= -1 and moved.max() <= 1
    assert 0 < float((moved - images).square().mean()) < 0.1
    assert torch.equal(moved, augment(images, torch.Generator().manual_seed(0)))


def test_redundancy_by_hand() -> None:
    a = torch.tensor([1.0, -1.0, 1.0, -1.0])
    b = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert float(redundancy(torch.stack([a, b], 1) + 3)) == 0
    # covariance of a with 2a is 2 * 4/3; twice its square over two features
    assert float(redundancy(torch.stack([a, 2 * a], 1))) == pytest.approx((8 / 3) ** 2)


def test_clothes_are_read_by_a_classifier_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_fashion(tmp_path / "idx", monkeypatch)
    config = ClassifierTraining(epochs=8, batch_size=20, data="fashion", path=str(folder))
    model, card = train_classifier(config, lambda *_: None)
    assert isinstance(model, FashionCNN) and card["num_train"] == 60 and card["num_held_out"] == 40
    assert card["training"]["data"] == "fashion" and "path" not in card["training"]
    assert card["accuracy_held_out"] > 0.5, "heights of rectangles, ten of them"
    save_classifier(model, card, tmp_path / "fashion_cnn")
    protocol = build.make(
        composed("protocol=fashion", f"protocol.extractor_path={tmp_path / 'fashion_cnn' / 'model.safetensors'}")[
            "protocol"
        ]
        | {"extractor_sha256": None}
    )
    pixels, labels = fashion_images("test", str(folder))
    read = extract(pixels.permute(0, 2, 3, 1), protocol)
    assert read["features"].shape == (40, 64) and float(read["features"].abs().max()) < 1
    assert float((read["logits"].argmax(1) == labels).float().mean()) == pytest.approx(card["accuracy_held_out"])
    with pytest.raises(EvaluationError, match="fashion_cnn reads grey images of 32x32 pixels"):
        extract(torch.zeros(2, 16, 16, 1, dtype=torch.uint8), protocol)


def test_the_shipped_classifier_of_clothes_is_the_one_of_the_recipe() -> None:
    """Its accuracy is measured again where the images are."""
    folder, recipe = resolve("package:zoo/weights/fashion_cnn"), composed("model=ddim_fashion")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in recipe["train"]["classifier"].items() if key not in ("_target_", "path")}
    assert card["training"] == settings and card["num_train"] == 60_000 and card["num_held_out"] == 10_000
    assert recipe["protocol"]["extractor_sha256"] == file_sha256(folder / "model.safetensors")
    assert (folder / "model.safetensors").stat().st_size < 1e6 and 0.86 < card["accuracy_held_out"] < 1
    model = FashionCNN()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    if fashion_missing(FASHION_FOLDER) is None:
        pixels, labels = fashion_images("test")
        score = accuracy(model.eval(), to_float(pixels), labels)
        assert score == pytest.approx(card["accuracy_held_out"], abs=1e-3)
