"""ddim_fashion from the idx files to its card, in miniature; and what is told while its weights or the files are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmq_cli import obtain
from dmq_cli.errors import ConfigError
from dmq_cli.metrics import fidelity
from dmq_cli.models import load_adapter
from dmq_cli.paths import resolve
from dmq_cli.stages import build, find_reference
from dmq_cli.stages import train as stage
from dmq_cli.stages.graph import Graph, with_code
from dmq_cli.store import read_json
from dmq_cli.zoo import fashion_images, unet
from tests.chain import dmq
from tests.test_conf import composed
from tests.zoo.idx import small_fashion

TINY = ["train.unet.network.block_out_channels=[6,12,12,12]", "train.unet.network.layers_per_block=1"]
TINY += ["train.unet.steps=2", "train.unet.batch_size=2", "train.classifier.epochs=1", "train.classifier.batch_size=20"]
FEW = ["protocol.num_images=8", "seeds=0-7", "protocol.metrics.kid.subset_size=4", "sampler.num_inference_steps=2"]
FEW += ["protocol.metrics.is.splits=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_fashion(tmp_path / "idx", monkeypatch)


def test_from_the_files_to_the_card(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "_EVALUATED", 2)
    words = ["model=ddim_fashion", *TINY, *FEW, f"data.path={folder}", f"runtime.outputs={tmp_path / 'out'}"]
    result = stage.train(composed(*words), "dmq train model=ddim_fashion", quiet=True)
    model, extractor = (Path(result["artifacts"][name]) for name in ("model", "extractor"))
    assert (model.name, extractor.name) == ("ddim_fashion", "fashion_cnn")
    assert load_adapter(model).sample_shape() == (1, 32, 32)
    card, text = read_json(model / "card.json"), (model / "README.md").read_text(encoding="utf-8")
    assert card["distance"]["fd"] > 0 and card["equal_counts"]["num_images"] == 8
    assert 0 <= card["memorisation"]["copies"] <= 1 and card["memorisation"]["median_held_out"] > 0
    assert card["training"]["data"] == "fashion" and str(folder) not in json.dumps(card["training"])
    assert "FD-fashion, DDIM 2 steps, 8 images against 10,000 training images" in text
    assert "MIT licence" in text and "digit" not in text
    assert read_json(extractor / "card.json")["num_held_out"] == 40


def test_the_extractor_alone_is_trained_and_installed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PACKAGE", tmp_path / "package")
    words = [*TINY[4:], "train.unet=null", "train.install=true", f"data.path={folder}"]
    config = composed("model=ddim_fashion", *words, f"runtime.outputs={tmp_path / 'out'}")
    result = stage.train(config, "dmq train model=ddim_fashion train.unet=null", quiet=True)
    assert set(result["artifacts"]) == {"extractor"} and result["card"] == {}
    installed = tmp_path / "package" / "zoo" / "weights"
    assert sorted(str(file.relative_to(installed)) for file in installed.rglob("*.*")) == [
        "fashion_cnn/card.json",
        "fashion_cnn/model.safetensors",
    ]


def test_training_of_the_digits_keeps_its_keys() -> None:
    """Of before there was a second data set."""
    config = composed("model=ddim_digits")
    sections = with_code({**config, **config["train"]}, stage.NODES.values())
    graph = Graph(stage.NODES, None, None)  # type: ignore[arg-type]
    assert graph.key("train_unet", sections) == "a4520398179ead7bd6a1789f8575a295"
    assert graph.key("train_classifier", sections) == "79492b5829a59c9e175397517c341e33"


def test_the_place_of_the_files_is_in_no_key() -> None:
    keys = set()
    for path in ("/one", "/two"):
        config = composed("model=ddim_fashion", f"data.path={path}")
        sections = with_code({**config, **config["train"]}, stage.NODES.values())
        graph = Graph(stage.NODES, None, None)  # type: ignore[arg-type]
        keys.add((graph.key("train_unet", sections), graph.key("train_classifier", sections)))
        assert config["protocol"]["reference_path"] == path
    assert len(keys) == 1


def test_the_reference_is_of_training_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_reference, "_FASHION_IMAGES", 50)
    protocol = build.make(composed("model=ddim_fashion", *FEW, f"data.path={folder}")["protocol"])
    real = find_reference.real_images(protocol, "outputs")
    images = fashion_images("train", str(folder))[0]
    assert real.shape == (50, 32, 32, 1) and (real[:, :, :, 0] == images[:50, 0].numpy()).all()
    assert find_reference.reference_identity(protocol, "outputs") is None, "known by the sha256 that the reader checks"
    numbers = fidelity(real[:8], find_reference.find_reference(protocol, "outputs") or real, protocol)
    assert numbers["fd"] > 0 and {"is", "kid", "precision", "recall"} <= set(numbers)
    assert numbers["precision"] == 1, "training images themselves"


def test_what_is_not_there_is_told(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obtain, "FASHION_FOLDER", tmp_path / "none")
    outputs = f"runtime.outputs={tmp_path}"
    if not resolve("package:zoo/weights/ddim_fashion").exists():
        evaluated = dmq("evaluate", "model=ddim_fashion", outputs)
        assert (
            evaluated.code == 4
            and "make them with: dmq train model=ddim_fashion train.install=true" in evaluated.sentence
        )
        (row,) = json.loads(dmq("list", "models", "name=ddim_fashion", "--json").out)["models"]
        assert row["present"] is False and "dmq train model=ddim_fashion" in row["about"]
    trained = dmq("train", "model=ddim_fashion", outputs)
    assert trained.code == 4 and "apt install dataset-fashion-mnist" in trained.sentence
    assert "data.path=FOLDER" in trained.sentence
    rows = json.loads(dmq("doctor", outputs, "--json").out)["doctor"]
    (row,) = [row for row in rows if (row["kind"], row["name"]) == ("reference", "fashion")]
    assert row["state"] == "missing" and "apt install dataset-fashion-mnist" in row["advice"]
    measured = dmq("measure", str(folder), "--protocol", "fashion", "protocol.num_images=2")
    assert measured.code != 0


def test_a_reference_of_ones_own_is_not_called_fashion(tmp_path: Path) -> None:
    result = dmq("reference", "build", str(tmp_path), "--as", "fashion", "--protocol", "digits")
    assert result.code == ConfigError.exit_code and "none of digits, digits32, fashion" in result.sentence
