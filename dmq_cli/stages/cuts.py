"""How artifacts are cut into shards, stage by stage: into which pieces, and what the configuration of a piece is.

Images are cut at the multiples of SIZE, so that other ranges of seeds share their shards. Trajectories of a calibration set are cut into
the batches in which one process walks them, so that the set is the same bytes as if it were not cut. Images that are measured by several
processes are cut at the multiples of MEASURED, whole batches of the extractor, so that features and distances are the same bits, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from dmq_cli.sampling import batches, parse_range, show
from dmq_cli.stages import workers

SIZE = 500
"""Images in a shard: the batch sizes 50, 100, 125, 250 and 500 divide it."""
MEASURED = 1000
"""Images whose features are one shard: the extractors' batches of 250 and 50 divide it."""
Config = Mapping[str, Any]


class Cut(Protocol):
    """How the artifacts of a stage are cut. name: of the shards' stage; what: its seeds stand for; asks: sections only shards have."""

    @property
    def name(self) -> str:
        """Of the shards' stage."""
        ...

    @property
    def what(self) -> str:
        """Its seeds stand for, in plural."""
        ...

    @property
    def asks(self) -> tuple[str, ...]:
        """Sections of a configuration that only shards have."""
        ...

    def seeds(self, config: Config) -> range | None:
        """All seeds of the artifact; None where the configuration does not say them."""
        ...

    def pieces(self, config: Config) -> list[range]:
        """Those of each shard, in order."""
        ...

    def config_of(self, config: Config, seeds: range) -> dict[str, Any]:
        """The configuration of the shard of these seeds."""
        ...

    def made_by(self, runtime: Config) -> dict[str, Any]:
        """What may move roundings of float32: all shards of an artifact agree in it."""
        ...


class Images:
    """Cut sampled images at the multiples of SIZE."""

    what, asks = "images", ("made",)

    def __init__(self, name: str) -> None:
        self.name = name

    def seeds(self, config: Config) -> range | None:
        """See Cut."""
        return parse_range(config["seeds"]) if "seeds" in config else None

    def pieces(self, config: Config) -> list[range]:
        """See Cut."""
        return pieces(parse_range(config["seeds"]))

    def config_of(self, config: Config, seeds: range) -> dict[str, Any]:
        """See Cut."""
        return {**config, "seeds": show(seeds)}

    def made_by(self, runtime: Config) -> dict[str, Any]:
        """The batch size, the kind of device and, on the CPU, the threads of a process."""
        return {**_made_by(runtime), "batch_size": min(runtime["batch_size"], SIZE), "images": SIZE}


class Trajectories:
    """Cut a calibration set into the batches of its trajectories."""

    name, what, asks = "shard_calibset", "trajectories", ("made", "part")

    def seeds(self, config: Config) -> range | None:
        """See Cut."""
        seeds = config["calib"].get("seeds") if "calib" in config else None
        return parse_range(seeds) if isinstance(seeds, str) else None

    def pieces(self, config: Config) -> list[range]:
        """See Cut."""
        return list(batches(self.seeds(config) or range(0), config["runtime"]["batch_size"]))

    def config_of(self, config: Config, seeds: range) -> dict[str, Any]:
        """See Cut; `calib` stays whole, because the choice of a trajectory's inputs depends on all of them."""
        return {**config, "part": show(seeds)}

    def made_by(self, runtime: Config) -> dict[str, Any]:
        """As of images."""
        return {**_made_by(runtime), "batch_size": runtime["batch_size"]}


class Features:
    """Cut images that are measured, where several processes were started: one alone writes no features."""

    what, asks = "features", ("made", "part")

    def __init__(self, name: str) -> None:
        self.name = name

    def seeds(self, config: Config) -> range | None:
        """The images, counted from 0."""
        several = workers.processes(config["runtime"]) > 1 and "seeds" in config
        return range(len(parse_range(config["seeds"]))) if several else None

    def pieces(self, config: Config) -> list[range]:
        """See Cut."""
        return list(batches(self.seeds(config) or range(0), MEASURED))

    def config_of(self, config: Config, seeds: range) -> dict[str, Any]:
        """See Cut."""
        return {**config, "part": show(seeds)}

    def made_by(self, runtime: Config) -> dict[str, Any]:
        """The kind of device and, on the CPU, the threads of a process."""
        return _made_by(runtime)


CUTS: dict[str, Cut] = {
    "sample": Images("shard"),
    "sample_fp": Images("shard_fp"),
    "calibset": Trajectories(),
    "evaluate": Features("shard_features"),
    "evaluate_fp": Features("shard_features_fp"),
}
"""The stages that are made in shards."""


def pieces(seeds: range) -> list[range]:
    """Cut a range of seeds at the multiples of SIZE."""
    starts = [seeds.start, *range((seeds.start // SIZE + 1) * SIZE, seeds.stop, SIZE)]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], seeds.stop], strict=True)]


def is_cut(stage: str, config: Config) -> bool:
    """Whether an artifact of this stage is made in shards."""
    return count(stage, config) > 1


def count(stage: str, config: Config) -> int:
    """The number of an artifact's shards, 1 where it is not cut."""
    whole = stage not in CUTS or CUTS[stage].seeds(config) is None
    return 1 if whole else len(CUTS[stage].pieces(config))


def working(stage: str, config: Config) -> int:
    """How many of the processes that were started can work on an artifact of this stage at once."""
    return min(workers.processes(config["runtime"]), count(stage, config))


def _made_by(runtime: Config) -> dict[str, Any]:
    device = torch.device(runtime["device"]).type
    return {"device": device, "threads": workers.threads(runtime) if device == "cpu" else None}
