"""Load a finished run in Python. The run may be a stranger's: no code of it runs, and all of it is checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.correct import CorrectedDenoiser
from dmq_cli.deploy.backends import BACKENDS, check_limit, deployed, graph_backend
from dmq_cli.deploy.index import is_exported
from dmq_cli.errors import ArtifactCorruptError, ArtifactError, ConfigError, ModelError
from dmq_cli.metrics import to_uint8
from dmq_cli.models import Denoiser, identified, model_schedule, prediction_of
from dmq_cli.quant import StepContext
from dmq_cli.sampling import Guide, parse_range, sample_images, walk
from dmq_cli.sampling.pipeline import Drawing, SeedPipeline
from dmq_cli.stages import build
from dmq_cli.stages.exported import RUNTIME, SIMULATED, check_backend, check_deployable, in_folder, recorded_config
from dmq_cli.stages.graph import identity, with_code
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import identify_cond
from dmq_cli.stages.targets import allowed, check_targets, trusting
from dmq_cli.store import check_artifact, read_json
from dmq_cli.wrap import Attached

_log = logging.getLogger("dmq")
_STAGES = ("reconstruct", "correct")


class RunDenoiser(CorrectedDenoiser):
    """The quantized, corrected network of a run as a Denoiser, with the run's own sampler.

    estimator, denoiser: the network as a Denoiser without the correction, for callers who apply `correction` themselves.
    """

    def __init__(self, config: Mapping[str, Any], denoiser: Denoiser, shape: tuple[int, ...], tables: Path) -> None:
        """denoiser: the quantized network; shape: (C, H, W) of a sample; tables: the folder of the correction's."""
        self.config, self.shape = config, shape
        self.settings, self.scheduler = build.sampler(config)
        guide = build.guide(config, config["runtime"], config["correct"].get("target"))
        correction = build.correction(config, tables)
        super().__init__(denoiser, correction, self.scheduler.timesteps, self.scheduler.scale_model_input, guide)
        self.decode = build.decoder(config, config["runtime"])
        self._warned = False

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser; warns once that a loop of one's own leaves a part of the correction out."""
        if self.correction is not None and not self._warned:
            self._warned = True
            _log.warning(
                "a loop of your own gets corrected estimates, but takes its steps from the sample as it is and adds its own noise;"
                " sample(seeds) and as_pipeline() apply the whole correction"
            )
        return super().__call__(sample, timestep, cond)

    def sample(self, seeds: str) -> Tensor:
        """The images (B, C, H, W) in [-1, 1] that this run's sampler makes of these seeds, e.g. "0-15"."""
        return self._draw(parse_range(seeds), self.guide)

    def _draw(self, seeds: Sequence[int], guide: Guide) -> Tensor:
        eta, correction = self.settings.eta, self.correction
        with torch.inference_mode():
            steps = walk(self.estimator, self.scheduler, seeds, self.shape, eta=eta, correction=correction, guide=guide)
            return sample_images(steps, self.decode)


class Loaded(RunDenoiser):
    """The same, as it is simulated in PyTorch.

    network: the diffusers model with its quantizers in place, without the correction, which acts around it. Where the run has a
    correction, calling the network directly raises ConfigError, unless `uncorrected_network` was read.
    """

    def __init__(self, config: Mapping[str, Any], attached: Attached, tables: Path) -> None:
        """attached: the network with its quantizers; tables: the folder of the correction's."""
        pair = build.Quantized(config, attached)
        super().__init__(config, pair.quantized, attached.adapter.sample_shape(), tables)
        self.attached, self.adapter, self.network = pair.attached, pair.attached.adapter, pair.attached.model
        self._guard = _Bare(self.attached.context)
        if self.correction is not None:
            self.network.register_forward_pre_hook(self._guard)

    @property
    def uncorrected_network(self) -> nn.Module:
        """The quantized network without the correction; reading it allows direct calls of the network from now on."""
        self._guard.open = True
        return self.network

    def as_pipeline(self) -> SeedPipeline:
        """This run as a pipeline of diffusers', with its quantizers, correction and sampler.

        as_pipeline()(seeds="0-3") gives the images of sample("0-3"); see SeedPipeline. It shares the network: moving it moves this.
        """
        rounding, move = partial(to_uint8, how=self.config["to_uint8"]), self.attached.grid.to
        steps = getattr(self.settings, "num_inference_steps", self.settings.calls)
        drawing = Drawing(self._draw, self.scheduler, self.guide, steps, rounding, move)
        return SeedPipeline(self.network, drawing)


