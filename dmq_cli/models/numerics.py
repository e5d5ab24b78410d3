"""Precision, memory format and compilation of a network while it samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dmq_cli.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """Precision, memory format and compilation while sampling; everything is fitted in the default.

    tf32: allowed on CUDA. channels_last: the memory format of convolutions. compile: each block by torch.compile. autotune: cuDNN
    tries its convolutions and takes the fastest, which rounds otherwise and not always alike. ConfigError for a dtype that is not known.
    """

    dtype: str = "float32"
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False
    autotune: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ConfigError(f"numerics.dtype={self.dtype} is not known; use one of {', '.join(_DTYPES)}.")

    def set_backends(self, device: torch.device | str) -> None:
        """Allow or forbid TF32 and cuDNN's autotuning in this process, on CUDA; convolutions would use TF32 if nothing was said."""
        if torch.device(device).type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.backends.cudnn.benchmark = self.autotune

    def apply(self, model: nn.Module, units: Callable[[], list[str]]) -> None:
        """Change the network in place, all but its quantizers, which compute in float32. units: names of the blocks."""
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if "_quantizer." not in name and tensor.is_floating_point():
                tensor.data = tensor.data.to(_DTYPES[self.dtype])
                if self.channels_last and tensor.dim() == 4:
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        if self.compile:
            _compile(model, units())


def _compile(model: nn.Module, units: list[str]) -> None:
    # Blocks of one class share their code, and with it the limit of how many compiled forms it may have.
    import torch._dynamo  # seconds to import

    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, sum(1 for _ in model.modules()))
    for name in units:
        model.get_submodule(name).compile()
