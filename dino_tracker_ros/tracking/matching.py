"""Points of one frame found in another through features: what losses and inference share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant
from dino_tracker_ros.tracking.head import TrackerHead
from dino_tracker_ros.tracking.token_grid import TokenGrid


def corners(points: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor]:
    """The four tokens around pixel positions and their bilinear weights.

    Positions beyond the outermost token centres are clamped to them.

    Args:
        points: [..., 2], (x, y) working px.
        grid: where the tokens lie.

    Returns:
        Tokens int64 [..., 4], upper left, upper right, lower left, lower right; and weights
        [..., 4], which sum to 1.
    """
    last = constant((grid.cols - 1, grid.rows - 1), points)
    last_left = constant((max(grid.cols - 2, 0), max(grid.rows - 2, 0)), points)
    nodes = torch.minimum(grid.to_grid(points).clamp(min=0), last)
    first = torch.minimum(nodes.detach().floor(), last_left)
    # Where an optimization diverges, positions are NaN: the result is too, but no index may be.
    column, row = first.nan_to_num(0.0).long().unbind(dim=-1)
    right, down = min(1, grid.cols - 1), grid.cols * min(1, grid.rows - 1)
    around = constant((0, right, down, down + right), row)
    part = nodes - first
    share = torch.stack([1 - part, part], dim=-1)  # [..., (x, y), (first, second)]
    weight = share[..., 1, :, None] * share[..., 0, None, :]
    return (row * grid.cols + column)[..., None] + around, weight.flatten(-2)


def sample_tokens(tokens: Tensor, frames: Tensor, points: Tensor, grid: TokenGrid) -> Tensor:
    """Bilinear features at pixel positions, clamped to the outermost token centres.

    Args:
        tokens: [F, C, rows * cols].
        frames: int64 [B], which of the F frames each point lies on.
        points: [B, 2], (x, y) working px.
        grid: where the tokens lie.

    Returns:
        [B, C].
    """
    index, weight = corners(points, grid)
    around = tokens.transpose(1, 2)[frames[:, None], index]  # [B, 4, C]
    return (around * weight[..., None].to(around.dtype)).sum(dim=1)


def unit_length(features: Tensor, dim: int) -> Tensor:
    """Features divided by their norm along `dim`, safe at zero."""
    return F.normalize(features, dim=dim, eps=1e-8)


def lengths(features: Tensor) -> Tensor:
    """Of float features [F, C, n], [F, 1, n], never zero.

    The gradient of a sum of squares is far cheaper than that of a norm.
    """
    return features.square().sum(dim=1, keepdim=True).clamp(min=1e-16).sqrt()


def features_at(tokens: Tensor, grid: TokenGrid, frames: Tensor, points: Tensor) -> Tensor:
    """Unit features [G, K, C] at points [G, K, 2] px of frames int64 [G, K]; see `predict`."""
    found = sample_tokens(tokens, frames.reshape(-1), points.reshape(-1, 2), grid)
    return unit_length(found, dim=1).view(*frames.shape, -1)


def cosines(queries: Tensor, tokens: Tensor, length: Tensor) -> Tensor:
    """Of unit features [G, K, C] with every token of a frame, [G, K, n].

    Args:
        tokens: [G, C, n].
        length: of the tokens, [G, 1, n]: products are divided, not all tokens.
    """
    return (queries @ tokens) / length


def predict(
    tokens: Tensor,
    length: Tensor,
    grid: TokenGrid,
    head: TrackerHead,
    source_frames: Tensor,
    points: Tensor,
    target_frames: Tensor | None = None,
) -> Tensor:
    """Where points of source frames are in target frames.

    Args:
        tokens: refined features [F, C, n].
        length: of the tokens, [F, 1, n].
        grid: where the tokens lie.
        head: turns cosines into positions.
        source_frames: int64 [G, K].
        points: [G, K, 2], (x, y) working px.
        target_frames: int64 [G]; None means group g goes to frame g.

    Returns:
        [G, K, 2], (x, y) working px.
    """
    queries = features_at(tokens, grid, source_frames, points)
    if target_frames is not None:
        tokens, length = tokens[target_frames], length[target_frames]
    return positions(cosines(queries, tokens, length), grid, head)


def positions(cosine: Tensor, grid: TokenGrid, head: TrackerHead) -> Tensor:
    """Where the head finds points by their cosines [G, K, n] with a frame's tokens, [G, K, 2]."""
    return head(cosine.flatten(0, 1), grid).view(*cosine.shape[:2], 2)
