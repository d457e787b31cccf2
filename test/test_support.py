"""Which surroundings of a point move along with it, where flow is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.support import moving_along
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH, EDGE = 80, 100, 50
POINT = torch.tensor([[45.0, 40.0]])
OFFSETS = torch.tensor([[0.0, 0.0], [-6.0, 0.0], [3.0, 5.0], [8.0, 0.0], [8.0, -8.0]])
OWN = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])


pytestmark = pytest.mark.usefixtures("one_thread")


def still() -> Tensor:
    return torch.zeros(2, HEIGHT, WIDTH)


def parting(left: float, right: float) -> Tensor:
    """Flow along x, px, to either side of EDGE."""
    flow = still()
    flow[0, :, :EDGE] = left
    flow[0, :, EDGE:] = right
    return flow


def support(flows: list[FlowPair], frame: int, offsets: Tensor = OFFSETS) -> Tensor:
    return moving_along(flows, torch.tensor([frame]), POINT, 1.5, offsets)


def test_the_other_side_of_an_outline_is_left_out() -> None:
    flows = [(parting(0.0, 4.0), parting(0.0, -4.0))]
    for frame in (0, 1):
        torch.testing.assert_close(support(flows, frame), OWN, atol=0.05, rtol=0)


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_either_way_in_time_may_tell(frame: int) -> None:
    """Surfaces part from frame 1 to frame 2, and stand still before."""
    flows = [(still(), still()), (parting(0.0, 5.0), parting(0.0, -5.0))]
    expected = torch.ones_like(OWN) if frame == 0 else OWN
    torch.testing.assert_close(support(flows, frame), expected, atol=0.1, rtol=0)


def test_flow_that_does_not_close_at_the_point_tells_nothing() -> None:
    """As where the point was hidden in the frame before: its flow there is that of what hid it."""
    wrong = still()
    wrong[0, 42:] = 20.0  # would part what lies below from what lies above
    open_loop = [(parting(9.0, 9.0), wrong)]
    assert torch.equal(support(open_loop, 1), torch.ones(1, len(OFFSETS)))
    # The other way still tells.
    flows = [*open_loop, (parting(0.0, 4.0), parting(0.0, -4.0))]
    torch.testing.assert_close(support(flows, 1), OWN, atol=0.05, rtol=0)


def test_a_surface_may_turn_and_grow() -> None:
    y, x = torch.meshgrid(
        torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij"
    )
    away = torch.stack([x - 45, y - 40])
    for slope in ([[0.05, -0.05], [0.05, 0.05]], [[0.08, 0.0], [0.0, -0.02]]):
        there = torch.einsum("ij,jhw->ihw", torch.tensor(slope), away)
        assert support([(there, -there)], 0).min() > 0.8


def test_each_point_is_judged_in_its_own_frame() -> None:
    flows = [(still(), still()), (still(), still()), (parting(0.0, 4.0), parting(0.0, -4.0))]
    frames = torch.tensor([3, 0, 2])
    points = torch.tensor([[45.0, 40.0], [45.0, 40.0], [55.0, 30.0]])
    found = moving_along(flows, frames, points, 1.5, torch.tensor([[-8.0, 0.0], [8.0, 0.0]]))
    expected = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_a_single_frame_has_no_flow_to_tell() -> None:
    assert torch.equal(support([], 0), torch.ones(1, len(OFFSETS)))
