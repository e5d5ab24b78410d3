"""The stages that sample images and measure them. Each is handed a Task and writes into its folder."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmq_cli.metrics import Protocol, extract
from dmq_cli.models import Decoder
from dmq_cli.results.images import Pixels, load_images, save_images, write_chunk
from dmq_cli.results.record import ASKED, INFLUENCE
from dmq_cli.sampling import Guide, Scheduler, batches, parse_range, sample_images, walk
from dmq_cli.stages import build
from dmq_cli.stages.exported import in_folder
from dmq_cli.stages.graph import Task
from dmq_cli.stages.measuring import judge
from dmq_cli.stages.stopping import finishing
from dmq_cli.store import read_json, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors

_FEATURES = "features.safetensors"


@dataclass(frozen=True)
class Sampling:
    """All that sampling needs: the network with its correction, the sampler, conditions, and the decoder of a latent model."""

    estimator: build.Estimator
    eta: float
    scheduler: Scheduler
    guide: Guide
    decode: Decoder | None

    @classmethod
    def of(cls, task: Task) -> Sampling:
        """Load it."""
        config = in_folder(task.config)
        estimator = build.denoiser(config, task.runtime, task.inputs)
        settings, scheduler = build.sampler(config)
        guide = build.guide(config, task.runtime, config.get("correct", {}).get("target"))
        return cls(estimator, settings.eta, scheduler, guide, build.decoder(config, task.runtime))

    @torch.inference_mode()
    def images(self, seeds: range) -> Tensor:
        """Sample the images of these seeds in one batch."""
        estimator = self.estimator
        steps = walk(
            estimator.denoiser, self.scheduler, seeds, estimator.shape, eta=self.eta,
            correction=estimator.correction, guide=self.guide,
        )  # fmt: skip
        return sample_images(steps, self.decode)


def sample(task: Task) -> None:
    """Sample images of the quantized, corrected network, or of its full-precision twin, whose key has no bits and no method.

    One file per batch; files of an attempt that was killed are kept. An artifact that is made in shards is joined from them.
    """
    if task.parts:
        _join(task)
        return
    if "sampling" not in task.shared:
        task.shared["sampling"] = Sampling.of(task)
    sampling: Sampling = task.shared["sampling"]
    seeds, files, num_done = parse_range(task.config["seeds"]), [], 0
    for chunk in batches(seeds, task.runtime["batch_size"]):
        files.append(task.work / f"tmp-{chunk.start}-{chunk.stop}.npy")
        if not files[-1].exists():
            with finishing():
                write_chunk(files[-1], sampling.images(chunk), task.config["to_uint8"])
        num_done += len(chunk)
        task.progress.update("images", num_done, len(seeds))
    if sampling.guide.conditions is not None:
        write_json(task.work / ASKED, {"asked": sampling.guide.conditions.subjects(seeds)})
    save_images(task.work, [np.load(file, mmap_mode="r", allow_pickle=False) for file in files])


def _join(task: Task) -> None:
    """Write the images of all parts, in order, and what they show."""
    subjects = [read_json(folder / ASKED)["asked"][rows] for folder, rows in task.parts if (folder / ASKED).is_file()]
    if subjects:
        write_json(task.work / ASKED, {"asked": list(itertools.chain(*subjects))})
    save_images(task.work, [load_images(folder)[rows] for folder, rows in task.parts])


def evaluate_fp(task: Task) -> None:
    """Measure the images of the full-precision twin."""
    _measure(task, "sample_fp")


def evaluate(task: Task) -> None:
    """Measure the quantized images, and how far each is from the full-precision image from the same noise."""
    _measure(task, "sample", load_images(task.inputs["sample_fp"]))


def _measure(task: Task, stage: str, twins: Pixels | None = None) -> None:
    """Measure images; of a shard only write their features, which the whole artifact is then measured from."""
    images, file = load_images(task.inputs[stage]), task.inputs[stage] / ASKED
    subjects = read_json(file)["asked"] if file.is_file() else None
    protocol: Protocol = build.make(task.config["protocol"])
    device = task.runtime["device"]
    if "part" in task.config:
        part = parse_range(task.config["part"])
        rows = slice(part.start, part.stop)
        features = extract(images[rows], protocol, subjects=subjects and subjects[rows], device=device)
        save_tensors(task.work / _FEATURES, features)
        return
    numbers, influences = judge(
        images, protocol, task.runtime["outputs"], subjects, device, twins, features=_features(task)
    )
    save_tensors(task.work / INFLUENCE, influences)
    write_json(task.work / "numbers.json", numbers)


def _features(task: Task) -> dict[str, Tensor] | None:
    """Join the features of the shards, in order; None where images are measured as a whole."""
    parts = [load_tensors(folder / _FEATURES) for folder, _ in task.parts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else None
