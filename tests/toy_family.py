"""A planted family that does what diffusers' UNets do not: blocks of any signature, attention by keywords, samples of any shape.

Its blocks give tuples and take positional None, numbers and tuples of tensors without a row for each sample; its attention is
no diffusers' class; it reads fractions of the training time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from dmq_cli.models import Family, Layer
from dmq_cli.models.role_patterns import Patterns, part_of
from dmq_cli.models.structure import NamedParts

WIDTH, HEADS = 8, 2
SHAPES = {"vector": (3,), "series": (3, 5), "image": (3, 4, 4), "film": (2, 3, 4, 4)}
Frequencies = tuple[Tensor, Tensor]


class ToyProcessor:
    """Computes the attention with everything by keyword."""

    def __call__(self, attn: Any, hidden: Tensor, *, turned: Frequencies, strength: float) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query = query * turned[0][: query.shape[-2], None] + turned[1][: query.shape[-2], None]
        attended = nn.functional.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=None, is_causal=True, scale=strength
        )
        done: Tensor = attn.to_out(attended.transpose(1, 2).flatten(2))
        return done


class ToyAttention(nn.Module):
    """No class of diffusers'."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.processor: Any = ToyProcessor()

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        output: Tensor = self.processor(self, hidden, **kwargs)
        return output


class ToyBlock(nn.Module):
    """Gives the tokens and, beside them, a memory of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff, self.mod = ToyAttention(), nn.Linear(WIDTH, WIDTH), nn.Linear(4, WIDTH)

    def forward(
        self,
        hidden: Tensor,
        mask: None,
        memory: tuple[Tensor, int],
        time: Tensor,
        turned: Frequencies,
        strength: float = 1.0,
    ) -> tuple[Tensor, tuple[Tensor, None]]:
        if mask is not None or memory[1] != 7:
            raise ValueError("called otherwise than in the network")
        hidden = hidden + self.attn(hidden, turned=turned, strength=strength) + self.mod(time)[:, None]
        return hidden + self.ff(hidden).tanh(), (memory[0] + hidden.mean(1)[:, : memory[0].shape[1]], None)


class ToyNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A transformer on the places of samples (B, C, ...); a sample without places is one token."""

    @register_to_config
    def __init__(self, shape: tuple[int, ...] = (1, 16, 16), num_layers: int = 2) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(shape[0], WIDTH), nn.Linear(WIDTH, shape[0])
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(num_layers))
        places = torch.arange(math.prod(shape[1:]), dtype=torch.float32)
        self.register_buffer("cosine", places.cos())
        self.register_buffer("sine", 0.1 * places.sin())

    def forward(self, sample: Tensor, time: Tensor) -> Tensor:
        """time: (B,), a fraction of the training time."""
        angles = time[:, None] * torch.arange(1, 5, dtype=time.dtype, device=time.device)
        hidden = self.first(sample.reshape(*sample.shape[:2], -1).transpose(1, 2))
        memory = hidden.new_zeros(len(hidden), 3)
        for block in self.blocks:
            turned = (self.cosine, self.sine)
            hidden, (memory, _) = block(hidden, None, (memory, 7), angles.sin(), turned, strength=0.5)
        output: Tensor = self.last(hidden + memory.mean(1)[:, None, None]).transpose(1, 2).reshape(sample.shape)
        return output


class ToyAdapter(NamedParts):
    """Names the parts of a ToyNet."""

    patterns: ClassVar[Patterns] = (
        ("first", "edge.in"),
        ("last", "edge.out"),
        (r"blocks\.\d+\.attn\.(to_\w+)", r"attn.\1"),
        (r"blocks\.\d+\.ff", "ff.in"),
        (r"blocks\.\d+\.mod", "time.modulation"),
    )
    blocks = (ToyBlock,)
    parts: ClassVar[dict[str, str]] = {"blocks": "block"}

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """See Adapter."""
        output: Tensor = self.model(sample, timestep.reshape(-1).expand(len(sample)).to(sample) / 1000)
        return output

    def attentions(self) -> list[Layer]:
        """See Adapter."""
        named = self.model.named_modules()
        return [
            Layer(name, "attn", part_of(name, self.parts)) for name, module in named if isinstance(module, ToyAttention)
        ]

    def blank_cond(self, num: int) -> None:
        """See Adapter."""

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """See Adapter."""
        angles = (timestep / 1000)[:, None] * torch.arange(1, 5)
        return {f"blocks.{i}.mod": block.mod(angles.sin()) for i, block in enumerate(self.model.blocks)}

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """See Adapter."""
        return {}

    def sample_shape(self) -> tuple[int, ...]:
        """See Adapter."""
        return tuple(self.model.config.shape)


FAMILY = Family(ToyNet, ToyAdapter)


def network(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, **changes: Any) -> ToyNet:
    """Always the same random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ToyNet(shape=shape, **changes)
    frozen: ToyNet = model.eval().requires_grad_(False).to(dtype)
    return frozen


def adapter(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> ToyAdapter:
    return ToyAdapter(network(shape, dtype))


def data(shape: tuple[int, ...], num: int = 8) -> tuple[Tensor, Tensor]:
    """Samples and timesteps, which are no whole numbers."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(num, *shape, generator=generator, dtype=torch.float64)
    return sample, torch.tensor([750.5, 500.25, 250.0, 0.5], dtype=torch.float64)[torch.arange(num) % 4]


def batches(shape: tuple[int, ...], num: int = 8, size: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    sample, timestep = data(shape, num)
    return zip(torch.split(sample, size), torch.split(timestep, size), strict=True)
