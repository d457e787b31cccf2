"""Chained flow and its checks, against loops over single points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.trajectories import (
    FlowPair,
    Trajectories,
    chain,
    check_direct,
    follow,
    inside,
    log_offsets,
    of_frames,
    sample_map,
)

HEIGHT, WIDTH, FRAMES = 26, 33, 6
LOOP, DIRECT = 1.5, 2.5

Point = tuple[float, float]


def smooth_noise(generator: torch.Generator, scale: float) -> Tensor:
    coarse = torch.randn(1, 2, 4, 5, generator=generator)
    return scale * torch.nn.functional.interpolate(
        coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=True
    )[0]


def some_flow(seed: int, motion: float, disagreement: float) -> FlowPair:
    """There and roughly back: closes in some places, not in others."""
    generator = torch.Generator().manual_seed(seed)
    there = smooth_noise(generator, motion)
    return there, -there + smooth_noise(generator, disagreement)


@pytest.fixture(scope="module")
def flows() -> list[FlowPair]:
    return [some_flow(t, motion=1.5, disagreement=0.7) for t in range(FRAMES - 1)]


@pytest.fixture(scope="module")
def direct(flows: list[FlowPair]) -> dict[tuple[int, int], FlowPair]:
    """Flow between any two frames: the sum of the steps, and something of its own."""
    found = {}
    for s in range(FRAMES):
        for t in range(s + 1, FRAMES):
            generator = torch.Generator().manual_seed(100 + 10 * s + t)
            steps = sum((flow[0] for flow in flows[s:t]), torch.zeros(2, HEIGHT, WIDTH))
            there = steps + smooth_noise(generator, 1.5)
            found[s, t] = (there, -there + smooth_noise(generator, 0.5))
    return found


# ---- the same, slowly: one point, one frame at a time ----


def bilinear(values: np.ndarray, x: float, y: float) -> Point:
    x, y = min(max(x, 0.0), WIDTH - 1.0), min(max(y, 0.0), HEIGHT - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, WIDTH - 1), min(top + 1, HEIGHT - 1)
    a, b = x - left, y - top
    found = [
        (1 - b) * ((1 - a) * v[top, left] + a * v[top, right])
        + b * ((1 - a) * v[bottom, left] + a * v[bottom, right])
        for v in values
    ]
    return float(found[0]), float(found[1])


def step(point: Point, pair: tuple[np.ndarray, np.ndarray]) -> tuple[Point, float]:
    """Where a point goes, and how far it is from itself when it has come back."""
    dx, dy = bilinear(pair[0], *point)
    moved = (point[0] + dx, point[1] + dy)
    back_x, back_y = bilinear(pair[1], *moved)
    return moved, math.hypot(moved[0] + back_x - point[0], moved[1] + back_y - point[1])


def in_frame(point: Point) -> bool:
    return 0 <= point[0] <= WIDTH - 1 and 0 <= point[1] <= HEIGHT - 1


def slow_chain(flows: list[FlowPair], spacing: int) -> list[tuple[int, dict[int, Point]]]:
    """(start frame, frame to position) of every trajectory of at least two frames."""
    pairs = [(there.double().numpy(), back.double().numpy()) for there, back in flows]
    found: list[tuple[int, dict[int, Point]]] = []
    for start in range(len(pairs)):
        covered = {
            tuple(math.floor((side + 0.5) / spacing) for side in path[start])
            for _, path in found
            if start in path
        }
        fresh = []
        for row in range(math.ceil(HEIGHT / spacing)):
            for column in range(math.ceil(WIDTH / spacing)):
                if (column, row) in covered:
                    continue
                point = (
                    min(column * spacing + (spacing - 1) / 2, WIDTH - 1.0),
                    min(row * spacing + (spacing - 1) / 2, HEIGHT - 1.0),
                )
                path = {start: point}
                for t in range(start, len(pairs)):
                    point, loop = step(point, pairs[t])
                    if not (loop < LOOP and in_frame(point)):
                        break
                    path[t + 1] = point
                fresh.append((start, path))
        found += fresh
    return [(start, path) for start, path in found if len(path) >= 2]


def slow_check(
    found: list[tuple[int, dict[int, Point]]], direct: dict[tuple[int, int], FlowPair]
) -> list[tuple[int, dict[int, Point]]]:
    """Every later frame of every trajectory against flow from its start straight to it."""
    pairs = {key: (a.double().numpy(), b.double().numpy()) for key, (a, b) in direct.items()}
    kept = []
    for start, path in found:
        agreed = {}
        for t, point in path.items():
            if t > start:
                straight, loop = step(path[start], pairs[start, t])
                apart = math.hypot(straight[0] - point[0], straight[1] - point[1])
                if loop < LOOP and in_frame(straight) and not apart < DIRECT:
                    continue
            agreed[t] = point
        if len(agreed) >= 2:
            kept.append((start, agreed))
    return kept


def as_paths(trajectories: Trajectories) -> list[tuple[int, dict[int, Point]]]:
    return [
        (
            int(start),
            {
                int(t): (float(points[t, 0]), float(points[t, 1]))
                for t in torch.nonzero(valid)[:, 0]
            },
        )
        for points, valid, start in zip(trajectories.points, trajectories.valid, trajectories.start)
    ]


def assert_same(
    ours: list[tuple[int, dict[int, Point]]], slow: list[tuple[int, dict[int, Point]]]
) -> None:
    assert [start for start, _ in ours] == [start for start, _ in slow]
    for (_, path), (_, expected) in zip(ours, slow):
        assert path.keys() == expected.keys()
        for t, point in path.items():
            assert point == pytest.approx(expected[t], abs=1e-3)


# ---- tests ----


@pytest.mark.parametrize("spacing", [1, 2, 4, 5])
def test_chained_flow_is_the_slow_one(flows: list[FlowPair], spacing: int) -> None:
    slow = slow_chain(flows, spacing)
    # The flow is such that every rule decides something.
    lengths = {len(path) for _, path in slow}
    assert {2, FRAMES} <= lengths
    assert {start for start, _ in slow} == set(range(FRAMES - 1))
    assert_same(as_paths(chain(flows, spacing, LOOP)), slow)


def test_the_direct_check_at_every_distance_is_the_slow_one(
    flows: list[FlowPair], direct: dict[tuple[int, int], FlowPair]
) -> None:
    chained = chain(flows, 2, LOOP)
    before = as_paths(chained)
    slow = slow_check(before, direct)
    gone = sum(len(path) for _, path in before) - sum(len(path) for _, path in slow)
    assert 20 < gone < 0.8 * sum(len(path) for _, path in before)
    offsets = list(range(1, FRAMES))
    ours = check_direct(chained, lambda s, t: direct[s, t], offsets, LOOP, DIRECT)
    assert_same(as_paths(ours), slow)
    # Nothing is changed behind the caller's back.
    assert_same(as_paths(chained), before)


def test_without_distances_the_direct_check_asks_for_no_flow(flows: list[FlowPair]) -> None:
    def no_flow(s: int, t: int) -> FlowPair:
        raise AssertionError(f"flow {s} to {t} was asked for")

    chained = chain(flows, 3, LOOP)
    assert_same(as_paths(check_direct(chained, no_flow, [], LOOP, DIRECT)), as_paths(chained))


def test_a_contradiction_at_one_distance_reaches_to_its_neighbours() -> None:
    frames = 10
    still = torch.zeros(2, HEIGHT, WIDTH)
    chained = chain([(still, still)] * (frames - 1), 8, LOOP)
    # Flow straight to frame 4 says that everything moved by 3 px, and closes.
    far = torch.zeros(2, HEIGHT, WIDTH)
    far[0] = 3.0

    def direct(s: int, t: int) -> FlowPair:
        return (far, -far) if t == s + 4 else (still, still)

    ours = check_direct(chained, direct, [2, 4, 8], LOOP, DIRECT)
    assert len(ours.start) == len(chained.start)
    x = ours.points[:, 0, 0]
    moved = x + 3 <= WIDTH - 1
    expected = torch.tensor([True] * 3 + [False] * 5 + [True] * 2)
    assert (ours.valid[moved] == expected).all()
    assert ours.valid[~moved].all()  # a direct flow that leaves the picture is not believed
    # One that does not close is not believed either.
    unsure = check_direct(
        chained, lambda s, t: (far, torch.zeros_like(far)), [2, 4, 8], LOOP, DIRECT
    )
    assert unsure.valid.all()


def test_trajectories_in_some_of_their_frames(flows: list[FlowPair]) -> None:
    whole = chain(flows, 4, LOOP)
    chosen = [1, 2, 4]
    found = of_frames(whole, chosen)
    expected = [
        (times.index(True), points)
        for points, times in zip(
            whole.points[:, chosen].tolist(), whole.valid[:, chosen].tolist(), strict=True
        )
        if sum(times) >= 2
    ]
    assert 0 < len(expected) < len(whole.start)
    assert found.start.tolist() == [start for start, _ in expected]
    assert found.points.tolist() == [points for _, points in expected]


def test_logarithmic_distances() -> None:
    assert log_offsets(1) == log_offsets(2) == []
    assert log_offsets(3) == [2]
    assert log_offsets(9) == [2, 4, 8]
    assert log_offsets(48) == [2, 4, 8, 16, 32]


def test_constant_motion_by_hand() -> None:
    flow = torch.zeros(2, 4, 6)
    flow[0], flow[1] = 2.0, -1.0
    found = chain([(flow, -flow)] * 2, 1, LOOP)
    # 4 columns x 3 rows survive a step; in frame 1 the 2 left columns and the last row are
    # uncovered, and 2 columns x 3 rows (rows 1..3) plus 2 columns of row 3 survive the next.
    assert found.start.tolist() == [0] * 12 + [1] * 8
    first = found.points[0]
    assert first.tolist()[0] == [0.0, 1.0] and first.tolist()[1] == [2.0, 0.0]
    assert found.valid[0].tolist() == [True, True, False]
    twice = found.valid.all(dim=1)
    assert twice.sum() == 2 * 2
    assert (found.points[twice, 2] - found.points[twice, 0] == torch.tensor([4.0, -2.0])).all()


def test_no_trajectory_where_nothing_closes() -> None:
    away = torch.full((2, 8, 8), 50.0)
    found = chain([(away, away)] * 3, 2, LOOP)
    assert len(found.start) == 0
    assert found.points.shape == (0, 4, 2)
    same = check_direct(found, lambda s, t: (away, away), [1, 2], LOOP, DIRECT)
    assert len(same.start) == 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (2, 3)])
def test_tiny_pictures(height: int, width: int) -> None:
    still = torch.zeros(2, height, width)
    for spacing in (1, 2, 4):
        found = chain([(still, still)], spacing, LOOP)
        assert len(found.start) == math.ceil(height / spacing) * math.ceil(width / spacing)
        assert found.valid.all()
        assert inside(found.points, width, height).all()


def test_a_step_by_hand() -> None:
    there, back = torch.zeros(2, 5, 5), torch.zeros(2, 5, 5)
    there[0] = torch.arange(5.0) / 4  # x grows to the right: 0.375 at x = 1.5
    back[0] = -1.0
    points = torch.tensor([[1.5, 2.0], [4.0, 2.0]])
    moved, valid = follow(points, (there, back), loop_error=0.7)
    torch.testing.assert_close(moved, torch.tensor([[1.875, 2.0], [5.0, 2.0]]))
    assert valid.tolist() == [True, False]  # errors 0.625 and 0, but the second left
    assert not follow(points, (there, back), loop_error=0.625)[1].any()  # strictly less


def test_maps_are_read_between_pixels_and_held_at_the_border() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    values = torch.stack([x, 10 * y, x * y])
    points = torch.tensor([[2.25, 3.5], [0.0, 0.0], [8.0, 5.0], [-4.0, 2.0], [20.0, 9.0]])
    expected = [
        [2.25, 35.0, 7.875], [0, 0, 0], [8, 50, 40], [0, 20, 0], [8, 50, 40],
    ]  # fmt: skip
    torch.testing.assert_close(sample_map(values, points), torch.tensor(expected))


def test_inside_means_on_the_box_of_pixel_centres() -> None:
    points = torch.tensor([[0.0, 0.0], [8.0, 5.0], [-0.01, 2.0], [8.01, 2.0], [3.0, 5.5]])
    assert inside(points, width=9, height=6).tolist() == [True, True, False, False, False]
