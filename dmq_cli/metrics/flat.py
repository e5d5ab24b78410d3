"""Convert a protocol to the flat form that keys of artifacts and records of protocols use.

Formerly a metric was a name in a list, with its options beside the list. Keys and hashes are still computed from that form, so that
earlier results are found and can be compared with new ones. A newer metric has an entry of its own.
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
# Measured by every protocol, and so not in the list of any.
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
"""Options of each metric: the former key, and the default."""

MOVED = {old: f"metrics.{name}.{option}" for name, options in _OPTIONS.items() for option, (old, _) in options.items()}
"""Former keys below `protocol`, and those that replaced them."""


def flat(section: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a protocol's section to the flat form; one that has it already is copied.

    metrics: names of those of the former list; further: {name: its section} of all others, and {name: None} for one that was
    always measured and now is not. `seeds` is left out: it says what is sampled and not what a number means.
    """
    section = {key: value for key, value in section.items() if key != "seeds"}
    if not isinstance(section.get("metrics"), Mapping):
        return section
    sections = {name: dict(metric) for name, metric in section["metrics"].items() if metric is not None}
    targets = {**_LISTED, **_ALWAYS}
    former = {name for name, metric in sections.items() if metric.get("_target_") == targets.get(name)}
    beside = {
        old: sections[name].pop(option, default) if name in former else default
        for name, options in _OPTIONS.items()
        for option, (old, default) in options.items()
    }
    if beside["prc_images"] is None and "weights_sha256" not in section:
        del beside[
            "prc_images"
        ]  # formerly null in fid_torch_fidelity and protocols based on it, absent in the embedded ones
    later: dict[str, Any] = {
        n: metric for n, metric in sections.items() if n not in former or set(metric) > {"_target_"}
    }
    later |= {name: None for name in _ALWAYS if name not in sections}
    names = [name for name in _LISTED if name in former]
    return {**section, **beside, "metrics": names, **({"further": later} if later else {})}
