"""The folders of embedded models in the package: small, plain, and what their training's configuration says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dmq_cli.models import load_adapter
from dmq_cli.paths import PACKAGE, conf_folder

WEIGHTS = PACKAGE / "zoo" / "weights"
MODELS = {
    "ddim_digits": (1, 16, 16),
    "ldm_digits": (3, 8, 8),
    "ldm_digits_class": (3, 8, 8),
    "sd_digits": (4, 8, 8),
    "dit_digits": (4, 8, 8),
}
LATENT = sorted(MODELS.keys() - {"ddim_digits"})
LARGER = "ddim_fashion"  # its recipe ships; once its weights do, it belongs to MODELS


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_folder_is_known() -> None:
    assert {path.name for path in WEIGHTS.iterdir()} - {LARGER} == {*MODELS, "digits_cnn", "fashion_cnn"}
    assert {path.stem for path in (conf_folder() / "train").glob("*.yaml")} == {*MODELS, LARGER}


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_small_and_plain(name: str) -> None:
    paths = files(WEIGHTS / name)
    assert {path.suffix for path in paths} <= {".safetensors", ".json", ".txt", ".md"}
    assert 1e6 < sum(path.stat().st_size for path in paths) <= 6e6
    assert (WEIGHTS / name / "README.md").read_text(encoding="utf-8").splitlines()[5] == f"# {name}"


@pytest.mark.parametrize("name", MODELS)
def test_a_network_loads_and_answers(name: str) -> None:
    loaded = load_adapter(WEIGHTS / name)
    assert loaded.sample_shape() == MODELS[name]
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    with torch.no_grad():
        estimate = loaded.predict(torch.randn(2, *MODELS[name]), torch.tensor(999), loaded.blank_cond(2))
    assert estimate.shape == (2, *MODELS[name]) and bool(estimate.isfinite().all())


@pytest.mark.parametrize("name", LATENT)
def test_the_weights_come_from_the_configuration(name: str) -> None:
    """Composed by hand: two of the files start from another one."""
    folder = conf_folder() / "train"
    parts = [OmegaConf.load(folder / f"{name}.yaml")]
    if "defaults" in parts[0]:
        parts.insert(0, OmegaConf.load(folder / f"{parts[0].defaults[0]}.yaml"))
    train = OmegaConf.to_container(OmegaConf.merge(*parts))
    card = json.loads((WEIGHTS / name / "card.json").read_text(encoding="utf-8"))
    assert isinstance(train, dict)
    for section, recorded in (("latent", card["training"]), ("autoencoder", card["autoencoder"]["training"])):
        assert {key: value for key, value in train[section].items() if key != "_target_"} == recorded
    assert card["command"].startswith(f"dmq train model={name} ")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ldm_digits", "sd_digits", "dit_digits"])
def test_diffusers_knows_the_folder(name: str) -> None:
    import diffusers

    index = json.loads((WEIGHTS / name / "model_index.json").read_text())
    pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(WEIGHTS / name, local_files_only=True)
    parts = {part: value for part, value in index.items() if isinstance(value, list) and value[0]}
    assert {part: type(getattr(pipeline, part)).__name__ for part in parts} == {k: v[1] for k, v in parts.items()}
