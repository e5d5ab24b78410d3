"""What training reads: images or latents, with conditions, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmq_cli.errors import ConfigError
from dmq_cli.metrics.reading.image_files import Framing, array_source
from dmq_cli.models import Classes, model_encoder
from dmq_cli.models.first_stage import Latents
from dmq_cli.qat import HuggingFace, ImageFolder, Pictures
from dmq_cli.qat.problems import NoiseOnData
from dmq_cli.stages import training_set
from dmq_cli.store.tensors import RowFile, load_tensors
from dmq_cli.zoo import digit_images, split
from tests import pipelines
from tests.chain import QUICK, Result, artifacts, dmq, tiny_folder, words
from tests.qat.runs import trained_network
from tests.tiny import SMALL, one_sentence

TRAIN = ("method=lsq", "bits=w4a4", *QUICK, "train.loss=noise")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


def reconstruct(model: Path, outputs: Path, *more: str) -> Result:
    return dmq(*words("reconstruct", model, outputs, *TRAIN, *more))


def made(outputs: Path) -> list[Path]:
    """The artifacts of the stage, oldest first."""
    folders = [path for path in (outputs / "artifacts" / "training_set").glob("*") if path.name[0] != "."]
    return sorted(folders, key=lambda path: path.stat().st_mtime_ns)


def write_images(folder: Path, count: int = 24, size: int = 16, mode: str = "L") -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        shape = (size, size) if mode == "L" else (size, size, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def test_the_digits_are_split_as_for_the_embedded_models(model: Path, outputs: Path) -> None:
    result = reconstruct(model, outputs)
    assert result.code == 0, result.err
    (folder,) = made(outputs)
    samples, facts = RowFile(folder / "sample.safetensors"), load_tensors(folder / "facts.safetensors")
    images, _ = digit_images(16)
    train, held_out = split(len(images), 0.1, 0)
    assert len(samples) == 1797 and int(facts["num_train"]) == len(train) == 1617
    assert torch.equal(samples.rows(range(1617)), images[train.sort().values])
    assert torch.equal(samples.rows(range(1617, 1797)), images[held_out.sort().values])
    assert not bool(facts["has_none"]) and not (folder / "condition.safetensors").exists()


def test_noise_is_added_as_the_schedule_says_and_held_out_images_are_never_drawn(model: Path, outputs: Path) -> None:
    assert reconstruct(model, outputs).code == 0
    problem = NoiseOnData(trained_network(), made(outputs)[0])
    batch = problem.batch(64, torch.Generator().manual_seed(3))
    abar = problem.alphas[batch.timestep].view(-1, 1, 1, 1)
    clean = (batch.sample - (1 - abar).sqrt() * batch.target) / abar.sqrt()
    pixels = ((clean + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)[abar.flatten() > 0.5]
    drawn, held = (set(_bytes(problem.samples.rows(rows))) for rows in (range(1617), range(1617, 1797)))
    assert len(pixels) >= 15 and set(_bytes(pixels)) <= drawn
    assert len(torch.unique(batch.timestep)) == 64, "one of each interval"
    batches = list(problem.held_out(32))
    assert len(batches) == 10 * 2 and all(
        torch.equal(a.sample, b.sample) for a, b in zip(batches, problem.held_out(32), strict=True)
    )
    first = batches[0]
    abar = problem.alphas[first.timestep].view(-1, 1, 1, 1)
    clean = (first.sample - (1 - abar).sqrt() * first.target) / abar.sqrt()
    assert set(_bytes(((clean + 1) * 127.5).round().to(torch.uint8))) <= held


@pytest.mark.parametrize("total", [100, 1000, 4000])
def test_timesteps_are_those_that_the_model_was_trained_at(model: Path, outputs: Path, total: int) -> None:
    assert reconstruct(model, outputs).code == 0
    problem = NoiseOnData(trained_network(), made(outputs)[0])
    problem.alphas = torch.linspace(0.99, 0.01, total)
    drawn = problem.batch(50, torch.Generator().manual_seed(0)).timestep
    assert torch.equal(drawn * 50 // total, torch.arange(50)), "one of each fiftieth of the schedule"
    kept = [int(batch.timestep[0]) for batch in problem.held_out(64)]
    assert kept == [total // 20 * part for part in range(1, 20, 2)]


def _bytes(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_a_folder_is_read_as_for_a_reference_and_its_change_is_noticed(model: Path, tmp_path: Path) -> None:
    images, outputs = write_images(tmp_path / "images"), tmp_path / "outputs"
    words_of = ("data=images", f"data.path={images}")
    for number in (1, 2, 3):
        assert reconstruct(model, outputs, *words_of).code == 0
        assert artifacts(outputs)["training_set"] == (1 if number < 3 else 2)
        if number == 2:
            os.utime(images / "003.png", ns=(1, 1))
    facts = load_tensors(made(outputs)[0] / "facts.safetensors")
    assert int(facts["num_train"]) == 23 and len(RowFile(made(outputs)[0] / "sample.safetensors")) == 24


def test_a_folder_is_cropped_and_scaled_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", size=40)
    refused = reconstruct(model, tmp_path / "outputs", "data=images", f"data.path={images}")
    assert refused.code == 2 and "40x40x1" in refused.sentence and "16x16x1" in refused.sentence
    assert "data.resize=16" in refused.sentence and "train.loss=distill" in refused.sentence
    result = reconstruct(
        model, tmp_path / "outputs", "data=images", f"data.path={images}", "data.crop=center", "data.resize=16"
    )
    assert result.code == 0, result.err


def test_what_cannot_be_trained_on_is_one_sentence(model: Path, tmp_path: Path) -> None:
    colour, empty = write_images(tmp_path / "colour", mode="RGB"), tmp_path / "empty"
    empty.mkdir()
    broken = write_images(tmp_path / "broken")
    (broken / "007.png").write_bytes(b"no image")
    mixed = write_images(tmp_path / "mixed")
    Image.new("L", (20, 20)).save(mixed / "big.png")
    few = [
        ("data.path=" + str(colour), "16x16x3"),
        (f"data.path={empty}", "there is none in it"),
        (f"data.path={tmp_path / 'nowhere'}", "there is none"),
        (f"data.path={broken}", "007.png"),
        (f"data.path={write_images(tmp_path / 'single', count=1)}", "1 of 1 are held out"),
        (f"data.path={mixed}", "must all have one size"),
        ("data.path=null", "add data.path=FOLDER"),
    ]
    for word, part in few:
        result = reconstruct(model, tmp_path / "outputs", "data=images", word)
        assert result.code in (1, 2) and part in result.sentence, (word, result.err)
    assert "use data=images" in reconstruct(model, tmp_path / "outputs", "data=digits", "data.path=x").sentence
    assert (
        "data.name=NAME" in (sentence := reconstruct(model, tmp_path / "outputs", "data=hf").sentence)
        or "pip install" in sentence
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["tokens", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("latent", "transformer"))]
)
def test_latents_are_those_that_are_diffused_and_classes_come_along(kind: str, tmp_path: Path) -> None:
    path = pipelines.FOLDERS[kind](tmp_path / kind)
    result = dmq(*words("reconstruct", path, tmp_path / "outputs", *TRAIN, *pipelines.settings(kind, path)[1:]))
    assert result.code == 0, result.err
    (folder,) = made(tmp_path / "outputs")
    rows, facts = RowFile(folder / "sample.safetensors").rows(range(4)), load_tensors(folder / "facts.safetensors")
    images, labels = digit_images(16)
    train = split(len(images), 0.1, 0)[0].sort().values
    encode = model_encoder({"name": "x", "path": str(path)}, "cpu")
    assert encode is not None
    torch.testing.assert_close(rows, encode(images[train[:4]].float() / 127.5 - 1), rtol=1e-4, atol=1e-4)
    if kind == "latent":
        assert not (folder / "condition.safetensors").exists()
        return
    assert torch.equal(facts["index"][: len(train)], labels[train]) and bool(facts["has_none"])
    (table,) = load_tensors(folder / "condition.safetensors").values()
    assert len(table) == pipelines.CLASSES + 1
    problem = NoiseOnData(trained_network(), folder, without=0.5)
    (cond,) = problem.batch(200, torch.Generator().manual_seed(0)).cond.values()  # type: ignore[union-attr]
    nothing = sum(torch.equal(row, table[-1]) for row in cond)
    assert 70 < nothing < 130


def test_conditions_that_are_not_known_are_refused(tmp_path: Path) -> None:
    path = pipelines.FOLDERS["prompts"](tmp_path / "prompts")
    command = words("reconstruct", path, tmp_path / "outputs", *TRAIN, *pipelines.settings("prompts", path)[1:])
    assert "train.loss=distill" in dmq(*command).sentence
    assert dmq(*command, "train.loss=distill").code == 0


def test_scaled_latents_come_back() -> None:
    latents = Latents(0.5, (2.0, 3.0), (0.1, -0.2))
    codes = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(latents.restored(latents.diffused(codes)), codes)


def grey(size: int = 16, mode: str = "L", value: int = 7) -> Image.Image:
    return Image.fromarray(np.full((size, size), value, np.uint16 if mode == "I;16" else np.uint8)).convert(mode)


class Table:
    """What `datasets` gives: columns by name."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns, self.column_names = columns, list(columns)

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


