"""The prompts, and a tokenizer that tells them apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from dmq_cli.zoo import text

CLIPTokenizer = pytest.importorskip("transformers").CLIPTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "tokenizer"
    text.write_tokenizer(path)
    return path


def test_every_prompt_comes_back(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.model_max_length == text.TOKENS == 16
    for prompt in [p for digit in range(10) for p in text.prompts(digit)]:
        tokens = tokenizer(prompt)["input_ids"]
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == prompt
        assert len(tokens) == len(prompt.split()) + 2, "one token for each word"
    other = "A Photo of 42 llamas"
    assert tokenizer.decode(tokenizer(other)["input_ids"], skip_special_tokens=True).split() == [
        "a",
        "photo",
        "of",
        "4",
        "2",
        "llamas",
    ]


def test_the_ten_digits_are_ten_tokens(folder: Path) -> None:
    table = text.token_table(folder)
    assert table.shape == (11, 2 * len(text.TEMPLATES), 16)
    for column in range(table.shape[1]):
        assert len({tuple(row) for row in table[:, column].tolist()}) == 11
        differing = (table[:10, column] != table[0, column]).any(0)
        assert int(differing.sum()) == 1, "the digit alone differs"
    start, end = int(table[10, 0, 0]), int(table[10, 0, 1])
    assert start != end and table[10].tolist() == [[start] + [end] * 15] * table.shape[1]


def test_merges_join_each_word_from_the_left() -> None:
    assert text._merges(["no", "non"]) == [("n", "o</w>"), ("n", "o"), ("no", "n</w>")]
    assert text._merges(["a"]) == []
    characters = text._byte_characters()
    assert len(set(characters)) == 256 and all(character.isprintable() for character in characters)


def test_line_i_of_the_prompts_asks_for_digit_i(tmp_path: Path) -> None:
    text.write_prompts(tmp_path / "prompts.txt")
    lines = (tmp_path / "prompts.txt").read_text(encoding="utf-8").splitlines()
    digits = [next(d for d in range(10) if line in text.prompts(d)) for line in lines]
    assert digits == [i % 10 for i in range(50)] and len(set(lines)) == 50
    numerals = Counter(digits[i] for i, line in enumerate(lines) if any(c.isdigit() for c in line))
    assert set(numerals) == set(range(10)) and set(numerals.values()) <= {2, 3}


def test_the_encoder_is_written_as_published_ones_are(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    model = text.text_encoder(folder).eval()
    text.write_encoder(tmp_path / "text_encoder", model)
    read = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", local_files_only=True).eval()
    tokens = text.token_table(folder)[:, 0]
    with torch.no_grad():
        assert torch.equal(model(tokens)[0], read(tokens)[0]) and read.dtype == torch.float32
