"""What tests keep of Hydra's work is what Hydra would make anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from omegaconf import OmegaConf, base

from dmq_cli.choices import compose_words
from dmq_cli.overrides.bits import register_bits
from dmq_cli.paths import conf_folder, with_own
from tests import kept

WORDS = ["method=tac", "bits=w3a8", "budget.num_samples=4"]


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra keeps nothing from here on."""
    loader, load = ConfigLoaderImpl, OmegaConf.load
    places: list[tuple[Any, str]] = [(loader, "_load_configuration_impl"), (base, "parse"), (defaults_list, "_create_defaults_list"),
                                     (loader, "_compose_config_from_defaults_list")]  # fmt: skip
    for owner, name in places:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    monkeypatch.setattr(OmegaConf, "load", staticmethod(load.__wrapped__))  # type: ignore[attr-defined]


SIMILAR = [
    ["method=tac", "bits=w3a8"],
    ["method=tac", "bits=w3a8", "correct.lambda1=0.5", "sampler=plms"],
    ["method=tac", "bits=w3a8", "correct=none", "~protocol.metrics.kid"],
    ["method=tac", "bits=w13a11", "+metric@protocol.metrics.sfid=sfid", "sampler.clip_sample=true"],
    ["table=demo", "bits=w4a8", "seeds=[0-1,2-3]"],
    ["table=demo", "bits=w4a8", "model.sampling.guidance=3"],
]
WRONG = [["method=tacc"], ["bits=w3a8", "correct.lambda9=0"], ["~method=tac"], ["+method=tac"], ["metric@here=sfid"]]


def outcome(words: list[str]) -> Any:
    """All of a configuration, hydra's part and what is not resolved too, or what is said instead."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            config = compose("config", ["stage=evaluate", *words], return_hydra_config=True)
        except HydraException as error:
            return str(error)
    resolved = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(config), OmegaConf.to_container(resolved, resolve=True), OmegaConf.is_struct(config)


@pytest.mark.parametrize("rows", [SIMILAR, WRONG], ids=["similar", "wrong"])
def test_what_is_kept_is_what_is_made_anew(rows: list[list[str]], request: pytest.FixtureRequest) -> None:
    register_bits(["bits=w13a11"])
    cached = [outcome(words) for words in [*rows, *reversed(rows)]]
    request.getfixturevalue("anew")
    fresh = [outcome(words) for words in rows]
    assert cached == [*fresh, *reversed(fresh)] and len({str(answer) for answer in fresh}) == len(rows)
    assert all(isinstance(answer, str) == (rows is WRONG) for answer in fresh)


def test_a_composition_is_kept_and_nobody_changes_that_of_another() -> None:
    first = compose_words("evaluate", WORDS)
    whole = OmegaConf.to_container(first, resolve=True)
    first.seeds = "0-1"
    again = compose_words("evaluate", WORDS)
    assert OmegaConf.to_container(again, resolve=True) == whole and OmegaConf.is_struct(again)
    other = compose_words("evaluate", [*WORDS, "budget.num_samples=5"])
    assert (again.budget.num_samples, other.budget.num_samples) == (4, 5)


def test_a_file_of_conf_is_kept_and_others_are_read_again(tmp_path: Path) -> None:
    file = conf_folder() / "bits" / "w3a8.yaml"
    first = OmegaConf.load(file)
    first.weight = 7
    assert OmegaConf.load(file).weight == 3
    for value in (1, 2):
        (tmp_path / "own.yaml").write_text(f"x: {value}\n", encoding="utf-8")
        assert OmegaConf.load(tmp_path / "own.yaml").x == value


def test_choices_of_an_own_folder_are_composed_each_time(tmp_path: Path) -> None:
    (tmp_path / "bits").mkdir()
    for name in ("first", "second"):
        text = (conf_folder() / "bits" / "w3a8.yaml").read_text(encoding="utf-8").replace("w3a8", name)
        (tmp_path / "bits" / "own.yaml").write_text(text, encoding="utf-8")
        with with_own(tmp_path):
            assert compose_words("evaluate", ["bits=own"]).bits.name == name


def test_the_same_words_elsewhere_are_another_composition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for folder in (tmp_path, kept.CONF):
        monkeypatch.chdir(folder)
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            folders.append(compose("config", ["stage=evaluate"], return_hydra_config=True).hydra.runtime.cwd)
    assert folders == [str(tmp_path), kept.CONF]


def test_a_width_that_nobody_registered_does_not_come_from_what_is_kept() -> None:
    register_bits(["bits=w13a11"])
    assert compose_words("evaluate", ["bits=w13a11"]).bits.weight == 13
