"""CLIP score (Hessel et al., EMNLP 2021, 2104.08718): how well an image fits its prompt, by CLIP's embeddings.

Without their factor 2.5 and their prefix "A photo depicts": 100 max(cos, 0), as in torchmetrics and in papers on
text-to-image models.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.metrics.interval import mean_interval
from dmq_cli.metrics.metric import UP, Measurement, Sample, SetMetric, Shown
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference


@dataclass(frozen=True)
class ClipScore(SetMetric):
    """clip_score in [0, 100], the mean over images, with the folder that protocol.clip_path names."""

    name = "clip_score"
    results = (Shown("clip_score", "CLIP score", UP),)
    layers = ("clip", "clip_text")
    weights = "clip"
    asks = True

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Reads the images alone; no number for images without prompts."""
        if images.asked is None:
            return Measurement()
        cosines = (images.features["clip"] * images.features["clip_text"]).sum(1)
        scores = 100 * cosines.clamp(min=0)
        return Measurement({"clip_score": float(scores.double().mean())}, {"clip_score": mean_interval(scores)})
