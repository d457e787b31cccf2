"""Cosines of queries with every place of a frame, between its tokens too, without its features.

The cosine of a query with interpolated features is the interpolated cosine divided by the length
of the interpolated features, and that length follows from products of neighbouring tokens alone.
So whoever has multiplied queries and tokens once reads any number of places off the result.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.matching import corners
from dino_tracker_ros.tracking.token_grid import TokenGrid


def neighbour_products(units: Tensor, grid: TokenGrid) -> Tensor:
    """What `cosines_at` has to know about the tokens themselves.

    Args:
        units: features of unit length of T frames, [T, C, rows * cols].
        grid: where the tokens lie.

    Returns:
        float32 [T, rows * cols, 16]: products of each token, the one on its right, the one below
        and the one below on the right with each other, row by row. On the border a token is its
        own neighbour.
    """
    # Frame by frame: shifted copies of a whole clip would be the most memory it ever takes.
    maps = units.unflatten(2, (grid.rows, grid.cols))
    return torch.stack([_neighbour_products(frame) for frame in maps])


def _neighbour_products(tokens: Tensor) -> Tensor:
    """Of one frame, [C, rows, cols] to [rows * cols, 16]."""
    right = torch.cat([tokens[..., 1:], tokens[..., -1:]], dim=2)
    below = torch.cat([tokens[:, 1:], tokens[:, -1:]], dim=1)
    beyond = torch.cat([right[:, 1:], right[:, -1:]], dim=1)
    one = torch.ones_like(tokens[0], dtype=torch.float32).flatten()
    ab, ac, ad, bc, bd, cd = (
        (a * b).float().sum(dim=0).flatten()
        for a, b in combinations((tokens, right, below, beyond), 2)
    )
    square = (one, ab, ac, ad, ab, one, bc, bd, ac, bc, one, cd, ad, bd, cd, one)
    return torch.stack(square, dim=-1)


def cosines_at(
    cosines: Tensor, products: Tensor, rows: Tensor, points: Tensor, grid: TokenGrid
) -> Tensor:
    """Cosines of queries with the features at places of a frame.

    Args:
        cosines: of N queries with the frame's tokens, [N, rows * cols].
        products: of neighbouring tokens, [rows * cols, 16], see `neighbour_products`.
        rows: int64 [B], which query each place is asked for.
        points: [B, 2], (x, y) px.
        grid: where the tokens lie.

    Returns:
        [B].
    """
    index, weight = corners(points, grid)
    around = cosines[rows[:, None], index]
    return (around * weight).sum(dim=1) / _lengths(products, index, weight)


def best_cosines(
    units: Tensor, products: Tensor, others: Tensor, points: Tensor, grid: TokenGrid
) -> Tensor:
    """Of the features at places of a frame, the largest cosine with any of some other features.

    Args:
        units: of the frame, [C, rows * cols], of unit length.
        products: of its neighbouring tokens, see `neighbour_products`.
        others: [C, M], of unit length.
        points: [B, 2], (x, y) px.
        grid: where the tokens lie.

    Returns:
        [B].
    """
    index, weight = corners(points, grid)
    # Places share tokens, and four products are interpolated instead of C channels.
    used, place = index.unique(return_inverse=True)
    cosines = units.T[used] @ others
    best = F.embedding_bag(
        place, cosines, per_sample_weights=weight.to(cosines.dtype), mode="sum"
    ).amax(dim=1)
    return best / _lengths(products, index, weight)


def _lengths(products: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Lengths [B] of features between tokens, from corners' indices and weights [B, 4]."""
    pairs = (weight[:, :, None] * weight[:, None]).flatten(1)
    squared = (products[index[:, 0]] * pairs).sum(dim=1)
    return squared.clamp(min=1e-8).sqrt()
