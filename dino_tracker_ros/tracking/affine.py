"""Affine maps through correspondences: least squares, and threes of them to be tried (RANSAC,
Fischler and Bolles 1981)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

UNIT = 50.0
"""Distances are fitted in units of this many px, so that shift and slope count alike."""
TRIALS = 32
"""Maps of three correspondences that are tried."""
RIDGE = 1e-4
"""How strongly a map is kept from deforming where places lie on a line."""


def trios(usable: Tensor) -> Tensor:
    """Three of the usable correspondences, bool [B, k], for each trial, int64 [B, trials, 3]."""
    # Usable ones first, in their order, so that as many of them are drawn the same way.
    order = (~usable).to(torch.uint8).argsort(dim=1, stable=True)
    chosen = _draws(usable.shape[1], usable.device)[usable.sum(dim=1)]
    return order.gather(1, chosen.flatten(1)).view(chosen.shape)


@cache
def _draws(places: int, device: torch.device) -> Tensor:
    """Three different of the first n places for each trial, int64 [n, trials, 3], n to `places`.

    The same trials for as many correspondences: a result does not depend on what else is asked.
    """
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(TRIALS, places, generator=generator)
    return torch.stack(
        [
            chance.masked_fill(torch.arange(places) >= max(n, 3), 2.0).argsort(dim=1)[:, :3]
            for n in range(places + 1)
        ]
    ).to(device)


def solved(design: Tensor, moved: Tensor, weight: Tensor) -> Tensor:
    """Weighted least squares; only the slopes are damped, towards a plain shift.

    Args:
        design: [..., k, 3], (1, x, y), x and y in units of `UNIT` px.
        moved: [..., k, 2] px.
        weight: [..., k].

    Returns:
        [..., 3, 2].
    """
    weighted = design.transpose(-1, -2) * weight[..., None, :]
    squares = weighted @ design
    scale = torch.diagonal(squares, dim1=-2, dim2=-1).mean(dim=-1).clamp(min=1e-6)
    damping = torch.diag(design.new_tensor([1e-3, 1.0, 1.0]))
    squares = squares + RIDGE * scale[..., None, None] * damping
    return torch.linalg.solve(squares, weighted @ moved)


def distances(places: Tensor, others: Tensor) -> Tensor:
    """Between places [..., 2] and others, [...]."""
    across, down = (places - others).unbind(dim=-1)
    return (across.square() + down.square()).sqrt()  # three times as fast as norm on a CPU
