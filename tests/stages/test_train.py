"""`dmq train`: from the configuration to a folder with a card; two models share an autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.stages import train as stage
from dmq_cli.store import read_json
from dmq_cli.zoo import autoencoder, latent
from tests.test_conf import composed
from tests.zoo.helpers import few_digits

SHORT = ["train.autoencoder.steps=2", "train.autoencoder.batch_size=2", "train.latent.steps=2"]
SHORT += ["train.latent.batch_size=2"]
NUMBERS = {
    "distance": {"fd": 1.5},
    "interval": [0.75, 2.25],
    "seeds": ["0-1999"],
    "num_images": 2000,
    "num_inference_steps": 20,
    "equal_counts": {"num_images": 898, "floor": 0.5, "model": 1.0},
    "memorisation": {"median_sample": 0.1, "median_held_out": 0.2, "copies": 0.01},
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(predict: Any, alphas: Tensor, samples: Tensor) -> float:
        return 0.25

    for module in (autoencoder, latent):
        monkeypatch.setattr(module, "digit_images", few_digits)
    monkeypatch.setattr(latent, "evaluate_loss", none)
    monkeypatch.setattr(stage, "_quality", lambda *anything: dict(NUMBERS))


def test_two_models_of_one_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PACKAGE", tmp_path / "package")
    for model, more in (("ldm_digits", "train.install=true"), ("ldm_digits_class", "train.install=false")):
        config = composed(f"model={model}", *SHORT, more, f"runtime.outputs={tmp_path}")
        result = stage.train(config, f"dmq train model={model}", quiet=True)
        folder = Path(result["artifacts"]["model"])
        card = read_json(folder / "card.json")
        assert card == result["card"] and card["training"]["kind"] == model
        assert card["autoencoder"]["training"]["steps"] == 2 and card["loss_train"] == 0.25
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert text.splitlines()[5] == f"# {model}" and "32x32" in text and "FD-digits" in text
    artifacts = tmp_path / "artifacts"
    assert [len([a for a in (artifacts / f"train_{n}").iterdir() if not a.name.startswith(".")]) for n in ("autoencoder", "latent")] == [1, 2]  # fmt: skip
    installed = tmp_path / "package" / "zoo" / "weights"
    assert [path.name for path in installed.iterdir()] == ["ldm_digits"]
    assert (installed / "ldm_digits" / "model_index.json").is_file()


def test_weights_are_installed_before_they_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*anything: object) -> dict[str, Any]:
        raise RuntimeError("no numbers")

    monkeypatch.setattr(stage, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(stage, "_quality", broken)
    config = composed("model=dit_digits", *SHORT, "train.install=true", f"runtime.outputs={tmp_path}")
    with pytest.raises(RuntimeError, match="no numbers"):
        stage.train(config, "dmq train model=dit_digits", quiet=True)
    installed = tmp_path / "package" / "zoo" / "weights" / "dit_digits"
    assert (installed / "transformer" / "diffusion_pytorch_model.safetensors").is_file()
    text = (installed / "README.md").read_text(encoding="utf-8")
    assert "0.25000 on training images" in text and "FD-digits" not in text
    (run,) = (tmp_path / "runs" / "train").iterdir()
    assert read_json(run / "status.json")["status"] == "failed: RuntimeError"


@pytest.mark.parametrize("override", ["model=folder", "train=ddim_digits"])
def test_what_cannot_be_trained_is_told(override: str, tmp_path: Path) -> None:
    overrides = [override] if override == "model=folder" else ["model=dit_digits", override]
    config = composed(*overrides, f"runtime.outputs={tmp_path}")
    name = config["model"]["name"]
    with pytest.raises(ConfigError) as caught:
        stage.train(config, "dmq train", quiet=True)
    known = "ddim_digits, ddim_fashion, dit_digits, ldm_digits, ldm_digits_class, sd_digits"
    assert str(caught.value) == f"model={name} cannot be trained by dmq; it trains {known}."
