"""Runs, cells and tables are read back, and what is wrong with them is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.report.compare import compare
from dmq_cli.report.html import page_of
from dmq_cli.results.runs import flatten, labels, load_result, load_results
from dmq_cli.store import read_json, write_json
from tests.chain import dmq
from tests.reports import runs


def test_a_run_knows_which_of_its_artifacts_are_still_there(tmp_path: Path) -> None:
    folder = runs.run(tmp_path, runs.metrics("tac"))
    result = load_result(folder)
    assert result.name == "tac W3A8" and result.is_run and result.manifest["verb"] == "evaluate"
    assert result.artifact("sample") == tmp_path / "artifacts" / "sample" / "20261121-tac-w3a8-sample-0-1999"
    assert result.artifact("sample_fp") != result.artifact("sample") and result.used("trace")
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
    assert [result.folder for result in load_results(["demo"], tmp_path)] == cells
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


def altered(file: Path, **changes: Any) -> None:
    write_json(file, {**read_json(file), **changes})


def test_what_was_altered_is_not_reported(tmp_path: Path) -> None:
    metrics = runs.metrics("tac")
    folder = runs.run(tmp_path, metrics)
    image = tmp_path / "artifacts" / "trace" / f"{folder.name}-trace" / "images.npz"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactCorruptError, match=r"its file images\.npz was altered"):
        load_result(folder).artifact("trace")
    image.write_bytes(content)
    assert load_result(folder).artifact("trace") == image.parent
    for file, changes, words in (
        (folder / "config.json", {"seeds": "0-9"}, "config.json is not the configuration in metrics.json"),
        (folder / "manifest.json", {"artifacts": {}}, "name different artifacts"),
    ):
        whole = file.read_bytes()
        altered(file, **changes)
        with pytest.raises(ArtifactCorruptError, match=words):
            load_result(folder)
        file.write_bytes(whole)


def test_numbers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    metrics = {**runs.metrics("tac"), "seeds": ["0-9", "10-19"]}
    folder = runs.run(tmp_path, metrics)
    names, sides = [f"evaluate-{seeds}" for seeds in metrics["seeds"]], ("quantized", "paired")
    artifacts = {**read_json(folder / "metrics.json")["artifacts"], **{name: f"key-{name}" for name in names}}
    for offset, name in zip((-0.25, 0.25), names, strict=True):  # whose mean is what the run says
        place = tmp_path / "artifacts" / "evaluate" / f"key-{name}"
        place.mkdir(parents=True)
        numbers, paired = ({k: v + offset for k, v in metrics[side].items()} for side in sides)
        write_json(place / "numbers.json", {"numbers": numbers, "paired": paired})
        runs.seal(place)
    means = {side: {k: ((v - 0.25) + (v + 0.25)) / 2 for k, v in metrics[side].items()} for side in sides}
    altered(folder / "metrics.json", artifacts=artifacts, **means)
    altered(folder / "manifest.json", artifacts=artifacts)
    assert {name: number.value for name, number in load_result(folder).evaluation.quantized.items()} == means[
        "quantized"
    ]
    altered(folder / "metrics.json", quantized={**means["quantized"], "fd": 0.01})
    with pytest.raises(ArtifactCorruptError, match=r"says quantized fd 0\.01, but its evaluation found"):
        load_result(folder)
    stages = {name: {"seconds": -1.0, "peak_memory_mb": 0.0} for name in names}
    altered(folder / "manifest.json", stages=stages)
    assert load_result(folder).evaluation.quantized["fd"].value == 0.01, (
        "those are of another machine, or of another time"
    )


def test_an_altered_cell_is_not_reported(tmp_path: Path) -> None:
    cell = runs.cell(tmp_path, "demo", runs.metrics("tac"))
    assert load_result(cell).name == "tac W3A8"
    for file, changes, words in (
        ("metrics.json", {"config": {"a": 1}}, "not the one whose sha256 is beside it"),
        ("manifest.json", {"key": "f" * 32}, "another key than the folder's name"),
    ):
        whole = (cell / file).read_bytes()
        altered(cell / file, **changes)
        with pytest.raises(ArtifactCorruptError, match=words):
            load_result(cell)
        (cell / file).write_bytes(whole)


MALFORMED: list[tuple[str, Any]] = [
    ("quantized", None), ("quantized", []), ("fp", 3), ("seeds", None), ("seeds", "0-9"), ("protocol", {}), ("protocol", []),
    ("protocol", {"columns": 5}), ("config", []), ("artifacts", {"trace": 5}), ("method", {}), ("bits", None), ("intervals", 3),
    ("cost", []), ("policy", 7), ("paired", "x"), ("quantized", {"fd": "x"}), ("command", {}), ("seconds", []), ("cite", []),
]  # fmt: skip


def test_a_malformed_entry_is_one_sentence_or_does_no_harm(tmp_path: Path) -> None:
    folders = [runs.run(tmp_path, runs.metrics(method), kept=False) for method in ("tac", "minmax")]
    file, refused = folders[0] / "metrics.json", 0
    whole = file.read_bytes()
    for key, value in MALFORMED:
        file.write_bytes(whole)
        altered(file, **{key: value})
        for command in (["report", str(folders[0]), "--to", str(tmp_path / "a.html")], ["compare", *map(str, folders)]):
            result = dmq(*command)
            refused += result.code
            assert result.code == 0 or str(folders[0]) in result.sentence, (key, value, result.err)
            assert "Traceback" not in result.err
    assert refused > 25
