"""Protocols define the numbers in a table: extractor, reference, rounding, counts and the metrics with their constants."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError, nearest
from dmq_cli.metrics.flat import flat
from dmq_cli.metrics.metric import Metric, SetMetric, check_least
from dmq_cli.metrics.shown import results
from dmq_cli.store.hashing import digest

EXTRACTORS = {"digits_cnn": "dmq-digits-cnn", "fashion_cnn": "dmq-fashion-cnn", "inception-v3-compat": "dmq-inception"}
"""The extractors a protocol can name, and the names under which torch-fidelity finds them."""

SIDES = {"digits_cnn": (16, 16), "fashion_cnn": (32, 32)}
"""Height and width of the grey images that an embedded extractor reads, pixels."""

SPATIAL = "spatial"
"""The layer of Inception that sFID reads, see inception.py."""

_ROUNDINGS = ("edm", "round", "trunc")
_INCEPTION_ONLY = {"is", "kid", "inceptionscore"}
_WEIGHTS = ("dinov2", "clip", "lpips")


@dataclass(frozen=True)
class Protocol:
    """A recipe for measuring. Two rows of a table are comparable if and only if their protocols have the same hash.

    name: of the configuration. extractor: a key of EXTRACTORS, None for no features. extractor_path: its weights, a path or
    `package:` and a path inside dmq_cli. extractor_sha256: what these weights must hash to, or None.
    reference: name of the reference set, None for no real images; reference_path: where it lies, or None where the name says it.
    to_uint8: see `to_uint8`. num_images: how many images are measured, exactly. metrics: name -> Metric, None for one
    that was taken away. columns: result key -> heading in tables. rng_seed: of what metrics draw: the shuffle before the
    splits of IS, the subsets of KID, the parts of FD-inf. resize: the side that larger images are averaged down to for the
    extractor, None: as they are. reference_sha256: what the reference must hash to, or None. dinov2_path, clip_path:
    folders of transformers' Dinov2Model and CLIPModel, for the metrics that read them. lpips_path: torchvision's AlexNet
    weights; with them, evaluation adds LPIPS. weights_sha256: what the weights of `dinov2`, `clip` and `lpips` must hash
    to. tabulated: whether its numbers may enter a table. seeds: what `seeds` is where nobody gives others; part of no number.

    Raises ConfigError for impossible values and for a column that claims Inception's name for another extractor.
    """

    name: str
    extractor: str | None
    extractor_path: str | None
    extractor_sha256: str | None
    reference: str | None
    reference_path: str | None
    to_uint8: str
    num_images: int
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    rng_seed: int = 2020
    resize: int | None = None
    reference_sha256: str | None = None
    dinov2_path: str | None = None
    clip_path: str | None = None
    lpips_path: str | None = None
    weights_sha256: Mapping[str, str | None] = field(default_factory=dict)
    tabulated: bool = True
    seeds: str | list[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", _by_name(self.name, self.metrics))
        object.__setattr__(self, "columns", dict(self.columns))
        object.__setattr__(self, "weights_sha256", dict(self.weights_sha256))
        if self.extractor is not None:
            _require_known("extractor", self.extractor, EXTRACTORS)
        _require_known("to_uint8", self.to_uint8, _ROUNDINGS)
        if self.extractor not in SIDES and self.resize is not None:
            raise ConfigError(
                f"Protocol {self.name} asks for resize, which only {' and '.join(SIDES)} have; leave it out."
            )
        for name in self.weights_sha256:
            _require_known("weights_sha256 of", name, _WEIGHTS)
        for key, least in (("num_images", 2), ("rng_seed", 0), ("resize", 1)):
            check_least(self, key, getattr(self, key), least)
        for metric in self.metrics.values():
            metric.check(self)
        for key, column in self.columns.items():
            self._check_column(key, column)

    def folders(self) -> dict[str, str | None]:
        """The folders of the networks that its metrics need besides the extractor, by `dinov2` and `clip`."""
        paths = {"dinov2": self.dinov2_path, "clip": self.clip_path}
        used = {metric.weights for metric in self.metrics.values()}
        return {name: path for name, path in paths.items() if name in used}

    def layers(self, with_subjects: bool = True) -> set[str]:
        """The layers that `extract` computes for it: those its metrics read, and always an extractor's own two.

        with_subjects: whether the class or prompt of each image is known; without these some metrics are left out.
        """
        read = (metric.layers for metric in self.metrics.values() if with_subjects or not metric.asks)
        always = {"features", "logits"} if self.extractor is not None else set()
        return always.union(*read)

    def record(
        self, reference_sha256: str | None, extractor_sha256: str | None, further: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Record the protocol for metrics.json: its labels, everything that defines its numbers, and their `hash`.

        Files are identified by their sha256 and not by their path, so moving one changes nothing. further: of `further_sha256`.
        `tabulated` is there only where it is false, and entries of the reference and the extractor only where these exist.
        """
        reference = {} if self.reference is None else {"reference": self.reference}
        labels = {"name": self.name, **reference, "columns": self._headings()}
        numbers = self._numbers(reference_sha256, extractor_sha256, further)
        mark = {} if self.tabulated else {"tabulated": False}
        return {**labels, **numbers, "hash": digest(numbers, length=16), **mark}

    def hash(
        self, reference_sha256: str | None, extractor_sha256: str | None, further: Mapping[str, str] | None = None
    ) -> str:
        """Hash everything that can change a number, and nothing else, to 16 hexadecimal digits."""
        return digest(self._numbers(reference_sha256, extractor_sha256, further), length=16)

    def _numbers(
        self, reference_sha256: str | None, extractor_sha256: str | None, further: Mapping[str, str] | None
    ) -> dict[str, Any]:
        if self.extractor is None:
            return self._numbers_without_features(reference_sha256, further)
        form = self._flat()
        # Newer settings enter only where they are used, so that older protocols keep their hash.
        later = {"resize": self.resize, "weights_sha256": dict(further or {}) or None}
        later |= {key: form.get(key) for key in ("prc_images", "further")}
        return {
            "extractor": self.extractor,
            "extractor_sha256": extractor_sha256,
            "reference_sha256": reference_sha256,
            "to_uint8": self.to_uint8,
            "num_images": self.num_images,
            **{key: form[key] for key in ("splits", "kid_subset_size", "kid_subsets", "prc_neighbourhood", "metrics")},
            "rng_seed": self.rng_seed,
            "torch_fidelity": importlib.metadata.version("torch-fidelity"),
            **{name: value for name, value in later.items() if value is not None},
        }

    def _numbers_without_features(
        self, reference_sha256: str | None, further: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """As `_numbers`; such protocols are newer than `flat`, so each metric is recorded as it is."""
        numbers = {
            "reference_sha256": reference_sha256,
            "to_uint8": self.to_uint8,
            "num_images": self.num_images,
            "metrics": {name: _section(metric) for name, metric in self.metrics.items()},
            "rng_seed": self.rng_seed,
            "weights_sha256": dict(further or {}) or None,
        }
        return {name: value for name, value in numbers.items() if value is not None}

    def _headings(self) -> dict[str, str]:
        """Headings of `columns`, and the own ones of newer metrics."""
        later = [self.metrics.get(name) for name in self._flat().get("further", {})]
        metric_headings = {
            how.key: how.heading for metric in later if isinstance(metric, SetMetric) for how in metric.results
        }
        return {**self.columns, **{key: heading for key, heading in metric_headings.items() if key not in self.columns}}

    def _flat(self) -> dict[str, Any]:
        return flat({"metrics": {name: _section(metric) for name, metric in self.metrics.items()}})

    def _check_column(self, key: str, column: str) -> None:
        _require_known(
            "result", key, {*results(), *(how.key for metric in self.metrics.values() for how in metric.results)}
        )
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


def _by_name(protocol: str, metrics: Any) -> dict[str, Metric]:
    """Drop metrics that are None. Raises ConfigError for anything that is not a Metric, or has another's name or number."""
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            f"Protocol {protocol} was given metrics={metrics}, but each has a section of its own; {_advice('NAME')}"
        )
    present = {name: metric for name, metric in metrics.items() if metric is not None}
    numbers: dict[str, str] = {}
    for name, metric in present.items():
        if not isinstance(metric, Metric):
            raise ConfigError(
                f"protocol.metrics.{name}={metric} names no class that is a dmq_cli.metrics.Metric; {_advice(name)}"
            )
        if metric.name != name:
            raise ConfigError(
                f"Protocol {protocol} has the metric {metric.name} under the name {name}; write +metric@protocol.metrics.{metric.name}."
            )
        for how in metric.results:
            if (other_metric := numbers.setdefault(how.key, name)) != name:
                raise ConfigError(
                    f"Protocol {protocol} has two metrics that give {how.key}: {other_metric} and {name}; take one away."
                )
    return present


