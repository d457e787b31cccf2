"""Grids of query points, against definitions written out slowly."""

from __future__ import annotations

import numpy as np
import pytest

from dino_tracker_ros.tracking.queries import (
    grid_holes,
    grid_points,
    inside_image,
    points_in_mask,
)


@pytest.mark.parametrize("size", [(120, 90), (33, 65), (1, 1), (5, 100), (854, 476)])
@pytest.mark.parametrize("spacing", [1, 7, 32])
def test_grid_is_regular_centred_and_inside(size: tuple[int, int], spacing: int) -> None:
    width, height = size
    points = grid_points(width, height, spacing)
    assert points.dtype == np.float32
    assert inside_image(points, width, height).all()
    centre = [(width - 1) / 2, (height - 1) / 2]
    # float32 sums of a big grid lose half a pixel.
    np.testing.assert_allclose(points.mean(axis=0, dtype=np.float64), centre, rtol=1e-5)
    for axis, length in enumerate(size):
        values = np.unique(points[:, axis])
        assert len(values) == max(1, length // spacing)
        np.testing.assert_allclose(np.diff(values), spacing, rtol=1e-5)


def test_holes_are_the_cells_without_a_point() -> None:
    rng = np.random.default_rng(0)
    width, height, spacing = 100, 70, 10
    points = rng.uniform(-20, 120, (40, 2)).astype(np.float32)
    holes = {tuple(hole) for hole in grid_holes(width, height, spacing, points).tolist()}
    for x, y in grid_points(width, height, spacing).tolist():
        near = inside_image(points, width, height)
        near &= (np.abs(points[:, 0] - x) < spacing / 2) & (np.abs(points[:, 1] - y) < spacing / 2)
        assert ((x, y) in holes) == (not near.any())


def test_an_empty_image_is_all_holes_and_a_full_grid_has_none() -> None:
    grid = grid_points(64, 48, 16)
    np.testing.assert_array_equal(grid_holes(64, 48, 16, np.zeros((0, 2), np.float32)), grid)
    assert len(grid_holes(64, 48, 16, grid)) == 0


def test_points_in_mask_lie_on_it() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:50] = True
    points = points_in_mask(mask, 5)
    x, y = np.rint(points).astype(int).T
    assert mask[y, x].all()
    assert len(points) == 36
    assert len(points_in_mask(np.zeros((60, 80), bool), 5)) == 0


def test_inside_image_counts_whole_pixels_and_not_nan() -> None:
    points = np.array(
        [[-0.5, 0], [-0.6, 0], [9.5, 4.5], [9.6, 0], [0, 4.6], [np.nan, 0]], np.float32
    )
    assert inside_image(points, 10, 5).tolist() == [True, False, True, False, False, False]
