"""Which rows of the papers' tables are run, and which finished cells back them."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from dmq_cli import choices, papers
from dmq_cli.errors import ConfigError
from dmq_cli.papers import runnable
from dmq_cli.papers.cells import cell_of, configured, full_precision
from dmq_cli.papers.runnable import blocked, job, jobs
from dmq_cli.papers.transcript import Scale, from_section, names, paper_table
from dmq_cli.papers.views import look_up
from dmq_cli.store import read_json, write_json
from tests.papers.planted import plant, row_of

SCALES: tuple[Scale, ...] = ("digits", "paper")


def test_every_row_of_every_table_is_a_job_or_says_why_not() -> None:
    rows = [(table, row) for table in map(paper_table, names()) for row in table.rows]
    runnable = [(table, row) for table, row in rows if row.overrides["digits"] and not row.missing]
    assert len(rows) >= 240 and len(runnable) >= 100
    for _, row in rows:
        assert row.missing == "", "every row can be measured somewhere"
    for scale in SCALES:
        commands = [job(table, row, scale) for table, row in runnable]
        assert all(any(word.startswith("method=") for word in words) for words in commands)
    commands = [words for name in names() for words in jobs(choices.table(name), "digits")]
    assert len(commands) >= 95, "but for rows that a table has twice"


def distinct() -> list[list[str]]:
    """Jobs of both scales that differ in how their part begins, or in which settings they change inside of groups.

    That groups have the choices that jobs name, `job` has checked.
    """
    commands: dict[tuple[str, ...], list[str]] = {}
    for table in map(paper_table, names()):
        for row in table.rows:
            for scale in SCALES:
                inside = [word.partition("=")[0] for word in row.overrides[scale] if "." in word.partition("=")[0]]
                words = [f"table={table.name}", *job(table, row, scale)]
                commands.setdefault(tuple(inside or table.parts[row.part][scale]), words)
    return list(commands.values())


def check(words: list[str]) -> None:
    config = configured(words)
    assert f"table.name={config['table']['name']}" in words and config["table"]["paper"] == f"{words[0][6:]}.csv"
    for key in ("method", "bits", "model"):
        assert f"{key}={config[key]['name']}" in words or not any(word.startswith(f"{key}=") for word in words)


def test_jobs_compose_at_both_scales() -> None:
    commands = distinct()
    assert len(commands) >= 27
    for words in commands:
        check(words)


@pytest.mark.slow
def test_all_jobs_compose_at_both_scales() -> None:
    every = {
        (f"table={t.name}", *job(t, row, scale))
        for t in map(paper_table, names())
        for row in t.rows
        for scale in SCALES
    }
    assert len(every) >= 300
    for words in every:
        check(list(words))


def test_the_overrides_of_a_row() -> None:
    table = paper_table("tac_2")
    words = job(table, row_of(table, "Ours", "2/8", "LDM-4"), "digits")
    assert words[:4] == ["model=ldm_digits", "sampler.eta=1.0", "method=tac", "bits=w2a8"]
    assert words[4:6] == ["budget=light", "seeds=[0-1999]"] and words[-1] == "table.name=tac_2-digits"
    figure = paper_table("tcaq_figc")
    more = row_of(figure, "more", "W4A8", "(a) initial iterations")
    assert "recon.passes.weights.iterations=600" in job(figure, more, "digits")
    assert "recon.passes.weights.iterations=40000" in job(figure, more, "paper")


def test_a_row_that_stands_twice_runs_once_and_rows_that_cannot_run_do_not() -> None:
    assert len(jobs(choices.table("tcaq_figc"), "digits")) == 8, "ten rows, three of them the default"
    assert len(jobs(choices.table("tac_1"), "digits")) == 19, "without full precision"
    assert len(jobs(choices.table("tdq_1"), "digits")) == 40


def test_at_paper_scale_rows_wait_for_weights_and_then_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = paper_table("tac_1")
    row = row_of(table, "Ours", "8/8")
    assert jobs(choices.table("tac_1"), "paper") == []
    why = blocked(table, row, "paper")
    assert why is not None and why.startswith("needs weights: ") and "dmq fetch model=ddim_cifar10" in why
    assert str(tmp_path) not in why
    network = tmp_path / "outputs" / "models" / "ddim_cifar10" / "unet"
    network.mkdir(parents=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (network / name).touch()
    monkeypatch.setattr(runnable, "_has_gpu", lambda: False)
    assert (blocked(table, row, "paper") or "").startswith("needs GPU: ")
    monkeypatch.setattr(runnable, "_has_gpu", lambda: True)
    assert blocked(table, row, "paper") is None
    assert jobs(choices.table("tac_1"), "paper")[0][-1] == "runtime.device=cuda"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"paper": "tac_9.csv"}, "tac_9.csv"),
        ({"columns": {}}, "must have the columns"),
        ({"parts": {}}, "has a row of the part DDIM, which its YAML file lacks"),
    ],
)
def test_a_table_that_does_not_fit_its_cells_is_told(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        from_section({**choices.table("tac_3"), **change})


def test_a_method_a_table_or_a_scale_that_does_not_exist_is_told() -> None:
    section = choices.table("tac_3")
    section["parts"]["DDIM"]["digits"] = ["model=ddim_digits", "method=tacc"]
    with pytest.raises(
        ConfigError, match=r"The table tac_3 names method=tacc, which does not exist\. Did you mean tac\?"
    ):
        jobs(section, "digits")
    with pytest.raises(ConfigError, match=r"There is no paper's table tac_7\. Did you mean tac_"):
        papers.write_table("tac_7", "digits", Path())
    with pytest.raises(ConfigError, match=r"scale=digit does not exist\. Did you mean digits\?"):
        jobs(section, "digit")


def test_only_the_cell_of_the_same_settings_backs_a_row(tmp_path: Path) -> None:
    table = paper_table("tac_fig6")
    half, low = (row_of(table, f"λ1 = {value}", "3/8") for value in ("0.5", "0.1"))
    folder = plant(tmp_path, table, half, 0.6)
    assert look_up(table, half, "digits", tmp_path).state == "measured"
    assert look_up(table, low, "digits", tmp_path).state == "not run"
    assert cell_of(folder.parent, [*job(table, half, "digits"), "numerics=bf16"]) is None
    plant(tmp_path, table, low, 0.7)
    assert look_up(table, low, "digits", tmp_path).state == "measured"


@pytest.mark.parametrize("broken", ["no manifest", "another key", "other artifacts", "another configuration"])
def test_a_cell_that_no_manifest_backs_does_not_count(tmp_path: Path, broken: str) -> None:
    table = paper_table("tac_3")
    row = row_of(table, "Baseline [24]", "3/8")
    folder = plant(tmp_path, table, row, 0.6)
    assert look_up(table, row, "digits", tmp_path).state == "measured"
    manifest, metrics = read_json(folder / "manifest.json"), read_json(folder / "metrics.json")
    if broken == "no manifest":
        (folder / "manifest.json").unlink()
    elif broken == "another configuration":
        write_json(folder / "metrics.json", {**metrics, "config": {**metrics["config"], "calib": {}}})
    else:
        change: dict[str, object] = {"key": "0" * 32} if broken == "another key" else {"artifacts": {}}
        write_json(folder / "manifest.json", manifest | change)
    assert look_up(table, row, "digits", tmp_path).state == "not run"


def test_two_cells_of_one_row_are_refused(tmp_path: Path) -> None:
    table = paper_table("tac_3")
    row = row_of(table, "Baseline [24]", "3/8")
    for fd in (0.6, 0.7):
        plant(tmp_path, table, row, fd)
    with pytest.raises(ConfigError, match="cells of the same row; remove the one that an older version made"):
        look_up(table, row, "digits", tmp_path)


def test_full_precision_is_backed_by_any_cell_of_its_model_and_seeds(tmp_path: Path) -> None:
    table, other = paper_table("tac_1"), paper_table("tdq_1")
    fp = row_of(other, "FP", "32/32", "DDIM")
    assert look_up(other, fp, "digits", tmp_path).state == "not run"
    folder = plant(tmp_path, table, row_of(table, "Ours", "8/8"), 0.6)
    assert look_up(other, fp, "digits", tmp_path).state == "measured"
    assert look_up(other, row_of(other, "FP", "32/32", "LDM"), "digits", tmp_path).state == "not run"
    words = job(table, row_of(table, "Ours", "3/8"), "digits")
    assert full_precision([folder.parent], words) is not None
    assert full_precision([folder.parent], [*words, "sampler.num_inference_steps=20"]) is None
    assert full_precision([folder.parent], [*words, "fp_seeds=[0-1999]"]) is None
    shutil.rmtree(folder)
    assert full_precision([folder.parent], words) is None


COMMITTED = Path(__file__).resolve().parents[2] / "outputs" / "tables"
FEW_TABLES = ("tac_3", "tac_4")


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="the tables are in a checkout")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FEW_TABLES else pytest.mark.slow) for n in names()])
def test_committed_cells_back_the_rows_that_were_measured(name: str) -> None:
    """A setting that is added later, and stands in the files of conf/, loses no row of a paper's table."""
    file = COMMITTED / f"{name}-digits" / "table.json"
    if not file.is_file():
        pytest.skip("nothing of it was measured")
    table = paper_table(name)
    states = Counter(look_up(table, row, "digits", COMMITTED).state for row in table.rows)
    assert dict(states) == read_json(file)["states"] and (name not in FEW_TABLES or set(states) == {"measured"})
