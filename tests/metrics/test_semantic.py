"""FD-DINOv2 and CLIP score, on random folders in the published layout."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import transforms

import dmq_cli.metrics.extractors as module
from dmq_cli.errors import EvaluationError, MissingWeightsError, ModelError, NumericsError
from dmq_cli.metrics import extract, fidelity, further_sha256
from dmq_cli.metrics.reading.image_files import Framing, array_source
from dmq_cli.metrics.references.build import build_reference
from dmq_cli.metrics.references.files import read_reference
from dmq_cli.metrics.semantic import Dinov2Features, clip_texts
from dmq_cli.paths import PACKAGE
from dmq_cli.store import file_sha256
from dmq_cli.store.tensors import load_tensors
from tests.metrics.helpers import digits, measured, protocol

transformers = pytest.importorskip("transformers", reason="transformers is not installed (dmq-cli[text])")
TOKENIZER = PACKAGE / "zoo" / "weights" / "sd_digits" / "tokenizer"
PROMPTS = ["a three", "a seven", "a three", "the digit nine"]


def dinov2(folder: Path, side: int = 224) -> Path:
    """A random Dinov2Model of 1/64 of the width, trained on `side` pixels."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": side, "patch_size": 14}
    transformers.Dinov2Model(transformers.Dinov2Config(**small)).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """A random CLIPModel of images of 32x32 pixels, with a real tokenizer."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = transformers.CLIPTokenizer.from_pretrained(TOKENIZER)
    text = small | {"vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": words.eos_token_id}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    place = tmp_path_factory.mktemp("semantic")
    yield {"dinov2": dinov2(place / "dinov2"), "clip": clip(place / "clip")}
    module._build.cache_clear()


def asking(folders: dict[str, Path], *metrics: str, **changes: Any) -> Any:
    return protocol(metrics=metrics, dinov2_path=str(folders["dinov2"]), clip_path=str(folders["clip"]), **changes)


def photographs(count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def by_torchvision(images: np.ndarray[Any, Any], *steps: Any) -> Tensor:
    make = transforms.Compose([transforms.ToPILImage(), *steps])
    return torch.stack([make(image) for image in images])


@torch.no_grad()
def test_dinov2_is_the_class_token_by_dgm_evals_preparation(folders: dict[str, Path]) -> None:
    images = photographs(3, 40, 70)
    pixels = by_torchvision(
        images,
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    )
    network = transformers.Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    (features,) = Dinov2Features("x", ["dinov2"], str(folders["dinov2"]))(torch.from_numpy(images).permute(0, 3, 1, 2))
    torch.testing.assert_close(features, network(pixels).last_hidden_state[:, 0])


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    return ((a + 2) * x - (a + 3)) * x * x + 1 if x <= 1 else (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def test_position_embeddings_are_stretched_by_the_hubs_factor(tmp_path: Path) -> None:
    network = Dinov2Features("x", ["dinov2"], str(dinov2(tmp_path / "small", side=56)))  # 4x4 patches
    table = transformers.Dinov2Model.from_pretrained(tmp_path / "small").embeddings.position_embeddings.detach()
    positions = network.model.embeddings.position_embeddings
    assert positions.shape == (1, 1 + 16 * 16, 16) and torch.equal(positions[:, 0], table[:, 0])
    grid = table[0, 1:].view(4, 4, 16).double()
    for row, column in ((0, 0), (5, 11), (15, 15)):
        y, x = ((place + 0.5) * 4 / 16.1 - 0.5 for place in (row, column))  # not 4 / 16, which a size would give
        wanted = torch.zeros(16, dtype=torch.float64)
        for j, i in ((j, i) for j in range(-2, 7) for i in range(-2, 7)):
            wanted += cubic(y - j) * cubic(x - i) * grid[min(max(j, 0), 3), min(max(i, 0), 3)]
        torch.testing.assert_close(positions[0, 1 + 16 * row + column].double(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_clip_score_is_a_hundred_times_the_cosine_of_clip_itself(folders: dict[str, Path]) -> None:
    images = photographs(4, 45, 64)
    pixels = by_torchvision(
        images,
        transforms.Resize(32, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    )
    network = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    words = transformers.CLIPTokenizer.from_pretrained(folders["clip"])
    read = words(PROMPTS, padding="max_length", max_length=16, return_tensors="pt")
    cosines = network(**read, pixel_values=pixels).logits_per_image.diag() / network.logit_scale.exp()
    extractor = module._semantic("clip", asking(folders, "clip_score"))
    (embeddings,) = extractor(torch.from_numpy(images).permute(0, 3, 1, 2))
    texts = clip_texts(extractor, PROMPTS, 4)
    plan = asking(folders, "clip_score", num_images=4)

    def score(embeddings: Tensor) -> float:
        return measured({"clip": embeddings, "clip_text": texts}, {}, plan, PROMPTS).numbers["clip_score"]

    assert score(embeddings) == pytest.approx(float(100 * cosines.clamp(min=0).mean()), abs=1e-4)
    assert score(-embeddings) == pytest.approx(float(100 * (-cosines).clamp(min=0).mean()), abs=1e-4), (
        "below zero is zero"
    )
    assert score(embeddings) + score(-embeddings) > 0


def test_prompts_that_clip_cuts_off_are_counted(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    extractor = module._semantic("clip", asking(folders, "clip_score"))
    clip_texts(extractor, PROMPTS, 4)
    assert not caplog.records
    clip_texts(extractor, ["a " * 14, "a " * 15, "a " * 15, "a " * 99], 4)  # 16 with beginning and end
    assert [record.getMessage() for record in caplog.records] == [
        "CLIP reads only the beginning of 2 of 3 prompts: they are too long for it."
    ]


def test_weights_that_are_no_numbers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["dinov2"], tmp_path / "nan")
    state = load_tensors(tmp_path / "nan" / "model.safetensors")
    state["layernorm.weight"][0] = math.nan
    save_file(state, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericsError, match=r"1 of the 16 values of layernorm.weight are NaN"):
        Dinov2Features("x", ["dinov2"], str(tmp_path / "nan"))


def test_both_are_features_of_one_protocol(folders: dict[str, Path]) -> None:
    plan = asking(folders, "fd", "fd_dinov2", "clip_score", num_images=4)
    prompts, images, reference = PROMPTS, digits(0, 4), digits(4, 24)
    numbers = fidelity(images, reference, plan, prompts)
    assert set(numbers) == {"fd", "fd_dinov2", "clip_score"} and all(map(math.isfinite, numbers.values()))
    assert set(fidelity(images, reference, plan)) == {"fd", "fd_dinov2"}, "without prompts there is no CLIP score"
    single, all_ = (extract(images, plan, size, prompts) for size in (1, 250))
    assert set(all_) == {"features", "logits", "dinov2", "clip", "clip_text"} and all_["clip_text"].shape == (4, 8)
    assert all(torch.allclose(single[name], all_[name], atol=1e-4) for name in all_)
    weights = {name: file_sha256(folder / "model.safetensors") for name, folder in folders.items()}
    before = further_sha256(plan)
    assert {name: before[name] for name in weights} == weights and set(before) == {
        *weights,
        "dinov2_files",
        "clip_files",
    }
    (folders["dinov2"] / "config.json").write_text(
        " " + (folders["dinov2"] / "config.json").read_text("utf-8"), "utf-8"
    )
    after = further_sha256(plan)
    assert {name for name in before if after[name] != before[name]} == {"dinov2_files"}, (
        "of what is read beside them, too"
    )
    assert further_sha256(asking(folders, "fd")) == {}, "what is not asked for is not needed"


def test_a_reference_that_other_dinov2_weights_built_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    plan, file = asking(folders, "fd", "fd_dinov2", num_images=4), tmp_path / "real.safetensors"
    build_reference(array_source("real", digits(4, 24), Framing()), plan, "real", file, lambda done, of: None)
    reference = read_reference(file, "real")
    assert fidelity(digits(0, 4), reference, plan) == pytest.approx(fidelity(digits(0, 4), digits(4, 24), plan))
    shutil.copytree(folders["dinov2"], tmp_path / "other")
    network = transformers.Dinov2Model.from_pretrained(tmp_path / "other")
    network.layernorm.weight.data.mul_(2)
    network.save_pretrained(tmp_path / "other")
    with pytest.raises(EvaluationError, match=r"built with the DINOv2 weights .* build it again"):
        reference.check(replace(plan, dinov2_path=str(tmp_path / "other")))
    reference.check(replace(plan, metrics={"fd": plan.metrics["fd"]}, dinov2_path=None))


@pytest.mark.parametrize(("asked", "sentence"), [(PROMPTS[:3], "4 images and 3 prompts"), (["1"] * 4, "class numbers")])
def test_wishes_that_are_no_prompts_of_these_images(folders: dict[str, Path], asked: list[str], sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        extract(digits(0, 4), asking(folders, "clip_score"), subjects=asked)


@pytest.mark.parametrize(("metric", "name"), [("fd_dinov2", "dinov2"), ("clip_score", "clip")])
def test_weights_that_are_not_here_or_not_those(
    folders: dict[str, Path], metric: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(MissingWeightsError, match=f"no path was given; copy .* protocol.{name}_path") as caught:
        extract(digits(0, 4), protocol(metrics=(metric,)), subjects=PROMPTS)
    assert caught.value.exit_code == 4
    with pytest.raises(MissingWeightsError, match=r"model\.safetensors is not a file"):
        further_sha256(asking({**folders, name: tmp_path}, metric))
    wrong = asking(folders, metric, weights_sha256={name: "0" * 64})
    with pytest.raises(EvaluationError, match=f"weights of {name} must have the sha256 {'0' * 64}, but .*; copy"):
        extract(digits(0, 4), wrong, subjects=PROMPTS)


def test_a_folder_that_cannot_be_read(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(folders["dinov2"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folders["dinov2"] / "model.safetensors").read_bytes()[:200])
    with pytest.raises(ModelError, match=r"The Dinov2Model in .* could not be read \(.*\); copy the folder again"):
        extract(digits(0, 4), asking({**folders, "dinov2": broken}, "fd_dinov2"))
