"""Where points go that have left the picture, or are hidden."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.dominant import (
    EXACTLY,
    carried_along,
    dominant_motion,
    moved_by,
)
from dino_tracker_ros.tracking.trajectories import FlowPair, inside

HEIGHT, WIDTH = 120, 160
FRAMES = 7
PAN = torch.tensor([[1.0, 0.0, -24.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]])
"""px a frame, to the left and a little down."""

SEEN = torch.tensor([False])
"""One query, where there is something to be seen."""

pytestmark = pytest.mark.usefixtures("one_thread")


def turn(angle: float) -> Tensor:
    """Around the middle, and a little perspective."""
    c, s = math.cos(angle), math.sin(angle)
    to_middle = torch.tensor([[1.0, 0.0, -80.0], [0.0, 1.0, -60.0], [0.0, 0.0, 1.0]])
    turned = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [1e-4, 5e-5, 1.0]])
    return torch.linalg.inv(to_middle) @ turned @ to_middle


def pixels() -> Tensor:
    """[H, W, 2]."""
    y, x = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    return torch.stack([x, y], dim=-1)


def flow_of(there: Tensor) -> FlowPair:
    """Of pictures that go by a homography."""
    places = pixels()
    moved = [moved_by(maps, places) - places for maps in (there, torch.linalg.inv(there))]
    return moved[0].permute(2, 0, 1), moved[1].permute(2, 0, 1)


def truth(maps: list[Tensor], frame: int, point: Tensor) -> Tensor:
    """Where a point of a frame is in all of them, [T, 2]."""
    places = [point]
    for there in maps[frame:]:
        places.append(moved_by(there, places[-1]))
    for there in reversed(maps[:frame]):
        places.insert(0, moved_by(torch.linalg.inv(there), places[0]))
    return torch.stack(places)


def known_until_it_leaves(places: Tensor, frame: int) -> Tensor:
    """What flow tells of a point [T, 2] of a frame: nothing there, nor from when it has left."""
    carried = places.clone()
    gone = ~inside(places, WIDTH, HEIGHT)
    for time in range(FRAMES):
        if time == frame or gone[min(time, frame) : max(time, frame) + 1].any():
            carried[time] = torch.nan
    return carried


def test_the_motion_of_most_of_the_picture_is_found_though_things_move() -> None:
    there, back = flow_of(turn(0.1))
    there, back = there.clone(), back.clone()
    there[:, 30:80, 40:90] += 20.0  # goes its own way, and its flow does not close …
    motion = dominant_motion([(there, back), flow_of(PAN)])
    assert motion.known.all()
    corners = torch.tensor([[0.0, 0.0], [159.0, 0.0], [0.0, 119.0], [159.0, 119.0]])
    for found, true in zip(motion.maps, (turn(0.1), PAN), strict=True):
        assert (moved_by(found, corners) - moved_by(true, corners)).norm(dim=-1).max() < 0.1


def test_where_no_motion_is_most_of_it_nothing_is_known() -> None:
    half = torch.zeros(2, HEIGHT, WIDTH)
    half[0, :, : WIDTH // 2], half[0, :, WIDTH // 2 :] = 6.0, -5.0
    nothing_closes = torch.full((2, HEIGHT, WIDTH), 30.0)
    motion = dominant_motion([(half, -half), (nothing_closes, nothing_closes)])
    assert motion.known.tolist() == [False, False]


@pytest.mark.parametrize("frame", [0, 3, 6])
def test_a_point_that_leaves_and_comes_back_is_told_all_the_way(frame: int) -> None:
    """The camera looks away and back; asked for in its first, its middle and its last frame."""
    maps = [PAN] * 3 + [torch.linalg.inv(PAN)] * 3
    places = truth(maps, frame, torch.tensor([130.0 if frame == 3 else 30.0, 60.0]))
    carried = known_until_it_leaves(places, frame)
    assert carried.isnan().any(dim=-1).sum() >= 5
    flows = [flow_of(each) for each in maps]
    home = torch.tensor([frame])
    result = carried_along(carried[None], flows, home, places[None, frame], SEEN)[0][0]
    others = torch.arange(FRAMES) != frame
    assert (result - places)[others].norm(dim=-1).max() < 0.1
    assert result[frame].isnan().all()


def test_what_goes_its_own_way_or_is_not_known_is_not_carried_out() -> None:
    maps = [PAN] * (FRAMES - 1)
    queries = torch.tensor([[60.0, 60.0], [60.0, 60.0], [60.0, 60.0]])
    carried = truth(maps, 0, queries[0])[None].repeat(3, 1, 1)
    carried[:, 3:] = torch.nan
    carried[:, 0] = torch.nan
    carried[1, 1:3, 1] -= 4.0  # a step of its own
    carried[2] = torch.nan
    flows = [flow_of(each) for each in maps]
    result, _ = carried_along(carried, flows, torch.zeros(3).long(), queries, SEEN.repeat(3))
    assert not result[0, 3:].isnan().any()
    torch.testing.assert_close(result[1:], carried[1:], equal_nan=True)


@pytest.mark.parametrize("off", [0.1, 0.4])
def test_within_the_picture_only_what_goes_along_exactly_is_carried(off: float) -> None:
    maps = [PAN] * (FRAMES - 1)
    query = torch.tensor([[100.0, 60.0]])
    carried = truth(maps, 0, query[0])[None].clone()
    carried[:, 2, 1] += off
    carried[:, 3:] = torch.nan  # hidden, as it seems
    flows = [flow_of(each) for each in maps]
    result = carried_along(carried, flows, torch.zeros(1).long(), query, SEEN)[0][0]
    hidden = off < EXACTLY
    known = [True, True, hidden, hidden, True, True]  # x 76, 52, (28, 4,) -20, -44
    assert (~result.isnan().any(dim=-1))[1:].tolist() == known
    if hidden:
        there = truth(maps, 0, query[0])[3:]
        assert (result[3:] - there).norm(dim=-1).max() < 2 * off


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_before_a_plain_wall_flow_tells_who_goes_along(off: float) -> None:
    """Flow of the first step is the dominant motion, or nearly; then something hides the point."""
    maps = [PAN] * (FRAMES - 1)
    query = torch.tensor([[150.0, 60.0]])
    carried = torch.full((1, FRAMES, 2), torch.nan)
    flows = [flow_of(each) for each in maps]
    there = flows[0][0].clone()
    there[1, 40:80, 140:] += off
    passing = flows[1][0].clone()
    passing[:, 40:80, 100:] += 15.0
    flows[:2] = [(there, flows[0][1]), (passing, flows[1][1])]
    for plain in (True, False):
        home = torch.zeros(1).long()
        result = carried_along(carried, flows, home, query, torch.tensor([plain]))[0][0]
        if plain and off == 0:
            assert (result - truth(maps, 0, query[0]))[1:].norm(dim=-1).max() < 0.2
        else:
            assert result.isnan().all()


def test_a_motion_that_is_not_known_ends_it() -> None:
    maps = [PAN] * (FRAMES - 1)
    query = torch.tensor([[60.0, 60.0]])
    carried = truth(maps, 0, query[0])[None].clone()
    carried[:, 3:] = torch.nan
    flows = [flow_of(each) for each in maps]
    nothing_closes = torch.full((2, HEIGHT, WIDTH), 30.0)
    flows[4] = nothing_closes, nothing_closes
    result = carried_along(carried, flows, torch.zeros(1).long(), query, SEEN)[0][0]
    assert not result[1:5].isnan().any() and result[5:].isnan().all()


def test_a_motion_behind_the_camera_says_nothing() -> None:
    horizon = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.02, 0.0, 1.0]])
    seen = moved_by(horizon, torch.tensor([[10.0, 10.0], [90.0, 10.0]]))
    assert seen[0].isfinite().all() and seen[1].isnan().all()


def test_a_single_frame_has_no_motion() -> None:
    carried = torch.full((1, 1, 2), torch.nan)
    result, _ = carried_along(carried, [], torch.tensor([0]), torch.tensor([[5.0, 5.0]]), SEEN)
    assert result.shape == (1, 1, 2) and result.isnan().all()
    assert len(dominant_motion([]).maps) == 0