def _advice(name: str) -> str:
    return f"add a metric with +metric@protocol.metrics.{name}={name}, take one away with protocol.metrics.{name}=null."


def _section(metric: Metric) -> dict[str, Any]:
    """The configuration section of a metric."""
    return {"_target_": f"{type(metric).__module__}.{type(metric).__qualname__}", **vars(metric)}


def to_uint8(images: Tensor, how: str) -> Tensor:
    """Convert images in [-1, 1], any floating type and shape, to uint8 of the same shape; values outside are clamped.

    `edm`: 127.5 x + 128, truncated (NVlabs/edm generate.py, DiT). `round`: 127.5 (x + 1) to the nearest,
    halves to the even one. `trunc`: 127.5 (x + 1), truncated (openai/guided-diffusion). Computed in
    float32, as there. Raises NumericsError for NaN and infinity, ConfigError for another `how`.
    """
    _require_known("to_uint8", how, _ROUNDINGS)
    images = images.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise NumericsError(
            "Images to evaluate must be finite, but some pixels are NaN or infinite; look at the sampler."
        )
    scaled = images * 127.5 + 128 if how == "edm" else (images + 1) * 127.5
    if how == "round":
        scaled = scaled.round()
    return scaled.clamp(0, 255).to(torch.uint8)


def _require_known(what: str, value: str, names: Any) -> None:
    if value not in names:
        raise ConfigError(f"A protocol asks for {what} '{value}', which does not exist.{nearest(value, names)}")
