"""Numbers for images: Fréchet distance, inception score, KID, precision and recall by torch-fidelity, sFID, FD-DINOv2 and
CLIP score by extractors registered there; PSNR, SSIM and LPIPS of pairs.
"""

from dmq_cli.metrics.agreement import agreement, asked_digit
from dmq_cli.metrics.extractors import Images, extract, extractor_sha256, further_sha256
from dmq_cli.metrics.fidelity import fidelity, images_sha256, measure, reference_features, reference_of, with_features
from dmq_cli.metrics.interval import difference_interval, judged, mean_interval
from dmq_cli.metrics.paired import PSNR_CAP, SSIM_WINDOW, paired, per_image, psnr, ssim
from dmq_cli.metrics.protocol import EXTRACTORS, RESULTS, Protocol, to_uint8
from dmq_cli.metrics.references.reference import Reference
from dmq_cli.metrics.weights import INCEPTION_SHA256, INCEPTION_URL

__all__ = [
    "EXTRACTORS",
    "INCEPTION_SHA256",
    "INCEPTION_URL",
    "PSNR_CAP",
    "RESULTS",
    "SSIM_WINDOW",
    "Images",
    "Protocol",
    "Reference",
    "agreement",
    "asked_digit",
    "difference_interval",
    "extract",
    "extractor_sha256",
    "fidelity",
    "further_sha256",
    "images_sha256",
    "judged",
    "mean_interval",
    "measure",
    "paired",
    "per_image",
    "psnr",
    "reference_features",
    "reference_of",
    "ssim",
    "to_uint8",
    "with_features",
]
