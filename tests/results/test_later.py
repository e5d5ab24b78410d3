"""Settings that came after results: at the value that means what was done before, no key knows of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class

from dmq_cli.recon import NoReconstruction
from dmq_cli.results import later
from dmq_cli.results.later import without_later
from dmq_cli.stages import build
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore, digest, read_json
from tests.test_conf import composed

PTQ = (
    "minmax",
    "adaround",
    "ptq4dm",
    "svdquant",
    "brecq",
    "qdrop",
    "qdiffusion",
    "signround",
    "tfmq",
    "tcaq",
    "quest",
    "eda",
)

CELLS = Path(__file__).resolve().parents[2] / "outputs" / "tables" / "digits_ptq"


def test_the_value_of_former_times_is_the_constructor_s_default_too() -> None:
    """So a file that does not name the setting means the same."""
    checked = 0
    for target, former in later._BY_TARGET.items():
        parameters = inspect.signature(get_class(target)).parameters
        for name, value in former.items():
            assert parameters[name].default == value
            checked += 1
    assert checked >= 7


def test_settings_are_left_out_at_that_value_alone_and_wherever_their_object_stands() -> None:
    settings: dict[str, Any] = {"_target_": "dmq_cli.recon.Pass", "iterations": 3, "bias": 0.0}
    before = {"_target_": "dmq_cli.recon.Pass", "iterations": 3}
    config = {
        "recon": {"passes": {"one": settings, "two": {**settings, "bias": 0.5}}},
        "bias": 0.0,
        "list": [settings, 2],
        "layer_bits": None,
    }
    cleaned = without_later(config, top=True)
    assert cleaned == {
        "recon": {"passes": {"one": before, "two": {**settings, "bias": 0.5}}}, "bias": 0.0, "list": [before, 2]
    }  # fmt: skip
    assert without_later(config)["layer_bits"] is None and "bias" in settings, "the original is not changed"


def test_a_budget_that_changed_enters_keys_as_it_was() -> None:
    """Its values act through the sections that take them; cells that do not take the one that changed stay found."""
    light = {"name": "light", "refine_iterations": 300, "weight_iterations": 300}
    recon = {"_target_": "dmq_cli.recon.Reconstruction", "refine_iterations": 300}
    cleaned = without_later({"budget": light, "recon": recon}, top=True)
    assert cleaned == {"budget": {**light, "refine_iterations": 100}, "recon": recon}
    for other in ({**light, "refine_iterations": 200}, {**light, "name": "paper"}):
        assert without_later({"budget": other}, top=True)["budget"] == other
    assert without_later({"budget": light})["budget"] == light and light["refine_iterations"] == 300


def test_the_budget_that_changed_is_the_one_of_conf() -> None:
    for section, (choice, key, now, before) in later._CHANGED.items():
        assert composed(f"{section}={choice}")[section][key] == now != before


@pytest.mark.parametrize("method", [*PTQ, "lsq"])
def test_which_end_of_ranges_moves_is_in_the_key_where_something_moves_them(method: str) -> None:
    """Independent of the rule: whatever the reconstruction is, its object says what it would learn."""
    config = composed(f"method={method}")
    keys = {
        end: digest(without_later({**config, "scheme": {**config["scheme"], "range": end}}, top=True))
        for end in ("scale", "low_fixed", "low_learned")
    }
    recon = build.make(config["recon"])
    passes = {} if isinstance(recon, NoReconstruction) else getattr(recon, "passes", {"of its own": None})
    learns = any(step is None or step.scales is not None for step in passes.values())
    assert len(set(keys.values())) == (3 if learns else 1), method


@pytest.mark.parametrize("value", [1, "x", None, True, 0.5])
def test_other_values_are_what_they_are(value: object) -> None:
    assert without_later(value) is value and without_later({"a": value}) == {"a": value}


@pytest.mark.skipif(not CELLS.is_dir(), reason="the tables are in a checkout")
@pytest.mark.parametrize("method", ["minmax", "qdrop", "quest", "signround", "svdquant", "tac", "tdq"])
def test_artifacts_of_committed_cells_have_the_keys_of_today(method: str, tmp_path: Path) -> None:
    """New settings of schemes, passes, SignRound and QuEST stand in their files; all that was learned is found."""
    folders = CELLS.glob(f"ddim_digits-{method}-w4a8-*")
    (cell,) = (
        f / "manifest.json" for f in folders if "correct=tac" not in read_json(f / "metrics.json").get("overrides", ())
    )
    config = prepare(composed(f"method={method}", "bits=w4a8", "budget=light"))
    graph = Graph(NODES, ArtifactStore(tmp_path), Progress(quiet=True))
    for stage in ("calibset", "calibrate", "reconstruct"):
        assert graph.key(stage, config).startswith(read_json(cell)["artifacts"][stage])
