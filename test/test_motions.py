"""Two motions told apart in the flow around a point."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.affine import TRIALS, solved, trios
from dino_tracker_ros.tracking.motions import (
    NEAR,
    Motions,
    design,
    followed,
    surroundings,
    two_motions,
)
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH = 160, 240
EDGE = 120.0  # px, where the outline is in frame 0
LEFT, RIGHT = torch.tensor([-4.0, 1.0]), torch.tensor([1.0, -2.0])  # px a frame
BLEED = 8.0  # px that the left side's flow reaches beyond the outline
FRAMES = 9
BESIDE = torch.tensor([[EDGE + 5, 80.0]])

pytestmark = pytest.mark.usefixtures("one_thread")


def still() -> Tensor:
    return torch.zeros(2, HEIGHT, WIDTH)


def parting(frames: int = FRAMES, bleed: float = BLEED) -> list[FlowPair]:
    """What is left of an outline goes its own way, the outline with it; near to it flow on the
    right is the left's."""
    x = torch.arange(float(WIDTH))[None, None].expand(2, HEIGHT, WIDTH)

    def flow(frame: int, step: int) -> Tensor:
        left = x < EDGE + bleed + LEFT[0] * frame
        return step * torch.where(left, LEFT[:, None, None], RIGHT[:, None, None])

    return [(flow(t, 1), flow(t + 1, -1)) for t in range(frames - 1)]


def found(flows: list[FlowPair], frame: int, points: Tensor) -> Motions:
    frames = torch.full((len(points),), frame)
    return two_motions(surroundings(flows, frames, points, NEAR))


def shifts(motions: Motions, row: int = 0) -> Tensor:
    """What both motions make of the point itself, px a frame, [2, D, 2]."""
    pace = torch.tensor([float(frame) for frame in motions.frames])
    return motions.maps[:, row, :, 0] / pace[:, None]


def test_beside_an_outline_both_sides_motions_are_found_though_flow_is_one_sides() -> None:
    motions = found(parting(), 4, BESIDE)
    assert motions.frames == (1, 2, 3, -1, -2, -3)
    assert motions.both.all()
    assert motions.explained[0] > 0.75
    by_side = sorted(shifts(motions).mean(dim=1).tolist())
    torch.testing.assert_close(torch.tensor(by_side), torch.stack([LEFT, RIGHT]), atol=0.05, rtol=0)
    torch.testing.assert_close(
        shifts(motions), shifts(motions)[:, :1].expand(-1, 6, -1), atol=0.05, rtol=0
    )


def test_the_motion_that_most_agree_with_is_the_first() -> None:
    for x, most in ((EDGE - 20, LEFT), (EDGE + 30, RIGHT)):
        motions = found(parting(), 4, torch.tensor([[x, 80.0]]))
        torch.testing.assert_close(shifts(motions)[0, 0], most, atol=0.05, rtol=0)
        assert motions.members[0].sum() > motions.members[1].sum() > 0
        assert not (motions.members[0] & motions.members[1]).any()


@pytest.mark.parametrize("frame", [0, FRAMES - 1])
def test_at_the_clips_ends_one_side_in_time_must_do(frame: int) -> None:
    point = torch.tensor([[EDGE + LEFT[0].item() * frame + 5, 80.0]])
    motions = found(parting(), frame, point)
    assert motions.both.all()
    there = [k for k, step in enumerate(motions.frames) if 0 <= frame + step < FRAMES]
    by_side = sorted(shifts(motions)[:, there].mean(dim=1).tolist())
    torch.testing.assert_close(torch.tensor(by_side), torch.stack([LEFT, RIGHT]), atol=0.05, rtol=0)


def turning(slope: Tensor) -> list[FlowPair]:
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(240.0), indexing="ij")
    away = torch.stack([x - 120, y - 80])
    there = torch.einsum("ij,jhw->ihw", slope, away)
    inverse = torch.linalg.inv(torch.eye(2) + slope) - torch.eye(2)
    return [(there, torch.einsum("ij,jhw->ihw", inverse, away))] * (FRAMES - 1)


