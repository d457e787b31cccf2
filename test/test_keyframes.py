"""What is remembered from clip to clip, and how it bridges the frames that are gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dino_tracker_ros.tracking.dominant import carried_along
from dino_tracker_ros.tracking.doubt import OFF_UNKNOWN, farthest_off
from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates, follow
from dino_tracker_ros.tracking.keyframes import (
    Course,
    Recalled,
    Recollection,
    deformation,
    no_flow,
    remember,
)
from dino_tracker_ros.tracking.persistence import history
from dino_tracker_ros.tracking.pyramid import build_pyramid
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.stiffness import stiffness
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH = 60, 80
KEYS = [(10, 1.0, 2.0), (10, 3.0, 4.0)]


def course(count: int, frames: int) -> Course:
    """Every value tells its row and column: row + column / 100."""
    value = torch.arange(count)[:, None] + torch.arange(frames) / 100
    wide = value[..., None].expand(-1, -1, 2).clone()
    return Course(
        points=wide, affine=torch.eye(2) * value[..., None, None], off=value.clone(),
        strayed=value.clone(), changed=value.clone(), led=wide.clone(),
        found=torch.ones(count, frames),
    )  # fmt: skip


def told(count: int = 2, frames: int = 3) -> Recalled:
    support = {(0, 9): torch.arange(count)[:, None].expand(-1, 9).float()}
    return remember(course(count, frames), support, torch.arange(frames)[None].float(), None)


def unknown(count: int, frames: int, keyframes: int = 1) -> Recalled:
    """Nothing is known."""
    values = Course(*(torch.full_like(v, torch.nan) for v in vars(course(count, frames)).values()))
    nothing = torch.zeros(count)
    noise = torch.full((1, frames), torch.nan)
    return Recalled(values, {}, noise, keyframes, nothing, nothing)


def still() -> FlowPair:
    return torch.zeros(2, HEIGHT, WIDTH), torch.zeros(2, HEIGHT, WIDTH)


def gap() -> FlowPair:
    return no_flow(HEIGHT, WIDTH, torch.device("cpu"))


def turn(degrees: float) -> torch.Tensor:
    """[2, 2]"""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)


# ---- deformation ----


@pytest.mark.parametrize(
    ("affine", "share"),
    [
        (torch.eye(2), 0.0),
        (1.5 * torch.eye(2), 0.5),
        (0.5 * torch.eye(2), 0.5),
        (turn(60), 1.0),
        (turn(-180), 2.0),
        (torch.tensor([[1.0, 0.4], [0.0, 1.0]]), 0.4 / 2**0.5),  # a shear moves half of them
    ],
)
def test_deformation_is_what_share_of_its_length_an_offset_is_moved(
    affine: torch.Tensor, share: float
) -> None:
    made = replace(course(1, 1), affine=affine[None, None])
    assert deformation(made).item() == pytest.approx(share, abs=1e-6)


def test_how_deformed_a_patch_is_that_was_not_found_nobody_knows() -> None:
    found = torch.tensor([[1.0, 0.0]])
    upright = torch.eye(2).expand(1, 2, 2, 2)
    told = deformation(replace(course(1, 2), affine=upright, found=found))
    assert told.tolist() == [[0.0, torch.inf]]


# ---- memory ----


def test_nothing_is_recalled_of_what_was_never_noted() -> None:
    memory = Recollection()
    assert memory.recall(KEYS, [10, 30], 1) is None
    memory.note(KEYS, [10, 20, 30], told())
    assert memory.recall(KEYS, [10, 20, 30], 1) is None  # that is this clip
    memory.turn_over()
    assert memory.recall(KEYS, [20, 30, 40], 0) is None  # nobody looks across a gap


def test_queries_and_frames_are_known_again() -> None:
    memory = Recollection()
    memory.note(KEYS, [10, 20, 30], told())
    memory.turn_over()
    recalled = memory.recall([KEYS[1], (40, 3.0, 4.0)], [10, 30, 40], 1)
    assert recalled is not None
    nan = torch.nan
    expected = torch.tensor([[1.0, 1.02, nan], [nan, nan, nan]])
    for values in (recalled.course.off, recalled.course.strayed, recalled.course.changed):
        torch.testing.assert_close(values, expected, equal_nan=True)
    torch.testing.assert_close(recalled.course.points[..., 1], expected, equal_nan=True)
    torch.testing.assert_close(recalled.course.affine[..., 1, 1], expected, equal_nan=True)
    assert recalled.support[0, 9][0].eq(1).all() and recalled.support[0, 9][1].isnan().all()
    torch.testing.assert_close(recalled.noise, torch.tensor([[0, 2, nan]]), equal_nan=True)
    # One frame of three is gone.
    assert (recalled.found.tolist(), recalled.frames.tolist()) == ([1, 0], [1, 0])


def test_frames_that_are_gone_add_up() -> None:
    memory = Recollection()
    memory.note(KEYS, [10, 20, 30], told())
    memory.turn_over()
    recalled = memory.recall(KEYS, [10, 30, 40, 50], 1)
    memory.note(KEYS, [10, 30, 40, 50], remember(course(2, 4), {}, torch.zeros(1, 4), recalled))
    memory.turn_over()
    later = memory.recall(KEYS, [10, 50, 60], 1)
    assert later is not None
    assert (later.found.tolist(), later.frames.tolist()) == ([3, 3], [3, 3])  # 20, 30, 40


def test_other_queries_of_the_same_clip_are_remembered_beside() -> None:
    memory = Recollection()
    other = (10, 5.0, 6.0)
    memory.note(KEYS, [10, 20, 30], told())
    memory.note([other, KEYS[0]], [10, 20, 30], told())
    memory.turn_over()
    recalled = memory.recall([*KEYS, other], [10, 30], 1)
    assert recalled is not None
    assert recalled.course.off[:, 0].tolist() == [1, 1, 0]  # the first one was asked for anew


def test_asking_again_and_again_fills_no_memory() -> None:
    memory = Recollection()
    for _ in range(5):
        memory.note(KEYS, [10, 20, 30], told())
    assert memory._now is not None
    assert len(memory._now.told.course.points) == 2


def test_a_clip_that_nobody_tracked_in_forgets_nothing() -> None:
    memory = Recollection()
    memory.note(KEYS, [10, 20, 30], told())
    memory.turn_over()
    memory.turn_over()
    assert memory.recall(KEYS, [10, 30], 1) is not None


# ---- across a gap ----


def no_candidates(count: int) -> Candidates:
    return Candidates(
        torch.zeros(count, 1, 2), torch.ones(count, 1), torch.full((count, 1), NEVER),
        torch.zeros(count, 1, dtype=torch.bool),
    )  # fmt: skip


def test_a_path_goes_on_from_where_the_point_was_known_to_be() -> None:
    recalled = unknown(2, 3)
    recalled.course.points[0, 1] = torch.tensor([50.0, 30.0])
    candidates = [no_candidates(2) for _ in range(3)]
    # Features find both at (20, 20) in the frame behind the gap, at no price.
    there = torch.tensor([[[20.0, 20.0]], [[20.0, 20.0]]])
    candidates[1] = Candidates(
        there, torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    )
    start = torch.tensor([[10.0, 10.0], [10.0, 10.0]])
    points = follow(
        candidates, lambda frame, rows, at: torch.zeros(len(at)), [gap(), still()],
        torch.tensor([0, 0]), start, 14.0, 1.5, HypothesesSettings(), recalled,
    )  # fmt: skip
    torch.testing.assert_close(points[0, 1:], torch.tensor([[50.0, 30.0], [50.0, 30.0]]))
    # Of the other one nothing is known, so features alone say where it is.
    torch.testing.assert_close(points[1, 1:], torch.tensor([[20.0, 20.0], [20.0, 20.0]]))


def test_steps_off_flow_go_on_adding_up_behind_a_gap() -> None:
    tracks = torch.zeros(2, 3, 2)
    tracks[:, 2, 0] = 1.0  # the last step is 1 px off flow
    recalled = unknown(2, 3)
    recalled.course.off[0, 1] = 0.5
    home = torch.tensor([0, 0])
    far = farthest_off(tracks, [gap(), still()], home, recalled)
    assert far.tolist() == [[0, 0.5, 1], [0, OFF_UNKNOWN, OFF_UNKNOWN]]


def test_what_happened_since_a_point_was_seen_goes_on_adding_up() -> None:
    pyramid = build_pyramid(torch.zeros(3, 3, HEIGHT, WIDTH, dtype=torch.uint8), 640)
    tracks = torch.full((2, 3, 2), 20.0)
    tracks[:, 2, 0] += 1.0
    recalled = unknown(2, 3)
    recalled.course.strayed[0, 1], recalled.course.changed[0, 1] = 0.25, 0.5
    seen = torch.tensor([[True, False, False]]).expand(2, -1)
    past = history(pyramid, [gap(), still()], tracks, seen, recalled)
    assert past.off[0].tolist() == [0, 0.25, 1.25]
    assert past.change[0, 1] == 0.5
    assert past.off[1, 1:].isinf().all()  # nobody knows what happened: as if never seen


def test_who_was_outside_the_picture_still_is_behind_a_gap() -> None:
    carried = torch.full((2, 3, 2), torch.nan)
    recalled = unknown(2, 3)
    recalled.course.led[0, 1] = torch.tensor([WIDTH + 20.0, 10.0])
    home, start = torch.tensor([0, 0]), torch.full((2, 2), 20.0)
    plain = torch.zeros(2, dtype=torch.bool)
    outside, led = carried_along(carried, [gap(), still()], home, start, plain, recalled)
    torch.testing.assert_close(outside[0, 1:], torch.tensor([[WIDTH + 20.0, 10.0]] * 2))
    torch.testing.assert_close(led[0, 2], outside[0, 2])
    assert outside[1].isnan().all() and led[1].isnan().all()


@pytest.mark.parametrize(("found", "frames", "expected"), [(0, 0, 0.5), (98, 98, 0.99)])
def test_frames_that_are_gone_tell_how_stiff_a_thing_is(
    found: int, frames: int, expected: float
) -> None:
    recalled = unknown(1, 2)
    recalled.found[0], recalled.frames[0] = found, frames
    seen = torch.tensor([[True, False]])
    stiff = stiffness(torch.zeros(1, 2, 2), seen, torch.tensor([0]), recalled)
    torch.testing.assert_close(stiff, torch.tensor([expected]), rtol=0, atol=1e-4)
