"""A sweep goes on where it stopped: finished jobs are skipped, failures are collected, a kill loses one job at most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.store import read_json, write_json
from dmq_cli.sweep import Job
from tests.chain import Result, counting, dmq, tiny_folder, words
from tests.tiny import SMALL

BAD = "0 bits"  # what the sentence about bits.weight=0 says


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL)


@pytest.fixture
def outputs(model: Path, tmp_path: Path) -> Path:
    """Without runs and records, but with the artifacts of the tests before."""
    (model.parent / "artifacts").mkdir(exist_ok=True)
    (tmp_path / "artifacts").symlink_to(model.parent / "artifacts")
    return tmp_path


def sweep(model: Path, outputs: Path, *more: str) -> Result:
    """The cheapest verb, over what `more` separates by commas."""
    return dmq(*words("calibrate", model, outputs, "-m", *more))


def records(outputs: Path) -> dict[str, dict[str, Any]]:
    """Every record by its last override."""
    entries = [read_json(file) for file in outputs.glob("sweeps/*/*.json")]
    return {record["overrides"][-1]: record for record in entries}


@pytest.fixture
def launcher() -> Any:
    """Hydra's launcher as jobs get it: the first look for plugins runs its module anew, so that classes taken before are others."""
    from hydra.core.plugins import Plugins

    Plugins.instance()
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    return BasicLauncher


@contextmanager
def stopping(errors: dict[int, BaseException]) -> Iterator[None]:
    """Jobs whose weights have one of these widths stop at an error that nobody expected."""
    from dmq_cli.stages import verbs
    from dmq_cli.stages.prepare import prepare

    def stopped(config: Any) -> dict[str, Any]:
        if (error := errors.get(config["bits"]["weight"])) is not None:
            raise error
        return prepare(config)

    with patch.object(verbs, "prepare", stopped):
        yield


def test_a_failing_job_does_not_stop_the_others_and_is_not_tried_again_unasked(model: Path, outputs: Path) -> None:
    first = sweep(model, outputs, "bits.weight=0,4")
    assert first.code == 1 and BAD in first.sentence and "retry=failed" in first.sentence
    assert "1 of 2 jobs failed" in first.sentence and "bits.weight=0" in first.sentence
    assert first.out.splitlines()[-1] == "1 done, 0 skipped, 1 failed"
    before = records(outputs)
    failed, done = before["bits.weight=0"], before["bits.weight=4"]
    assert (failed["status"], failed["exit_code"]) == ("failed", 2) and BAD in failed["error"]
    assert (done["status"], done["exit_code"], done["error"]) == ("done", 0, None) and done["seconds"] > 0
    assert (outputs / done["run"] / "manifest.json").is_file()
    assert not {"retry", "scale", "logger"} & set(read_json(outputs / done["run"] / "config.json"))

    second = sweep(model, outputs, "bits.weight=0,4", "--json")
    summary = json.loads(second.out)
    assert second.out.count("\n") == 1 and summary["exit_code"] == second.code == 1 and BAD in summary["error"]
    assert [(job["status"], job["ran"]) for job in summary["jobs"]] == [("failed", False), ("done", False)]
    assert records(outputs) == before and len(list(outputs.glob("runs/calibrate/*"))) == 1

    third = sweep(model, outputs, "bits.weight=0,4", "retry=failed")
    assert third.out.splitlines()[-1] == "0 done, 1 skipped, 1 failed" and "failed before" not in third.out
    assert records(outputs)["bits.weight=4"] == done and records(outputs)["bits.weight=0"] != failed


