"""Optional loggers of finished evaluations and reconstructions: copies of what the run folder has of numbers, losses, configuration and
samples.png.

Their packages are extras, imported when they are used. None of this is in any key.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from dmq_cli.errors import ConfigError
from dmq_cli.store import read_json

_log = logging.getLogger("dmq")
SAMPLES = "samples.png"


class Logger(Protocol):
    """package: what must be installed, and what the extra is called; None for nothing."""

    package: ClassVar[str | None]

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """Log the finished run in folder `run`. metrics: the content of its metrics.json; of a reconstruction model, method, bits and
        config alone."""


@dataclass(frozen=True)
class NoLogger:
    """Logs nothing."""

    package: ClassVar[str | None] = None

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TensorBoard:
    """Event files in a folder for each run, below `folder`."""

    folder: str
    package: ClassVar[str | None] = "tensorboard"

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """A scalar for each number, the losses of learning, the configuration as text, the samples as an image."""
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(Path(self.folder) / run.name))
        try:
            for name, value in numbers(metrics):
                writer.add_scalar(name, value)
            for name, iteration, loss in curves(run):
                writer.add_scalar(name, loss, iteration)
            writer.add_text("config", f"```\n{json.dumps(metrics['config'], indent=1)}\n```")
            if (run / SAMPLES).is_file():
                with Image.open(run / SAMPLES) as image:
                    writer.add_image("samples", np.asarray(image.convert("RGB")), dataformats="HWC")
        finally:
            writer.close()


@dataclass(frozen=True)
class MLflow:
    """A run in MLflow's store of files below `folder`."""

    folder: str
    experiment: str = "dmq"
    package: ClassVar[str | None] = "mlflow"

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """A metric for each number; model, method and bits as parameters; config.json and the samples as files."""
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would rather have a database
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=Path(self.folder).absolute().as_uri())
        existing = client.get_experiment_by_name(self.experiment)
        experiment = existing.experiment_id if existing else client.create_experiment(self.experiment)
        run_id = client.create_run(experiment, run_name=run.name).info.run_id
        for name in ("model", "method", "bits"):
            client.log_param(run_id, name, metrics[name])
        for name, value in numbers(metrics):
            client.log_metric(run_id, name, value)
        for name, iteration, loss in curves(run):
            client.log_metric(run_id, name, loss, step=iteration)
        client.log_dict(run_id, metrics["config"], "config.json")
        if (run / SAMPLES).is_file():
            client.log_artifact(run_id, str(run / SAMPLES))
        client.set_terminated(run_id)


@dataclass(frozen=True)
class WandB:
    """A run of Weights & Biases below `folder`/wandb. mode: offline keeps it there, online sends it."""

    folder: str
    project: str = "dmq"
    mode: Literal["offline", "online", "disabled"] = "offline"
    package: ClassVar[str | None] = "wandb"

    def log(self, run: Path, metrics: Mapping[str, Any]) -> None:
        """Numbers as summary, the configuration, the samples as an image."""
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(silent=True)
        where = {"project": self.project, "dir": self.folder, "mode": self.mode, "name": run.name}
        wandb_run = wandb.init(config=dict(metrics["config"]), settings=quiet, **where)
        wandb_run.summary.update(dict(numbers(metrics)))
        wandb_run.define_metric("losses/*", step_metric="iteration")
        for name, iteration, loss in curves(run):
            wandb_run.log({"iteration": iteration, name: loss})
        if (run / SAMPLES).is_file():
            wandb_run.log({"samples": wandb.Image(str(run / SAMPLES))})
        wandb_run.finish()


def make_logger(section: Mapping[str, Any] | None) -> Logger:
    """The logger of the section `logger`; without one, none. Raises ConfigError if its package is not installed."""
    if section is None:
        return NoLogger()
    from dmq_cli.stages import build
    from dmq_cli.stages.interfaces import check_made
    from dmq_cli.stages.validate import check_types

    check_types("logger", section)
    logger: Logger = build.make(section)
    check_made("logger", section, logger)
    if logger.package is not None and find_spec(logger.package) is None:
        raise ConfigError(
            f"logger={logger.package} needs the package {logger.package}, which is not installed; install it with:"
            f" pip install 'dmq-cli[{logger.package}]'"
        )
    return logger


def log_run(logger: Logger, run: Path, metrics: Mapping[str, Any]) -> None:
    """Log a finished run. An error of the logger is a warning: the run is finished and lies in its folder."""
    try:
        logger.log(run, metrics)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        _log.warning("%s is finished, but %s did not log it (%s: %s)", run, logger.package, type(error).__name__, first)


def curves(run: Path) -> Iterator[tuple[str, int, float]]:
    """Yield (name, iteration, loss) of what was learned in the run, iteration after iteration; nothing where nothing was."""
    file = run / "artifacts" / "reconstruct" / "losses.json"
    passes = read_json(file)["passes"] if file.is_file() else {}
    points = [
        (int(iteration), f"losses/{name.replace(', ', '/')}/{unit}", float(loss))
        for name, units in passes.items() for unit, curve in units.items() for iteration, loss in curve
    ]  # fmt: skip
    yield from ((name, iteration, loss) for iteration, name, loss in sorted(points))


def numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number of metrics.json as ("quantized/fd", 0.52); for a spread over seed ranges, its standard deviation."""
    for part in ("fp", "quantized", "paired", "cost"):
        for name, value in metrics.get(part, {}).items():
            if isinstance(value, Mapping):
                if "std" in value:
                    yield f"{part}/{name}_std", float(value["std"])
            elif isinstance(value, int | float):
                yield f"{part}/{name}", float(value)
