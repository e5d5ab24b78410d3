"""The original text encoder, stated from its definition, with the names of parameters in Stable Diffusion's single file.

Radford et al. 2021 as in openai/CLIP: model.py (Transformer, ResidualAttentionBlock, QuickGELU, encode_text's final layer
norm), in transformers' layout of it (CLIPTextTransformer), which FrozenCLIPEmbedder of CompVis/stable-diffusion holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class Embeddings(nn.Module):
    def __init__(self, words: int, width: int, length: int) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(words, width), nn.Embedding(length, width)
        self.register_buffer("position_ids", torch.arange(length)[None])


class SelfAttention(nn.Module):
    """Every token reads itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)) for linear in (self.q_proj, self.k_proj, self.v_proj))
        logits = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(later, -math.inf).softmax(-1)
        return self.out_proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = SelfAttention(width, heads), Mlp(width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(activation(self.mlp.fc1(self.layer_norm2(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))


class TextTransformer(nn.Module):
    def __init__(self, words: int, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(words, width, length), Encoder(width, heads, layers)
        self.final_layer_norm = nn.LayerNorm(width)


class TextModel(nn.Module):
    """Tokens (B, N) to what the UNet reads of them, (B, N, width)."""

    def __init__(self, words: int, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.text_model = TextTransformer(words, width, heads, layers, length)

    def forward(self, tokens: Tensor, activation: Callable[[Tensor], Tensor] = quick_gelu) -> Tensor:
        text = self.text_model
        places = torch.arange(tokens.shape[1])
        x = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding(places)
        for layer in text.encoder.layers:
            x = layer(x, activation)
        return text.final_layer_norm(x)  # type: ignore[no-any-return]
