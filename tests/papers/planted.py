"""Finished cells that were never computed, with manifests that back them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.papers.cells import configured
from dmq_cli.papers.runnable import folder_name, job
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.stages.prepare import correction
from dmq_cli.store import digest, write_json


def row_of(table: PaperTable, method: str, bits: str, part: str | None = None) -> Row:
    (row,) = [r for r in table.rows if (r.method, r.bits) == (method, bits) and part in (None, r.part)]
    return row


def plant(tables: Path, table: PaperTable, row: Row, fd: float, half: float = 0.1, **changes: Any) -> Path:
    """The cell of a row at digits scale with this distance; changes: of metrics.json. Returns its folder."""
    words = job(table, row, "digits")
    full, protocol = {"fd": 0.5, "is": 8.0}, configured(words)["protocol"]
    composed = configured(words)
    correct = correction(composed["correct"], composed["cond"])
    config = {**composed, "correct": correct, "calib_sampler": {}, "to_uint8": "edm"}
    key, artifacts = digest([words, fd]), changes.get("artifacts", {"sample": "a", "trace": "t"})
    label = f"{config['model']['name']}-{config['method']['name']}-{config['bits']['name']}-{key[:8]}"
    cell = {
        "protocol": {"name": protocol["name"], "hash": "h", "columns": protocol["columns"], "num_images": 2000},
        "num_images": 2000,
        "seeds": ["0-1999"],
        "model": config["model"]["name"],
        "method": config["method"]["name"],
        "bits": config["bits"]["name"],
        "command": "dmq evaluate",
        "fp": {**full, "fd_over_seeds": {"std": 0.02, "each": [0.48, 0.5, 0.52]}},
        "quantized": {"fd": fd, "is": 7.0},
        "paired": {"psnr": 30.0},
        "intervals": {"quantized": {"fd": [fd - half, fd + half]}},
        "config": config,
        "artifacts": artifacts,
        **changes,
    }
    folder = tables / folder_name(table.name, "digits") / label
    write_json(folder / "manifest.json", {"key": key, "artifacts": artifacts})
    write_json(folder / "metrics.json", {**cell, "config_sha256": digest(config)})
    return folder
