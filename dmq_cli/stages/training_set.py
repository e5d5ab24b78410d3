"""The stage `training_set`: what a network is trained on, as it reads it: images, or their latents, with their conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import Classes, Conditions, image_shape, levels, model_conditions, model_encoder, model_schedule
from dmq_cli.qat import DataSource, Pictures
from dmq_cli.stages import build
from dmq_cli.stages.graph import Task
from dmq_cli.store.tensors import RowWriter, save_tensors
from dmq_cli.zoo import to_float

_OR = "or train.loss=distill, which needs no data"


def training_set(task: Task) -> None:
    """Write sample.safetensors (N, C, H, W), those to train on first: uint8 images, or float32 latents; what is known of them in
    facts.safetensors; and condition.safetensors, a row for each class and, where the model has it, for none as the last one."""
    model = task.config["model"]
    source = build.make({key: value for key, value in task.config["training_data"].items() if key != "content"})
    pictures = opened(source, image_shape(model))
    cond = model.get("cond")
    conditions = model_conditions(model, None, cond["path"]) if cond else None
    labels = _labels(pictures, conditions, model["name"])
    num_train = _write(task, pictures)
    facts = {"num_train": torch.tensor(num_train), "alphas_cumprod": levels(model_schedule(model))}
    has_none = isinstance(conditions, Classes) and conditions.has_none
    if isinstance(conditions, Classes):
        save_tensors(task.work / "condition.safetensors", conditions.table())
    save_tensors(task.work / "facts.safetensors", {**facts, "index": labels, "has_none": torch.tensor(has_none)})


def opened(source: DataSource, shape: tuple[int, int, int]) -> Pictures:
    """Open the images of a source. shape: (H, W, C) of the images that the model draws; ConfigError for others."""
    height, width, channels = shape
    pictures = source.pictures(height)
    shape_of_images = pictures.source.shape[1:]
    if shape_of_images != shape:
        raise ConfigError(
            f"The training images of {pictures.source.name} are {'x'.join(map(str, shape_of_images))}, and the model draws {height}x{width}x{channels};"
            f" give images like those (data=images with data.crop=center data.resize={height} scales), {_OR}."
        )
    _check_parts(pictures)
    return pictures


def _check_parts(pictures: Pictures) -> None:
    count, held_out = pictures.source.shape[0], int(pictures.held_out.sum())
    if not 0 < held_out < count:
        raise ConfigError(
            f"Of the training images of {pictures.source.name} {held_out} of {count} are held out, and some are needed to train on and some to"
            f" judge by; give more images, or another data.held_out, {_OR}."
        )


def _labels(pictures: Pictures, conditions: Conditions | None, name: str) -> Tensor:
    """The row of the conditions of every image, those to train on first; zeros without conditions."""
    count = pictures.source.shape[0]
    if conditions is None:
        return torch.zeros(count, dtype=torch.int64)
    train, held_out = pictures.labels_of(False), pictures.labels_of(True)
    if not isinstance(conditions, Classes) or train is None or held_out is None:
        raise ConfigError(
            f"The model {name} draws what a condition says, and no condition of the training images is known; use data with classes, {_OR}."
        )
    labels = torch.cat([train, held_out])
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= len(conditions.classes):
        raise ConfigError(
            f"The training images have classes from {lowest} to {highest}, and the model {name} knows 0 to {len(conditions.classes) - 1}; use"
            f" its own classes, {_OR}."
        )
    return labels


def _write(task: Task, pictures: Pictures) -> int:
    """Write all images or their latents; the number of those to train on."""
    encode = model_encoder(task.config["model"], task.runtime["device"])
    shape, count = build.adapter(task.config, task.runtime).sample_shape(), pictures.source.shape[0]
    num_done = 0
    with RowWriter(
        task.work / "sample.safetensors", (count, *shape), torch.uint8 if encode is None else torch.float32
    ) as writer:
        for held_out in (False, True):
            for images in pictures.batches(held_out):
                for batch in torch.split(images, task.runtime["batch_size"]):
                    writer.append(batch if encode is None else encode(to_float(batch)))
                num_done += len(images)
                task.progress.update("images", num_done, count)
    return count - int(pictures.held_out.sum())
