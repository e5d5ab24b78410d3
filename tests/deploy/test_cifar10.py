"""The published DDPM of CIFAR-10 with random weights: what its files weigh and how much of it runs in integers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from dmq_cli.calib import fit_weights
from dmq_cli.deploy.folder import read_network, write_network
from dmq_cli.deploy.lower import integer_share, lower
from dmq_cli.models.random_weights import random_adapter
from dmq_cli.obtain import WEIGHTS
from dmq_cli.stages.build import make
from dmq_cli.wrap import Attached, attach
from tests.test_conf import composed

pytestmark = pytest.mark.slow
STEPS = torch.arange(0, 1000, 10)


def cifar10(*words: str) -> Attached:
    config = composed("model=ddim_cifar10", "protocol=paired", *words)
    attached = attach(random_adapter("ddim_cifar10", 0), make(config["scheme"]) + make(config["policy"]), STEPS)
    fit_weights(attached)
    return attached


@pytest.mark.parametrize("method", ["minmax", "tfmq"])
def test_the_file_is_as_large_as_the_papers_say(method: str, tmp_path: Path) -> None:
    """TAC's Table 1: 17.31 MB for W4A8, in units of 2^20 bytes; tables of 100 steps included."""
    write_network(tmp_path, cifar10(f"method={method}", "bits=w4a8"), {})
    assert abs((tmp_path / WEIGHTS).stat().st_size / 2**20 / 17.31 - 1) < 0.03
    assert (tmp_path / "config.json").stat().st_size < 2000
    assert len(read_network(tmp_path).quantizers()) > 200


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is an extra")
@pytest.mark.parametrize("method", ["minmax", "tfmq"])
def test_openvino_executes_nearly_all_multiplications_in_integers(method: str, tmp_path: Path) -> None:
    """Of ddim_cifar10 with random weights; and its file holds integers, not floats."""
    from dmq_cli.deploy.executed import executed
    from dmq_cli.deploy.openvino import FILE, compiled, of_rows, write_openvino
    from dmq_cli.deploy.processor import weight_limit

    write_openvino(tmp_path, lower(cifar10(f"method={method}", "bits=w8a8"), weight_limit()))
    assert executed(of_rows(tmp_path / FILE, 2), compiled(tmp_path / FILE, 1, 2)).share >= 0.95
    if weight_limit() == 127:
        assert (tmp_path / FILE).with_suffix(".bin").stat().st_size / 35746307 < 1.05


@pytest.mark.parametrize("method", ["minmax", "tfmq", "qdiffusion"])
def test_nearly_all_multiplications_are_in_integers(method: str) -> None:
    attached = cifar10(f"method={method}", "bits=w8a8")
    lowered = lower(attached)
    assert lowered.floating == {} and integer_share(attached, lowered) > 0.95