def test_what_a_job_made_must_be_there_and_a_wider_sweep_goes_on_with_the_narrower_one(
    model: Path, outputs: Path
) -> None:
    assert sweep(model, outputs, "bits.weight=4,3", "-q") == Result(0, "", "")
    shutil.rmtree(outputs / records(outputs)["bits.weight=3"]["run"])
    how = ("runtime.batch_size=7", "scale=digits", "retry=failed")
    with counting() as ran:
        again = sweep(model, outputs, "bits.weight=4,3,2", *how)
    assert again.code == 0 and again.out.splitlines()[-1] == "2 done, 1 skipped, 0 failed"
    assert "skipped  bits.weight=4" in again.out and ran == ["calibrate", "targets"][: len(ran)]


def test_weights_that_were_made_anew_are_measured_anew(model: Path, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    from dmq_cli.models import identified
    from dmq_cli.sweep.sweeper import _stands

    section = {"name": "tiny", "path": str(model), "sampling": {}}
    job = Job([], "k", OmegaConf.create({"model": section}))
    write_json(tmp_path / "config.json", {"model": {"sha256": identified(section)["sha256"]}})
    assert _stands(tmp_path / "config.json", job, {}) and not _stands(None, job, {})
    write_json(tmp_path / "config.json", {"model": {"sha256": "of what lay there before"}})
    assert not _stands(tmp_path / "config.json", job, {})
    gone = Job([], "k", OmegaConf.create({"model": {**section, "path": str(tmp_path / "gone")}}))
    assert _stands(tmp_path / "config.json", gone, {}), "what was measured stays measured"
    write_json(tmp_path / "config.json", {"model": None})
    assert not _stands(tmp_path / "config.json", job, {})


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_broken_run_folder_is_made_again_and_stops_no_other_job(name: str, model: Path, outputs: Path) -> None:
    assert sweep(model, outputs, "bits.weight=4,3", "-q").code == 0
    broken = outputs / records(outputs)["bits.weight=3"]["run"] / name
    broken.write_bytes(broken.read_bytes()[:20])
    again = sweep(model, outputs, "bits.weight=4,3")
    assert again.code == 0 and again.out.splitlines()[-1] == "1 done, 1 skipped, 0 failed"


@pytest.mark.parametrize("kind", ["run", "cell"])
@pytest.mark.parametrize("name", ["metrics.json", "manifest.json"])
def test_a_result_stands_while_its_numbers_and_its_manifest_do(kind: str, name: str, tmp_path: Path) -> None:
    from dmq_cli.results.sweeps import Records

    folder = {"run": "runs/evaluate/one", "cell": "tables/mine/one"}[kind]
    for file in ("config.json", "metrics.json", "manifest.json"):
        write_json(tmp_path / folder / file, {})
    results = Records(tmp_path, "mine")
    assert results.proof({kind: folder}) is not None and results.proof({}) is None
    (tmp_path / folder / name).write_text("{", encoding="utf-8")
    assert results.proof({kind: folder}) is None
    (tmp_path / folder / name).unlink()
    assert results.proof({kind: folder}) is None


def test_the_same_configuration_twice_is_one_job(model: Path, outputs: Path) -> None:
    result = sweep(model, outputs, "bits=w4a8,w4a8", "--json")
    (job,) = json.loads(result.out)["jobs"]
    assert result.code == 0 and job["status"] == "done" and job["ran"] and result.out.count("\n") == 1


def test_an_unexpected_error_fails_its_job_and_an_interrupted_one_runs_again(model: Path, outputs: Path) -> None:
    with stopping({2: RuntimeError("out of something"), 3: KeyboardInterrupt()}):
        result = sweep(model, outputs, "bits.weight=2,4,3")
    assert result.code == 1 and result.err.splitlines()[-1].startswith("Error: Interrupted;")
    assert "Traceback" in result.err and "RuntimeError: out of something" in result.err, "somebody has to mend it"
    jobs = records(outputs)
    assert {name: record["status"] for name, record in jobs.items()} == {
        "bits.weight=2": "failed",
        "bits.weight=4": "done",
    }
    assert jobs["bits.weight=2"]["error"] == "RuntimeError: out of something"
    again = sweep(model, outputs, "bits.weight=2,4,3")
    assert again.out.splitlines()[-1] == "1 done, 1 skipped, 1 failed" and "failed before  bits.weight=2" in again.out
    assert again.code == 1 and "out of something" in again.sentence


def test_a_job_that_cannot_be_composed_fails_alone(model: Path, outputs: Path) -> None:
    result = sweep(model, outputs, "method=minmax,tacc")
    assert result.code == 1 and "tacc" in result.sentence and records(outputs)["method=minmax"]["status"] == "done"
    assert dmq("calibrate", "-m", "method=tacc", "bits=w4a8,w3a8").code == 2, "wrong for every job"


def test_what_is_lost_with_its_process_is_told(model: Path, outputs: Path, launcher: Any) -> None:
    launch = launcher.launch

    def dying(self: Any, overrides: Any, initial_job_idx: int) -> Any:
        launch(self, overrides[:1], initial_job_idx=initial_job_idx)
        raise BrokenPipeError("a worker is gone")

    with patch.object(launcher, "launch", dying):
        result = sweep(model, outputs, "bits.weight=4,3")
    assert result.code == 1 and "BrokenPipeError" in result.sentence and "bits.weight=3" in result.sentence
    assert "1 done, 0 skipped, 0 failed, 1 lost" in result.out and set(records(outputs)) == {"bits.weight=4"}


def test_plans_are_never_records(model: Path, tmp_path: Path) -> None:
    command = ["plan", *words("calibrate", model, tmp_path, "-m", "bits.weight=4,3")]
    result = dmq(*command)
    assert result.code == 0 and result.out.count("never computed here") == 6, "three stages in each of two jobs"
    jobs = json.loads(dmq(*command, "--json").out)["jobs"]
    assert [len(job["found"]["plan"]) for job in jobs] == [3, 3] and records(tmp_path) == {}


def test_a_word_that_only_swept_choices_read_reaches_them(model: Path, tmp_path: Path) -> None:
    layers = ("scheme.layers=2", "method=tdq,tdq_qat")
    ranks = ("transform.rank=2", "transform=lowrank,lowrank", "bits.weight=4,3")
    for more in (layers, ranks):
        result = dmq("plan", *words("calibrate", model, tmp_path, "-m", *more), "--json")
        assert result.code == 0 and [job["status"] for job in json.loads(result.out)["jobs"]] == ["done", "done"]
        alone = dmq("plan", *words("calibrate", model, tmp_path, more[0]))
        assert alone.code == 2 and more[0].partition("=")[0] in alone.sentence  # the default choice has no such key


@pytest.mark.parametrize("command", [("retry=all",), ("scale=small", "-m", "bits.weight=4,3")])
def test_words_that_do_not_exist(command: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    result = dmq(*words("calibrate", model, tmp_path, *command))
    assert result.code == 2 and command[0] in result.sentence and " or " in result.sentence


def test_outputs_that_cannot_be_written_are_told_by_every_job(model: Path, outputs: Path) -> None:
    from dmq_cli.results.sweeps import Records

    refused = PermissionError(13, "Permission denied", "/locked")
    for method in ("start", "write"):
        with patch.object(Records, method, side_effect=refused):
            result = sweep(model, outputs, "bits.weight=4,3")
        assert result.code == 1 and result.err.count("Permission denied at /locked") == 1
        assert "2 of 2 jobs failed" in result.err and "bits.weight=4, bits.weight=3: " in result.err
        assert "ended without a result" not in result.err
        assert "Traceback" not in result.err


def test_the_sentence_of_a_launcher_that_gave_up_is_kept(model: Path, outputs: Path, launcher: Any) -> None:
    with patch.object(launcher, "launch", side_effect=PermissionError(13, "Permission denied", "/locked")):
        result = sweep(model, outputs, "bits.weight=4,3")
    assert result.code == 1 and result.err.count("(Permission denied at /locked; make the folder writable") == 1
