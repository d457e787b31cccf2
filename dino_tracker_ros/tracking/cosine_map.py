"""Cosines of queries with every place of a frame, between its tokens too, without its features.

The cosine of a query with interpolated features is the interpolated cosine divided by the length
of the interpolated features, and that length follows from products of neighbouring tokens alone.
So whoever has multiplied queries and tokens once reads any number of places off the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.matching import corners
from dino_tracker_ros.tracking.precision import mixed
from dino_tracker_ros.tracking.token_grid import TokenGrid


def neighbour_products(units: Tensor, grid: TokenGrid) -> Tensor:
    """What `places_at` has to know about the tokens themselves.

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
    # Whole rows multiplied, of which two diagonals are kept, are faster than pairs of tokens.
    row = tokens.float().permute(1, 2, 0)
    below = torch.cat([row[1:], row[-1:]])
    beside, under = row @ row.transpose(1, 2), row @ below.transpose(1, 2)

    def diagonal(table: Tensor, offset: int, last: Tensor) -> Tensor:
        inner = torch.diagonal(table, offset, dim1=1, dim2=2)
        return torch.cat([inner, last], dim=1)

    one = torch.ones_like(beside[:, :, 0])
    ab, ac = diagonal(beside, 1, one[:, :1]), torch.diagonal(under, dim1=1, dim2=2)
    ad, bc = diagonal(under, 1, ac[:, -1:]), diagonal(under, -1, ac[:, -1:])
    bd, cd = torch.cat([ac[:, 1:], ac[:, -1:]], dim=1), torch.cat([ab[1:], ab[-1:]])
    square = (one, ab, ac, ad, ab, one, bc, bd, ac, bc, one, cd, ad, bd, cd, one)
    return torch.stack(square, dim=-1).flatten(0, 1)


@dataclass(frozen=True)
class Places:
    """B places between the tokens of a frame.

    Attributes:
        corners: int64 [B, 4], the tokens around each.
        weight: [B, 4], theirs in what is interpolated there.
        length: [B], of the features that are.
    """

    corners: Tensor
    weight: Tensor
    length: Tensor

    def __getitem__(self, chosen: Tensor) -> Places:
        """Those that are chosen, bool [B] or their numbers."""
        return Places(self.corners[chosen], self.weight[chosen], self.length[chosen])


def places_at(products: Tensor, points: Tensor, grid: TokenGrid) -> Places:
    """Places at points.

    Args:
        products: of a frame's neighbouring tokens, [rows * cols, 16], see `neighbour_products`.
        points: [B, 2], (x, y) px.
        grid: where the tokens lie.
    """
    index, weight = corners(points, grid)
    pairs = (weight[:, :, None] * weight[:, None]).flatten(1)
    squared = (products[index[:, 0]] * pairs).sum(dim=1)
    return Places(index, weight, squared.clamp(min=1e-8).sqrt())


def cosines_at(cosines: Tensor, rows: Tensor, places: Places) -> Tensor:
    """Cosines of queries with the features at places of a frame.

    Args:
        cosines: of N queries with the frame's tokens, [N, rows * cols].
        rows: int64 [B], which query each place is asked for.
        places: B.

    Returns:
        [B].
    """
    around = cosines[rows[:, None], places.corners]
    return (around * places.weight).sum(dim=1) / places.length


def best_cosines(
    units: Tensor, others: Tensor, places: Places, precision: torch.dtype = torch.float32
) -> Tensor:
    """Of the features at places of a frame, the largest cosine with any of some other features.

    Args:
        units: of the frame, [C, rows * cols], of unit length.
        others: [C, M], of unit length.
        places: B.
        precision: of the products.

    Returns:
        [B].
    """
    # Places share tokens, and four products are interpolated instead of C channels.
    used, place = places.corners.unique(return_inverse=True)
    tokens, shared = units.T[used], others.mean(dim=1, keepdim=True)
    with mixed(units.device, precision):
        # Without what the others share, less is lost to rounding.
        cosines = tokens @ (others - shared)
    best = F.embedding_bag(place, cosines.float(), per_sample_weights=places.weight, mode="sum")
    common = ((tokens @ shared)[place, 0] * places.weight).sum(dim=1)
    return (best.amax(dim=1) + common) / places.length