def test_a_data_set_s_images_of_16_bits_keep_the_upper_ones_and_its_classes_come_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.full((16, 16), 0x1234, np.uint16)
    pixels[1:] = 0xFFFF
    deep = Image.fromarray(pixels)
    assert deep.mode == "I;16"
    table = Table(image=[deep, grey(value=1), grey(value=2)], label=[4, 0, 9])
    monkeypatch.setattr(HuggingFace, "_loaded", lambda self: table)
    pictures = HuggingFace(name="x", label_column="label").pictures(16)
    assert pictures.source.shape == (3, 16, 16, 1) and pictures.source.pixels()[:, 0, 0, 0].tolist() == [0x12, 1, 2]
    assert pictures.labels is not None and pictures.labels.tolist() == [4, 0, 9]


@pytest.mark.parametrize(
    ("fields", "columns", "part"),
    [
        ({"column": "picture"}, {"image": [grey()]}, "data.column=picture is none of the columns of x (image)"),
        ({"label_column": "y"}, {"image": [grey()]}, "data.label_column=y is none of the columns"),
        ({}, {"image": ["a.png"]}, "has str and no images"),
        ({}, {"image": []}, "has nothing and no images"),
        ({}, {"image": [grey(), grey(20)]}, "several sizes, such as 16x16 and 20x20"),
        ({"label_column": "y"}, {"image": [grey()], "y": ["cat"]}, "values of type str"),
    ],
)
def test_columns_that_are_not_as_they_should_be_are_one_sentence(
    fields: dict[str, Any], columns: dict[str, list[Any]], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HuggingFace, "_loaded", lambda self: Table(**columns))
    with pytest.raises(ConfigError) as caught:
        HuggingFace(name="x", **fields).pictures(16)
    assert part in one_sentence(caught.value)


