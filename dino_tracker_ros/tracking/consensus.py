"""Where the neighbours of a point say it went.

A point whose neighbours were found moves with them while the surface is stiff: an affine map,
fitted to the nearest ones of each frame pair, says where to look and how the patch is deformed.
Near an outline some are on the other side of it, so that the map is the one of three neighbours
that most others agree with (RANSAC, Fischler and Bolles 1981); what it leaves out is fitted by a
second one. Which side a point is on, its patch tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.affine import UNIT, distances, solved, trios

NEIGHBOURS = 16
FEWEST = 4
"""Neighbours that must agree: an affine map takes three."""
AGREEMENT = 3.0
"""How far a neighbour may lie from the map, px."""
AT_ONCE = {"cpu": 1024, "cuda": 8192}
"""Points that are asked for together, by kind of device: each takes a line of a table of all N
points, which a CPU's cache holds; a GPU waits less between fewer and larger steps."""


@dataclass(frozen=True)
class Expected:
    """Where neighbours say that points are: N points in T frames, or B points in one frame.

    Attributes:
        points: float32 [N, T, 2] or [B, 2] px; of N points, the given ones where too few agree.
        affine: float32 [N, T, 2, 2] or [B, 2, 2], from the frame that they were asked from.
        agreed: bool [N, T] or [B].
    """

    points: Tensor
    affine: Tensor
    agreed: Tensor


def expect_from_neighbours(
    query_frame: Tensor, query_point: Tensor, points: Tensor, found: Tensor
) -> tuple[Expected, Expected]:
    """Where points should be by the motion of those that were found, and by that of the others.

    Args:
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) px.
        points: [N, T, 2] px.
        found: bool [N, T]; true in a point's own query frame.
    """
    count, frames = found.shape
    answers = tuple(
        Expected(
            points.clone(),
            torch.eye(2, device=points.device).repeat(count, frames, 1, 1),
            torch.zeros_like(found),
        )
        for _ in range(2)
    )
    times = torch.arange(frames, device=points.device)
    for part in torch.nonzero(query_frame != times[:, None]).split(AT_ONCE[points.device.type]):
        goal, rows = part.unbind(dim=1)
        moves = moves_of_neighbours(
            rows, query_frame[rows], query_point[rows], goal, points, found
        )
        for answer, move in zip(answers, moves, strict=True):
            at = rows[move.agreed], goal[move.agreed]
            answer.points[at] = move.points[move.agreed]
            answer.affine[at] = move.affine[move.agreed]
            answer.agreed[at] = True
    return answers[0], answers[1]


def moves_of_neighbours(
    rows: Tensor, reference: Tensor, here: Tensor, goal: Tensor, points: Tensor, found: Tensor
) -> tuple[Expected, Expected]:
    """Where B of N points go, from a frame of their own each to another.

    Args:
        rows: int64 [B], which points.
        reference: int64 [B], the frame that each goes from.
        here: [B, 2], where it is there, px.
        goal: int64 [B], the frame that each goes to.
        points: [N, T, 2] px.
        found: bool [N, T]; neighbours are found in both frames.

    Returns:
        The map that most neighbours agree with, and the one fitted to what lies off it.
    """
    around = points.transpose(0, 1)[reference]  # [B, N, 2]
    known = found.T[reference] & found.T[goal]
    known[torch.arange(len(rows), device=rows.device), rows] = False
    distance = distances(around, here[:, None]).masked_fill(~known, torch.inf)
    nearest, index = distance.topk(min(NEIGHBOURS, len(points)), dim=1, largest=False)
    closeness = 1 / (nearest + 20.0)  # zero for who is not known
    before = around.gather(1, index[..., None].expand(-1, -1, 2))
    offsets = (before - here[:, None]) / UNIT
    design = torch.cat([torch.ones_like(offsets[..., :1]), offsets], dim=-1)
    moved = points[index, goal[:, None]] - before
    moves = []
    for _ in range(2):
        solution, residual = _agreed(design, moved, closeness)
        agree = (residual < AGREEMENT) & (closeness > 0)
        slope = torch.eye(2, device=here.device) + solution[:, 1:].transpose(1, 2) / UNIT
        moves.append(Expected(here + solution[:, 0], slope, agree.sum(dim=1) >= FEWEST))
        closeness = closeness.masked_fill(agree, 0.0)
    return moves[0], moves[1]


def _agreed(design: Tensor, moved: Tensor, closeness: Tensor) -> tuple[Tensor, Tensor]:
    """The map of three neighbours that most agree with, fitted to all that do.

    Args:
        design: [B, k, 3].
        moved: [B, k, 2] px.
        closeness: [B, k], what a neighbour's vote weighs; 0 leaves it out.

    Returns:
        Solutions [B, 3, 2] and residuals [B, k] px.
    """
    trio = trios(closeness > 0)  # [B, trials, 3]
    usable = closeness.gather(1, trio.flatten(1)).view(trio.shape).gt(0).all(dim=-1)
    tried_design, tried_moved = (
        values.gather(1, trio.flatten(1)[..., None].expand(-1, -1, values.shape[-1])).unflatten(
            1, trio.shape[1:]
        )
        for values in (design, moved)
    )
    trial = solved(tried_design, tried_moved, torch.ones_like(tried_design[..., 0]))
    # As one wide map: on a CPU several times as fast as a small product for each trial.
    wide = trial.transpose(1, 2).flatten(2)  # [B, 3, trials * 2]
    led = (design @ wide).unflatten(2, (-1, 2)).transpose(1, 2)
    residual = distances(led, moved[:, None])
    votes = (1 - (residual / AGREEMENT).square()).clamp(min=0) * closeness[:, None]
    best = votes.sum(dim=-1).masked_fill(~usable, -1.0).argmax(dim=1)
    weight = votes.gather(1, best[:, None, None].expand(-1, 1, votes.shape[-1]))[:, 0]
    for _ in range(2):
        solution = solved(design, moved, weight)
        residual = distances(design @ solution, moved)
        weight = closeness * (residual < AGREEMENT)
    return solution, residual
