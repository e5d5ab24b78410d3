"""Turns configuration sections into objects. The only place, with the command line, that knows Hydra's `_target_`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from dmq_cli.calib import Strategy
from dmq_cli.correct import CorrectionMethod
from dmq_cli.deploy.backends import BACKENDS, check_limit, graph_backend
from dmq_cli.deploy.folder import read_network
from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.metrics import Protocol
from dmq_cli.models import (
    Adapter,
    Call,
    Decoder,
    Denoiser,
    ModelDenoiser,
    Numerics,
    cond_rows,
    model_adapter,
    model_conditions,
    model_decoder,
    model_schedule,
    prediction_of,
)
from dmq_cli.models.folder import tokens_of
from dmq_cli.models.parts import network_folder
from dmq_cli.paths import importing
from dmq_cli.recon import ReconMethod
from dmq_cli.sampling import UNGUIDED, Correction, Deterministic, Guide, Sampler, Scheduler
from dmq_cli.stages.targets import check_makeable
from dmq_cli.store.tensors import RowFile, load_tensors
from dmq_cli.transform import Transform
from dmq_cli.wrap import Attached, QuantDenoiser, Scheme, attach, bake, freeze, load_state, quantizing


def make(section: Mapping[str, Any]) -> Any:
    """Call what `_target_` names with the other keys.

    Raises ConfigError if the arguments do not fit, and as check_makeable for a class that may not be made here.
    """
    check_makeable(section)
    try:
        with importing():
            return instantiate(section, _convert_="all")
    except (InstantiationException, TypeError) as error:  # the latter for flags, as `_partial_`, of another type
        if isinstance(error.__cause__, DmqError):
            raise error.__cause__ from error
        text = " ".join(str(error).split())
        raise ConfigError(
            f"The configuration of {section.get('_target_')} does not fit ({text}); see its YAML file in conf/."
        ) from error


def adapter(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> Adapter:
    """The network of config["model"], on the run's device, in the numerics of this stage."""
    loaded = _network(config, runtime)
    numerics(config).apply(loaded.model, loaded.units)
    return loaded


