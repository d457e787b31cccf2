"""Where the query's own patch is seen: along its paths, and where neighbours say it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.consensus import expect_from_neighbours
from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates
from dino_tracker_ros.tracking.registration import (
    COARSEST,
    Pyramid,
    Registration,
    Template,
    build_templates,
    register,
)
from dino_tracker_ros.tracking.settings import RegistrationSettings

CONSENSUS_ROUNDS = 2
"""Times that neighbours are asked: each answer may be a neighbour for the next."""


@dataclass(frozen=True)
class Sightings:
    """What registration says of N points in T frames.

    Attributes:
        registration: of the query's patch, px of the pyramid's finest level.
        expected: bool [N, T], neighbours agree on where the point should be seen.
    """

    registration: Registration
    expected: Tensor


def look(
    pyramid: Pyramid,
    query_frame: Tensor,
    query_point: Tensor,
    points: Tensor,
    before: Sightings | None,
    settings: RegistrationSettings,
) -> Sightings:
    """Looks for the queries' patches in every frame.

    Args:
        pyramid: of the frames.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
        points: [N, T, 2], where to look first, working px.
        before: what an earlier look found, which is kept.
    """
    queries, start = pyramid.to_picture(query_point), pyramid.to_picture(points)
    templates = build_templates(pyramid, query_frame, queries, settings.radius)
    # Half a patch still fits where the whole one reaches over an edge.
    halved = build_templates(pyramid, query_frame, queries, max(2, settings.radius // 2))
    reach = settings.reach
    seen = _seen_along(pyramid, templates, query_frame, start, settings)
    if before is not None:
        seen = seen.merged(before.registration)
    rows = torch.arange(len(queries), device=queries.device)
    seen.points[rows, query_frame] = queries
    seen.found[rows, query_frame] = True
    seen.likeness[rows, query_frame] = 1.0
    expected = torch.zeros_like(seen.found)
    for _ in range(CONSENSUS_ROUNDS):
        likely, other = expect_from_neighbours(query_frame, queries, seen.points, seen.found)
        expected = likely.agreed
        for answer, wanted in ((likely, likely.agreed), (other, other.agreed & ~seen.found)):
            at, warp = answer.points, answer.affine
            seen = seen.merged(
                register(pyramid, templates, at, warp, wanted, 1, reach / 2, settings)
            )
            missed = wanted & ~seen.found
            seen = seen.merged(register(pyramid, halved, at, warp, missed, 0, reach / 4, settings))
    return Sightings(seen, expected)


def _seen_along(
    pyramid: Pyramid,
    templates: Sequence[Template],
    query_frame: Tensor,
    start: Tensor,
    settings: RegistrationSettings,
) -> Registration:
    """Patches registered from `start` [N, T, 2], forward and backward from their queries: each
    begins as deformed as it was seen last, so that it may turn and grow over time."""
    count, frames = start.shape[:2]
    upright = torch.eye(2, device=start.device).expand(count, frames, 2, 2)
    nowhere = torch.zeros(count, frames, dtype=torch.bool, device=start.device)
    seen = Registration(start, upright, start.new_zeros(count, frames), nowhere)
    for order in (range(frames), range(frames - 1, -1, -1)):
        last = upright[:, 0]
        for t in order:
            wanted = nowhere.clone()
            wanted[:, t] = (query_frame < t) if order.step > 0 else (query_frame > t)
            warp = last[:, None].expand(-1, frames, -1, -1)
            one = register(
                pyramid, templates, start, warp, wanted, COARSEST, settings.reach, settings
            )
            seen = seen.merged(one)
            last = torch.where(one.found[:, t, None, None], one.affine[:, t], last)
    return seen


def with_sightings(
    candidates: Sequence[Candidates],
    pyramid: Pyramid,
    sightings: Sightings,
    settings: RegistrationSettings,
) -> list[Candidates]:
    """The registered place as a further candidate of each frame, where there is one."""
    seen = sightings.registration
    points = pyramid.to_working(seen.points)
    result = []
    for t, frame in enumerate(candidates):
        found = seen.found[:, t, None]
        variance = torch.full_like(frame.variance[:, :1], settings.error**2)
        price = torch.where(found, -settings.reward, NEVER)
        result.append(
            Candidates(
                torch.cat([frame.points, points[:, t, None]], dim=1),
                torch.cat([frame.variance, variance], dim=1),
                torch.cat([frame.price, price], dim=1),
                torch.cat([frame.sure, found], dim=1),
            )
        )
    return result
