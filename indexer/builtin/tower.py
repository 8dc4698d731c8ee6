"""A forward pass through the built-in tower that trains quickly on a CPU.

The tower is open_clip's `VisionTransformer`, and inference uses that unchanged. For training, the functions here use
the same parameters: patches by one matrix product, attention by plain batched products (at about 30 tokens their
backward pass is two to three times faster on a CPU than that of scaled_dot_product_attention), bfloat16 inside. The
last bits differ from open_clip's pass, which `indexer.learning.trunk` uses for any tower.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.encoders.open_clip import Tower

__all__ = ["embed_patches", "finish", "forward", "run_blocks"]


def embed_patches(tower: Tower, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Pictures (n, 3, s, s) float32, prepared, to tokens (n, t, width) before the first block."""
    conv = tower.conv1.weight
    width, _, patch, _ = conv.shape
    n, _, size, _ = x.shape
    grid = size // patch
    patches = x.view(n, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, -1)
    tokens = patches.to(dtype) @ conv.view(width, -1).t().to(dtype)
    first = tower.class_embedding.to(dtype).expand(n, 1, -1)
    tokens = torch.cat([first, tokens], 1) + tower.positional_embedding.to(dtype)
    return _norm(tower.ln_pre, tokens)


def run_blocks(blocks: Iterable[Tower], x: Tensor) -> Tensor:
    """Tokens (n, t, width) through residual attention blocks."""
    for block in blocks:
        x = x + _attend(block.attn, _norm(block.ln_1, x))
        hidden = functional.gelu(_linear(block.mlp.c_fc, _norm(block.ln_2, x)), approximate="none")
        x = x + _linear(block.mlp.c_proj, hidden)
    return x


def finish(tower: Tower, x: Tensor) -> Tensor:
    """Tokens after the last block to unit embeddings, (n, dim) float32."""
    pooled = _norm(tower.ln_post, x[:, 0]).float() @ tower.proj
    return functional.normalize(pooled, dim=-1)


def forward(tower: Tower, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Prepared pictures (n, 3, s, s) float32 to unit embeddings (n, dim) float32, `dtype` inside."""
    return finish(tower, run_blocks(tower.transformer.resblocks, embed_patches(tower, x, dtype)))


def _norm(norm: Tower, x: Tensor) -> Tensor:
    return functional.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _linear(linear: Tower, x: Tensor) -> Tensor:
    return functional.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))


def _attend(attention: Tower, x: Tensor) -> Tensor:
    n, tokens, width = x.shape
    heads = attention.num_heads
    mixed = functional.linear(x, attention.in_proj_weight.to(x.dtype), attention.in_proj_bias.to(x.dtype))
    q, k, v = mixed.view(n, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4).reshape(3, n * heads, tokens, -1)
    weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * (width // heads) ** -0.5, dim=-1)
    values = torch.bmm(weights, v).view(n, heads, tokens, -1).transpose(1, 2).reshape(n, tokens, width)
    return _linear(attention.out_proj, values)
