"""50,000 images of 32x32 are joined and measured in less than 2 GiB, most of which PyTorch takes before it does anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli.metrics.frechet import moments
from dmq_cli.results.images import save_images
from dmq_cli.stages.cuts import SIZE, pieces
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.verbs import graph
from dmq_cli.store import Stopwatch, read_json
from tests.chain import tiny_folder
from tests.test_conf import composed
from tests.tiny import SMALL

COUNT = 50_000
MOST = 2048  # MiB


def planted(model: Path, outputs: Path) -> dict[str, Any]:
    """The shards of the full-precision twin of a small model, with images of noise."""
    words = ["model=folder", "model.name=tiny", f"model.path={model}", "protocol=digits", "+protocol.resize=16"]
    words += [f"protocol.num_images={COUNT}", f"seeds=0-{COUNT - 1}", f"runtime.outputs={outputs}", "trace=null"]
    config = prepare({**composed(*words), "stage": "evaluate"})
    stage_graph = graph(config, Progress(quiet=True))
    node, rng = Shards(stage_graph, "sample_fp", config).node, np.random.default_rng(0)
    for seeds in pieces(range(COUNT)):
        shard = Shards(stage_graph, "sample_fp", config).config_of(seeds)
        key = stage_graph.key_of(node, shard)
        with stage_graph.store.claim(node.name, key) as claim, Stopwatch() as watch:
            save_images(claim.work, [rng.integers(0, 256, (SIZE, 32, 32, 1)).astype(np.uint8)])
            claim.commit(stage_graph.manifest(node, key, shard, {}, watch))
    return config


MEASURED = """
import json, sys
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.verbs import graph
from dmq_cli.store import read_json
config = json.load(open(sys.argv[1]))
folder = graph(config, Progress(quiet=True)).ensure("evaluate_fp", config)
print(folder)
"""


@pytest.mark.slow
def test_joining_and_measuring_50_000_images_takes_less_than_two_gib(tmp_path: Path) -> None:
    config = planted(tiny_folder(tmp_path / "model", sample_size=32, **SMALL), tmp_path / "out")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    ended = subprocess.run([sys.executable, "-c", MEASURED, str(file)], capture_output=True, text=True, check=True)
    manifests = [read_json(folder / "manifest.json") for folder in (Path(ended.stdout.strip()), *joined(tmp_path))]
    assert [manifest["stage"] for manifest in manifests] == ["evaluate_fp", "sample_fp"]
    peaks = [manifest["peak_memory_mb"] for manifest in manifests]
    print(peaks)
    assert max(peaks) < MOST


def joined(outputs: Path) -> list[Path]:
    return [path for path in outputs.glob("out/artifacts/sample_fp/*") if path.name[0] != "."]


@pytest.mark.parametrize("count", [16_384, 16_385, 40_000])
def test_moments_of_many_images_are_those_of_numpy(count: int) -> None:
    features = np.random.default_rng(0).normal(3.0, 2.0, (count, 5)).astype(np.float32)
    mean, covariance = moments(features)
    whole = features.astype(np.float64)
    assert np.allclose(mean, whole.mean(axis=0), rtol=1e-13, atol=0)
    assert np.allclose(covariance, np.cov(whole, rowvar=False), rtol=1e-11, atol=1e-13)
