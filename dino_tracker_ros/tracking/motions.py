"""The two motions around a point, where an outline passes it: that of its surface and the other's.

Flow is smooth across an outline, so that beside it a point seems to go along with the wrong side.
Farther off it is right. So what surrounds a point is followed along flow, and two affine motions
are fitted to where it went, one after the other, each by the three places that most others agree
with (RANSAC, Fischler and Bolles 1981). Which of the two is the point's own, the picture tells:
see `surfaces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.affine import UNIT, distances, solved, trios
from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.trajectories import FlowPair, inside, loop_step

REACH = 42.0
"""How far around a point flow is asked, px."""
SPACING = 6.0
"""Between the places where it is asked, px."""
NEAR = 3
"""Frames to either side that motions are told apart by."""
CLOSES = 1.0
"""Forward-backward error up to which a step of flow is believed, px."""
SAME = 0.8
"""Places nearer than this to where a motion leads them go along with it, px a frame."""
LEAST = 0.06
"""Share of the surroundings that a motion must have to count."""
CARRY = 48
"""Frames to either side that a motion is followed for once it is known."""
KEPT = 0.25
"""Share of its places that must still go along with it there, …"""
FEWEST = 5
"""… and how many at the least."""
AT_ONCE = {"cpu": 128, "cuda": 512}
"""Points whose motions are fitted together, by kind of device."""
FAR = 9.0
"""Distance of places that flow says too little about, px a frame."""


@dataclass(frozen=True)
class Steps:
    """Where flow leads the surroundings of N points, G places each, in D frames beside theirs.

    Attributes:
        frames: D distances from a point's own frame, in frames.
        design: [G, 3], (1, x, y) of the places around a point, x and y in units of `UNIT` px.
        moved: [N, D, G, 2] px.
        closed: [N, D, G], one where flow closed its loop on every step to there, else zero; zero
            beyond the clip.
        weight: [N, G], the nearer the more; zero outside the image.
    """

    frames: tuple[int, ...]
    design: Tensor
    moved: Tensor
    closed: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Motions:
    """Two affine motions around N points, to D frames beside theirs.

    Attributes:
        frames: D distances from a point's own frame, in frames.
        maps: [2, N, D, 3, 2], from (1, x, y) beside a point to a motion in px; see `Steps.design`.
        members: bool [2, N, G], which of the surroundings go along with each.
        explained: [N], share of the surroundings that go along with either.
        both: bool [N], there are two.
    """

    frames: tuple[int, ...]
    maps: Tensor
    members: Tensor
    explained: Tensor
    both: Tensor


def design(offsets: Tensor) -> Tensor:
    """Offsets [K, 2] px as what maps are multiplied by, [K, 3]."""
    return torch.cat([torch.ones_like(offsets[:, :1]), offsets / UNIT], dim=1)


def surroundings(flows: Sequence[FlowPair], frames: Tensor, points: Tensor, reach: int) -> Steps:
    """Follows what surrounds points [N, 2] px of frames int64 [N], `reach` frames to either side.

    Args:
        flows: T-1 pairs of flow between frames t and t+1.
    """
    offsets = square(REACH, SPACING, points)
    offsets = offsets[offsets.norm(dim=1) <= REACH]
    places = points[:, None] + offsets
    ahead = (*range(1, reach + 1), *range(-1, -reach - 1, -1))
    moved = places.new_zeros(len(points), len(ahead), len(offsets), 2)
    closed = torch.zeros_like(moved[..., 0])
    for frame in frames.unique().tolist():
        rows = torch.nonzero(frames == frame)[:, 0]
        for step in (1, -1):
            at, alive = places[rows].flatten(0, 1), None
            for k in range(1, reach + 1):
                source = frame + step * (k - 1)
                between = min(source, source + step)
                if not 0 <= between < len(flows):
                    break
                there, back = flows[between]
                at, error = loop_step(at, (there, back) if step > 0 else (back, there))
                alive = error < CLOSES if alive is None else alive & (error < CLOSES)
                column = ahead.index(step * k)
                moved[rows, column] = at.view(len(rows), -1, 2) - places[rows]
                closed[rows, column] = alive.view(len(rows), -1).to(at.dtype)
    weight = 1 / (offsets.norm(dim=1) + 20.0)
    if flows:
        height, width = flows[0][0].shape[-2:]
        weight = weight * inside(places, width, height)
    return Steps(ahead, design(offsets), moved, closed, weight.expand(len(points), -1))


def two_motions(steps: Steps) -> Motions:
    """The motion that most of the surroundings agree with, and that of most of the others."""
    parts = [_two_motions(_rows(steps, rows)) for rows in _chunks(steps)]
    return Motions(
        steps.frames,
        torch.cat([part.maps for part in parts], dim=1),
        torch.cat([part.members for part in parts], dim=1),
        torch.cat([part.explained for part in parts]),
        torch.cat([part.both for part in parts]),
    )


def followed(steps: Steps, members: Tensor) -> tuple[Tensor, Tensor]:
    """One motion for as long as those of its surroundings that flow does not lose agree.

    Args:
        steps: of N points.
        members: bool [N, G], which of the surroundings go along with it.

    Returns:
        Maps [N, D, 3, 2], and bool [N, D]: enough of them still do.
    """
    weight = steps.closed * (steps.weight * members)[:, None]
    maps = solved(steps.design, steps.moved, weight)
    for _ in range(3):
        apart = distances(steps.design @ maps, steps.moved) / (3 * SAME)
        agree = weight * (1 - apart.square()).clamp(min=0)
        maps = solved(steps.design, steps.moved, agree)
    fewest = (KEPT * members.sum(dim=1, keepdim=True)).clamp(min=FEWEST)
    return maps, (agree > 0).sum(dim=2) >= fewest


def _chunks(steps: Steps) -> list[Tensor]:
    rows = torch.arange(len(steps.moved), device=steps.moved.device)
    return list(rows.split(AT_ONCE[rows.device.type]))


def _rows(steps: Steps, rows: Tensor) -> Steps:
    return Steps(
        steps.frames, steps.design, steps.moved[rows], steps.closed[rows], steps.weight[rows]
    )


def _two_motions(steps: Steps) -> Motions:
    known = (steps.closed.sum(dim=1) > 0) & (steps.weight > 0)
    left, maps, members = known, [], []
    for _ in range(2):
        found = _agreed(steps, left)
        member = left & (_apart(steps, found) < SAME)
        maps.append(found)
        members.append(member)
        left = left & ~member
    shares = torch.stack(members).sum(dim=2) / known.sum(dim=1).clamp(min=1)
    return Motions(
        steps.frames,
        torch.stack(maps),
        torch.stack(members),
        shares.sum(dim=0),
        (shares >= LEAST).all(dim=0),
    )


def _agreed(steps: Steps, left: Tensor) -> Tensor:
    """The map of three places that most of those left, bool [N, G], agree with, fitted to all that
    do, [N, D, 3, 2]."""
    # A place that flow lost on one side in time may be told by the other.
    usable = left & (2 * steps.closed.sum(dim=1) >= _frames_there(steps))
    trio = trios(usable)  # [N, trials, 3]
    wide = trio.flatten(1)[:, None, :, None].expand(-1, len(steps.frames), -1, 2)
    moved = steps.moved.gather(2, wide).unflatten(2, trio.shape[1:]).transpose(1, 2)
    where = steps.design[trio][:, :, None].expand(*moved.shape[:-1], 3)
    tried = solved(where, moved, torch.ones_like(moved[..., 0]))  # [N, trials, D, 3, 2]
    apart = _apart(steps, tried)
    weight = steps.weight * left
    votes = (1 - (apart / SAME).square()).clamp(min=0) * weight[:, None]
    best = votes.sum(dim=2).argmax(dim=1)
    maps = tried[torch.arange(len(best), device=best.device), best]
    for _ in range(2):
        agree = weight * (_apart(steps, maps) < SAME)
        maps = solved(steps.design, steps.moved, agree[:, None] * steps.closed)
    return maps


def _apart(steps: Steps, maps: Tensor) -> Tensor:
    """How far places are from where maps [N, …, D, 3, 2] lead them, the mean of the frames in which
    they are known, [N, …, G] px a frame."""
    trials = maps.ndim - 4
    shape = (len(steps.moved), *[1] * trials, *steps.moved.shape[1:])
    pace = maps.new_tensor([abs(frame) for frame in steps.frames])[:, None]
    apart = distances(steps.design @ maps, steps.moved.view(shape)) / pace
    closed = steps.closed.view(shape[:-1])
    count = closed.sum(dim=-2)
    mean = (apart * closed).sum(dim=-2) / count.clamp(min=1)
    enough = 3 * count >= _frames_there(steps).view(len(steps.moved), *[1] * (trials + 1))
    return torch.where(enough & (count > 0), mean, FAR)


def _frames_there(steps: Steps) -> Tensor:
    """How many of the frames the clip has, [N, 1]."""
    return (steps.closed.amax(dim=2) > 0).sum(dim=1, keepdim=True)
