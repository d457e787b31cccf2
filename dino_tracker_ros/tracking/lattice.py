"""Offsets from a point to the pixels around it."""

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
