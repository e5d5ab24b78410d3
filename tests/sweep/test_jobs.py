"""Which jobs a sweep has, and what a table of many looks like in a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

from dmq_cli.paths import conf_folder
from dmq_cli.results.sweeps import Records
from dmq_cli.sweep import Job
from dmq_cli.sweep.jobs import compose, expand, job_key, narrowed, rows_of
from dmq_cli.sweep.show import Display, failure, left, summary

ROWS = [["method=tac", "bits=w3a8"], ["method=minmax", "bits=w3a8"], ["method=tac", "bits=w4a8"]]


def stand_in(table: dict[str, Any], scale: str) -> list[list[str]]:
    """Instead of dmq_cli.papers.jobs."""
    assert table["paper"] == "some.csv"
    return [[*row, f"table.name={table['name']}-{scale}"] for row in ROWS]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield GlobalHydra.instance().hydra


def master(*overrides: str) -> Any:
    return hydra_compose("config", ["stage=evaluate", *overrides], return_hydra_config=True)


def test_the_command_line_wins_over_what_a_table_sweeps(context: Any) -> None:
    params = {"method": "minmax,tac", "bits": "w4a8,w3a8"}
    assert len(expand(context, params, ["stage=evaluate"], [[]])) == 4
    combinations = expand(context, params, ["stage=evaluate", "bits=w3a8"], [[]])
    assert sorted(map(sorted, combinations)) == [
        ["bits=w3a8", "method=minmax", "stage=evaluate"],
        ["bits=w3a8", "method=tac", "stage=evaluate"],
    ]


def test_rows_of_a_papers_table_narrowed_by_the_command_line(context: Any) -> None:
    assert rows_of({"name": None}, "paper", stand_in) == [[]]
    rows = rows_of({"name": "t", "paper": "some.csv"}, "digits", stand_in)
    arguments = ["stage=evaluate", "sampler.num_inference_steps=4"]
    plain = expand(context, {}, arguments, rows)
    assert [words[:2] for words in plain] == ROWS and all(words[3:] == arguments for words in plain)
    assert all("table.name=t-digits" in words for words in plain)
    jobs = compose(context, master(), expand(context, {}, [*arguments, "bits=w4a6"], rows))
    assert [job.label for job in jobs] == ["method=tac", "method=minmax"], "two rows became the same job"
    assert {job.config.bits.name for job in jobs} == {"w4a6"} and {job.config.table.name for job in jobs} == {
        "t-digits"
    }


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["method=tac"], [0, 2]),
        (["bits=w4a8", "method=tac"], [2]),
        (["bits=w4a8,w2a8"], [2]),
        (["bits=w2a8", "method=minmax"], [1]),
        (["sampler.eta=1"], [0, 1, 2]),
    ],
)
def test_the_command_line_chooses_the_rows_that_have_what_it_says(words: list[str], numbers: list[int]) -> None:
    assert narrowed(ROWS, words) == [ROWS[number] for number in numbers]


def test_rows_that_a_list_of_values_chose_keep_their_own(context: Any) -> None:
    assert expand(context, {}, ["bits=w4a8,w3a8"], ROWS) == ROWS


def test_the_key_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmq_cli.stages.graph import Node
    from dmq_cli.stages.nodes import NODES

    model = "model=ddim_cifar10"  # its folder lies in outputs, unless another is given
    base, config = job_key(master(model)), master(model)
    how = ["runtime.outputs=/elsewhere", "runtime.threads=1", "retry=failed", "scale=digits", "logger=tensorboard"]
    assert job_key(master(model, *how)) == base
    others = [job_key(master(model, override)) for override in ("bits=w3a8", "model.path=/a", "table=main")]
    assert len({base, *others}) == 4
    monkeypatch.setitem(NODES, "trace", Node("trace", NODES["trace"].reads, NODES["trace"].run, version=99))
    assert job_key(config) == base, "no number of a result comes from a trace"
    changed = Node("sample", (), NODES["sample"].run, version=NODES["sample"].version + 1)
    monkeypatch.setitem(NODES, "sample", changed)
    assert job_key(config) != base, "what an earlier version of a stage made is not what this one would make"


def test_records_follow_outputs_to_another_place(tmp_path: Path) -> None:
    outputs = tmp_path / "one"
    folder = outputs / "runs" / "evaluate" / "now"
    folder.mkdir(parents=True)
    for name in ("config.json", "manifest.json", "metrics.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    records = Records(outputs, "t")
    records.write("k", {"run": records.below(str(folder)), "status": "done"})
    outputs.rename(tmp_path / "two")
    moved = Records(tmp_path / "two", "t")
    record = moved.read("k")
    assert record is not None and moved.proof(record) == tmp_path / "two" / "runs" / "evaluate" / "now" / "config.json"
    assert moved.proof({**record, "cell": "tables/t/gone"}) is None, "the cell is what a table needs"
    assert moved.below(str(tmp_path / "elsewhere")) == str(tmp_path / "elsewhere") and moved.below(None) is None
    (moved.folder / "k.json").write_text("{", encoding="utf-8")
    assert moved.read("k") is None and moved.read("never") is None


def test_a_running_job_is_seen_until_it_has_a_record(tmp_path: Path) -> None:
    records = Records(tmp_path, "t")
    assert records.running("k") is None
    records.start("k")
    assert 0 <= (records.running("k") or 0) < 60
    records.write("k", {"status": "done"})
    assert records.running("k") is None
    records.start("k")
    records.forget("k")
    assert records.running("k") is None and records.read("k") is None


def test_the_live_table_fits_the_terminal_around_what_runs(tmp_path: Path) -> None:
    jobs = [
        Job([], str(n), label=f"[job-{n:03d}]", status="done" if n < 60 else "waiting", ran=True) for n in range(90)
    ]
    jobs[59].fail("broken for a reason " * 20, 1)
    jobs[60].status, jobs[60].record = "running", {"seconds": 12.0}
    console = Console(file=io.StringIO(), width=120, height=24)
    console.print(Display(jobs, Records(tmp_path, "t"), set())._table(24))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[job-060]" in text and "running" in text and "12.0 s" in text and "job-010" not in text
    assert len(text.splitlines()) <= 24 and "59 done, 0 skipped, 1 failed, 1 running, 29" in text


def test_a_narrow_live_table_cuts_results_and_keeps_what_is_short(tmp_path: Path) -> None:
    jobs = [Job([], str(n), label=f"bits.weight={n}", status="waiting") for n in range(12)]
    jobs[0].fail("broken for a reason " * 20, 1)
    jobs[1].status, jobs[1].record, jobs[1].ran = "done", {"seconds": 1234.5, "result": "FD-digits 1.23 " * 9}, True
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(Display(jobs, Records(tmp_path, "t"), set())._table(24))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in text for word in ("│ 12 ", " failed ", " waiting ", " 1234.5 s ", "bits.weight=0 ", "broken"))
    assert len(text.splitlines()) == 5 + len(jobs) and max(map(len, text.splitlines())) <= 80


def test_the_time_left_of_a_sweep_follows_from_the_jobs_that_are_done() -> None:
    jobs = [Job([], str(number), label=f"job-{number}") for number in range(6)]
    assert left(jobs) == [], "nothing is known yet"
    for job, seconds in zip(jobs, (60.0, 100.0, 80.0), strict=False):
        job.status, job.record = "done", {"seconds": seconds}
    jobs[3].status, jobs[3].record = "running", {"seconds": 30.0}
    assert left(jobs) == ["about 4 min left of the sweep"], "80 - 30 + 2 * 80 s"
    jobs[4].status = "running"
    assert left(jobs) == ["about 2 min left of the sweep"], "two at a time"
    for job in jobs:
        job.status = "done"
    assert left(jobs) == []


def test_every_failure_is_listed_with_how_to_try_again() -> None:
    jobs = [Job([], str(n), label=f"bits=b{n}", status="done") for n in range(3)]
    assert failure(jobs) is None and summary(jobs) == "0 done, 3 skipped, 0 failed"
    jobs[0].fail("one reason", 2)
    jobs[2].fail("another reason", 4)
    error = failure(jobs)
    assert error is not None and error.exit_code == 1
    lines = str(error).splitlines()
    assert "2 of 3" in lines[0] and "retry=failed" in lines[0]
    assert lines[1:] == ["  bits=b0: one reason", "  bits=b2: another reason"]
