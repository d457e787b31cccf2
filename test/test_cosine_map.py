"""Cosines between tokens, read off those at tokens, are those of interpolated features."""

from __future__ import annotations

import pytest
import torch
from slow_sampling import slow_sample
from torch import Tensor

from dino_tracker_ros.tracking.cosine_map import (
    best_cosines,
    cosines_at,
    neighbour_products,
    places_at,
)
from dino_tracker_ros.tracking.matching import corners, sample_tokens, unit_length
from dino_tracker_ros.tracking.token_grid import TokenGrid

CHANNELS, FRAMES, QUERIES = 24, 2, 5
GRIDS = {
    "plain": TokenGrid(70, 98),
    "half a stride": TokenGrid(57, 84, 14, 7),
    "placing": TokenGrid(57, 84, 14, 14, 1.5),
    "two by two": TokenGrid(1, 1),
    "one row": TokenGrid(1, 60, 15, 15),
    "one column": TokenGrid(60, 1, 15, 15),
    "one token": TokenGrid(1, 1, 15, 15),
}


pytestmark = pytest.mark.usefixtures("one_thread")
ON_GRIDS = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def test_the_grids_are_as_narrow_as_they_are_called() -> None:
    sizes = {name: (grid.rows, grid.cols) for name, grid in GRIDS.items()}
    assert sizes["two by two"] == (2, 2) and sizes["one token"] == (1, 1)
    assert sizes["one row"][0] == sizes["one column"][1] == 1
    assert sizes["one row"][1] == sizes["one column"][0] > 3


