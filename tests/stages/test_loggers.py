"""Loggers get what a run's folder has: read back from what their own packages wrote."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from dmq_cli.errors import ConfigError
from dmq_cli.paths import conf_folder
from dmq_cli.stages.loggers import MLflow, NoLogger, TensorBoard, WandB, curves, log_run, make_logger, numbers
from dmq_cli.store import read_json, write_json
from tests.chain import QUICK, dmq, tiny_folder, words
from tests.tiny import SMALL

FOUND: dict[str, Any] = {
    "model": "tiny", "method": "tac", "bits": "w3a8", "config": {"bits": {"name": "w3a8"}},
    "fp": {"fd": 0.25}, "quantized": {"fd": 0.5, "fd_over_seeds": {"std": 0.125, "each": [1, 2]}}, "paired": {"psnr": 30.0},
}  # fmt: skip
NUMBERS = {"fp/fd": 0.25, "quantized/fd": 0.5, "quantized/fd_over_seeds_std": 0.125, "paired/psnr": 30.0}
CURVE = "losses/training/round 1/network"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "evaluate" / "now"
    folder.mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "samples.png")
    learned = folder / "artifacts" / "reconstruct"
    learned.mkdir(parents=True)
    write_json(learned / "losses.json", {"passes": {"training, round 1": {"network": [[2, 0.5], [4, 0.25]]}}})
    return folder


def test_the_losses_of_learning_come_in_order(run: Path, tmp_path: Path) -> None:
    assert list(curves(run)) == [(CURVE, 2, 0.5), (CURVE, 4, 0.25)]
    assert list(curves(tmp_path)) == []


def test_every_number_has_a_name() -> None:
    assert dict(numbers(FOUND)) == NUMBERS


def test_tensorboard(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    TensorBoard(str(tmp_path / "tb")).log(run, FOUND)
    events = EventAccumulator(str(tmp_path / "tb" / "now")).Reload()
    tags = events.Tags()
    assert {name: events.Scalars(name)[0].value for name in tags["scalars"] if name != CURVE} == NUMBERS
    assert [(event.step, event.value) for event in events.Scalars(CURVE)] == [(2, 0.5), (4, 0.25)]
    image = events.Images("samples")[0]
    assert (image.width, image.height) == (8, 8)
    assert b"w3a8" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_a_reconstruction_is_logged_with_its_losses(tmp_path: Path) -> None:
    """By the command, through a logger of one's own that writes what it was given."""
    model = tiny_folder(tmp_path / "tiny", **SMALL)
    command = words("reconstruct", model, tmp_path / "outputs", "method=lsq", "bits=w4a4", *QUICK, "train.loss=distill")
    done = dmq(*command, f"+logger={{_target_: tests.stages.test_loggers.Written, file: {tmp_path / 'log.json'}}}")
    assert done.code == 0, done.err
    written = read_json(tmp_path / "log.json")
    assert written["labels"] == ["tiny", "lsq", "w4a4"] and written["numbers"] == {}
    names = {name for name, _, _ in written["curves"]}
    assert {"losses/training/network", "losses/held out/network"} <= names


@dataclass(frozen=True)
class Written:
    """A logger that writes what it is given."""

    file: str
    package: ClassVar[str | None] = None

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        labels = [metrics[name] for name in ("model", "method", "bits")]
        write_json(Path(self.file), {"labels": labels, "numbers": dict(numbers(metrics)), "curves": list(curves(run))})


def test_mlflow(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    for _ in range(2):
        MLflow(str(tmp_path / "mlruns")).log(run, FOUND)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("dmq").experiment_id])
    assert len(runs) == 2 and runs[0].data.metrics == NUMBERS | {CURVE: 0.25}
    assert runs[0].data.params == {"model": "tiny", "method": "tac", "bits": "w3a8"}
    assert {file.path for file in client.list_artifacts(runs[0].info.run_id)} == {"config.json", "samples.png"}


@pytest.mark.slow
def test_wandb(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    WandB(str(tmp_path)).log(run, FOUND)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb")) and list(folder.rglob("samples_*.png"))


def test_a_missing_package_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in sorted((conf_folder() / "logger").glob("*.yaml")):
        name, kind = file.stem, {"none": "NoLogger", "tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WandB"}
        section = {"_target_": f"dmq_cli.stages.loggers.{kind[name]}", **({} if name == "none" else {"folder": "x"})}
        monkeypatch.setattr("dmq_cli.stages.loggers.find_spec", lambda package: None)
        if name == "none":
            assert make_logger(section) == make_logger(None) == NoLogger()
            continue
        with pytest.raises(ConfigError, match=rf"pip install 'dmq-cli\[{name}\]'"):
            make_logger(section)
    with pytest.raises(ConfigError, match="offline"):
        make_logger({"_target_": "dmq_cli.stages.loggers.WandB", "folder": "x", "mode": "sometimes"})


def test_a_logger_that_fails_is_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run.parent / "file").write_text("", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "dmq"):
        logging.getLogger("dmq").addHandler(caplog.handler)
        log_run(TensorBoard(str(run.parent / "file")), run, FOUND)
        logging.getLogger("dmq").removeHandler(caplog.handler)
    assert "did not log it" in caplog.text and "is finished" in caplog.text
