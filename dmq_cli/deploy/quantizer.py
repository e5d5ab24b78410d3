"""Lets diffusers' from_pretrained load exported networks: quant_method dmq.

`import dmq_cli` registers it (see compat.py). The weights' file is checked before anything is read from it, weights become numbers while
the network is loaded, and its quantizers are put around it afterwards. Nothing is computed in another precision than it was exported from.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from diffusers.utils import is_accelerate_available
from torch import Tensor, nn

from dmq_cli.deploy.folder import METHOD, checked, shapes_of
from dmq_cli.deploy.packed import plain_names, plain_state, unpacked
from dmq_cli.deploy.records import Record
from dmq_cli.errors import ConfigError
from dmq_cli.models.folder import adapted, tokens_of
from dmq_cli.wrap import Attached, bake


class _Method(str, enum.Enum):
    """The name in config.json, in the form that diffusers asks for."""

    DMQ = METHOD


class DmqConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The `quantization_config` of an exported network, see folder.py. Unknown entries are kept: a newer format is refused when it is read."""

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)
        self.quant_method = _Method.DMQ

    def to_diff_dict(self) -> dict[str, Any]:
        """All entries, which diffusers prints."""
        entries: dict[str, Any] = self.to_dict()
        return entries


class DmqQuantizer(DiffusersQuantizer):  # type: ignore[misc]
    """Loads an exported network. attached: the network with its quantizers, once it is loaded.

    uncorrected: set to True to call the network of a corrected run by itself, which leaves the correction out.
    """

    attached: Attached
    is_serializable = False
    is_trainable = False

    def __init__(self, quantization_config: DmqConfig, **more: Any) -> None:
        super().__init__(quantization_config, **more)
        self.uncorrected = not getattr(quantization_config, "corrected", False)
        self._layout: dict[str, Record] = {}
        self._tensors: dict[str, Tensor] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._folder = Path()
        if not self.pre_quantized:
            raise ConfigError(
                "quant_method dmq loads what dmq export wrote; quantize a model by dmq_cli.quantize or the command line first."
            )

    def validate_environment(self, *_: Any, **__: Any) -> None:
        """Raise ConfigError without accelerate, which diffusers needs for every quantized network."""
        if not is_accelerate_available():
            raise ConfigError(
                "An exported network was to be loaded by from_pretrained, for which diffusers needs accelerate; run: pip install"
                " 'dmq-cli[export]', or load it by dmq_cli.load."
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """Always float32. Raises ConfigError where another precision was asked for: the codes would be others."""
        if torch_dtype not in (None, torch.float32):
            raise ConfigError(
                f"An exported network was to be loaded as {torch_dtype}, but its codes belong to float32; leave torch_dtype out."
            )
        return torch.float32

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Check the file, and name the tensors as the network does."""
        self._folder = Path(checkpoint_files[0]).parent
        _, self._layout = checked(self._folder, {**self.quantization_config.to_dict(), "quant_method": METHOD})
        return plain_names(list(loaded_keys))

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        self._shapes = shapes_of(model)

    def maybe_update_state_dict(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's own tensors, quantized weights as numbers."""
        self._tensors = dict(state_dict)
        return plain_state(self._tensors, self._layout, self._shapes)

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> None:
        tokens = tokens_of(self._folder.parent)
        self.attached = unpacked(adapted(model, tokens), self._tensors, self._layout)
        self._tensors = {}
        bake(self.attached)
        model.forward = _Scoped(self, model.forward)


class _Scoped:
    """The forward of an exported network: tells its quantizers the timestep that it is called with."""

    def __init__(self, quantizer: DmqQuantizer, forward: Callable[..., Any]) -> None:
        self.quantizer, self.forward = quantizer, forward
        functools.update_wrapper(self, forward)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        attached = self.quantizer.attached
        if attached.context.active:
            return self.forward(*arguments, **named)
        if not self.quantizer.uncorrected:
            raise ConfigError(
                "The network of a corrected run was called by itself, which would leave its correction out; load the whole folder by"
                " DiffusionPipeline.from_pretrained or dmq_cli.load, or set network.hf_quantizer.uncorrected = True."
            )
        timestep = inspect.signature(self.forward).bind(*arguments, **named).arguments["timestep"]
        with attached.at(torch.as_tensor(timestep, device=attached.grid.timesteps.device)):
            return self.forward(*arguments, **named)
