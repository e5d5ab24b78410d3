"""Quantization-aware training: networks and their quantizers learn together, from data or from full precision."""

from dmq_cli.qat.data import DataSource, Digits, Fashion, ImageFolder, Pictures
from dmq_cli.qat.efficientdm import QaLora
from dmq_cli.qat.hub import HuggingFace
from dmq_cli.qat.loop import JUDGED, Distance
from dmq_cli.qat.lsq import Lsq
from dmq_cli.qat.method import Qat
from dmq_cli.qat.nipq import Nipq
from dmq_cli.qat.pact import Pact
from dmq_cli.qat.settings import Settings
from dmq_cli.qat.weights import Latent

__all__ = [
    "JUDGED",
    "DataSource",
    "Digits",
    "Distance",
    "Fashion",
    "HuggingFace",
    "ImageFolder",
    "Latent",
    "Lsq",
    "Nipq",
    "Pact",
    "Pictures",
    "QaLora",
    "Qat",
    "Settings",
]
