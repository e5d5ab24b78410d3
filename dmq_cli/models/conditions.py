"""The condition of each image, a class or a text, as a function of the image's seed.

Text encoders and class embeddings stay in full precision: they run before the network, once for each condition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models.configs import component_config
from dmq_cli.models.families import Told, family_of
from dmq_cli.models.files import sha256_of
from dmq_cli.models.load import check_shapes
from dmq_cli.models.parts import network_config
from dmq_cli.models.texts import read_prompts, require_encoder, say_cut, text_encoder
from dmq_cli.models.weights import read_weights, weight_shapes
from dmq_cli.store.hashing import digest
from dmq_cli.store.tensors import check_finite

_LABELS, _TOKENS = "class_labels", "encoder_hidden_states"
_TABLE = "embedding.weight"  # of a class embedding
_GOLDEN = (math.sqrt(5) - 1) / 2


class Conditions(Protocol):
    """The conditions of a model."""

    def of(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Build the condition of the images of these seeds: tensors by name, one row per seed."""
        ...

    def none(self) -> dict[str, Tensor]:
        """Build the unconditional input, one row. Raises ModelError for a model that was not trained with one."""
        ...

    def subjects(self, seeds: Sequence[int]) -> list[str]:
        """Name each image's condition, a class number or a prompt, for people and for measuring agreement."""
        ...


