"""Where points are asked for: regular grids, the inside of a mask, the holes of a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]


def grid_points(width: int, height: int, spacing: int) -> Points:
    """A centred regular grid over an image; one point where the image is smaller than a cell.

    Args:
        width, height: of the image, px.
        spacing: distance between neighbours, px, >= 1.

    Returns:
        float32 [N, 2], (x, y) in pixels, row by row.
    """
    x, y = _axis(width, spacing), _axis(height, spacing)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def points_in_mask(mask: NDArray[np.bool_], spacing: int) -> Points:
    """The points of a grid that lie on true pixels of a mask.

    Args:
        mask: bool [H, W].
        spacing: distance between neighbours, px, >= 1.

    Returns:
        float32 [N, 2], (x, y) in pixels; empty where the mask is false everywhere.
    """
    height, width = mask.shape
    points = grid_points(width, height, spacing)
    x, y = np.rint(points).astype(np.int64).T
    return points[mask[y, x]]


def grid_holes(width: int, height: int, spacing: int, points: Points) -> Points:
    """The grid points in whose cell, a square of `spacing`, no point lies.

    Args:
        width, height: of the image, px.
        spacing: distance between neighbours, px, >= 1.
        points: float32 [M, 2], (x, y) in pixels; those outside the image fill no cell.

    Returns:
        float32 [N, 2], (x, y) in pixels.
    """
    x, y = _axis(width, spacing), _axis(height, spacing)
    seen = points[inside_image(points, width, height)]
    column = np.clip(np.rint((seen[:, 0] - x[0]) / spacing).astype(np.int64), 0, len(x) - 1)
    row = np.clip(np.rint((seen[:, 1] - y[0]) / spacing).astype(np.int64), 0, len(y) - 1)
    empty = np.ones((len(y), len(x)), bool)
    empty[row, column] = False
    return grid_points(width, height, spacing)[empty.reshape(-1)]


def inside_image(points: Points, width: int, height: int) -> NDArray[np.bool_]:
    """Which points, float32 [..., 2] in pixels, lie on the image: bool [...]. NaN lies nowhere."""
    x, y = points[..., 0], points[..., 1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def _axis(size: int, spacing: int) -> NDArray[np.float32]:
    count = max(1, size // spacing)
    first = (size - 1 - (count - 1) * spacing) / 2
    return (first + spacing * np.arange(count)).astype(np.float32)
