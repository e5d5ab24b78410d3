"""Export a quantized network for a benchmark: that of a run, or one whose ranges are fitted to noise, which takes as long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.correct import CorrectionMethod
from dmq_cli.deploy.backends import graph_backend
from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.folder import CORRECTION, network_name, write_network
from dmq_cli.deploy.lower import lower
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.errors import ConfigError
from dmq_cli.models import Call
from dmq_cli.stages import build
from dmq_cli.stages.costing import shaped
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.verbs import graph
from dmq_cli.store.tensors import save_tensors
from dmq_cli.wrap import Attached

_ROWS = 4  # of a batch of noise that ranges are fitted to


def export_form(config: Mapping[str, Any], network: TimedNetwork, folder: Path, progress: Progress) -> tuple[Path, Any]:
    """Export the quantized network of a configuration. config: composed, of the stage export; folder: where it may be written.

    Returns the folder of the export and the correction method. With benchmark.fitted=noise nothing is calibrated on samples, searched or
    learned, and tables of a correction hold ones: none of it changes how long a call takes. With run it is what the stages make.
    """
    if config["benchmark"]["fitted"] == "noise":
        return folder, _fitted_to_noise(shaped(config)[0], network, folder)
    prepared = prepare(config)
    exported = graph(prepared, progress).ensure("export", prepared)
    return exported, build.make(prepared["correct"])


def _fitted_to_noise(config: Mapping[str, Any], network: TimedNetwork, folder: Path) -> CorrectionMethod:
    if not config["transform"]["_target_"].endswith("NoTransform"):
        raise ConfigError(
            f"method={config['method']['name']} rewrites the network before quantizing by what samples are like, but benchmark.fitted=noise"
            " has none; add benchmark.fitted=run or transform=none."
        )
    adapter = network.adapter()
    guided = adapter.blank_cond(1) is not None
    attached = build.with_quantizers(adapter, _without_searches(config))
    fit_weights(attached)
    fit_activations(attached, _noise(attached, network))
    _write(config["format"], attached, folder)
    method: CorrectionMethod = build.make(config["correct"])
    shapes = method.shapes(len(network.timesteps), adapter.sample_shape(), guided)
    (folder / CORRECTION).parent.mkdir(parents=True)
    save_tensors(folder / CORRECTION, {name: torch.ones(shape) for name, shape in shapes.items()})
    return method


def _without_searches(section: Any) -> Any:
    """Copy a configuration with the extremes for every range: searching those of Stable Diffusion's weights takes an hour."""
    if isinstance(section, list):
        return [_without_searches(item) for item in section]
    if not isinstance(section, Mapping):
        return section
    extremes = {"_target_": "dmq_cli.ops.MinMax"}
    return {
        key: extremes if key == "ranges" and isinstance(value, Mapping) else _without_searches(value)
        for key, value in section.items()
    }


def _write(form: str, attached: Attached, folder: Path) -> None:
    """Write what a subject of this format runs from."""
    graph = graph_backend(form)
    if graph is None or graph.write is None:
        write_network(folder / network_name(attached.model), attached, {})
    else:
        graph.write(folder, lower(attached, weight_limit(), graph.form))


def _noise(attached: Attached, network: TimedNetwork) -> Iterator[Call]:
    """Batches of noise at all timesteps."""
    steps = torch.tensor(sorted(set(network.timesteps)))
    for times in torch.split(steps, _ROWS):
        sample: Tensor = network.sample(len(times), attached.adapter.sample_shape())
        yield sample, times, attached.adapter.blank_cond(len(times))