@pytest.mark.parametrize("held_out", [0.0, 1.0])
def test_a_part_that_is_all_or_nothing_is_refused(held_out: float) -> None:
    for source in (HuggingFace, ImageFolder):
        with pytest.raises(ConfigError, match=r"data\.held_out="):
            source(held_out=held_out)


@pytest.mark.parametrize("labels", [[-1, 2], [0, 10]])
def test_classes_that_the_model_does_not_know_are_refused(labels: list[int]) -> None:
    classes, held_out = Classes(range(10), 10), torch.tensor([False, True])
    source = array_source("x", np.zeros((2, 16, 16, 1), np.uint8), Framing())
    with pytest.raises(ConfigError) as caught:
        training_set._labels(Pictures(source, held_out, torch.tensor(labels)), classes, "m")
    assert "knows 0 to 9" in one_sentence(caught.value)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_data_set_of_the_hub_s_package_is_read_from_a_folder(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="the extra data is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = write_images(tmp_path / "images", count=12, mode=mode)
    source = HuggingFace(path=str(folder))
    pictures = source.pictures(16)
    assert pictures.source.shape == (12, 16, 16, len(mode)) and int(pictures.held_out.sum()) == 1
    batches = torch.cat([*pictures.batches(False), *pictures.batches(True)])
    assert {image.numpy().tobytes() for image in batches.permute(0, 2, 3, 1)} == {
        np.asarray(Image.open(file)).tobytes() for file in folder.iterdir()
    }
    assert (
        source.content()
        == HuggingFace(path=str(folder)).content()
        != HuggingFace(path=str(folder), split="train[:6]").content()
    )