class _Bare:
    """A forward pre-hook that refuses direct calls of the network, which would leave the correction out."""

    def __init__(self, context: StepContext) -> None:
        self.context, self.open = context, False

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """See Denoiser; warns once that a loop of one's own leaves a part of the correction out."""
        if not self.open and not self.context.active:
            raise ConfigError(
                "The network of a corrected run was called by itself, which would leave its correction out; use the loaded model, its"
                " sample(seeds) or as_pipeline(), or ask for uncorrected_network."
            )


def load_run(run: str | Path, trusted: Iterable[str] = (), backend: str = SIMULATED) -> RunDenoiser:
    """See dmq_cli.load."""
    folder, names = Path(run), frozenset(trusted)
    check_backend(backend)
    if is_exported(folder):
        return load_exported(folder, backend=backend)
    if not all((folder / name).is_file() for name in ("config.json", "manifest.json")):
        raise ArtifactError(
            f"{folder} was to be loaded, but is no finished run of correct, sample or evaluate; give a folder like"
            " outputs/runs/evaluate/<time>-<key>, or run the command again."
        )
    config = _with_packed_model(_config(folder), folder)
    check_targets(config, allowed() | names)
    check_code(config, folder)
    state, tables = _artifacts(folder, config)
    check_model(config)
    try:
        with trusting(names):
            return _loaded(config, build.attached(config, config["runtime"], state), tables, backend)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtifactCorruptError(
            f"{folder / 'config.json'} cannot be loaded by this version of dmq ({error!r}); run the command again."
        ) from error


def load_exported(folder: Path, attached: Attached | None = None, backend: str = SIMULATED) -> RunDenoiser:
    """The model of a folder that dmq export wrote. attached: its network, where it is loaded already; all files are checked first."""
    recorded = {**recorded_config(folder), "runtime": RUNTIME, "exported": {"path": str(folder.absolute())}}
    config = in_folder(recorded)
    graph = graph_backend(form := config["format"])
    if graph is None:
        network = build.read_attached(folder, RUNTIME) if attached is None else attached
        return _loaded(config, network, folder / "correction", backend)
    if backend != form:
        raise ConfigError(
            f"{folder} was to be loaded with backend={backend}, but is an export in the format {form}; load it with backend={form}, or export"
            " with format=diffusers."
        )
    check_deployable(backend, config)
    check_limit(folder)
    denoiser = graph.denoiser(folder, prediction_of(model_schedule(config["model"])), None)
    return RunDenoiser(config, denoiser, denoiser.sample_shape, folder / "correction")


def _loaded(config: Mapping[str, Any], attached: Attached, tables: Path, backend: str) -> RunDenoiser:
    """A network with its correction, simulated or as the backend runs it."""
    if backend == SIMULATED:
        return Loaded(config, attached, tables)
    check_deployable(backend, config)
    denoiser = deployed(BACKENDS[backend], attached, prediction_of(model_schedule(config["model"])), None)
    return RunDenoiser(config, denoiser, denoiser.sample_shape, tables)


