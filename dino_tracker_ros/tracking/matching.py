"""Points of one frame found in another through features: what losses and inference share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.head import TrackerHead, cost_map
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
    nodes = grid.to_grid(points)
    x = nodes[..., 0].clamp(0, grid.cols - 1)
    y = nodes[..., 1].clamp(0, grid.rows - 1)
    left = x.detach().floor().clamp(max=max(grid.cols - 2, 0))
    top = y.detach().floor().clamp(max=max(grid.rows - 2, 0))
    part_x, part_y = x - left, y - top
    # Where an optimization diverges, positions are NaN: the result is too, but no index may be.
    left = left.long().clamp(0, max(grid.cols - 2, 0))
    top = top.long().clamp(0, max(grid.rows - 2, 0))
    right, bottom = (left + 1).clamp(max=grid.cols - 1), (top + 1).clamp(max=grid.rows - 1)
    index = torch.stack(
        [
            top * grid.cols + left,
            top * grid.cols + right,
            bottom * grid.cols + left,
            bottom * grid.cols + right,
        ],
        dim=-1,
    )
    weight = torch.stack(
        [
            (1 - part_y) * (1 - part_x),
            (1 - part_y) * part_x,
            part_y * (1 - part_x),
            part_y * part_x,
        ],
        dim=-1,
    )
    return index, weight


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

    For losses that need lengths and unit features both: the gradient of a sum of squares is far
    cheaper than that of a norm.
    """
    return features.square().sum(dim=1, keepdim=True).clamp(min=1e-16).sqrt()


def predict(
    tokens: Tensor,
    units: Tensor,
    grid: TokenGrid,
    head: TrackerHead,
    source_frames: Tensor,
    points: Tensor,
    target_frames: Tensor | None = None,
) -> Tensor:
    """Where points of source frames are in target frames.

    Args:
        tokens: refined features [F, C, n].
        units: the same, of unit length along C.
        grid: where the tokens lie.
        head: turns cost maps into positions.
        source_frames: int64 [G, K].
        points: [G, K, 2], (x, y) working px.
        target_frames: int64 [G]; None means group g goes to frame g.

    Returns:
        [G, K, 2], (x, y) working px.
    """
    groups, count = source_frames.shape
    found = sample_tokens(tokens, source_frames.reshape(-1), points.reshape(-1, 2), grid)
    queries = unit_length(found, dim=1).view(groups, count, -1)
    targets = units if target_frames is None else units[target_frames]
    return head(cost_map(queries, targets).flatten(0, 1), grid).view(groups, count, 2)
