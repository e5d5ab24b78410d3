"""Measure networks: cost of a call, size of weights, and quantization errors along a trajectory."""

from dmq_cli.diagnose.cost import Cost, network_cost, product_macs, stored_bytes
from dmq_cli.diagnose.flat_cost import flat_bops, flat_bytes
from dmq_cli.diagnose.trajectory import Traced, Walks, trace

__all__ = [
    "Cost",
    "Traced",
    "Walks",
    "flat_bops",
    "flat_bytes",
    "network_cost",
    "product_macs",
    "stored_bytes",
    "trace",
]