def _with_packed_model(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with the model that `dmq pack --with-model` put into the run's folder, where there is one."""
    packed = folder / "model"
    if not packed.is_dir():
        return config
    return {**config, "model": {**config["model"], "path": str(packed.absolute())}}


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a run folder. Raises ArtifactCorruptError for anything but sections."""
    config = read_json(folder / "config.json")
    sections = (*NODES["reconstruct"].reads, *NODES["correct"].reads, "runtime", "cond")
    if not isinstance(config, dict) or not all(isinstance(config.get(name), dict) for name in sections):
        raise ArtifactCorruptError(
            f"{folder / 'config.json'} was to be read as a configuration, but it lacks a section of {', '.join(dict.fromkeys(sections))}; run"
            " the command again."
        )
    return config


def _artifacts(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """Find the artifacts that the run's manifest names; each is complete, of this configuration, and made from the one before."""
    keys = read_json(folder / "manifest.json")
    keys = keys.get("artifacts") if isinstance(keys, dict) else None
    if not isinstance(keys, dict) or not all(isinstance(keys.get(stage), str) for stage in _STAGES):
        raise ArtifactError(
            f"{folder} was to be loaded, but its manifest names no artifacts of {' and '.join(_STAGES)}; give a finished run"
            " of correct, sample or evaluate."
        )
    paths = []
    for stage in _STAGES:
        path = _place(folder, config, stage, keys[stage])
        _check_origin(folder, config, keys, check_artifact(path, stage, keys[stage]), stage)
        paths.append(path)
    return paths


def _place(folder: Path, config: Mapping[str, Any], stage: str, key: str) -> Path:
    """Find an artifact: by the run's link, in the outputs folder of the run, or in the one it was made in."""
    places = list(dict.fromkeys(_places(folder, config, stage, key)))
    for place in places:
        if place.is_dir():
            return place
    raise ArtifactError(
        f"{folder} was to be loaded, but its artifact {stage}/{key} is not in {' or '.join(str(p) for p in places)}; copy it there,"
        " or run the command again."
    )


def _places(folder: Path, config: Mapping[str, Any], stage: str, key: str) -> Iterator[Path]:
    if not set(key) <= set("0123456789abcdef"):
        raise ArtifactCorruptError(f"{folder / 'manifest.json'} names {stage}/{key!r}, which is no key; run it again.")
    yield folder / "artifacts" / stage
    if len(parents := folder.absolute().parents) > 2:
        yield parents[2] / "artifacts" / stage / key
    if isinstance(outputs := config["runtime"].get("outputs"), str):
        yield Path(outputs).absolute() / "artifacts" / stage / key


def _check_origin(
    folder: Path, config: Mapping[str, Any], keys: Mapping[str, str], manifest: Mapping[str, Any], stage: str
) -> None:
    expected, recorded = NODES[stage].identity(config), manifest.get("config", {})
    differing = [name for name in {**expected, **recorded} if expected.get(name) != recorded.get(name)]
    differing += [name for name, key in manifest.get("inputs", {}).items() if keys.get(name) != key]
    if differing:
        raise ArtifactCorruptError(
            f"{folder} was to be loaded, but its {stage} was made with another {', '.join(differing)} than its config.json and manifest"
            " say: one of the files was altered; run the command again."
        )


def check_model(config: Mapping[str, Any]) -> None:
    """Raise ModelError if the model's files are not those that a recorded configuration was made with."""
    recorded = config["model"]
    now = identified(recorded)
    now |= identify_cond(now, config["cond"])
    parts = [name for name in now if name in recorded and identity(now[name]) != identity(recorded[name])]
    if "first_stage" in recorded and "first_stage" not in now:
        parts.append("first_stage")
    if parts:
        raise ModelError(
            f"The model {recorded.get('path')} is not what the run was made with (its {', '.join(parts)} changed since); put the"
            " former files back, or run the command again."
        )


def check_code(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ArtifactError where foreign code has changed since the run was made."""
    recorded, now = config.get("code", {}), with_code(config, [NODES["sample"]]).get("code", {})
    for section, code in now.items():
        for target, code_hash in code.items():
            if (before := recorded.get(section, {}).get(target)) != code_hash:
                raise ArtifactError(
                    f"The run {folder} was made with another {target} ({before or 'not recorded'}) than is here now ({code_hash});"
                    " bring that code back, or run the command again."
                )
