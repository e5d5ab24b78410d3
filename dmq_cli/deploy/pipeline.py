"""Exported folders as diffusers pipelines: DiffusionPipeline.from_pretrained(FOLDER)(seeds="0-3")."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from diffusers import DiffusionPipeline
from torch import nn

from dmq_cli.errors import ConfigError


class DmqPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Makes the images of the run that was exported: with its quantizers, its correction and its sampler; see SeedPipeline.

    unet, transformer: the network, whichever the folder has; scheduler: what it was trained with.
    """

    _optional_components: ClassVar = ["unet", "transformer", "scheduler"]

    def __init__(
        self, unet: nn.Module | None = None, transformer: nn.Module | None = None, scheduler: Any = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, transformer=transformer, scheduler=scheduler)
        self._network = unet if unet is not None else transformer
        self._inner: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Sample, see SeedPipeline."""
        return self.run_pipeline(*arguments, **named)

    @property
    def run_pipeline(self) -> Any:
        """The SeedPipeline of the run; made when it is first used. Raises ConfigError for a network that was not exported."""
        if self._inner is None:
            from dmq_cli.stages.load import load_exported

            quantizer = getattr(self._network, "hf_quantizer", None)
            if quantizer is None or not hasattr(quantizer, "attached"):
                raise ConfigError(
                    "A DmqPipeline was given a network that dmq did not export; load the folder that dmq export wrote by"
                    " DiffusionPipeline.from_pretrained."
                )
            folder = Path(str(self._network.config._name_or_path)).parent  # type: ignore[union-attr]
            self._inner = cast(Any, load_exported(folder, quantizer.attached)).as_pipeline()
        return self._inner

    def to(self, *place: Any, **named: Any) -> Any:
        """Move the network and what its quantizers read; see DiffusionPipeline."""
        super().to(*place, **named)
        self.run_pipeline.to(*place, **named)
        return self

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refused: copy the exported folder instead. Raises ConfigError."""
        raise ConfigError("An exported model was to be saved again; copy the folder that dmq export wrote.")
