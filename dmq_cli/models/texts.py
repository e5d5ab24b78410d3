"""Prompts and the text encoder that turns them into the condition of a network: CLIP's, through transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.paths import resolve


def read_prompts(path: str, asked: str = "cond.prompts") -> list[str]:
    """The lines of a text file that are not blank. asked: which setting names the file, for errors.

    Raises ConfigError for no file, no lines, or another encoding than UTF-8.
    """
    file = resolve(path)
    if not file.is_file():
        raise ConfigError(f"{asked}={path} should be a file with one prompt a line, but {file} is no file.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{asked}={path} is not UTF-8 (byte {error.start}); save the file with that encoding."
        ) from error
    if not any(lines):
        raise ConfigError(f"{asked}={path} holds no prompt; write one a line.")
    return [line for line in lines if line]


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
