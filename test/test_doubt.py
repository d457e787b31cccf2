"""How probably what was found is not the point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.doubt import OFF_MOST, farthest_off, odds_against
from dino_tracker_ros.tracking.steps import off_flow
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH, FRAMES = 60, 80, 6
PACE = torch.tensor([3.0, -1.0])  # px a frame

pytestmark = pytest.mark.usefixtures("one_thread")


def flows() -> list[FlowPair]:
    there = PACE[:, None, None].expand(2, HEIGHT, WIDTH)
    return [(there, -there)] * (FRAMES - 1)


def along(*jumps: int) -> Tensor:
    """A track [1, T, 2] that moves with the flow, but for jumps of (6, 8) px into some frames."""
    track = torch.tensor([20.0, 30.0]) + torch.arange(float(FRAMES))[:, None] * PACE
    for t in jumps:
        track[t:] += torch.tensor([6.0, 8.0])
    return track[None]


def odds(error: float, confirmed: bool, off: float | None = None) -> float:
    told = None if off is None else torch.tensor([[off]])
    return float(odds_against(torch.tensor([[error]]), torch.tensor([[confirmed]]), told))


def test_each_of_the_three_speaks_against_it() -> None:
    assert odds(1.0, False, 5.0) > odds(0.5, False, 5.0) > odds(0.5, True, 5.0)
    assert odds(0.5, True, 50.0) > odds(0.5, True, 5.0) > odds(0.5, True, 0.0)
    # Without a track it is as if there had been a jump of no great length.
    assert odds(0.5, True, 0.0) < odds(0.5, True) < odds(0.5, True, 20.0)


def test_what_is_placed_surely_is_right_and_what_is_not_is_wrong() -> None:
    assert odds(0.02, True, 0.0) < 1e-3
    assert odds(0.3, False, 1.0) < 0.1
    assert odds(1.0, False, 30.0) > 3
    # Flow that knows nothing may be wrong itself.
    assert odds(0.02, False, 1e6) == odds(0.02, False, OFF_MOST) < 0.1


def test_what_was_never_found_is_endlessly_doubtful() -> None:
    assert odds(float("inf"), True, 0.0) == float("inf")


def test_steps_with_the_flow_there_or_back_are_not_off_it() -> None:
    there = PACE[:, None, None].expand(2, HEIGHT, WIDTH)
    nothing = torch.zeros_like(there)
    assert off_flow(along(), [(there, -there)] * 5).max() < 1e-4
    assert off_flow(along(), [(there, nothing)] * 5).max() < 1e-4
    assert off_flow(along(), [(nothing, -there)] * 5).max() < 1e-4
    assert off_flow(along(), [(nothing, nothing)] * 5).min() > 3
    torch.testing.assert_close(
        off_flow(along(2), flows())[0], torch.tensor([0.0, 10.0, 0.0, 0.0, 0.0]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("query", "jump", "expected"),
    [
        (0, 3, [0, 0, 0, 10, 10, 10]),
        (5, 3, [10, 10, 10, 0, 0, 0]),
        (3, 2, [10, 10, 0, 0, 0, 0]),
        (3, 4, [0, 0, 0, 0, 10, 10]),
    ],
)
def test_a_jump_counts_from_there_on_away_from_the_query(
    query: int, jump: int, expected: list[float]
) -> None:
    farthest = farthest_off(along(jump), flows(), torch.tensor([query]))
    wanted = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(farthest[0], wanted, atol=1e-4, rtol=0)


def test_the_largest_of_several_jumps_counts_each_point_by_itself() -> None:
    small = along()
    small[0, 2:] += torch.tensor([2.0, 0.0])
    tracks = torch.cat([along(4) + small - along(), along()])
    farthest = farthest_off(tracks, flows(), torch.tensor([0, 0]))
    torch.testing.assert_close(
        farthest, torch.tensor([[0.0, 0, 2, 2, 10, 10], [0.0] * 6]), atol=1e-4, rtol=0
    )


def test_a_clip_of_one_frame_has_no_steps() -> None:
    assert farthest_off(along()[:, :1], [], torch.tensor([0])).tolist() == [[0.0]]
