"""The form in which keys of artifacts and records of protocols have always had a protocol.

A metric was a name in a list once, and its options stood beside the list. Keys and hashes are still those of that form, so that
what was measured then is found and compared with what is measured now. A metric that came later has an entry of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# In the order of the list.
_LISTED = {
    "fd": "dmq_cli.metrics.fd.FrechetDistance",
    "sfid": "dmq_cli.metrics.sfid.SpatialFrechetDistance",
    "is": "dmq_cli.metrics.inception_score.InceptionScore",
    "kid": "dmq_cli.metrics.kid.Kid",
    "prc": "dmq_cli.metrics.precision_recall.PrecisionRecall",
    "agreement": "dmq_cli.metrics.agreement.Agreement",
    "fd_dinov2": "dmq_cli.metrics.fd_dinov2.FrechetDistanceDinov2",
    "clip_score": "dmq_cli.metrics.clip_score.ClipScore",
}
# Measured by every protocol, and so named by none.
_ALWAYS = {
    "psnr": "dmq_cli.metrics.psnr.Psnr",
    "ssim": "dmq_cli.metrics.ssim.Ssim",
    "lpips": "dmq_cli.metrics.lpips.Lpips",
}
_OPTIONS: Mapping[str, Mapping[str, tuple[str, Any]]] = {
    "is": {"splits": ("splits", 10)},
    "kid": {"subset_size": ("kid_subset_size", 1000), "subsets": ("kid_subsets", 100)},
    "prc": {"neighbourhood": ("prc_neighbourhood", 3), "images": ("prc_images", None)},
}
"""Of a metric, each option: how it was called, and its value where nobody gave it."""

MOVED = {old: f"metrics.{name}.{option}" for name, options in _OPTIONS.items() for option, (old, _) in options.items()}
"""Keys below `protocol` as they were once, and as they are."""


def flat(section: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's section in that form; one that is in it already stays.

    metrics: names of those that could be in the list; further: {name: its section} of all others, and of those that were always
    measured {name: None} where they are not. Without `seeds`, which say what is sampled and not what a number means.
    """
    section = {key: value for key, value in section.items() if key != "seeds"}
    if not isinstance(section.get("metrics"), Mapping):
        return section
    given = {name: dict(metric) for name, metric in section["metrics"].items() if metric is not None}
    targets = {**_LISTED, **_ALWAYS}
    former = {name for name, metric in given.items() if metric.get("_target_") == targets.get(name)}
    beside = {
        old: given[name].pop(option, default) if name in former else default
        for name, options in _OPTIONS.items()
        for option, (old, default) in options.items()
    }
    if beside["prc_images"] is None and "weights_sha256" not in section:
        del beside["prc_images"]  # fid_torch_fidelity and what rests on it said null, the embedded protocols nothing
    later: dict[str, Any] = {n: metric for n, metric in given.items() if n not in former or set(metric) > {"_target_"}}
    later |= {name: None for name in _ALWAYS if name not in given}
    names = [name for name in _LISTED if name in former]
    return {**section, **beside, "metrics": names, **({"further": later} if later else {})}
