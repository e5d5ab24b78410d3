"""Settings that came after results: at the value that means what was done before, no key knows of them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hydra.utils import get_class

from dmq_cli.results import later
from dmq_cli.results.later import without_later


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
    made: dict[str, Any] = {"_target_": "dmq_cli.recon.Pass", "iterations": 3, "bias": 0.0}
    before = {"_target_": "dmq_cli.recon.Pass", "iterations": 3}
    config = {
        "recon": {"passes": {"one": made, "two": {**made, "bias": 0.5}}},
        "bias": 0.0,
        "list": [made, 2],
        "layer_bits": None,
    }
    cleaned = without_later(config, top=True)
    assert cleaned == {
        "recon": {"passes": {"one": before, "two": {**made, "bias": 0.5}}}, "bias": 0.0, "list": [before, 2]
    }  # fmt: skip
    assert without_later(config)["layer_bits"] is None and "bias" in made, "the original is not changed"


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
    from tests.test_conf import composed

    for section, (choice, key, now, before) in later._CHANGED.items():
        assert composed(f"{section}={choice}")[section][key] == now != before


@pytest.mark.parametrize("value", [1, "x", None, True, 0.5])
def test_other_values_are_what_they_are(value: object) -> None:
    assert without_later(value) is value and without_later({"a": value}) == {"a": value}