@pytest.mark.parametrize(
    "flows",
    [
        lambda: [(still(), still())] * (FRAMES - 1),
        lambda: turning(torch.tensor([[0.02, -0.05], [0.05, 0.02]])),
        lambda: [],
    ],
    ids=["still", "turning and growing", "a single frame"],
)
def test_where_there_is_one_surface_there_are_not_two_motions(
    flows: Callable[[], list[FlowPair]],
) -> None:
    motions = found(flows(), 0, torch.tensor([[120.0, 80.0], [3.0, 156.0]]))
    assert not motions.both.any()


def test_a_surface_that_turns_is_one_motion() -> None:
    slope = torch.tensor([[0.02, -0.05], [0.05, 0.02]])
    motions = found(turning(slope), 0, torch.tensor([[120.0, 80.0]]))
    assert motions.explained[0] > 0.99
    offsets = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    moved = design(offsets) @ motions.maps[0, 0, 0]
    torch.testing.assert_close(moved, offsets @ slope.T, atol=0.05, rtol=0)


def test_a_motion_is_followed_on_while_enough_goes_along_with_it() -> None:
    """The left side leaves the picture, the right one stays."""
    flows = parting(frames=60)
    frames, points = torch.tensor([0, 0]), torch.tensor([[EDGE + 5, 80.0], [EDGE - 5, 80.0]])
    motions = two_motions(surroundings(flows, frames, points, NEAR))
    is_left = shifts(motions, 0)[:, 0, 0].argmin(), shifts(motions, 1)[:, 0, 0].argmin()
    chosen = torch.stack([motions.members[1 - is_left[0], 0], motions.members[is_left[1], 1]])
    steps = surroundings(flows, frames, points, 40)
    maps, known = followed(steps, chosen)
    on = torch.tensor([step > 0 for step in steps.frames])
    assert not known[:, ~on].any()  # before the clip's first frame
    assert known[0, on].all()
    left_known = known[1, on].nonzero()[:, 0]
    assert 20 < len(left_known) < 40
    assert torch.equal(left_known, torch.arange(len(left_known)))
    for row, pace in ((0, RIGHT), (1, LEFT)):
        for k, step in enumerate(steps.frames):
            if known[row, k]:
                torch.testing.assert_close(maps[row, k, 0], pace * step, atol=0.2, rtol=0)


def test_a_point_is_judged_the_same_whatever_else_is_asked() -> None:
    points = torch.cat([BESIDE, torch.tensor([[30.0, 30.0], [EDGE - 6, 100.0]]).repeat(80, 1)])
    frames = torch.tensor([4] + [4, 2] * 80)
    together = two_motions(surroundings(parting(), frames, points, NEAR))
    alone = found(parting(), 4, BESIDE)
    torch.testing.assert_close(together.maps[:, :1], alone.maps, atol=1e-3, rtol=0)
    assert torch.equal(together.members[:, :1], alone.members)


def test_trios_are_of_different_usable_correspondences() -> None:
    usable = torch.tensor([[True] * 9, [False, True, True, False, True, True, False, False, True]])
    chosen = trios(usable)
    assert chosen.shape == (2, TRIALS, 3)
    assert usable.gather(1, chosen.flatten(1)).all()
    assert all(len(set(trio)) == 3 for trio in chosen.flatten(0, 1).tolist())


def test_weighted_least_squares_leave_out_what_weighs_nothing() -> None:
    slope = torch.tensor([[0.1, -0.2], [0.3, 0.05]])
    offsets = torch.tensor([[0.0, 0], [30, 0], [0, 30], [25, -40], [-20, 10]])
    moved = offsets @ slope.T + torch.tensor([3.0, -7.0])
    moved[4] += 100.0
    found_map = solved(design(offsets), moved, torch.tensor([1.0, 1, 1, 1, 0]))
    torch.testing.assert_close(design(offsets[:4]) @ found_map, moved[:4], atol=0.02, rtol=0)
