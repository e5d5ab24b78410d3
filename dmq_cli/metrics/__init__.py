"""Numbers for images: Fréchet distance, inception score, KID, precision and recall by torch-fidelity, sFID, FD-DINOv2 and
CLIP score by extractors registered there; PSNR, SSIM and LPIPS of pairs. Numbers for networks: what a call costs, what the
weights weigh, how errors grow along a trajectory.
"""

import dmq_cli.compat  # noqa: F401
from dmq_cli.metrics.agreement import agreement, asked_digit
from dmq_cli.metrics.cost import Cost, network_cost, product_macs, stored_bytes
from dmq_cli.metrics.extractors import Images, extract, extractor_sha256, further_sha256
from dmq_cli.metrics.fidelity import fidelity, images_sha256, measure, reference_features, reference_of, with_features
from dmq_cli.metrics.flat_cost import flat_bops, flat_bytes
from dmq_cli.metrics.interval import difference_interval, judged, mean_interval
from dmq_cli.metrics.paired import PSNR_CAP, SSIM_WINDOW, paired, per_image, psnr, ssim
from dmq_cli.metrics.protocol import EXTRACTORS, RESULTS, Protocol, to_uint8
from dmq_cli.metrics.reference import Reference
from dmq_cli.metrics.trajectory import Traced, Walks, trace
from dmq_cli.metrics.weights import INCEPTION_SHA256, INCEPTION_URL

__all__ = [
    "EXTRACTORS",
    "INCEPTION_SHA256",
    "INCEPTION_URL",
    "PSNR_CAP",
    "RESULTS",
    "SSIM_WINDOW",
    "Cost",
    "Images",
    "Protocol",
    "Reference",
    "Traced",
    "Walks",
    "agreement",
    "asked_digit",
    "difference_interval",
    "extract",
    "extractor_sha256",
    "fidelity",
    "flat_bops",
    "flat_bytes",
    "further_sha256",
    "images_sha256",
    "judged",
    "mean_interval",
    "measure",
    "network_cost",
    "paired",
    "per_image",
    "product_macs",
    "psnr",
    "reference_features",
    "reference_of",
    "ssim",
    "stored_bytes",
    "to_uint8",
    "trace",
    "with_features",
]
