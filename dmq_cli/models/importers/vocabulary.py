"""The vocabulary of CLIP's tokenizer, which no checkpoint of Stable Diffusion holds: two files that the user brings.

How they are used is the same in all of CLIP's published tokenizers and written here, so that no other file is needed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError, MissingWeightsError, ModelError
from dmq_cli.models.files import read_json
from dmq_cli.models.importers.networks import TEXTS
from dmq_cli.models.importers.recipes import Recipe
from dmq_cli.obtain import VOCABULARY
from dmq_cli.store.files import write_json

_FILES = ("vocab.json", "merges.txt")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CONFIG: dict[str, Any] = {
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": _START,
    "eos_token": _END,
    "unk_token": _END,
    "pad_token": _END,
    "do_lower_case": True,
    "errors": "replace",
    "add_prefix_space": False,
}


@dataclass(frozen=True)
class Vocabulary:
    """folder: where vocab.json and merges.txt are; length: of a text, tokens."""

    folder: Path
    length: int


def find_vocabulary(recipe: Recipe, folder: Path | None, what: str) -> Vocabulary | None:
    """The vocabulary in the folder that the user named, checked; None for a model that reads no texts.

    what: the sentence's start. Raises ConfigError for a folder that is not needed, MissingWeightsError where it is needed and
    not there, ModelError for another vocabulary.
    """
    encoder = next((network.config for network in recipe.networks if network.kind == TEXTS), None)
    if encoder is None:
        if folder is not None:
            raise ConfigError(f"{what} was given --tokenizer {folder}, but this model reads no texts; leave it out.")
        return None
    source = _complete(folder, what)
    _check_words(source / "vocab.json", encoder["vocab_size"], what)
    return Vocabulary(source, encoder["max_position_embeddings"])


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """The new folder of a tokenizer as transformers reads it."""
    folder.mkdir()
    for name in _FILES:
        shutil.copyfile(vocabulary.folder / name, folder / name)
    write_json(folder / "tokenizer_config.json", {**_CONFIG, "model_max_length": vocabulary.length})


def _complete(folder: Path | None, what: str) -> Path:
    lacking = [name for name in _FILES if folder is None or not (folder / name).is_file()]
    if folder is not None and not lacking:
        return folder
    problem = "no folder with one was given" if folder is None else f"{folder} has no {lacking[0]}"
    raise MissingWeightsError(
        f"{what} needs the vocabulary of its tokenizer, which is in no checkpoint, and {problem}; download {VOCABULARY} and give"
        " their folder as --tokenizer FOLDER."
    )


def _check_words(file: Path, size: int, what: str) -> None:
    """Words must be numbered 0 to size - 1, and those of the start and the end must be among them."""
    words = read_json(file)
    numbers = [number for number in words.values() if type(number) is int]
    if not {_START, _END} <= set(words) or sorted(numbers) != list(range(size)):
        raise ModelError(
            f"{what} needs a vocabulary of {size} words, but that in {file} has {len(words)} or is not CLIP's; download"
            f" {VOCABULARY}."
        )
