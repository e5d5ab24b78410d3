"""What a number in a table means: extractor, reference, rounding, counts and the constants of each metric."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError, nearest
from dmq_cli.store.digest import digest

EXTRACTORS = {"digits_cnn": "dmq-digits-cnn", "inception-v3-compat": "dmq-inception"}
"""The extractors a protocol can name, and the names under which torch-fidelity finds them."""

RESULTS = {
    "fd": ("fd",),
    "is": ("is", "is_std"),
    "kid": ("kid", "kid_std"),
    "prc": ("precision", "recall"),
    "agreement": ("agreement",),
    "sfid": ("sfid",),
    "fd_dinov2": ("fd_dinov2",),
    "clip_score": ("clip_score",),
}
"""The metrics a protocol can ask for, and the keys each one adds to the result."""

FOLDERS = {"fd_dinov2": "dinov2", "clip_score": "clip"}
"""Metrics that need a network besides the extractor, and which: a folder that the protocol names."""

_ROUNDINGS = ("edm", "round", "trunc")
_INCEPTION_ONLY = {"is", "kid", "inceptionscore"}
_WEIGHTS = ("dinov2", "clip", "lpips")


@dataclass(frozen=True)
class Protocol:
    """A recipe for numbers. Two rows of a table are comparable if and only if their protocols have the same
    hash.

    name: of the configuration. extractor: a key of EXTRACTORS. extractor_path: its weights, a path or
    `package:` and a path inside dmq_cli. extractor_sha256: what these weights must hash to, or None.
    reference: name of the reference set; reference_path: where it lies, or None where the name says it.
    to_uint8: see `to_uint8`. num_images: how many images are measured, exactly. splits: of the inception
    score. kid_subset_size: images per KID subset, kid_subsets of them. prc_neighbourhood: k of the
    precision and recall balls. metrics: keys of RESULTS. columns: result key -> heading in tables.
    rng_seed: of the shuffle before the splits and of the KID subsets. resize: the side that larger images
    are averaged down to for the extractor, None: as they are. reference_sha256: what the reference must hash to,
    or None. prc_images: precision and recall compare with that many images of the reference, the first ones; None: with
    all. dinov2_path, clip_path: folders of transformers' Dinov2Model and CLIPModel, for the metrics fd_dinov2 and
    clip_score. lpips_path: torchvision's AlexNet weights; with them, evaluation adds LPIPS. weights_sha256: what the
    weights of `dinov2`, `clip` and `lpips` must hash to. tabulated: whether its numbers may enter a table.

    Raises ConfigError for values that cannot be and for a column that claims Inception's name for another
    extractor.
    """

    name: str
    extractor: str
    extractor_path: str
    extractor_sha256: str | None
    reference: str
    reference_path: str | None
    to_uint8: str
    num_images: int
    splits: int = 10
    kid_subset_size: int = 1000
    prc_neighbourhood: int = 3
    metrics: tuple[str, ...] = ("fd", "is", "kid", "prc")
    columns: Mapping[str, str] = field(default_factory=dict)
    kid_subsets: int = 100
    rng_seed: int = 2020
    resize: int | None = None
    reference_sha256: str | None = None
    prc_images: int | None = None
    dinov2_path: str | None = None
    clip_path: str | None = None
    lpips_path: str | None = None
    weights_sha256: Mapping[str, str | None] = field(default_factory=dict)
    tabulated: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", tuple(self.metrics))
        object.__setattr__(self, "columns", dict(self.columns))
        object.__setattr__(self, "weights_sha256", dict(self.weights_sha256))
        _known("extractor", self.extractor, EXTRACTORS)
        _known("to_uint8", self.to_uint8, _ROUNDINGS)
        if "fid" in self.metrics:
            raise ConfigError(
                f"Protocol {self.name} asks for metric 'fid', which is called fd: an FID is the fd of inception-v3-compat; write fd."
            )
        for metric in self.metrics:
            _known("metric", metric, RESULTS)
        if self.extractor != "digits_cnn" and ("agreement" in self.metrics or self.resize is not None):
            raise ConfigError(
                f"Protocol {self.name} asks for agreement or resize, which only digits_cnn has; leave both out."
            )
        if self.extractor != "inception-v3-compat" and "sfid" in self.metrics:
            raise ConfigError(
                f"Protocol {self.name} asks for sfid, which only inception-v3-compat has; leave it out of protocol.metrics."
            )
        for name in self.weights_sha256:
            _known("weights_sha256 of", name, _WEIGHTS)
        self._check_counts()
        for key, column in self.columns.items():
            self._check_column(key, column)

    def folders(self) -> dict[str, str | None]:
        """Where the networks lie whose features its metrics need besides the extractor's, by `dinov2` and `clip`."""
        paths = {"dinov2": self.dinov2_path, "clip": self.clip_path}
        return {name: paths[name] for metric, name in FOLDERS.items() if metric in self.metrics}

    def record(
        self, reference_sha256: str, extractor_sha256: str, further: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The protocol as it enters metrics.json: its labels, everything that defines its numbers, and
        their `hash`.

        Files are known by their sha256 and not by where they lie, so moving one changes nothing. further: sha256 of
        other weights, as `further_sha256` finds them. `tabulated` is there where it is false.
        """
        labels = {"name": self.name, "reference": self.reference, "columns": dict(self.columns)}
        numbers = self._numbers(reference_sha256, extractor_sha256, further)
        mark = {} if self.tabulated else {"tabulated": False}
        return {**labels, **numbers, "hash": digest(numbers, length=16), **mark}

    def hash(self, reference_sha256: str, extractor_sha256: str, further: Mapping[str, str] | None = None) -> str:
        """16 hexadecimal digits that change with everything that can change a number, and with nothing
        else.
        """
        return digest(self._numbers(reference_sha256, extractor_sha256, further), length=16)

    def _numbers(
        self, reference_sha256: str, extractor_sha256: str, further: Mapping[str, str] | None
    ) -> dict[str, Any]:
        # What came later enters only where it is used: protocols from before keep their hash.
        later = {"resize": self.resize, "prc_images": self.prc_images, "weights_sha256": dict(further or {}) or None}
        return {
            "extractor": self.extractor,
            "extractor_sha256": extractor_sha256,
            "reference_sha256": reference_sha256,
            "to_uint8": self.to_uint8,
            "num_images": self.num_images,
            "splits": self.splits,
            "kid_subset_size": self.kid_subset_size,
            "kid_subsets": self.kid_subsets,
            "prc_neighbourhood": self.prc_neighbourhood,
            "metrics": list(self.metrics),
            "rng_seed": self.rng_seed,
            "torch_fidelity": importlib.metadata.version("torch-fidelity"),
            **{name: value for name, value in later.items() if value is not None},
        }

    def _check_counts(self) -> None:
        least = {
            "num_images": 2,
            "splits": 1,
            "kid_subset_size": 2,
            "kid_subsets": 1,
            "prc_neighbourhood": 1,
            "rng_seed": 0,
            "resize": 1,
            "prc_images": self.prc_neighbourhood + 1,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"Protocol {self.name} asks for {name}={value}; give at least {minimum}.")
        for metric, name, spare in (
            ("is", "splits", 0),
            ("kid", "kid_subset_size", 0),
            ("prc", "prc_neighbourhood", 1),
        ):
            if metric in self.metrics and getattr(self, name) + spare > self.num_images:
                raise ConfigError(
                    f"Protocol {self.name} asks for {name}={getattr(self, name)} with "
                    f"num_images={self.num_images}; give at most {self.num_images - spare}."
                )

    def _check_column(self, key: str, column: str) -> None:
        _known("result", key, [key for keys in RESULTS.values() for key in keys])
        letters = re.sub(r"[^a-z]", "", column.lower())
        claims_fid = "fid" in letters or "frechetinception" in letters
        claims_inception = claims_fid or letters in _INCEPTION_ONLY
        if claims_inception and self.extractor != "inception-v3-compat":
            raise ConfigError(
                f"Protocol {self.name} names a column '{column}', but its extractor is {self.extractor}; "
                f"only numbers of inception-v3-compat have that name, so call it '{key.upper()}-digits'."
            )
        if claims_fid and key != ("sfid" if letters.startswith("sfid") else "fd"):
            raise ConfigError(
                f"Protocol {self.name} names the column of {key} '{column}'; only fd can be an FID, and only sfid an sFID."
            )


def to_uint8(images: Tensor, how: str) -> Tensor:
    """Images in [-1, 1], any floating type and shape, to uint8 of the same shape; values outside are
    clamped.

    `edm`: 127.5 x + 128, truncated (NVlabs/edm generate.py, DiT). `round`: 127.5 (x + 1) to the nearest,
    halves to the even one. `trunc`: 127.5 (x + 1), truncated (openai/guided-diffusion). Computed in
    float32, as there. Raises NumericsError for NaN and infinity, ConfigError for another `how`.
    """
    _known("to_uint8", how, _ROUNDINGS)
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise NumericsError(
            "Images to evaluate must be finite, but some pixels are NaN or infinite; look at the sampler."
        )
    scaled = images * 127.5 + 128 if how == "edm" else (images + 1) * 127.5
    if how == "round":
        scaled = scaled.round()
    return scaled.clamp(0, 255).to(torch.uint8)


def _known(what: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f"A protocol asks for {what} '{value}', which does not exist.{nearest(value, known)}")
