"""The prompts of `sd_digits`, its tokenizer and its text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.models.digits_cnn import DIGITS
from dmq_cli.models.importers.networks import published_names
from dmq_cli.models.texts import require_transformers
from dmq_cli.store import read_json, write_json
from dmq_cli.store.files import write_text
from dmq_cli.store.tensors import save_tensors

TEMPLATES = (
    "a handwritten {}",
    "the digit {}",
    "a photo of the number {}",
    "somebody wrote a {}",
    "the number {}",
    "a drawing of the digit {}",
    "a small picture of a {}",
    "{} written by hand",
    "a white {} on black",
    "{}",
)
TOKENS = 16
_START, _END = "<|startoftext|>", "<|endoftext|>"


def prompts(digit: int) -> list[str]:
    """All prompts for a digit: every template with its word and with its numeral."""
    return [template.format(name) for template in TEMPLATES for name in (DIGITS[digit], str(digit))]


def write_prompts(file: Path) -> None:
    """Write 50 prompts, one a line: line i, counted from 0, asks for digit i % 10; words and numerals take turns."""
    rows = enumerate(TEMPLATES[:5])
    lines = [template.format((DIGITS[d], str(d))[(row + d) % 2]) for row, template in rows for d in range(10)]
    write_text(file, "\n".join(lines) + "\n")


def write_tokenizer(folder: Path) -> None:
    """Write CLIP's byte-level BPE with merges that make one token of every word in the prompts."""
    words = sorted({word for digit in range(10) for prompt in prompts(digit) for word in prompt.split()})
    merges = _merges(words)
    alphabet = _byte_characters()
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(pair) for pair in merges), _START, _END]
    folder.mkdir(parents=True)
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True}
    write_json(
        folder / "tokenizer_config.json", {**settings, **special, "add_prefix_space": False, "errors": "replace"}
    )


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Pairs in BPE's order that join the characters of each word from the left."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for pair in merges:
            _join(parts, pair)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            merges[pair] = None
            _join(parts, pair)
    return list(merges)


def _join(parts: list[str], pair: tuple[str, str]) -> None:
    """Replace every occurrence of the pair in `parts` by one part."""
    index = 0
    while index < len(parts) - 1:
        if (parts[index], parts[index + 1]) == pair:
            parts[index : index + 2] = ["".join(pair)]
        index += 1


def _byte_characters() -> list[str]:
    """The 256 printable characters that stand for the bytes in GPT-2's and CLIP's tokenizers, printable bytes first."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(shown)
    return [chr(code) for code in [*shown, *range(256, 256 + hidden)]]


def token_table(folder: Path) -> Tensor:
    """The tokens of every prompt, (11, P, 16) int64: rows 0..9 of the digits, row 10 of the empty prompt P times."""
    tokenizer = require_transformers().CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [prompts(digit) for digit in range(10)]
    texts.append([""] * len(texts[0]))
    rows = [tokenizer(row, padding="max_length", truncation=True, max_length=TOKENS)["input_ids"] for row in texts]
    return torch.tensor(rows)


def text_encoder(tokenizer: Path) -> Any:
    """A CLIPTextModel with random numbers for the tokenizer in that folder: 2 layers of 64 channels."""
    package, vocabulary = require_transformers(), read_json(tokenizer / "vocab.json")
    config = package.CLIPTextConfig(
        architectures=["CLIPTextModel"],
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary[_START],
        eos_token_id=vocabulary[_END],
        pad_token_id=vocabulary[_END],
    )
    return package.CLIPTextModel(config)


def write_encoder(folder: Path, model: Any) -> None:
    """Write a CLIPTextModel into `folder`, its tensors named as in the published ones, in float32."""
    model.config.save_pretrained(folder)
    save_tensors(folder / "model.safetensors", published_names(model.state_dict()), {"format": "pt"})
