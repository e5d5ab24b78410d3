"""A run as a diffusers pipeline: its quantizers, its correction, and the sampler that the correction was estimated with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.models import Conditions
from dmq_cli.models.conditions import Classes, Prompts
from dmq_cli.sampling.guidance import Guide
from dmq_cli.sampling.scheduler import Scheduler
from dmq_cli.sampling.seeds import parse_range

_OUTPUTS = ("pil", "np", "pt")
_PARTS = ("unet", "scheduler", "vae", "vqvae", "transformer", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class Drawing:
    """What a pipeline draws with. draw: from seeds and a Guide to images (B, C, H, W) in [-1, 1].

    steps: num_inference_steps; to_uint8: images in [-1, 1] to uint8; move: moves to a device what is not in the network.
    """

    draw: Callable[[Sequence[int], Guide], Tensor]
    scheduler: Scheduler
    guide: Guide
    steps: int
    to_uint8: Callable[[Tensor], Tensor]
    move: Callable[[torch.device], object]


class SeedPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Makes the images that the run makes: image i from the noise of its own seed, whatever else is in the batch.

    Steps, guidance and the parts are the run's; others are refused with a ConfigError. unet: the quantized network.
    """

    def __init__(self, unet: nn.Module, drawing: Drawing | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet)
        self.drawing = drawing

    @property
    def scheduler(self) -> Any:
        """The run's own."""
        return self._drawing.scheduler

    @property
    def _drawing(self) -> Drawing:
        if self.drawing is None:
            raise ConfigError("A SeedPipeline belongs to a run; make one with dmq_cli.load(run).as_pipeline().")
        return self.drawing

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARTS and getattr(self, "drawing", None) is not None:
            raise ConfigError(
                f"The pipeline of a run was to get another {name}, which its correction was not estimated with; run dmq with it instead."
            )
        super().__setattr__(name, value)

    @torch.inference_mode()
    def __call__(
        self, prompt: str | Sequence[str] | None = None, class_labels: int | Sequence[int] | None = None,
        batch_size: int | None = None, generator: Any = None, seeds: str | Sequence[int] | None = None,
        num_inference_steps: int | None = None, guidance_scale: float | None = None,
        output_type: str = "pil", return_dict: bool = True,
    ) -> Any:  # fmt: skip
        """Sample images of these seeds ("0-3" or numbers), of fresh generators, one per image, or of random seeds.

        prompt, class_labels: one for all images or one for each; None: those of the run for these seeds. Returns
        ImagePipelineOutput, or a tuple: PIL images, numpy (B, H, W, C) or a tensor (B, C, H, W), both in [0, 1].
        """
        drawing, request = self._drawing, prompt if prompt is not None else class_labels
        self._same("num_inference_steps", num_inference_steps, drawing.steps)
        self._same("guidance_scale", guidance_scale, drawing.guide.scale)
        if output_type not in _OUTPUTS:
            raise ConfigError(f"The output_type {output_type} is not known; use {' or '.join(_OUTPUTS)}.")
        many = len(request) if isinstance(request, Sequence) and not isinstance(request, str) else None
        chosen = chosen_seeds(seeds, generator, batch_size or many)
        guide = drawing.guide if request is None else guide_for(drawing.guide, prompt, class_labels, len(chosen))
        for name, count in (("batch_size", batch_size), ("what is asked for", many)):
            if count is not None and count != len(chosen):
                raise ConfigError(f"A pipeline was given {len(chosen)} seeds, but {name} says {count}; give as many.")
        images = self._as(output_type, drawing.draw(chosen, guide))
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _same(self, name: str, requested: float | None, expected: float | None) -> None:
        if requested is not None and requested != expected:
            raise ConfigError(
                f"The pipeline of a run was asked for {name}={requested}, but its correction was estimated with {expected}; leave it out, or run dmq"
                " with it."
            )

    def _as(self, kind: str, images: Tensor) -> Any:
        if kind == "pil":
            pixels = self._drawing.to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
            return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in pixels]
        unit = images / 2 + 0.5
        return unit.permute(0, 2, 3, 1).cpu().numpy() if kind == "np" else unit

    def to(self, *place: Any, **named: Any) -> Any:
        """Move the network; see DiffusionPipeline."""
        super().to(*place, **named)
        self._drawing.move(self.device)
        return self

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refused: a diffusers folder holds neither quantizers nor a correction. Raises as the network's save_pretrained."""
        self.unet.save_pretrained()

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Refused, see save_pretrained."""
        self.save_pretrained()


def chosen_seeds(seeds: str | Sequence[int] | None, generator: Any, count: int | None) -> list[int]:
    """Choose the seed of each image. generator: one for each image, fresh from manual_seed, whose seed is taken.

    Raises ConfigError for a generator that has been drawn from, or one for several images.
    """
    if seeds is not None:
        chosen = list(parse_range(seeds) if isinstance(seeds, str) else seeds)
        if generator is not None or not chosen:
            raise ConfigError("A pipeline was given seeds and a generator, or no seed at all; give one of them.")
        return chosen
    if generator is None:
        return torch.randint(2**31, (count or 1,)).tolist()
    image_generators = generator if isinstance(generator, list | tuple) else [generator]
    if len(image_generators) != (count or len(image_generators)):
        raise ConfigError(
            f"A pipeline was given {len(image_generators)} generators for {count} images, but each image has its own noise; give a list of {count}."
        )
    for image_generator in image_generators:
        if not torch.equal(
            image_generator.get_state(),
            torch.Generator(image_generator.device).manual_seed(image_generator.initial_seed()).get_state(),
        ):
            raise ConfigError(
                "A pipeline was given a generator that has been drawn from already, but takes the noise of a seed; use manual_seed again,"
                " or seeds=."
            )
    return [image_generator.initial_seed() for image_generator in image_generators]


def guide_for(guide: Guide, prompt: Any, labels: Any, count: int) -> Guide:
    """Make a Guide of a user's prompts or labels, one for all images or one for each. Raises ConfigError for what the model
    does not read."""
    conditions = guide.conditions
    name, field, request = ("prompt", "prompts", prompt) if prompt is not None else ("class_labels", "classes", labels)
    if (prompt is not None and labels is not None) or not isinstance(
        conditions, Prompts if field == "prompts" else Classes
    ):
        raise ConfigError(
            f"A pipeline was given {name}={request}, but the model of its run reads no such thing; leave it out."
        )
    values = [request] * count if isinstance(request, str | int) else list(request)
    if isinstance(conditions, Classes) and (unknown := [value for value in values if value not in conditions.classes]):
        raise ConfigError(
            f"class_labels has {unknown[0]}, but the run draws {', '.join(map(str, conditions.classes))}; use one of them."
        )
    rows: list[Any] = [copy.copy(conditions) for _ in values]
    for row, value in zip(rows, values, strict=True):
        setattr(row, field, [value])
    return Guide(_InOrder(rows), guide.scale, guide.calls, guide.target)


class _InOrder:
    """Conditions in the order of the images, whatever their seeds. rows: Conditions of one image each."""

    def __init__(self, rows: Sequence[Conditions]) -> None:
        self.rows = rows

    def of(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """See Conditions."""
        conditions: list[Mapping[str, Tensor]] = [row.of([0]) for row in self.rows]
        return {name: torch.cat([cond[name] for cond in conditions]) for name in conditions[0]}

    def none(self) -> dict[str, Tensor]:
        """See Conditions."""
        return self.rows[0].none()

    def subjects(self, seeds: Sequence[int]) -> list[str]:
        """See Conditions."""
        return [row.subjects([0])[0] for row in self.rows]
