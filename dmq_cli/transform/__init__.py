"""Rewrites of the full-precision network that keep its output and make it easier to quantize."""

from dmq_cli.transform.base import NoTransform, Transform
from dmq_cli.transform.statistics import channel_maxima
from dmq_cli.transform.svd import LowRank
from dmq_cli.transform.tcr import Tcr

__all__ = ["LowRank", "NoTransform", "Tcr", "Transform", "channel_maxima"]
