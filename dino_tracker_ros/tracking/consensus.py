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

NEIGHBOURS = 16
FEWEST = 4
"""Neighbours that must agree: an affine map takes three."""
AGREEMENT = 3.0
"""How far a neighbour may lie from the map, px."""
TRIALS = 32
"""Maps of three neighbours that are tried."""
RIDGE = 1e-4
"""How strongly a map is kept from deforming where neighbours lie on a line."""
UNIT = 50.0
"""Distances are fitted in units of this many px, so that shift and slope count alike."""


@dataclass(frozen=True)
class Expected:
    """Where neighbours say that N points are in T frames.

    Attributes:
        points: float32 [N, T, 2] px; the given points where too few neighbours agree.
        affine: float32 [N, T, 2, 2], from the query frame.
        agreed: bool [N, T].
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
    for home in query_frame.unique().tolist():
        members = torch.nonzero(query_frame == home)[:, 0]
        for t in range(frames):
            known = torch.nonzero(found[:, home] & found[:, t])[:, 0]
            if t == home or len(known) < FEWEST:
                continue
            own = members[:, None] == known[None]
            fits = _two_fits(query_point[members], points[known, home], points[known, t], own)
            for answer, (place, slope, enough) in zip(answers, fits, strict=True):
                row = members[enough]
                answer.points[row, t] = place[enough]
                answer.affine[row, t] = slope[enough]
                answer.agreed[row, t] = True
    return answers[0], answers[1]


def _two_fits(
    queries: Tensor, here: Tensor, there: Tensor, own: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two affine maps at queries [B, 2] from correspondences [S, 2]; `own` bool [B, S] is left
    out. The second is fitted to what lies off the first."""
    distance = torch.cdist(queries, here).masked_fill(own, torch.inf)
    nearest, index = distance.topk(min(NEIGHBOURS, len(here)), dim=1, largest=False)
    closeness = 1 / (nearest + 20.0)  # zero for the point itself
    around = (here[index] - queries[:, None]) / UNIT
    design = torch.cat([torch.ones_like(around[..., :1]), around], dim=-1)
    moved = there[index] - here[index]
    fits = []
    for _ in range(2):
        solution, residual = _agreed(design, moved, closeness)
        agree = (residual < AGREEMENT) & (closeness > 0)
        slope = torch.eye(2, device=here.device) + solution[:, 1:].transpose(1, 2) / UNIT
        fits.append((queries + solution[:, 0], slope, agree.sum(dim=1) >= FEWEST))
        closeness = closeness.masked_fill(agree, 0.0)
    return fits


def _agreed(design: Tensor, moved: Tensor, closeness: Tensor) -> tuple[Tensor, Tensor]:
    """The map of three neighbours that most agree with, fitted to all that do.

    Args:
        design: [B, k, 3].
        moved: [B, k, 2] px.
        closeness: [B, k], what a neighbour's vote weighs; 0 leaves it out.

    Returns:
        Solutions [B, 3, 2] and residuals [B, k] px.
    """
    neighbours = design.shape[1]
    # The same trials everywhere: a result does not depend on what else is asked.
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(TRIALS, neighbours, generator=generator).argsort(dim=1)[:, :3]
    order = order.to(design.device)
    usable = (closeness[:, order] > 0).all(dim=-1)  # [B, trials]
    trial = _solved(design[:, order], moved[:, order], torch.ones_like(design[:, order][..., 0]))
    residual = _residual(design[:, None], moved[:, None], trial)
    votes = (1 - (residual / AGREEMENT).square()).clamp(min=0) * closeness[:, None]
    best = votes.sum(dim=-1).masked_fill(~usable, -1.0).argmax(dim=1)
    weight = votes.gather(1, best[:, None, None].expand(-1, 1, neighbours))[:, 0]
    for _ in range(2):
        solution = _solved(design, moved, weight)
        residual = _residual(design, moved, solution)
        weight = closeness * (residual < AGREEMENT)
    return solution, residual


def _solved(design: Tensor, moved: Tensor, weight: Tensor) -> Tensor:
    """Weighted least squares [..., 3, 2]; only the slopes are damped, towards a plain shift."""
    weighted = design.transpose(-1, -2) * weight[..., None, :]
    squares = weighted @ design
    scale = torch.diagonal(squares, dim1=-2, dim2=-1).mean(dim=-1).clamp(min=1e-6)
    damping = torch.diag(design.new_tensor([1e-3, 1.0, 1.0]))
    squares = squares + RIDGE * scale[..., None, None] * damping
    return torch.linalg.solve(squares, weighted @ moved)


def _residual(design: Tensor, moved: Tensor, solution: Tensor) -> Tensor:
    """How far correspondences [..., k] lie from the map, px."""
    return (design @ solution - moved).norm(dim=-1)
