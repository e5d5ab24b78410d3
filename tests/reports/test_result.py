"""Runs, cells and tables are read back, and what is wrong with them is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.report.compare import compare
from dmq_cli.report.html import page_of
from dmq_cli.report.result import flatten, labels, load_result, load_results
from dmq_cli.store import write_json
from tests.reports import runs


def test_a_run_knows_which_of_its_artifacts_are_still_there(tmp_path: Path) -> None:
    folder = runs.run(tmp_path, runs.metrics("tac"))
    found = load_result(folder)
    assert found.name == "tac W3A8" and found.is_run and found.manifest["verb"] == "evaluate"
    assert found.artifact("sample") == tmp_path / "artifacts" / "sample" / "20261121-tac-w3a8-sample-0-1999"
    assert found.artifact("sample_fp") != found.artifact("sample") and found.used("trace")
    gone = load_result(runs.run(tmp_path, runs.metrics("minmax"), kept=False, traced=False))
    assert gone.used("sample") and gone.artifact("sample") is None and not gone.used("trace")


@pytest.mark.parametrize("lost", ["metrics.json", "manifest.json", "config.json"])
def test_a_run_that_lost_a_file_names_it(tmp_path: Path, lost: str) -> None:
    folder = runs.run(tmp_path, runs.metrics("tac"), kept=False)
    (folder / lost).unlink()
    with pytest.raises(ArtifactCorruptError, match=lost):
        load_result(folder)


def test_a_cell_needs_no_configuration_of_its_own_but_its_manifest(tmp_path: Path) -> None:
    folder = runs.cell(tmp_path, "demo", runs.metrics("tac"))
    assert not load_result(folder).is_run
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
        load_result(folder)


def test_what_is_no_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        load_result(tmp_path / "nowhere")
    folder = runs.run(tmp_path, runs.metrics("tac"), kept=False)
    (folder / "metrics.json").unlink()
    write_json(folder / "status.json", {"status": "failed: no weights"})
    with pytest.raises(ConfigError, match=r"did not finish \(failed: no weights\)"):
        load_result(folder)
    other = runs.cell(tmp_path, "demo", runs.metrics("tac"))
    write_json(other / "metrics.json", {"method": "tac"})
    with pytest.raises(ArtifactCorruptError, match="no result of dmq evaluate"):
        load_result(other)


def test_a_table_stands_for_its_cells_and_each_run_is_taken_once(tmp_path: Path) -> None:
    cells = [runs.cell(tmp_path, "demo", runs.metrics(method)) for method in ("minmax", "tac")]
    assert [one.folder for one in load_results(["demo"], tmp_path)] == cells
    assert len(load_results(["demo", str(cells[0]), str(tmp_path / "tables" / "demo")], tmp_path)) == 2
    (tmp_path / "tables" / "empty").mkdir()
    with pytest.raises(ConfigError, match="make table-empty"):
        load_results(["empty"], tmp_path)


def test_labels_differ_by_the_setting_that_differs(tmp_path: Path) -> None:
    def tac(lambda1: float, **more: object) -> Path:
        config = {"correct": {"_target_": "dmq_cli.correct.Tac", "lambda1": lambda1}, **more}
        return runs.run(tmp_path, runs.metrics("tac", config=config), f"run-{lambda1}-{len(more)}", kept=False)

    alike = [load_result(folder) for folder in (tac(0.1), tac(0.5))]
    assert labels(alike) == ["tac W3A8 (lambda1 0.1)", "tac W3A8 (lambda1 0.5)"]
    again = [*alike, load_result(tac(0.5, runtime={"threads": 1}))]
    assert labels(again)[1:] == ["tac W3A8 (run-0.5-0)", "tac W3A8 (run-0.5-1)"], "nothing but the machine differs"


def test_labels_say_what_acted_and_bits_by_their_values(tmp_path: Path) -> None:
    def made(name: str, *words: str, trace: str = "3000000-3000063", **more: object) -> Path:
        config = {"trace": {"seeds": trace}, "calib": {"seeds": "1-2"}, **more}
        return runs.run(tmp_path, runs.metrics("tac", overrides=list(words), config=config), name, kept=False)

    wide: dict[str, Any] = {"bits": {"name": "w3a8", "weight": 5, "act": 6}}
    plain, ner, both = (
        load_result(made(str(number), *words))
        for number, words in enumerate([(), ("correct.ner=false",), ("correct.ner=false", "recon.seed=1")])
    )
    assert labels([plain]) == ["tac W3A8"] and labels([ner]) == ["tac W3A8 (correct.ner=false)"]
    assert labels([plain, ner]) == ["tac W3A8", "tac W3A8 (correct.ner=false)"]
    assert labels([both, ner]) == ["tac W3A8 (recon.seed=1)", "tac W3A8"], "what all have tells none apart"
    many = load_result(made("many", *(f"calib.x{number}=1" for number in range(9))))
    assert labels([many]) == ["tac W3A8 (9 overrides)"]
    assert load_result(made("wide", **wide)).name == "tac W5A6"
    traced = load_result(made("traced", trace="5-6"))
    assert labels([plain, traced]) == ["tac W3A8 (trace.seeds 3000000-3000063)", "tac W3A8 (trace.seeds 5-6)"]
    page = page_of([ner])
    assert page.title.endswith("tac at W3A8 with correct.ner=false") and "correct.ner=false" in page.statements[0]
    assert "with 9 overrides" in page_of([many]).title and "calib.x8=1" in page_of([many]).subtitle


def test_labels_of_cells_that_two_tables_share_differ(tmp_path: Path) -> None:
    cells = [runs.cell(tmp_path / top, table, runs.metrics("tac")) for top, table in ("ax", "ay", "bx")]
    near, far = ([load_result(cell) for cell in some] for some in (cells[:2], cells))
    assert labels(near) == [f"tac W3A8 ({table}/ddim_digits-tac-w3a8-0123abcd)" for table in "xy"]
    assert len(set(labels(far))) == 3 and labels(far)[2].endswith("0123abcd, 3)")
    assert len(compare(near).runs) == 2


def test_a_run_named_in_two_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.cell(tmp_path, "demo", runs.metrics("tac"))
    monkeypatch.chdir(folder.parent)
    assert len(load_results([folder.name, str(folder)], tmp_path)) == 1


@pytest.mark.parametrize(("folder", "target"), [("tac_5-digits", "tac_5 SCALE=digits"), ("my-own", "my-own")])
def test_an_empty_table_says_what_fills_it(tmp_path: Path, folder: str, target: str) -> None:
    (tmp_path / "tables" / folder).mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"make table-{target}$"):
        load_results([folder], tmp_path)


def test_flattened_keys_keep_every_value() -> None:
    nested = {"a": {"b": [1, {"c": None}], "d": {}}, "e": []}
    assert flatten(nested) == {"a.b.0": 1, "a.b.1.c": None, "a.d": {}, "e": []}
