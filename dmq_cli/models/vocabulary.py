"""The files of a CLIP tokenizer's folder: what transformers would read of them, and whether they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.errors import ModelError
from dmq_cli.models.files import read_json

_WORDS, _MERGES, _WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
_KINDS = (None, "CLIPTokenizer", "CLIPTokenizerFast")
# Entries of tokenizer_config.json by which transformers would read other files or take other words than those of the folder.
_ELSEWHERE = ("vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files", "init_inputs")


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError unless the folder holds one vocabulary of a CLIP tokenizer, in files of its own.

    transformers reads tokenizer.json where there is one and vocab.json with merges.txt where not, older versions the other way
    round; where both are there they must say the same.
    """
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if (kind := settings.get("tokenizer_class")) not in _KINDS:
        raise ModelError(f"The tokenizer in {folder} is a {kind}; dmq reads texts with {_KINDS[1]}.")
    if elsewhere := [name for name in _ELSEWHERE if settings.get(name)]:
        raise ModelError(
            f"The file {folder / 'tokenizer_config.json'} has {elsewhere[0]}, which would read the vocabulary from elsewhere; remove"
            " that entry and keep the vocabulary in the folder."
        )
    pair, whole = all((folder / name).is_file() for name in (_WORDS, _MERGES)), (folder / _WHOLE).is_file()
    if not pair and not whole:
        raise ModelError(
            f"The tokenizer in {folder} has neither {_WHOLE} nor {_WORDS} with {_MERGES}; copy the folder again."
        )
    if pair and whole and _of_pair(folder) != _of_whole(folder):
        raise ModelError(
            f"The tokenizer in {folder} has two vocabularies, {_WHOLE} and {_WORDS} with {_MERGES}, which differ; remove the one that"
            " the text encoder was not trained with."
        )


def _of_pair(folder: Path) -> tuple[dict[str, Any], list[str]]:
    lines = (folder / _MERGES).read_text(encoding="utf-8").split("\n")
    return read_json(folder / _WORDS), [line for line in lines if line and not line.startswith("#version")]


def _of_whole(folder: Path) -> tuple[dict[str, Any], list[str]]:
    model = read_json(folder / _WHOLE).get("model")
    words, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(words, dict) or not isinstance(merges, list):
        raise ModelError(f"The file {folder / _WHOLE} holds no vocabulary with merges; copy the folder again.")
    return words, [" ".join(merge) if isinstance(merge, list) else str(merge) for merge in merges]
