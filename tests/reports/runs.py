"""Finished runs as `dmq evaluate` leaves them, with every artifact a report can show, of made-up numbers."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmq_cli.store import digest, write_json
from dmq_cli.store.integrity import record_files
from dmq_cli.store.tensors import save_tensors

Array = NDArray[Any]
STEPS = [900 - 100 * step for step in range(10)]
BLOCKS = [
    "conv_in",
    *(f"{side}_blocks.{i}.resnets.{j}" for side in ("down", "up") for i in (0, 1) for j in (0, 1)),
    "conv_out",
]
SITES = ["conv_in", *(f"{block}.conv{i}" for block in BLOCKS[1:-1] for i in (1, 2)), "conv_out"]
PROTOCOL = {
    "name": "digits", "hash": "abad2ad904322c33", "num_images": 2000, "columns": {"fd": "FD-digits", "is": "IS-digits"},
    "extractor": "digits_cnn", "to_uint8": "edm",
}  # fmt: skip
ENVIRONMENT = {
    "dmq": "0.1.0",
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
    "git": {"commit": "c0ffee", "dirty": False},
}


def metrics(method: str, bits: str = "w3a8", fd: float = 0.6, **changes: Any) -> dict[str, Any]:
    """metrics.json of a run. changes: replace entries; `config` is merged."""
    config = {
        "model": {"name": "ddim_digits", "sha256": "86ec"},
        "method": {"name": method, "cite": "Nobody, 2026"},
        "bits": {"name": bits, "weight": int(bits[1]), "act": int(bits[3])},
        "budget": {"name": "light"},
        "sampler": {"num_inference_steps": len(STEPS), "eta": 0.0},
        "transform": {"_target_": "dmq_cli.transform.Tcr" if method == "tcaq" else "dmq_cli.transform.NoTransform"},
        "recon": {"_target_": f"dmq_cli.recon.{'NoReconstruction' if method == 'minmax' else 'Reconstruction'}"},
        "correct": {"_target_": "dmq_cli.correct.Tac", "lambda1": 0.5},
        **changes.pop("config", {}),
    }
    return {
        "protocol": PROTOCOL, "num_images": 2000, "seeds": ["0-1999"], "model": "ddim_digits", "method": method, "bits": bits,
        "fp": {"fd": 0.53, "fd_inf": 0.4, "is": 7.9}, "quantized": {"fd": fd, "fd_inf": fd - 0.1, "is": 8.2 - 0.4 * fd},
        "paired": {"psnr": 33 - 10 * np.log10(fd).item(), "ssim": 0.9},
        "intervals": {"fp": {"fd": [0.46, 0.60]}, "quantized": {"fd": [fd - 0.08, fd + 0.08]}, "paired": {}},
        "policy": {"edge.in.input": 8, "edge.out.input": 8, "resnet.conv1.input": int(bits[3]), "resnet.conv2.input": int(bits[3])},
        "cost": {"macs": 10, "bops": 3.3e9, "bops_fp": 134.5e9, "size_bytes": 0.49e6, "size_bytes_fp": 4.45e6, "deployable": True},
        "seconds": {"calibset": 8.0, "calibrate": 13.0, "reconstruct": 114.0, "correct": 17.0, "sample-0-1999": 98.0},
        "command": f"dmq evaluate method={method} bits={bits}", "config": config, "artifacts": {}, **changes,
    }  # fmt: skip


def run(outputs: Path, found: dict[str, Any], name: str = "", kept: bool = True, traced: bool = True) -> Path:
    """Write a run folder. kept: whether its artifacts are still there; traced: whether it has a trace."""
    name = name or f"20261121-{found['method']}-{found['bits']}"
    folder = outputs / "runs" / "evaluate" / name
    stages = [
        "sample_fp-0-1999",
        "sample-0-1999",
        "reconstruct",
        "correct",
        "transform",
        *(["trace"] if traced else []),
    ]
    artifacts = {stage: f"{name}-{stage}" for stage in stages}
    write_json(folder / "metrics.json", {**found, "artifacts": artifacts})
    write_json(folder / "manifest.json", {"verb": "evaluate", "environment": ENVIRONMENT, "artifacts": artifacts})
    write_json(folder / "config.json", found["config"])
    write_json(folder / "status.json", {"status": "done"})
    if kept:
        for stage, key in artifacts.items():
            kind = stage.partition("-")[0]
            place = outputs / "artifacts" / kind / key
            place.mkdir(parents=True)
            _fill(kind, place, found)
            seal(place)
    return folder


def seal(place: Path) -> None:
    """Give an artifact the manifest of what is in its folder."""
    named = {"stage": place.parent.name, "key": place.name}
    write_json(place / "manifest.json", {**named, "files": record_files(place)})


def cell(outputs: Path, table: str, found: dict[str, Any]) -> Path:
    """Write a finished cell of a table, as it is committed: numbers and proof only."""
    folder = outputs / "tables" / table / f"{found['model']}-{found['method']}-{found['bits']}-0123abcd"
    artifacts, sha256 = {"sample": "gone"}, digest(found["config"])
    write_json(folder / "metrics.json", {**found, "artifacts": artifacts, "config_sha256": sha256})
    proof = {"verb": "evaluate", "environment": ENVIRONMENT, "artifacts": artifacts, "key": "0123abcd" * 4}
    write_json(folder / "manifest.json", proof)
    return folder


def _fill(stage: str, place: Path, found: dict[str, Any]) -> None:
    method = found["method"]
    rng = np.random.default_rng(zlib.crc32(method.encode()))
    if stage.startswith("sample"):
        np.savez(place / "images.npz", arr_0=_images(rng, 20))
    elif stage == "correct" and method == "tac":
        tables = {"gain": 1 + 0.02 * rng.normal(size=(10, 1)), "bias": 0.01 * rng.normal(size=(10, 1, 16, 16))}
        save_tensors(place / "tables.safetensors", {name: torch.from_numpy(t).float() for name, t in tables.items()})
    elif stage == "correct":
        save_tensors(place / "tables.safetensors", {"slope": torch.zeros(10), "bias": torch.zeros(10, 1)})  # as PTQD
    elif stage == "reconstruct" and method != "minmax":
        floor = 0.2 if method == "tcaq" else 0.1  # the others share a reconstruction
        curves = {b: [[i, float(2 ** -(i / 60) + floor)] for i in range(0, 300, 10)] for b in BLOCKS}
        write_json(
            place / "losses.json", {"passes": {"weights": curves, "scales, round 1 of several": curves, "more": curves}}
        )
    elif stage == "trace":
        _trace(place, method, rng, found["quantized"]["fd"])


def _trace(place: Path, method: str, rng: np.random.Generator, fd: float) -> None:
    calls, twins = len(STEPS), ("quantized", "corrected") if method == "tac" else ("quantized",)
    grow = np.geomspace(1e-5, 0.02 * fd, calls + 1)
    network = np.random.default_rng(7 if method == "tcaq" else 0)  # what a transform rewrites sees other inputs
    width = 1 + np.linspace(0, 3, calls)[:, None] * network.random(len(SITES))
    quartiles = np.array([-1.0, -0.2, 0.0, 0.3, 1.4])
    arrays: dict[str, Array] = {
        "activations": width[..., None] * quartiles,
        "scales": np.broadcast_to(width.max(0) * rng.uniform(1.5, 3) / 255, width.shape),
    }
    for factor, twin in zip((1.0, 0.5), twins, strict=False):
        arrays[f"trajectory.{twin}"] = grow * factor
        arrays[f"eps.{twin}"] = grow[:-1] * factor * 3
        error = grow[:-1, None] * factor * np.geomspace(1, 30, len(BLOCKS)) * rng.uniform(0.5, 2, (calls, len(BLOCKS)))
        arrays |= {f"block_error.{twin}": error, f"block_cosine.{twin}": 1 - error / 2}
    layers = [site for site in SITES if "resnets" in site][:5]
    for layer in layers:
        arrays[f"channel_max.full.{layer}"] = rng.lognormal(0, 1, 32) * (1 + rng.random((calls, 32)))
        if method == "tcaq":
            arrays[f"channel_max.transformed.{layer}"] = 1 + rng.random((calls, 32))
    save_tensors(
        place / "trace.safetensors", {k: torch.from_numpy(np.ascontiguousarray(v)).float() for k, v in arrays.items()}
    )
    summary = {
        "samples": 16,
        "timesteps": STEPS,
        "blocks": BLOCKS,
        "sites": SITES,
        "corrected": len(twins) > 1,
        "channels": layers,
    }
    write_json(place / "trace.json", summary)
    full = _images(np.random.default_rng(0), 16)
    noise = [rng.integers(-20, 20, full.shape) for _ in twins]
    images: Any = {t: np.clip(full + n, 0, 255).astype(np.uint8) for t, n in zip(twins, noise, strict=True)}
    np.savez(place / "images.npz", full=full, **images)


def _images(rng: np.random.Generator, count: int) -> Array:
    pixels: Array = rng.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
    return pixels
