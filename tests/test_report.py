"""Tables are what commands made: those of README.md and docs/, too."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dmq_cli import report
from dmq_cli.cli import documents
from dmq_cli.errors import ConfigError
from dmq_cli.report.tables import telling_bits
from dmq_cli.results.record import as_evaluation, flat, over_ranges

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "outputs" / "tables"


def spread_over(rows: list[dict[str, float]]) -> dict[str, Any]:
    return flat(over_ranges(rows))


def cell(method: str, fd: float, **changes: Any) -> dict[str, Any]:
    metrics = {
        "protocol": {
            "hash": "h",
            "name": "digits",
            "num_images": 40,
            "columns": {"fd": "FD-digits", "is": "IS-digits"},
        },
        "seeds": ["0-39", "40-79"],
        "fp": spread_over([{"fd": 1.0, "is": 8.0}, {"fd": 1.2, "is": 8.2}]),
        "quantized": spread_over([{"fd": fd, "is": 7.0}, {"fd": fd + 0.2, "is": 7.0}]),
        "paired": spread_over([{"psnr": 20.0}, {"psnr": 21.0}]),
        "method": method,
        "bits": "w3a8",
        "model": "m",
        "config": {"correct": {}, "budget": {"name": "light"}, "sampler": {"num_inference_steps": 3}},
        "artifacts": {},
    }
    return {**metrics, **changes}


def fill(folder: Path, cells: list[dict[str, Any]]) -> Path:
    for number, metrics in enumerate(cells):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


def test_table_has_the_twin_every_cell_and_the_spread(tmp_path: Path) -> None:
    lines = report.table(
        fill(tmp_path / "t", [cell("tac", 2.0), cell("minmax", 5.0), cell("qdiffusion", 3.0)])
    ).splitlines()
    assert lines[0] == "| bits | method | FD-digits ↓ | IS-digits ↑ | PSNR to FP ↑ |"
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["full precision", "minmax", "qdiffusion", "tac"]
    assert "1.10 ± 0.14 | 8.10 ± 0.14" in lines[2] and "5.10 ± 0.14" in lines[3] and "20.50 ± 0.71 dB" in lines[3]
    assert "40 images" in lines[-1] and "0-39, 40-79" in lines[-1] and "`h`" in lines[-1]


def test_settings_that_differ_get_a_column(tmp_path: Path) -> None:
    cells = [cell("tac", 2.0 + value) for value in (0.1, 0.5)]
    for metrics, value in zip(cells, (0.5, 0.1), strict=True):
        metrics["config"] = copy.deepcopy(metrics["config"]) | {"correct": {"lambda1": value, "mask": "x"}}
    lines = report.table(fill(tmp_path / "t", cells)).splitlines()
    assert "| lambda1 |" in lines[0] and "mask" not in lines[0]
    assert [line.split(" | ")[2] for line in lines[3:5]] == ["0.1", "0.5"]


def test_nested_settings_are_told_by_their_overrides(tmp_path: Path) -> None:
    cells = []
    for mix, target in ((1.0, "a.Reconstruction"), (0.5, "b.Qat")):
        words = [f"recon.passes.scales.mix={mix}"]
        cells.append(cell("tdq", 2.0 + mix, overrides=words))
        recon = {"_target_": target, "passes": {"scales": {"mix": mix}}}
        cells[-1]["config"] = cells[-1]["config"] | {"recon": recon, "scheme": {"rules": [mix]}}
    lines = report.table(fill(tmp_path / "t", cells)).splitlines()
    assert lines[0].startswith("| bits | method | overrides | FD-digits") and "recon.passes.scales.mix=0.5" in lines[3]


def test_rows_of_one_name_have_what_tells_them_apart(tmp_path: Path) -> None:
    bits = {"name": "w3a8", "weight": 5, "act": 8}
    plain = cell("tac", 2.0, overrides=["calib.num_steps=2"])
    other = cell("tac", 3.0, overrides=["calib.num_steps=2", "scheme=quest"], config={**plain["config"], "bits": bits})
    lines = report.table(fill(tmp_path / "t", [plain, other])).splitlines()
    assert lines[0].startswith("| bits | method | overrides | FD-digits")
    assert lines[3].startswith("| w5a8 | tac | scheme=quest |") and lines[4].startswith("| w3a8 | tac |  |")
    assert "; calib.num_steps=2; budget light;" in lines[-1]


def test_a_table_names_numerics_that_are_not_the_default(tmp_path: Path) -> None:
    plain = cell("tac", 2.0)
    numerics = {"_target_": "dmq_cli.models.Numerics", "dtype": "bfloat16", "tf32": False, "channels_last": True}
    half = {**plain, "config": {**plain["config"], "numerics": numerics}}
    assert "; dtype bfloat16; channels_last True; budget light;" in report.table(fill(tmp_path / "half", [half]))
    assert "dtype" not in report.table(fill(tmp_path / "plain", [plain]))


def counted(bops: float, size: float, **seconds: float) -> dict[str, Any]:
    cost = {"macs": 10, "bops": bops, "bops_fp": 134.5e9, "size_bytes": size, "size_bytes_fp": 4.451e6}
    return {"cost": cost, "seconds": {"calibset": 999.0, "sample-0-39": 999.0, **seconds}}


def test_costs_have_columns_where_they_were_counted(tmp_path: Path) -> None:
    tac = cell("tac", 2.0, **counted(4.31e9, 0.61e6, calibrate=6, transform=30, reconstruct=120, correct=30))
    plain = cell("minmax", 5.0, **counted(3.3e9, 0.6e6, calibrate=6.0, reconstruct=0.0, correct=0.0))
    lines = report.table(fill(tmp_path / "t", [tac, plain])).splitlines()
    last = "seconds: inputs, ranges, learning, correction, sampling"
    assert lines[0].endswith(f"| PSNR to FP ↑ | size (MB) | GBOPs | {last} |") and lines[1].count("---") == 8
    assert lines[2].endswith("|  | 4.45 | 134.5 |  |")
    assert lines[3].endswith("dB | 0.60 | 3.3 | 999, 6, 0, 0, 999 |")
    assert lines[4].endswith("dB | 0.61 | 4.3 | 999, 36, 120, 30, 999 |")


def test_a_method_that_cannot_be_deployed_is_marked(tmp_path: Path) -> None:
    costs = counted(4.31e9, 0.61e6)
    costs["cost"]["deployable"] = False
    lines = report.table(fill(tmp_path / "t", [cell("quest", 2.0, **costs), cell("tac", 2.0)])).splitlines()
    assert [line.split(" | ")[1] for line in lines[3:5]] == ["quest (not deployable)", "tac"]


def test_cells_from_before_costs_leave_them_empty(tmp_path: Path) -> None:
    old = [cell("tac", 2.0), cell("minmax", 5.0)]
    assert "GBOPs" not in report.table(fill(tmp_path / "old", old))
    new = cell("qdiffusion", 3.0, **counted(4.31e9, 0.61e6, calibrate=6.0))
    lines = report.table(fill(tmp_path / "mixed", [*old, new])).splitlines()
    assert lines[2].endswith("| 4.45 | 134.5 |  |") and lines[4].endswith("| 0.61 | 4.3 | 999, 6, 0, 0, 999 |")
    assert lines[3].endswith("dB |  |  |  |") and lines[5].endswith("dB |  |  |  |")


def test_full_precision_on_ranges_of_its_own(tmp_path: Path) -> None:
    fp = spread_over([{"fd": 1.0, "is": 8.0}, {"fd": 1.2, "is": 8.2}, {"fd": 1.4, "is": 8.4}])
    fields = {"seeds": ["0-39"], "fp_seeds": ["0-39", "40-79", "80-119"], "fp": fp}
    lines = report.table(fill(tmp_path / "t", [cell("tac", 2.0, **fields)])).splitlines()
    assert "| 1.20 ± 0.20 | 8.20 ± 0.20 |" in lines[2]
    assert ", seeds 0-39; full precision: mean ± standard deviation over seeds 0-39, 40-79, 80-119; budget" in lines[-1]
    same = report.table(fill(tmp_path / "same", [cell("tac", 2.0, fp_seeds=["0-39", "40-79"])]))
    assert same == report.table(fill(tmp_path / "without", [cell("tac", 2.0)]))


def test_random_weights_are_told_wherever_numbers_are(tmp_path: Path) -> None:
    fields = {"num_images": 40, "policy": {"a.weight": 4, "a.input": 8}}
    metrics = cell("tac", 1.0, weights="random", **fields)
    lines = report.table(fill(tmp_path / "t", [metrics])).splitlines()
    assert lines[3].split(" | ")[1] == "tac (random weights)"
    assert "(random weights)" in report.describe(metrics).splitlines()[0]
    assert "random" not in report.describe(cell("tac", 1.0, **fields))
    with pytest.raises(ConfigError, match="cannot share"):
        report.table(fill(tmp_path / "mixed", [metrics, cell("tac", 1.0)]))


def test_baselines_first_unknown_methods_last(tmp_path: Path) -> None:
    names = ["zebra", "tac", "quest", "minmax", "ptqd", "aardvark", "qdiffusion", "brecq"]
    lines = report.table(fill(tmp_path / "t", [cell(name, 2.0) for name in names])).splitlines()
    wanted = ["minmax", "brecq", "qdiffusion", "ptqd", "quest", "tac", "aardvark", "zebra"]
    assert [line.split(" | ")[1] for line in lines[3:11]] == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": {"hash": "other", "name": "x", "num_images": 4, "columns": {}}},
        {"model": "n"},
        {"seeds": ["0-9"]},
        {"fp_seeds": ["0-9"]},
        {"config": {**cell("minmax", 5.0)["config"], "numerics": {"dtype": "bfloat16"}}},
        {"config": {**cell("minmax", 5.0)["config"], "sampler": {"num_inference_steps": 4}}},
        {"config": {**cell("minmax", 5.0)["config"], "model": {"name": "m", "sha256": "of other weights"}}},
        {"config": {**cell("minmax", 5.0)["config"], "cond": {"guidance": 2.0}}},
    ],
    ids=["protocol", "model", "seeds", "fp_seeds", "numerics", "sampler", "weights", "guidance"],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = fill(tmp_path / "t", [cell("tac", 2.0), cell("minmax", 5.0, **change)])
    with pytest.raises(ConfigError, match="2 protocols, models, samplers, seeds or numerics"):
        report.table(folder)


def test_a_table_without_cells_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dmq table none"):
        report.table(tmp_path / "none")


def test_only_the_generated_part_of_a_document_changes(tmp_path: Path) -> None:
    fill(tmp_path / "t", [cell("tac", 2.0)])
    text = "before\n<!-- table t -->\nold\n<!-- end -->\nafter"
    filled = documents.fill(text, tmp_path)
    assert filled.startswith("before\n<!-- table t -->\n| bits") and filled.endswith("<!-- end -->\nafter")
    assert "old" not in filled and documents.fill(filled, tmp_path) == filled


def test_many_cells_are_pictured_at_the_bits_that_tell_most() -> None:
    cells = [cell("a", 1.0, bits="w8a8"), cell("b", 1.0, bits="w8a8"), cell("a", 1.0, bits="w4a4")]
    cells.append(cell("b", 9.0, bits="w4a4"))
    assert telling_bits(map(as_evaluation, cells)) == "w4a4"


def test_a_document_may_ask_for_some_rows_and_columns(tmp_path: Path) -> None:
    cells = [cell("tac", 2.0, bits="w4a4"), cell("minmax", 9.0, bits="w4a4"), cell("tac", 3.0, bits="w8a8")]
    fill(tmp_path / "t", cells)
    text = (
        "<!-- table t bits=w4a4 method=tac columns=method,PSNR -->\nold\n<!-- end -->\n<!-- table t -->\n<!-- end -->"
    )
    some, every = (part.splitlines() for part in documents.fill(text, tmp_path).split("<!-- end -->\n"))
    assert some[1:5] == [
        "| method | PSNR to FP ↑ |",
        "| --- | --- |",
        "| full precision |  |",
        "| tac | 20.50 ± 0.71 dB |",
    ]
    assert len([line for line in every if line.startswith("| w")]) == 3 and len(every[1].split(" | ")) == 5
    with pytest.raises(ConfigError, match="no finished cells of tac of w2a2"):
        documents.fill(text.replace("w4a4", "w2a2"), tmp_path)
    with pytest.raises(ConfigError, match="use bits or method or columns"):
        documents.fill(text.replace("bits", "bit"), tmp_path)


def test_a_document_may_have_the_rows_of_two_tables(tmp_path: Path) -> None:
    fill(
        tmp_path / "ptq",
        [cell("tac", 2.0, overrides=["budget=light"]), cell("minmax", 9.0, overrides=["budget=light"])],
    )
    fill(tmp_path / "qat", [cell("lsq", 1.0, overrides=["train.loss=distill"])])
    text = "<!-- table ptq,qat columns=method,overrides,FD-digits -->\n<!-- end -->"
    lines = documents.fill(text, tmp_path).splitlines()
    assert [line.split(" | ")[0] for line in lines[4:7]] == ["| minmax", "| tac", "| lsq"]
    assert "overrides" not in lines[1], "what all cells of a table share stands under it"
    assert "; ptq: budget=light; qat: train.loss=distill; budget" in lines[8]
    fill(tmp_path / "again", [cell("tac", 1.0, overrides=["train.loss=noise"])])
    with pytest.raises(ConfigError, match="ptq and again both have the row w3a8 tac"):
        documents.fill(text.replace("qat", "again"), tmp_path)
    fill(tmp_path / "other", [cell("pact", 1.0, protocol={**cell("pact", 1.0)["protocol"], "hash": "another"})])
    with pytest.raises(ConfigError, match="2 protocols"):
        documents.fill(text.replace("qat", "other"), tmp_path)


def test_a_document_may_have_docstrings_and_files_of_conf(tmp_path: Path) -> None:
    text = "<!-- docstring correct/base.py -->\n<!-- end -->\n<!-- choice correct=none -->\nold\n<!-- end -->\n"
    lines = documents.fill(text, tmp_path).splitlines()
    assert (
        lines[1]
        == "What every correction offers to the stages that estimate and use it, and the one that does nothing."
    )
    assert lines[4:6] == ['```yaml title="correct=none"', "# The quantized network as it is."] and "old" not in lines
    with pytest.raises(ConfigError, match="which is not there"):
        documents.fill(text.replace("none", "nothing"), tmp_path)


@pytest.mark.parametrize("document", documents.documents(ROOT), ids=lambda file: str(file.relative_to(ROOT)))
def test_generated_parts_of_documents_are_what_the_command_makes(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert documents.fill(text, TABLES) == text, "run make docs-tables"


def test_seeds_are_compared_with_those_of_the_method_that_is_named() -> None:
    part = "<!-- seeds recon_seed base=tfmq -->\n<!-- end -->"
    assert "less tfmq's" in documents.fill(part, TABLES)
    with pytest.raises(ConfigError, match="use base"):
        documents.fill(part.replace("base", "bits"), TABLES)


def test_documents_show_the_tables() -> None:
    shown = "".join(file.read_text(encoding="utf-8") for file in documents.documents(ROOT))
    assert {"<!-- table digits_ptq -->", "<!-- table main -->", "<!-- seeds recon_seed -->"} <= set(shown.splitlines())
    assert len(documents.documents(ROOT)) >= 20


def test_every_committed_cell_has_its_proof() -> None:
    cells = sorted(TABLES.glob("*/*/metrics.json"))
    assert len(cells) >= 20, "the cells of the tables in the documents are committed"
    for file in cells:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        manifest = json.loads((file.parent / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["artifacts"] == metrics["artifacts"] and manifest["command"] == metrics["command"]
        assert len(metrics["protocol"]["hash"]) == 16 and metrics["num_images"] >= 1000
        assert {"fd", "is"} <= set(metrics["fp"]) & set(metrics["quantized"]) and metrics["paired"]["psnr"] > 0
        assert not metrics["config"]["model"]["path"].startswith("/")
