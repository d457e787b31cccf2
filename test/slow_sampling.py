"""Features between tokens, one point at a time: what faster code is checked against."""

from __future__ import annotations

import math

from torch import Tensor

from dino_tracker_ros.tracking.token_grid import TokenGrid


def slow_sample(features: Tensor, x: float, y: float, grid: TokenGrid) -> Tensor:
    """Bilinear features [C] of a map [C, rows, cols] at a pixel; beyond the grid, its border's."""
    ratio_y, ratio_x = (seen / side for seen, side in zip(
        grid.picture_size, (grid.height, grid.width)
    ))  # fmt: skip
    column = ((x + 0.5) * ratio_x - 0.5 - grid.offset) / grid.stride
    row = ((y + 0.5) * ratio_y - 0.5 - grid.offset) / grid.stride
    column = min(max(column, 0.0), grid.cols - 1.0)
    row = min(max(row, 0.0), grid.rows - 1.0)
    left, top = math.floor(column), math.floor(row)
    total = 0 * features[:, 0, 0]
    for r, share_y in ((top, top + 1 - row), (top + 1, row - top)):
        for c, share_x in ((left, left + 1 - column), (left + 1, column - left)):
            if share_x * share_y > 0:
                total = total + share_x * share_y * features[:, r, c]
    return total
