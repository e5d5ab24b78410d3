"""Count what a configuration costs, from shapes alone: without weights, data or computing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.diagnose import flat_bops, flat_bytes, network_cost, product_macs, stored_bytes
from dmq_cli.models import Adapter, countable, model_shapes
from dmq_cli.results.naming import bits_name
from dmq_cli.stages import build
from dmq_cli.stages.interfaces import check_made
from dmq_cli.stages.layer_bits import with_layer_bits
from dmq_cli.stages.prepare import calib_sampler, correction
from dmq_cli.stages.sampler_notes import sampler_section
from dmq_cli.stages.targets import trust
from dmq_cli.stages.validate import check_scale, check_types
from dmq_cli.wrap import Attached, deployable, extra_state, load_extra_state, policy, state

_SECTIONS = ("transform", "scheme", "policy", "correct", "sampler", "calib_sampler")
_FLOAT = 4  # bytes


def cost_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """MACs, bit operations and bytes of the denoiser under this configuration, composed or prepared; for JSON.

    A model that is here is counted from its folder, a model of the papers from its architecture, on the meta device. macs and
    bops are of one network call on one sample: bops with the bits of every product's own factors, bops_flat as the papers
    count (see flat_cost), bops_fp at 32 bits, bops_fp_single that with a MAC counted once; tbops, tbops_fp and tbops_flat
    are 10^12 of them. A sampled image takes `calls` network calls, each on `estimates` samples (2 with guidance): run_bops,
    run_bops_flat, run_bops_fp. size_bytes: all that has to be stored, in `parts` by what it is. First stages and text encoders are
    left out: they stay in full precision and run once.

    Raises ConfigError for impossible settings, MissingWeightsError or ModelError for a model with neither.
    """
    config, adapter = shaped(config)
    guidance = (config.get("cond") or {}).get("guidance")
    attached = _attached(adapter, config)
    calls = len(build.sampler(config)[1].timesteps)
    names = {"model": config["model"]["name"], "method": config["method"]["name"], "bits": bits_name(config["bits"])}
    names["overrides"] = config.get("overrides", [])
    counted = _call(attached, int(config["bits"]["weight"]), int(config["bits"]["act"]))
    counted["parts"] |= _added(attached, config, calls, guidance is not None)
    size = sum(counted["parts"].values())
    run = _run(counted, calls, 1 if guidance is None else 2)
    more = {"policy": policy(attached.specs), "deployable": deployable(attached.specs)}
    return {**names, **counted, "size_bytes": size, **run, **more}


def shaped(config: Mapping[str, Any]) -> tuple[dict[str, Any], Adapter]:
    """Fill and check the sections that shapes depend on, and make the network on the meta device. Raises as cost_of."""
    trust(config)
    config = with_layer_bits({**config, "model": countable(config["model"])})
    adapter = model_shapes(config["model"])  # first: it raises where there is no model
    config["sampler"] = sampler_section(config["sampler"], config["model"])
    config["calib_sampler"] = calib_sampler(config)
    guidance = (config.get("cond") or {}).get("guidance")
    config["correct"] = correction(config["correct"], {"guidance": guidance})
    for section in _SECTIONS:
        check_types(section, config[section])
    check_scale(guidance, adapter.blank_cond(1) is not None)
    return config, adapter


def _attached(adapter: Adapter, config: Mapping[str, Any]) -> Attached:
    """The network with quantizers, and with what a transform puts into layers."""
    extras = _build_part("transform", config).shapes(adapter)
    attached = build.with_quantizers(adapter, config)
    load_extra_state(attached, extras)
    return attached


def _build_part(name: str, config: Mapping[str, Any]) -> Any:
    part = build.make(config[name])
    check_made(name, config[name], part)
    return part


def _call(attached: Attached, weight: int, act: int) -> dict[str, Any]:
    """Count one network call and the parameters. weight, act: the bits that the setting is named after."""
    macs = product_macs(attached)
    cost = network_cost(attached, macs)
    attention = sum(number for (site, _), number in macs.items() if site.slot != "input")
    parameters = cost.size_bytes_fp // _FLOAT
    bops = {"": cost.bops, "_fp": cost.bops_fp, "_flat": flat_bops(cost.macs, weight, act)}
    return {
        "parameters": parameters,
        "macs": cost.macs,
        "macs_attention": attention,
        **{f"bops{name}": number for name, number in bops.items()},
        "bops_fp_single": cost.bops_fp // 2,
        **{f"tbops{name}": number / 1e12 for name, number in bops.items()},
        "size_bytes_fp": cost.size_bytes_fp,
        "size_flat_bytes": flat_bytes(parameters, weight),
        "parts": {"weights": cost.weight_bytes, "other": cost.other_bytes},
    }


def _added(attached: Attached, config: Mapping[str, Any], calls: int, guided: bool) -> dict[str, int]:
    """Bytes besides parameters: scales and zero points, what a transform adds, the tables of a correction."""
    transform = stored_bytes(extra_state(attached))
    tables = _build_part("correct", config).shapes(calls, attached.adapter.sample_shape(), guided)
    correction_bytes = _FLOAT * sum(math.prod(shape) for shape in tables.values())
    return {
        "scales": stored_bytes(state(attached)) - transform,
        "transform": transform,
        "correction": correction_bytes,
    }


def _run(counted: Mapping[str, Any], calls: int, estimates: int) -> dict[str, int]:
    """Bit operations of one sampled image."""
    kinds = ("", "_flat", "_fp")
    bops = {f"run_bops{kind}": counted[f"bops{kind}"] * calls * estimates for kind in kinds}
    return {"calls": calls, "estimates": estimates, **bops}
