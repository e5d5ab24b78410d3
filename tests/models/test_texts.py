"""Texts become what diffusers' pipeline makes of them; prompts that are cut are said; tokenizers and encoders that cannot be."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models import model_conditions
from dmq_cli.models.conditions import load_conditions
from dmq_cli.models.texts import load_tokenizer
from tests import pipelines
from tests.tiny import one_sentence

TEXTS = ["a handwritten Seven", "", 'café  and\tquotes\' "x"', "two " * 30]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.prompts(tmp_path_factory.mktemp("models") / "prompts")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit(file: Path, drop: str = "", **entries: Any) -> None:
    config = {key: value for key, value in json.loads(file.read_text()).items() if key != drop}
    file.write_text(json.dumps(config | entries))


def ours(folder: Path, texts: list[str]) -> Tensor:
    prompts = folder / "texts.txt"
    prompts.write_text("\n".join(text or "x" for text in texts) + "\n", encoding="utf-8")
    conditions = load_conditions(folder, None, str(prompts))
    assert conditions is not None
    rows = [conditions.none() if not text else conditions.of([i]) for i, text in enumerate(texts)]
    return torch.cat([row["encoder_hidden_states"] for row in rows])


def theirs(folder: Path, texts: list[str]) -> Tensor:
    """StableDiffusionPipeline.encode_prompt, with tokenizer and encoder read by transformers."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

    parts = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline = object.__new__(StableDiffusionPipeline)
    pipeline.__dict__.update(parts, _internal_dict={}, config={})
    pipeline.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    pipeline.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    with torch.no_grad():
        embeddings: Tensor = pipeline.encode_prompt([text.strip() for text in texts], "cpu", 1, False)[0]
    return embeddings


@pytest.mark.parametrize(
    "changes", [{}, {"padding_side": "left"}, {"pad_token": "!"}, {"model_max_length": 9}], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
def test_texts_are_encoded_as_the_pipeline_does(changes: dict[str, Any], masked: bool, folder: Path) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", **changes)
    edit(folder / "text_encoder/config.json", use_attention_mask=masked)
    # one text at a time and all at once: some processors sum in another order then
    torch.testing.assert_close(ours(folder, TEXTS), theirs(folder, TEXTS), rtol=1e-5, atol=1e-5)


def test_a_tokenizer_that_does_not_say_how_long_texts_are(folder: Path) -> None:
    """Then they are as long as the encoder has positions for, 16."""
    whole = ours(folder, TEXTS)
    edit(folder / "tokenizer/tokenizer_config.json", drop="model_max_length")
    assert load_tokenizer(folder).model_max_length == 16 and torch.equal(ours(folder, TEXTS), whole)


def test_prompts_that_are_cut_are_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A token for each of 30 words, start and end: 32 of which 16 are read. A prompt of 14 words just fits."""
    lines = ["two " * 30, "a handwritten seven", "two " * 14, "two " * 15]
    (folder / "mine.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = {"name": "sd", "path": str(folder)}
    with caplog.at_level(logging.WARNING, "dmq"):
        for _ in range(3):  # every stage asks for its conditions
            model_conditions(model, None, str(folder / "mine.txt"))
    (warning,) = [record for record in caplog.records if record.name == "dmq"]
    text = warning.getMessage()
    assert warning.levelno == logging.WARNING and text.startswith("2 of 4 prompts of cond.prompts=")
    assert "longer than the 16 tokens" in text and "the first has 32: two two" in text


def whole_tokenizer(folder: Path, **changes: Any) -> None:
    """tokenizer.json beside vocab.json and merges.txt, as newer versions save it."""
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained(folder / "tokenizer")._tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    file = folder / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= changes
    file.write_text(json.dumps(content))


def test_both_forms_of_a_vocabulary_that_agree_are_the_same(folder: Path) -> None:
    before = ours(folder, TEXTS)
    whole_tokenizer(folder)
    assert torch.equal(ours(folder, TEXTS), before)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    assert torch.equal(ours(folder, TEXTS), before)


def longer(folder: Path) -> None:
    words = json.loads((folder / "tokenizer/vocab.json").read_text())
    (folder / "tokenizer/vocab.json").write_text(json.dumps(words | {f"word{i}</w>": len(words) + i for i in range(9)}))


CONFIG, ENCODER = "tokenizer/tokenizer_config.json", "text_encoder/config.json"
DAMAGED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: whole_tokenizer(path, merges=[]), "has two vocabularies"),
    (lambda path: edit(path / CONFIG, vocab_file="/etc/words.json"), "has vocab_file, which would read the vocabulary"),
    (lambda path: edit(path / CONFIG, tokenizer_class="T5Tokenizer"), "is a T5Tokenizer; dmq reads texts with"),
    (lambda path: (path / "tokenizer/merges.txt").unlink(), "has neither tokenizer.json nor vocab.json with merges.txt"),
    (lambda path: (path / CONFIG).write_text("[" * 200_000), "could not be read as JSON"),
    (lambda path: (path / "tokenizer/vocab.json").write_text("[" * 200_000), "could not be read"),
    (lambda path: edit(path / ENCODER, architectures=["BertModel"]), "is a BertModel; dmq encodes texts with"),
    (lambda path: edit(path / ENCODER, architectures=["CLIPTextModelWithProjection"]), "is a CLIPTextModelWithProjection"),
    (longer, "knows"),
    (lambda path: edit(path / ENCODER, num_attention_heads=7), "describes no text encoder"),
    (lambda path: edit(path / ENCODER, num_hidden_layers=1), "values that do not belong to"),
    (lambda path: (path / "text_encoder/model.safetensors").write_bytes(b"x"), "could not be read"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "part"), DAMAGED)
def test_tokenizers_and_encoders_that_cannot_be(damage: Callable[[Path], Any], part: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelError) as caught:
        ours(folder, TEXTS)
    assert part in one_sentence(caught.value)