def noise(grid: TokenGrid, seed: int = 0) -> Tensor:
    """Unit features that have nearly nothing in common, [T, C, n]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (FRAMES, CHANNELS, grid.rows * grid.cols)
    return unit_length(torch.randn(shape, generator=generator), dim=1)


def places_of(grid: TokenGrid, count: int = 60) -> dict[str, Tensor]:
    """(x, y) px [B, 2] of many kinds."""
    generator = torch.Generator().manual_seed(1)
    edge = torch.tensor([grid.width - 1.0, grid.height - 1.0])
    within = torch.rand(count, 2, generator=generator) * edge
    centres = grid.centres().reshape(-1, 2)
    low, high = centres.amin(dim=0), centres.amax(dim=0)
    rim = within.clone()
    rim[0::4, 0], rim[1::4, 0] = 0.0, edge[0]
    rim[2::4, 1], rim[3::4, 1] = 0.0, edge[1]
    x, y = torch.tensor([low[0], high[0]]), torch.tensor([low[1], high[1]])
    outside = edge * 3 * (torch.rand(count, 2, generator=generator) - 0.3)
    return {
        "within": within,
        "on tokens": centres,
        "on the border": rim,
        "in the corners": torch.cartesian_prod(x, y),
        "outside": torch.cat([outside, low[None] - 50, high[None] + 50]),
    }


@ON_GRIDS
def test_cosines_are_those_of_the_features_there(grid: TokenGrid) -> None:
    units = noise(grid)
    products = neighbour_products(units, grid)
    assert products.shape == (FRAMES, grid.rows * grid.cols, 16)
    generator = torch.Generator().manual_seed(2)
    queries = unit_length(torch.randn(QUERIES, CHANNELS, generator=generator), dim=1)
    for kind, points in places_of(grid).items():
        for frame in range(FRAMES):
            # Every query in whatever order, some of them many times.
            rows = torch.randint(QUERIES, (len(points),), generator=generator)
            cosines = queries @ units[frame]
            found = cosines_at(cosines, rows, places_at(products[frame], points, grid))
            there = sample_tokens(units, torch.full_like(rows, frame), points, grid)
            expected = (unit_length(there, dim=1) * queries[rows]).sum(dim=1)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=kind)


@ON_GRIDS
def test_cosines_are_the_slow_ones(grid: TokenGrid) -> None:
    units = noise(grid, seed=3)
    query = units[0, :, 0]
    products = neighbour_products(units, grid)[1]
    for kind, points in places_of(grid, 12).items():
        rows = torch.zeros(len(points)).long()
        found = cosines_at((query @ units[1])[None], rows, places_at(products, points, grid))
        maps = units[1].double().view(-1, grid.rows, grid.cols)
        for point, cosine in zip(points.tolist(), found.tolist(), strict=True):
            there = unit_length(slow_sample(maps, *point, grid), dim=0)
            assert cosine == pytest.approx(float(there @ query.double()), abs=1e-5), kind


@ON_GRIDS
def test_the_best_cosines_are_those_of_the_features_there(grid: TokenGrid) -> None:
    units = noise(grid, seed=4)
    products = neighbour_products(units, grid)[1]
    others = noise(grid, seed=5)[0][:, ::3]
    for kind, points in places_of(grid).items():
        best = best_cosines(units[1], others, places_at(products, points, grid))
        there = sample_tokens(units, torch.ones(len(points)).long(), points, grid)
        expected = (unit_length(there, dim=1) @ others).amax(dim=1)
        torch.testing.assert_close(best, expected, atol=1e-5, rtol=0, msg=kind)


def test_the_best_cosines_lose_little_in_half_precision() -> None:
    """Whatever all features have in common: near 0.9 half precision has steps of 0.004."""
    grid = GRIDS["plain"]
    alike = unit_length(noise(grid, seed=4) + 2 * noise(grid, seed=6)[:1, :, :1], dim=1)
    products = neighbour_products(alike, grid)[1]
    places = places_at(products, places_of(grid)["within"], grid)
    exact, rough = (
        best_cosines(alike[1], alike[0], places, precision)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert exact.min() > 0.85
    assert 0 < (rough - exact).abs().max() < 1e-3


def test_nothing_may_be_asked() -> None:
    grid = GRIDS["plain"]
    units = noise(grid)
    nobody = torch.zeros(0).long()
    products = neighbour_products(units, grid)[0]
    places = places_at(products, torch.zeros(0, 2), grid)
    assert cosines_at(units[0, :2], nobody, places).shape == (0,)
    assert best_cosines(units[0], units[1], places).shape == (0,)


def test_features_that_cancel_out_give_a_number() -> None:
    """Half way between opposite tokens there is no direction left."""
    grid = TokenGrid(1, 15, 15, 15)
    assert (grid.rows, grid.cols) == (1, 2)
    units = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])
    products = neighbour_products(units, grid)[0]
    middle = grid.centres().reshape(-1, 2).mean(dim=0)[None]
    found = cosines_at(units[0, :1], torch.tensor([0]), places_at(products, middle, grid))
    assert found.tolist() == [pytest.approx(0, abs=1e-3)]


# ---- the tokens around a place ----


@ON_GRIDS
def test_the_four_corners_give_back_the_place(grid: TokenGrid) -> None:
    """The weighted mean of the corners' centres is the place, or the nearest inside the grid."""
    centres = grid.centres().reshape(-1, 2)
    for kind, points in places_of(grid).items():
        index, weight = corners(points, grid)
        assert index.shape == weight.shape == (len(points), 4)
        assert ((index >= 0) & (index < len(centres))).all(), kind
        assert ((weight >= 0) & (weight <= 1)).all(), kind
        torch.testing.assert_close(weight.sum(dim=1), torch.ones(len(points)))
        mean = (centres[index] * weight[..., None]).sum(dim=1)
        wanted = points.clamp(centres.amin(dim=0), centres.amax(dim=0))
        torch.testing.assert_close(mean, wanted, atol=1e-3, rtol=0, msg=kind)
        columns, rows = index % grid.cols, index // grid.cols
        assert torch.equal(columns[:, [0, 1]], columns[:, [2, 3]])
        assert torch.equal(rows[:, [0, 2]], rows[:, [1, 3]])
        assert (columns[:, 1] - columns[:, 0] == int(grid.cols > 1)).all()
        assert (rows[:, 2] - rows[:, 0] == int(grid.rows > 1)).all()


def test_corners_by_hand() -> None:
    grid = TokenGrid(70, 98)
    # A quarter to the right and three quarters below token (row 2, column 3).
    place = grid.centres()[2, 3] + 14 * torch.tensor([0.25, 0.75])
    index, weight = corners(place, grid)
    first = 2 * grid.cols + 3
    assert index.tolist() == [first, first + 1, first + grid.cols, first + grid.cols + 1]
    assert weight.tolist() == pytest.approx([0.1875, 0.0625, 0.5625, 0.1875], abs=1e-5)


def test_corners_of_any_shape() -> None:
    grid = TokenGrid(70, 98)
    points = torch.rand(2, 3, 5, 2) * 60
    index, weight = corners(points, grid)
    flat_index, flat_weight = corners(points.view(-1, 2), grid)
    assert torch.equal(index.view(-1, 4), flat_index)
    assert torch.equal(weight.view(-1, 4), flat_weight)


def test_a_place_that_is_no_number_has_corners_that_can_be_read() -> None:
    grid = TokenGrid(70, 98)
    index, weight = corners(torch.tensor([[torch.nan, 20.0]]), grid)
    assert ((index >= 0) & (index < grid.rows * grid.cols)).all()
    assert weight.isnan().any()