class Classes:
    """Class numbers, as the network's own labels or as tokens of an embedding.

    classes: those to draw. Each seed has a fixed class: len(classes) consecutive seeds have every class once, and shorter
    runs are spread evenly over them. none: the class number that means "no class", if the model has one.
    """

    def __init__(self, classes: Sequence[int], none: int | None, embedding: nn.Module | None = None) -> None:
        self.classes, self._none, self.embedding = list(classes), none, embedding
        self._stride = _coprime(len(self.classes))

    def of(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """See Conditions."""
        return self._tensors([self._class(seed) for seed in seeds])

    def none(self) -> dict[str, Tensor]:
        """See Conditions."""
        if self._none is None:
            raise ModelError(
                "Guidance needs a class that stands for none, but this model was trained without one; use cond.guidance=null."
            )
        return self._tensors([self._none])

    def subjects(self, seeds: Sequence[int]) -> list[str]:
        """See Conditions."""
        return [str(self._class(seed)) for seed in seeds]

    @property
    def has_none(self) -> bool:
        """Whether the model has a class that stands for none."""
        return self._none is not None

    def table(self) -> dict[str, Tensor]:
        """The conditions of its classes, a row for each, and of none as the last one."""
        return self._tensors([*self.classes, *([] if self._none is None else [self._none])])

    def _class(self, seed: int) -> int:
        return self.classes[seed * self._stride % len(self.classes)]

    @torch.no_grad()
    def _tensors(self, classes: list[int]) -> dict[str, Tensor]:
        labels = torch.tensor(classes)
        return {_LABELS: labels} if self.embedding is None else {_TOKENS: self.embedding(labels)}


class Prompts:
    """Texts: image i gets line i of the prompts, from the start again after the last one. encode: text to (N, D)."""

    def __init__(self, prompts: Sequence[str], encode: Callable[[str], Tensor]) -> None:
        self.prompts = list(prompts)
        self._encoded = functools.lru_cache(maxsize=1024)(encode)

    def of(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """See Conditions."""
        return {_TOKENS: torch.stack([self._encoded(prompt) for prompt in self.subjects(seeds)])}

    def none(self) -> dict[str, Tensor]:
        """The empty text."""
        return {_TOKENS: self._encoded("")[None]}

    def subjects(self, seeds: Sequence[int]) -> list[str]:
        """See Conditions."""
        return [self.prompts[seed % len(self.prompts)] for seed in seeds]


class ClassEmbedding(nn.Module):
    """LDM's ClassEmbedder: classes (B,) to one context token each, (B, 1, embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)

    def forward(self, classes: Tensor) -> Tensor:
        """Tokens (B, 1, embedding_dim) of classes (B,)."""
        tokens: Tensor = self.embedding(classes)[:, None]
        return tokens


def load_conditions(path: Path, classes: Sequence[int] | None, prompts: str | None) -> Conditions | None:
    """Load the conditions of the model in a diffusers folder; None for an unconditional one.

    classes: those to draw (None: all); prompts: a text file, one prompt per line. Raises ConfigError for settings that do
    not fit the model, ModelError for a folder without the text encoder or class embedding that its network needs.
    """
    inputs = told_at(path)
    kind = inputs.kind
    if prompts is not None and kind != "prompts":
        raise ConfigError(
            f"cond.prompts={prompts} was given, but the model in {path} reads no texts; leave cond.prompts at null."
        )
    if classes is not None and kind in ("none", "prompts"):
        raise ConfigError(
            f"cond.classes={list(classes)} was given, but the model in {path} has no classes; leave it at null."
        )
    if kind == "tokens":
        embedding = _class_embedding(path)
        return classes_of(classes, embedding.embedding.num_embeddings - 1, embedding)
    if kind == "labels":
        return labels_of(classes, inputs)
    return _texts(path, prompts) if kind == "prompts" else None


def classes_of(classes: Sequence[int] | None, total: int, embedding: Any = None) -> Classes:
    """The conditions of a model of `total` classes, whose next number stands for none. Raises ConfigError for other classes."""
    return Classes(_chosen(classes, total), total, embedding)


def labels_of(classes: Sequence[int] | None, inputs: Told) -> Classes:
    """The conditions of a network that has classes of its own. Raises ConfigError for other classes."""
    return Classes(_chosen(classes, inputs.classes), inputs.classes if inputs.has_none else None)


def told_at(path: Path) -> Told:
    """Describe the condition that the network at `path` reads, by its family. Raises ModelError if no part of the folder makes it."""
    config = network_config(path)
    family = family_of(config)
    inputs = family.told(config, [part.name for part in path.iterdir() if part.is_dir()]) if family else Told()
    if inputs.kind == "missing":
        raise ModelError(
            f"The network in {path} reads a condition, but the folder has neither text_encoder/ nor class_embedding/; copy the whole"
            " pipeline, or import the original checkpoint."
        )
    return inputs


def _chosen(classes: Sequence[int] | None, total: int) -> list[int]:
    chosen = list(range(total)) if classes is None else list(classes)
    wrong = [number for number in chosen if not 0 <= number < total]
    if wrong or not chosen:
        problem = f"class {wrong[0]} is none of them" if wrong else "the list is empty"
        raise ConfigError(
            f"cond.classes={chosen} asks for classes of a model that has {total}, but {problem}; use 0 to {total - 1}."
        )
    return chosen


def _coprime(count: int) -> int:
    """Find a stride near `count` / golden ratio that is coprime to it: it visits all places, and spreads short runs evenly."""
    start = max(1, round(_GOLDEN * count))
    return next(stride for stride in range(start, start + count + 1) if math.gcd(stride, count) == 1)


def _class_embedding(path: Path) -> ClassEmbedding:
    folder = path / "class_embedding"
    shapes, sizes = weight_shapes(folder), embedding_sizes(folder)
    check_shapes(f"The class embedding in {folder}", {_TABLE: sizes}, shapes)
    embedding = ClassEmbedding(*sizes)
    for tensors in read_weights(folder):
        embedding.load_state_dict(tensors)
    check_finite(dict(embedding.state_dict()), f"The class embedding in {folder}")
    return embedding.eval().requires_grad_(False)


def embedding_sizes(folder: Path) -> tuple[int, int]:
    """Read the number of classes, including "no class", and the width of a class embedding. Raises ModelError."""
    config = component_config(folder)
    count, width = config.get("num_embeddings"), config.get("embedding_dim")
    if type(count) is not int or type(width) is not int or count < 2 or width < 1:
        raise ModelError(
            f"The class embedding in {folder} has num_embeddings={count!r} and embedding_dim={width!r} in its config.json; import it"
            " again."
        )
    return count, width


def required_prompts(prompts: str | None, what: object) -> list[str]:
    """The lines of the file, see read_prompts. what: the model, for the ConfigError if there is no file."""
    if prompts is None:
        raise ConfigError(
            f"The model {what} draws what a text says, but no texts were given; write cond.prompts=FILE, one prompt a line."
        )
    return read_prompts(prompts)


def _texts(path: Path, prompts: str | None) -> Prompts:
    lines = required_prompts(prompts, f"in {path}")
    require_encoder(path)
    say_cut(path, lines, f"cond.prompts={prompts}")
    load = functools.cache(text_encoder)  # when the first text is read: checking a command should not take that long
    return Prompts(lines, lambda text: load(path)(text))


def conditions_sha256(path: Path) -> str | None:
    """Hash the text encoder or class embedding; None for a model without one."""
    parts = [path / name for name in ("tokenizer", "text_encoder", "class_embedding")]
    files = sorted(file for part in parts for file in part.rglob("*") if file.is_file())
    return digest([[str(file.relative_to(path)), sha256_of(file)] for file in files]) if files else None