def _network(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> Adapter:
    """Load the network in float32, whatever the numerics are."""
    numerics(config).set_backends(runtime["device"])
    loaded = model_adapter(config["model"])
    loaded.model.to(runtime["device"])
    return loaded


def numerics(config: Mapping[str, Any]) -> Numerics:
    """Make the numerics of a stage that samples; the default, float32, for stages that fit."""
    numerics_of_stage: Numerics = make(config["numerics"]) if "numerics" in config else Numerics()
    return numerics_of_stage


def guide(config: Mapping[str, Any], runtime: Mapping[str, Any], target: Any = None) -> Guide:
    """Make the Guide of config["model"]: its conditions and guidance. target: what a correction sees; None: the guided estimate."""
    cond = config["model"].get("cond")
    if cond is None:
        return UNGUIDED
    conditions = model_conditions(config["model"], cond["classes"], cond["path"])
    return Guide(conditions, cond["guidance"], runtime["guidance_calls"], target)


def decoder(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> Decoder | None:
    """Load the decoder from latents to images; None for a model of pixels."""
    return model_decoder(config["model"], runtime["device"])


def sampler(config: Mapping[str, Any], section: str = "sampler") -> tuple[Sampler | Deterministic, Scheduler]:
    """The sampler settings and the scheduler they give for this model's noise schedule.

    section: sampler, or calib_sampler, the one that calibration and reconstruction see.
    """
    settings: Sampler | Deterministic = make(config[section])
    return settings, settings.scheduler(model_schedule(config["model"]))


def attached(config: Mapping[str, Any], runtime: Mapping[str, Any], state: Path | None = None) -> Attached:
    """The network with quantizers, in float32; `state`: the artifact of calibrate or reconstruct to put into them."""
    attached_network = with_quantizers(_network(config, runtime), config)
    attached_network.model.to(runtime["device"])
    attached_network.grid.to(runtime["device"])
    if state is not None:
        load_state(attached_network, load_tensors(state / "quantizers.safetensors"))
    return attached_network


def read_attached(folder: Path, runtime: Mapping[str, Any]) -> Attached:
    """The network of an exported folder, with its quantizers; it has no full-precision twin."""
    exported = read_network(network_folder(folder), tokens_of(folder))
    exported.model.to(runtime["device"])
    exported.grid.to(runtime["device"])
    return exported


def with_quantizers(network: Adapter, config: Mapping[str, Any]) -> Attached:
    """The network (changed in place) with the quantizers of config's scheme and policy, not fitted yet."""
    scheduler = sampler(config, "calib_sampler")[1]
    timesteps = torch.tensor(list(dict.fromkeys(scheduler.timesteps.tolist())))  # a row for each: PLMS calls one twice
    scheme, total = make(config["scheme"]) + make(config["policy"]), int(scheduler.config.num_train_timesteps)
    return attach(network, scheme, timesteps, total)


@dataclass(frozen=True)
class Parts:
    """Every part that a configuration names, made once, when it is prepared."""

    calib: Strategy
    transform: Transform
    scheme: Scheme
    policy: Scheme
    recon: ReconMethod
    correct: CorrectionMethod
    sampler: Sampler | Deterministic
    calib_sampler: Sampler | Deterministic
    protocol: Protocol
    numerics: Numerics = field(default_factory=Numerics)


@dataclass(frozen=True)
class Estimator:
    """A Denoiser for the sampling loop, and its correction (None: none). shape: (C, H, W) of a sample."""

    denoiser: Denoiser
    shape: tuple[int, ...]
    correction: Correction | None = None


def denoiser(config: Mapping[str, Any], runtime: Mapping[str, Any], inputs: Mapping[str, Path]) -> Estimator:
    """Make the Estimator that samples under this configuration; no other place decides this.

    inputs: folders of the artifacts it is made from, by stage; without `reconstruct` it is the full-precision network.
    """
    form = config.get("backend") or config.get("exported", {}).get("format")
    if (backend := BACKENDS.get(form)) is not None:
        folder = inputs["export"] if "backend" in config else Path(config["exported"]["path"])
        if graph_backend(form):
            check_limit(folder)
        deployed = backend.denoiser(folder, prediction_of(model_schedule(config["model"])), runtime["threads"])
        return Estimator(deployed, deployed.sample_shape, correction(config, folder / "correction"))
    if "exported" in config:
        folder = Path(config["exported"]["path"])
        pair, tables = Quantized(config, read_attached(folder, runtime)), folder / "correction"
    elif "reconstruct" in inputs:
        pair, tables = quantized(config, runtime, inputs["reconstruct"]), inputs["correct"]
    else:
        network = adapter(config, runtime)
        return Estimator(ModelDenoiser(network), network.sample_shape())
    return Estimator(pair.quantized, pair.attached.adapter.sample_shape(), correction(config, tables))


def quantized(config: Mapping[str, Any], runtime: Mapping[str, Any], state: Path) -> Quantized:
    """Both networks of a configuration. state: the artifact of calibrate or reconstruct."""
    return Quantized(config, attached(config, runtime, state))


def correction(config: Mapping[str, Any], tables: Path) -> Correction | None:
    """Load the correction. tables: the artifact of correct."""
    method: CorrectionMethod = make(config["correct"])
    return method.load(load_tensors(tables / "tables.safetensors"))


class Quantized:
    """Full-precision and quantized Denoiser from one network in memory, in the numerics of this stage."""

    def __init__(self, config: Mapping[str, Any], attached: Attached) -> None:
        """attached: the network with its quantizers, fitted, in float32."""
        self.attached = attached
        freeze(self.attached)
        bake(self.attached)  # in float32: it is the codes that count
        numerics(config).apply(self.attached.model, self.attached.units)
        self.full, self.quantized = Unquantized(self.attached), QuantDenoiser(self.attached)


class Unquantized(ModelDenoiser):
    """A network with quantizers as it was before quantization."""

    def __init__(self, attached: Attached) -> None:
        super().__init__(attached.adapter)
        self.attached = attached

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        with quantizing(self.attached, weights=False, activations=False):
            return super().__call__(sample, timestep, cond)


def calibration(folder: Path, batch_size: int, num: int | None = None) -> Iterator[Call]:
    """Batches (sample, timestep, condition) of a calibration set: all of it, or `num` of its rows, drawn once and for all."""
    total = len(RowFile(folder / "sample.safetensors"))
    rows = torch.arange(total) if num is None else spread(total, num)
    yield from _rows(folder, torch.split(rows, batch_size))


def calibration_by_step(folder: Path, num: int) -> Iterator[Call]:
    """Batches of a calibration set, one for each timestep in it, of equal size: about `num` rows in all, at least one each."""
    timesteps = load_tensors(folder / "timestep.safetensors")["data"]
    every, counts = torch.unique(timesteps, return_counts=True)
    rows = min(max(1, num // len(every)), int(counts.min()))
    yield from _rows(folder, [(timesteps == timestep).nonzero().flatten()[:rows] for timestep in every])


def _rows(folder: Path, batches: Iterable[Tensor]) -> Iterator[Call]:
    """Read these rows of a calibration set."""
    samples, timesteps = RowFile(folder / "sample.safetensors"), load_tensors(folder / "timestep.safetensors")["data"]
    conditions = load_tensors(folder / "condition.safetensors") if (folder / "condition.safetensors").exists() else None
    index = None if conditions is None else load_tensors(folder / "index.safetensors")["data"]
    for chosen in batches:
        cond = None if index is None else cond_rows(conditions, index[chosen])
        yield samples.rows(chosen), timesteps[chosen], cond


def spread(total: int, num: int) -> Tensor:
    """Choose `num` of 0..total-1, at most all: the start of a fixed shuffle, so that steps and trajectories stay mixed."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(total))
    return order[:num].sort().values
