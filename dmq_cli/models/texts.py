"""Prompts and the text encoder that turns them into the condition of a network: CLIP's, through transformers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models.configs import component_config, first_line
from dmq_cli.models.files import class_name, sha256_of
from dmq_cli.models.load import check_shapes
from dmq_cli.models.vocabulary import check_tokenizer
from dmq_cli.models.weights import TEXT_WEIGHTS, read_weights, weight_files, weight_shapes
from dmq_cli.paths import resolve
from dmq_cli.store.tensors import check_finite

_log = logging.getLogger("dmq")
_ENCODER = "CLIPTextModel"
_PREFIX = "text_model."

_NO_TEXT = {"\0": "a NUL", "\r": "a carriage return without a line feed", "\ufeff": "a byte order mark"}


def read_prompts(path: str, source: str = "cond.prompts") -> list[str]:
    """The lines of a text file, without white space around them; line i is that of image i.

    Only a line feed ends a line, with a carriage return before it or not; a byte order mark at the start is none of the text.
    Blank lines may stand at the end. asked: which setting names the file, for errors. Raises ConfigError for no file, no
    lines, a blank line before another, characters that no text has, or another encoding than UTF-8.
    """
    file = resolve(path)
    if not file.is_file():
        raise ConfigError(f"{source}={path} should be a file with one prompt a line, but {file} is no file.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source}={path} is not UTF-8 (byte {error.start}); save the file with that encoding."
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    _check_characters(lines, f"{source}={path}")
    prompts = [line.strip() for line in lines]
    while prompts and not prompts[-1]:
        prompts.pop()
    if not prompts:
        raise ConfigError(f"{source}={path} holds no prompt; write one a line.")
    if "" in prompts:
        raise ConfigError(
            f"{source}={path} should have a prompt on every line, but line {prompts.index('') + 1} is blank, and all below would"
            " belong to other images; write it, or take the line out."
        )
    return prompts


def _check_characters(lines: Sequence[str], source: str) -> None:
    """Refuse characters that show a wrong encoding: NUL (UTF-16 read as UTF-8), a carriage return without a line feed (an old
    end of a line) and a byte order mark inside (files that were joined).
    """
    for number, line in enumerate(lines, start=1):
        for character, name in _NO_TEXT.items():
            if character in line:
                raise ConfigError(
                    f"{source} should be plain text, but line {number} has {name}; save the file as UTF-8 with line feeds."
                )


def text_encoder(path: Path) -> Callable[[str], Tensor]:
    """A function from a text to what the UNet reads of it, (N, D) float32, of the pipeline folder at `path`.

    As diffusers' StableDiffusionPipeline.encode_prompt: padded or cut to the context, the last hidden state, an attention
    mask only for an encoder whose configuration asks for one. Raises ConfigError without the package transformers,
    ModelError for a folder that cannot be read.
    """
    tokenizer, encoder = load_tokenizer(path), _load(path)
    masked = bool(getattr(encoder.config, "use_attention_mask", False))

    @torch.no_grad()
    def encode(text: str) -> Tensor:
        tokens = tokenizer(
            text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        states: Tensor = encoder(tokens.input_ids, attention_mask=tokens.attention_mask if masked else None)[0][0]
        return states.float()

    return encode


def say_cut(path: Path, prompts: Sequence[str], source: str) -> None:
    """Warn, once in a process, of prompts that are longer than the text encoder's context. asked: where they come from."""
    _say_cut(path, sha256_of(path / "text_encoder" / "config.json"), tuple(prompts), source)


@functools.lru_cache(maxsize=32)
def _say_cut(path: Path, _: str, prompts: tuple[str, ...], source: str) -> None:
    tokenizer = load_tokenizer(path)
    counts = [len(tokenizer(text, truncation=False, verbose=False).input_ids) for text in prompts]
    cut = [(count, text) for count, text in zip(counts, prompts, strict=True) if count > tokenizer.model_max_length]
    if cut:
        _log.warning(
            "%d of %d prompts of %s are longer than the %d tokens that the text encoder reads and are cut there; the first has %d:"
            " %.60s", len(cut), len(prompts), source, tokenizer.model_max_length, *cut[0],
        )  # fmt: skip


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a pipeline folder; its model_max_length is at most what the text encoder has positions for."""
    package, folder = require_transformers(), path / "tokenizer"
    check_tokenizer(folder)
    try:
        tokenizer = package.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise many kinds
        raise ModelError(
            f"The tokenizer in {folder} could not be read ({first_line(error)}); copy the folder again."
        ) from error
    positions = component_config(path / "text_encoder").get("max_position_embeddings", 77)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)  # huge where its configuration does not say
    if len(tokenizer) > (words := component_config(path / "text_encoder").get("vocab_size", 49408)):
        raise ModelError(
            f"The tokenizer in {folder} knows {len(tokenizer)} words and the text encoder {words}; use the two that belong together."
        )
    return tokenizer


def require_encoder(path: Path) -> None:
    """Raise ModelError for a pipeline folder without tokenizer or text encoder, or with one of another kind."""
    for part in ("tokenizer", "text_encoder"):
        if not (path / part).is_dir():
            raise ModelError(f"The model in {path} reads texts, but has no {part}/; copy the whole pipeline folder.")
    folder = path / "text_encoder"
    if (kind := class_name(component_config(folder))) not in (_ENCODER, "clip_text_model"):
        raise ModelError(f"The text encoder in {folder} is a {kind}; dmq encodes texts with {_ENCODER}.")
    check_tokenizer(path / "tokenizer")
    weight_files(folder, TEXT_WEIGHTS)


def require_transformers() -> Any:
    """The package. Raises ConfigError without it."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "This model reads texts, which needs the package transformers; install it with: pip install 'dmq-cli[text]'."
        ) from error
    return transformers


def _load(path: Path) -> Any:
    """The text encoder, strictly: exactly the tensors of its files, float32, in eval mode."""
    package, folder = require_transformers(), path / "text_encoder"
    stored, config = weight_shapes(folder, TEXT_WEIGHTS), component_config(folder)
    shapes = _build_encoder(package, folder, config, "meta").state_dict()
    current_names = {
        name.removeprefix(_PREFIX): name for name in shapes
    }  # transformers 5.6 left out the prefix of published files
    names = {name: current_names.get(name.removeprefix(_PREFIX), name) for name in stored}
    expected = {name: tuple(tensor.shape) for name, tensor in shapes.items()}
    check_shapes(f"The text encoder in {folder}", expected, {names[name]: shape for name, shape in stored.items()})
    encoder = _build_encoder(package, folder, config, "cpu")
    for tensors in read_weights(folder, TEXT_WEIGHTS):
        encoder.load_state_dict({names[name]: tensor for name, tensor in tensors.items()}, strict=False)
    check_finite(dict(encoder.state_dict()), f"The text encoder in {folder}")
    return encoder.eval().requires_grad_(False)


def _build_encoder(package: Any, folder: Path, config: Mapping[str, Any], device: str) -> Any:
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):  # building draws numbers, too
            return package.CLIPTextModel(package.CLIPTextConfig.from_dict(dict(config)))
    except Exception as error:  # a stranger's values end in any kind
        raise ModelError(
            f"The file {folder / 'config.json'} describes no text encoder ({first_line(error)}); copy the folder again."
        ) from error
