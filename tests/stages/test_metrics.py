"""A metric that a word adds: measured, recorded with its interval, and shown; one of a user's own file, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.results.record import INFLUENCE
from dmq_cli.store.tensors import load_tensors
from tests.chain import counting, dmq, words

OWN = """
from dataclasses import dataclass
from typing import Any

import torch

from dmq_cli.metrics import Measurement, Sample, SetMetric, Shown, mean_interval


@dataclass(frozen=True)
class Brightness(SetMetric):
    name = "brightness"
    results = (Shown("brightness", "brightness"),)
    power: float = 1.0

    def measure(self, images: Sample, reference: Any, protocol: Any) -> Measurement:
        pixels = torch.as_tensor(images.pixels)
        each = pixels.double().flatten(1).mean(1) ** self.power
        return Measurement({"brightness": float(each.mean())}, {"brightness": mean_interval(each)}, {"brightness": each})
"""


def evaluated(*command: str) -> dict[str, Any]:
    result = dmq(*command, "--json")
    assert result.code == 0, result.err
    record: dict[str, Any] = json.loads(result.out)
    return record


def test_the_distance_to_the_twin_is_measured_with_its_interval(model: Path, tmp_path: Path) -> None:
    command = words("evaluate", model, tmp_path, "method=minmax", "bits=w4a8")
    plain = evaluated(*command)
    with counting() as ran:
        record = evaluated(*command, "+metric@protocol.metrics.fd_to_twin=fd_to_twin")
    assert sorted(ran) == ["evaluate", "evaluate_fp"], "images are as they were"
    distance, (low, high) = record["paired"]["fd_to_twin"], record["intervals"]["paired"]["fd_to_twin"]
    assert distance > 0 and low < distance < high
    assert record["quantized"] == plain["quantized"] and record["paired"]["psnr"] == plain["paired"]["psnr"]
    assert record["protocol"]["hash"] != plain["protocol"]["hash"] and "fd_to_twin" not in plain["paired"]
    assert "+metric@protocol.metrics.fd_to_twin=fd_to_twin" in record["overrides"]
    stored = [load_tensors(file) for file in (tmp_path / "artifacts" / "evaluate").glob(f"*/{INFLUENCE}")]
    assert sorted("fd_to_twin" in influences for influences in stored) == [False, True]
    page = dmq("report", record["run"], "--to", str(tmp_path / "page.html"))
    assert page.code == 0 and "FD to FP ↓" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_metric_of_ones_own_is_a_file_and_a_yaml(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "metric").mkdir(parents=True)
    (tmp_path / "mine" / "own_brightness.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "mine" / "metric" / "brightness.yaml").write_text(
        "_target_: own_brightness.Brightness\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    command = words("evaluate", model, tmp_path, "method=minmax", "bits=w4a8")
    more = ["--config-dir", str(tmp_path / "mine"), "+metric@protocol.metrics.brightness=brightness"]
    record = evaluated(*command, *more)
    assert record["protocol"]["columns"]["brightness"] == "brightness" and 0 < record["fp"]["brightness"] < 255
    assert record["intervals"]["over_fp"]["brightness"][0] < record["over_fp"]["brightness"]
    again = evaluated(*command, *more, "+protocol.metrics.brightness.power=2")
    assert again["quantized"]["brightness"] > record["quantized"]["brightness"]
