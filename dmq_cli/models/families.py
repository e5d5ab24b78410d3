"""The families of networks that dmq knows: one record for each, and `register` for those of other packages.

A family is added by its record here (or by `register`) and the file of its adapter; everything else asks the record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import DiTTransformer2DModel, Transformer2DModel, UNet2DConditionModel, UNet2DModel

from dmq_cli.errors import ConfigError
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.dit import DiTAdapter
from dmq_cli.models.heads import HeadsUNet2DModel
from dmq_cli.models.role_patterns import REGISTERED, Patterns
from dmq_cli.models.schedule import PREDICTIONS, PROCESSES
from dmq_cli.models.structure import Blocks, NamedParts
from dmq_cli.models.unet import UNetAdapter

_DIT_CLASSES = 1000  # of diffusers' class, where config.json does not say


@dataclass(frozen=True)
class Told:
    """The condition that a network reads besides samples and timesteps.

    kind: "none"; "labels", class numbers that the network embeds itself; "tokens", of a class embedding beside the network;
    "prompts", texts; "missing": the network reads a condition, but no part of its folder makes one. classes: how many labels
    there are; has_none: whether the number after the last means "no class".
    """

    kind: Literal["none", "labels", "tokens", "prompts", "missing"] = "none"
    classes: int = 0
    has_none: bool = False


@dataclass(frozen=True)
class Former:
    """An older class that published folders of a family name. entries: those of config.json that identify it."""

    kind: Any
    entries: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """All that dmq decides by the family of a network.

    kind: its class, of diffusers or with diffusers' from_config; config.json names it. adapter: names its parts and calls it.
    told: from config.json and the names of the folders beside the network, the condition it reads. predictions: what its networks may
    predict (prediction_type of their scheduler); process: what they are trained by, a key of schedule.PROCESSES.
    """

    kind: Any
    adapter: type[NamedParts]
    told: Callable[[Mapping[str, Any], Collection[str]], Told] = lambda config, folders: Told()
    predictions: tuple[str, ...] = PREDICTIONS
    process: str = "ddpm"
    former: Former | None = None

    @property
    def name(self) -> str:
        """Name of the class."""
        return str(self.kind.__name__)

    @property
    def patterns(self) -> Patterns:
        """Roles of layers by their module path."""
        return self.adapter.patterns

    @property
    def parts(self) -> Mapping[str, str]:
        """Parts of the network by the first name of a module path."""
        return self.adapter.parts

    @property
    def blocks(self) -> Blocks:
        """Classes of what is reconstructed as one piece."""
        return self.adapter.blocks

    def describes(self, config: Mapping[str, Any]) -> bool:
        """Whether config.json is that of a network of this family."""
        if config.get("_class_name") == self.name:
            return True
        old = self.former
        if old is None or config.get("_class_name") != old.kind.__name__:
            return False
        return all(config.get(key) == value for key, value in old.entries.items())


def _labels(config: Mapping[str, Any], _: Collection[str]) -> Told:
    """A UNet's own classes."""
    classes = config.get("num_class_embeds")
    return Told("labels", int(classes)) if classes else Told()


def _labels_and_none(config: Mapping[str, Any], _: Collection[str]) -> Told:
    """A DiT's classes."""
    return Told("labels", int(config.get("num_embeds_ada_norm", _DIT_CLASSES)), has_none=True)


def _read_by_attention(_: Mapping[str, Any], folders: Collection[str]) -> Told:
    """The token of a class, or a text."""
    if "class_embedding" in folders:
        return Told("tokens")
    return Told("prompts") if "text_encoder" in folders else Told("missing")


OWN = (
    Family(UNet2DModel, UNetAdapter, _labels),
    Family(HeadsUNet2DModel, UNetAdapter, _labels),
    Family(UNet2DConditionModel, CondUNetAdapter, _read_by_attention),
    Family(
        DiTTransformer2DModel, DiTAdapter, _labels_and_none,
        former=Former(Transformer2DModel, {"norm_type": "ada_norm_zero"}),
    ),
)  # fmt: skip
"""The families that dmq brings."""

_registered: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, in this process; a second one of the same class name takes the place of the first.

    Raises ConfigError for the name of one of dmq's own families, and for a process or a prediction that dmq does not know.
    """
    if family.name in {builtin.name for builtin in OWN}:
        raise ConfigError(
            f"A family of the class {family.name} was registered, but dmq has one itself; give the class another name."
        )
    if family.process not in PROCESSES:
        raise ConfigError(
            f"The family {family.name} was registered with the process {family.process}, which dmq does not sample; use"
            f" {' or '.join(PROCESSES)}."
        )
    if unknown := [prediction for prediction in family.predictions if prediction not in PREDICTIONS]:
        raise ConfigError(
            f"The family {family.name} was registered with the prediction {unknown[0]}, which dmq does not know; use"
            f" {', '.join(PREDICTIONS)}."
        )
    _registered[family.name] = family
    REGISTERED[family.name] = family.patterns, family.parts


def unregister(name: str) -> None:
    """Remove a registered family; does nothing for an unknown name."""
    _registered.pop(name, None)
    REGISTERED.pop(name, None)


def families() -> tuple[Family, ...]:
    """All families: dmq's own, then those that were registered."""
    return (*OWN, *_registered.values())


def names() -> str:
    """The names of all families, for a sentence."""
    return ", ".join(family.name for family in families())


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family that a config.json is of; None for one that dmq does not know."""
    return next((family for family in families() if family.describes(config)), None)


def family_of_class(kind: type) -> Family | None:
    """The family of the networks of a class; None for one that dmq does not know."""
    return next((family for family in families() if family.kind is kind), None)


def current_name(name: str) -> str:
    """Replace a former class name, as published folders may have it, by today's."""
    former = {old.kind.__name__: family.name for family, old in _formers()}
    return former.get(name, name)


def _formers() -> Iterator[tuple[Family, Former]]:
    return ((family, family.former) for family in families() if family.former is not None)
