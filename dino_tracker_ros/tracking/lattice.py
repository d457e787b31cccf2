"""Lattices: the pixels around a point, and places all over a picture."""

from __future__ import annotations

import torch
from torch import Tensor


def square(reach: float, spacing: float, like: Tensor) -> Tensor:
    """Offsets (x, y) [side², 2] px of a square lattice around the origin, row by row.

    Args:
        reach: px to each side.
        spacing: px.
        like: on its device; float32 whatever it is.
    """
    steps = torch.arange(-reach, reach + spacing / 2, spacing, device=like.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def all_over(height: int, width: int, spacing: float, like: Tensor) -> Tensor:
    """Places (x, y) [K, 2] px of a picture that lie `spacing` px apart, row by row from its corner.

    Args:
        like: on its device; float32 whatever it is.
    """
    y, x = torch.meshgrid(
        torch.arange(0.0, height, spacing, device=like.device),
        torch.arange(0.0, width, spacing, device=like.device),
        indexing="ij",
    )
    return torch.stack([x.flatten(), y.flatten()], dim=-1)
