"""Prompts and the text encoder that turns them into the condition of a network: CLIP's, through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.paths import resolve

_NO_TEXT = {"\0": "a NUL", "\r": "a carriage return without a line feed", "\ufeff": "a byte order mark"}


def read_prompts(path: str, asked: str = "cond.prompts") -> list[str]:
    """The lines of a text file, without white space around them; line i is that of image i.

    Only a line feed ends a line, with a carriage return before it or not; a byte order mark at the start is none of the text.
    Blank lines may stand at the end. asked: which setting names the file, for errors. Raises ConfigError for no file, no
    lines, a blank line before another, characters that no text has, or another encoding than UTF-8.
    """
    file = resolve(path)
    if not file.is_file():
        raise ConfigError(f"{asked}={path} should be a file with one prompt a line, but {file} is no file.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{asked}={path} is not UTF-8 (byte {error.start}); save the file with that encoding."
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    _check_characters(lines, f"{asked}={path}")
    prompts = [line.strip() for line in lines]
    while prompts and not prompts[-1]:
        prompts.pop()
    if not prompts:
        raise ConfigError(f"{asked}={path} holds no prompt; write one a line.")
    if "" in prompts:
        raise ConfigError(
            f"{asked}={path} should have a prompt on every line, but line {prompts.index('') + 1} is blank, and all below would"
            " belong to other images; write it, or take the line out."
        )
    return prompts


def _check_characters(lines: Sequence[str], asked: str) -> None:
    """NUL is what UTF-16 looks like as UTF-8, a carriage return alone was the end of a line once, and a byte order mark inside
    is where files were joined.
    """
    for number, line in enumerate(lines, start=1):
        for character, name in _NO_TEXT.items():
            if character in line:
                raise ConfigError(
                    f"{asked} should be plain text, but line {number} has {name}; save the file as UTF-8 with line feeds."
                )


def text_encoder(path: Path) -> Callable[[str], Tensor]:
    """A function from a text to what the UNet reads of it, (N, D) float32, of the pipeline folder at `path`.

    Raises ConfigError without the package transformers, ModelError for a folder that cannot be read.
    """
    tokenizer, encoder = _load(path)

    @torch.no_grad()
    def encode(text: str) -> Tensor:
        tokens = tokenizer(
            text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        found: Tensor = encoder(tokens.input_ids)[0][0]
        return found.float()

    return encode


def require_encoder(path: Path) -> None:
    """Raise ModelError for a pipeline folder without tokenizer or text encoder."""
    for part in ("tokenizer", "text_encoder"):
        if not (path / part).is_dir():
            raise ModelError(f"The model in {path} reads texts, but has no {part}/; copy the whole pipeline folder.")


def require_transformers() -> Any:
    """The package. Raises ConfigError without it."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "This model reads texts, which needs the package transformers; install it with: pip install 'dmq[text]'."
        ) from error
    return transformers


def _load(path: Path) -> tuple[Any, Any]:
    package = require_transformers()
    package.utils.logging.disable_progress_bar()  # it would draw over dmq's own
    try:
        tokenizer = package.CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
        encoder, report = package.CLIPTextModel.from_pretrained(
            path / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers, tokenizers and safetensors raise many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The text encoder in {path} could not be read ({first}); copy the folder again.") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The text encoder in {path} has no values for {len(missing)} of its tensors (first: {missing[0]}); copy the folder again."
        )
    return tokenizer, encoder.eval().requires_grad_(False)
