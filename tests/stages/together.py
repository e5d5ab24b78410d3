"""An artifact that this thread makes with the help of others, as processes do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from dmq_cli.stages.progress import Progress
from dmq_cli.stages.verbs import graph, take_part
from dmq_cli.stages.workers import processes


def made_together(config: dict[str, Any], stage: str, helpers: int = 0) -> Path:
    """Its folder."""
    stage_graph = graph(config, Progress(quiet=True))
    folder = stage_graph.store.root / stage / stage_graph.key(stage, config)
    runtime = config["runtime"]
    helper_config = {**config, "runtime": {**runtime, "workers": 1, "ranks": processes(runtime)}}
    threads = [
        threading.Thread(target=take_part, args=([(stage, helper_config)], lambda: not folder.exists()))
        for _ in range(helpers)
    ]
    for thread in threads:
        thread.start()
    stage_graph.ensure(stage, config)
    for thread in threads:
        thread.join()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """All files of an artifact but its manifest, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}
