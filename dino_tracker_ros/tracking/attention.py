"""Attention of a CPU with bfloat16 units, in blocks that stay in its caches.

PyTorch's fused attention uses x86's tile units, and is three times as fast there. Other units it
does not use; matrix products do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_ROWS = 512
"""Queries at a time: their products with all keys take a few MB."""

NAME = "dino_tracker_blocks"
"""What transformers knows this attention by once it is registered."""


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale * query @ keyᵀ) @ value, a head and a block of queries at a time.

    Args:
        query, key, value: [B, heads, N, D] of one type.
        scale: of the products; a power of two loses nothing in bfloat16.

    Returns:
        [B, N, heads, D] of that type.
    """
    # What all keys share changes no weight, and without it less is lost to rounding.
    key = key - key.float().mean(2, keepdim=True).to(key.dtype)
    found = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for image, (queries, keys, values) in enumerate(zip(query, key, value, strict=True)):
        for head, (asked, known, told) in enumerate(zip(queries, keys, values, strict=True)):
            for first in range(0, len(asked), BLOCK_ROWS):
                block = slice(first, first + BLOCK_ROWS)
                weights = (scale * asked[block] @ known.T).softmax(-1)
                found[image, block, head] = weights @ told
    return found


def attend_in_blocks(network: Any) -> None:
    """Let a network of transformers compute its attention here."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _as_transformers_asks)
    network.set_attn_implementation(NAME)


def _as_transformers_asks(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: object,
    scaling: float,
    **__: object,
) -> tuple[Tensor, None]:
    return attention(query, key, value, scaling), None
