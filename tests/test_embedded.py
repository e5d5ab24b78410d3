"""The embedded models as they are shipped: they draw what they are asked for, and every method runs on them (slow)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmq_cli.paths import PACKAGE
from tests.chain import ONLY_FD, QUICK, dmq
from tests.test_conf import METHODS

MODELS = ["ldm_digits", "ldm_digits_class", "sd_digits", "dit_digits"]
TOLD = [model for model in MODELS if model != "ldm_digits"]
LIMIT = 6_000_000  # bytes
FEW = ["seeds=0-19", "protocol.num_images=20", *ONLY_FD, "runtime.threads=1"]
FEW += ["trace=null"]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_shipped(model: str) -> None:
    files = [file for file in (PACKAGE / "zoo" / "weights" / model).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert {"README.md", "card.json"} <= {file.name for file in files}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_images_are_digits(model: str, tmp_path: Path) -> None:
    """Full precision and W4A8 by min-max: near each other, and where a digit was asked for it is read."""
    words = [f"model={model}", "method=minmax", "bits=w4a8", "calib.seeds=1000000-1000003", *FEW]
    result = dmq("evaluate", *words, f"runtime.outputs={tmp_path}", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["protocol"]["name"] == "digits_latent" and report["paired"]["psnr"] > 12
    assert report["fp"]["fd"] < 40, "random images are at several hundreds"
    assert ("agreement" in report["fp"]) == (model in TOLD)
    if model in TOLD:
        assert report["fp"]["agreement"] >= 0.75 and report["quantized"]["agreement"] >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_method_runs(model: str, tmp_path: Path) -> None:
    """All 23 methods; three of them make no sense on a transformer and say so."""
    ran = []
    for method in METHODS:
        corrected = method.startswith(("tac", "ptqd")) and method != "tcaq"
        more = ["correct.seeds=2000000-2000007"] if corrected else []
        words = [f"model={model}", f"method={method}", "bits=w4a8", "calib.seeds=1000000-1000015", *FEW, *QUICK]
        result = dmq("evaluate", *words, *more, "budget.num_samples=64", f"runtime.outputs={tmp_path}", "--json")
        if model == "dit_digits" and method in ("eda", "eda_released", "tcaq"):
            assert result.code == 2 and "none" in result.sentence
            continue
        assert result.code == 0, f"{method}: {result.err}"
        assert json.loads(result.out)["paired"]["psnr"] > 8, method
        ran.append(method)
    assert len(ran) == len(METHODS) - 3 * (model == "dit_digits")
