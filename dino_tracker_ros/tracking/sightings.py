"""Where the query's own patch is seen: along its paths, and where neighbours say it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dino_tracker_ros.tracking.consensus import (
    AGREEMENT,
    Expected,
    expect_from_neighbours,
    moves_of_neighbours,
)
from dino_tracker_ros.tracking.doubt import odds_against
from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates
from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.pyramid import COARSEST, Pyramid
from dino_tracker_ros.tracking.registration import Registration, register
from dino_tracker_ros.tracking.settings import RegistrationSettings
from dino_tracker_ros.tracking.templates import Support, Template, build_templates
from dino_tracker_ros.tracking.trajectories import inside

CONSENSUS_ROUNDS = 2
"""Times that neighbours are asked: each answer may be a neighbour for the next."""

VOUCHED = 0.1
"""How much less alike a blurred patch has to be where neighbours say that it is."""

CONTRADICTED = 0.3
"""Error of its place that a patch may have where neighbours say that it is elsewhere, px of the
pyramid's finest level, …"""

UPPER_QUARTER = 0.75
"""… or, in a blurred frame, that this share of the patches have that neighbours confirm there."""

REFUSED = 3.0
"""Odds against what was found from which on it would only mislead paths and neighbours."""

KNOWN = 1 / 8
"""Share of what is found of a point that neighbours must confirm to be heard about it: a thing of
its own motion may have but one point on it."""

CARRIED_ERROR = 2.0
"""Error of a place that only the motion of the point's surface tells, px of the pyramid's finest
level."""

GONE = 8.0
"""How far outside the picture its surface must carry a point that cannot be seen, px of the
pyramid's finest level."""

AT_ONCE = {"cpu": 1024, "cuda": 8192}
"""Patches of all frames looked for together, by kind of device: with more, a CPU's cache is too
small; a GPU waits less between fewer and larger steps."""

CARRIED = 2
"""Times that points are carried on from where they were seen last: what is found leads farther."""

SOON = 4
"""Frames from where a patch was seen within which it is asked for first along a new path: what is
found there tells how deformed it is in those behind."""

BESIDE = 1.0
"""Starts nearer than this to where a patch was found lead there again, px."""


@dataclass(frozen=True)
class Sightings:
    """What registration says of N points in T frames.

    Attributes:
        registration: of the query's patch, px of the pyramid's finest level.
        carried: [N, T, 2], where its own surface carries the point, by neighbours or, where they
            say nothing, by flow, px of the pyramid's finest level; NaN where neither says
            anything, or the patch was found.
        tried: [4, N, T, 2], where neighbours sent the last look, NaN before the first: most of
            them and the others, going from the query's frame; the same, going from where the
            point was seen last.
        confirmed: bool [N, T], found where neighbours say that the point is.
    """

    registration: Registration
    carried: Tensor
    tried: Tensor
    confirmed: Tensor


@dataclass(frozen=True)
class QueryPatches:
    """What is looked for: the patches around N queries.

    Attributes:
        frames: int64 [N], of the queries.
        points: [N, 2], the queries, px of the pyramid's finest level.
        whole: their patches.
        halved: of half the side: they still fit where a whole one reaches over an edge.
    """

    frames: Tensor
    points: Tensor
    whole: Sequence[Template]
    halved: Sequence[Template]


@dataclass(frozen=True)
class _Search:
    """What is looked for and where it was found so far: `seen` is changed in place."""

    pyramid: Pyramid
    patches: QueryPatches
    seen: Registration
    settings: RegistrationSettings


def query_patches(
    pyramid: Pyramid,
    query_frame: Tensor,
    query_point: Tensor,
    settings: RegistrationSettings,
    support: Support | None = None,
) -> QueryPatches:
    """The patches around queries, which all looks share.

    Args:
        pyramid: of the frames.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
        support: what of a patch belongs to the query's own surface; None takes it whole.
    """
    points = pyramid.to_picture(query_point)
    whole, halved = (
        build_templates(pyramid, query_frame, points, radius, support)
        for radius in (settings.radius, max(2, settings.radius // 2))
    )
    return QueryPatches(query_frame, points, whole, halved)


def look(
    pyramid: Pyramid,
    patches: QueryPatches,
    points: Tensor,
    carried: Tensor,
    before: Sightings | None,
    settings: RegistrationSettings,
    recalled: Recalled | None = None,
) -> Sightings:
    """Looks for the queries' patches in every frame.

    Args:
        pyramid: of the frames.
        patches: of N queries.
        points: [N, T, 2], where to look first, working px.
        carried: [N, T, 2], where flow around them carries the queries, working px; NaN where
            nothing is known.
        before: what an earlier look found; this one adds to it, and takes from it what neighbours
            contradict, in place.
        recalled: how patches were deformed behind gaps; None where there are no gaps.
    """
    query_frame, queries = patches.frames, patches.points
    start = pyramid.to_picture(points)
    if before is None:
        seen = _seen_along(pyramid, patches, start, settings, recalled)
    else:
        seen = before.registration
        _see_again(_Search(pyramid, patches, seen, settings), start, recalled)
    carried = pyramid.to_picture(carried)
    gone = _gone(carried, pyramid)
    seen.found.logical_and_(~gone)
    rows = torch.arange(len(queries), device=queries.device)
    seen.points[rows, query_frame] = queries
    seen.found[rows, query_frame] = True
    seen.error[rows, query_frame] = 0.0
    search = _Search(pyramid, patches, seen, settings)
    tried = start.new_full((4, *start.shape), torch.nan) if before is None else before.tried
    for _ in range(CONSENSUS_ROUNDS):
        likely, other = expect_from_neighbours(query_frame, queries, seen.points, seen.found)
        # A patch may look right where it is not: all that neighbours place elsewhere are tried.
        doubtful = likely.agreed & ~_seen_at(seen, likely.points)
        lost = other.agreed & ~seen.found
        asked = ((likely, doubtful, tried[0]), (other, lost, tried[1]))
        for answer, wanted, at_last in asked:
            for part in torch.nonzero(wanted.T).split(AT_ONCE[start.device.type]):
                frames, there = part.unbind(dim=1)
                at, warp = answer.points[there, frames], answer.affine[there, frames]
                _look_at(search, there, frames, at, warp, at_last)
        told = _told(likely, other, seen)
        _carry_on(search, ~told.isnan().any(dim=-1), tried[2:])
        confirmed = _confirmed(likely, seen) | _confirmed(other, seen)
        refused = gone | _contradicted(likely, other, confirmed, seen)
        seen.found.logical_and_(~refused & (odds_against(seen.error, confirmed) < REFUSED))
    told = torch.where(told.isnan(), carried, told)
    carried = torch.where(seen.found[..., None], torch.nan, told)
    return Sightings(seen, carried, tried, confirmed)


def _gone(carried: Tensor, pyramid: Pyramid) -> Tensor:
    """bool [N, T]: points whose surface has carried them out of the picture."""
    height, width = pyramid.levels[0].shape[-2:]
    known = ~carried.isnan().any(dim=-1)
    return known & ~inside(carried, width, height, GONE)


def _look_at(
    search: _Search, rows: Tensor, frames: Tensor, places: Tensor, affine: Tensor, tried: Tensor
) -> None:
    """Looks where neighbours say that patches are; once in each place, see `Sightings.tried`.

    Args:
        rows, frames: int64 [B], what to look for and where; those of one frame side by side.
        places, affine: [B, 2] px and [B, 2, 2].
    """
    fresh = ~((places - tried[rows, frames]).norm(dim=-1) < BESIDE)
    rows, frames, places, affine = rows[fresh], frames[fresh], places[fresh], affine[fresh]
    tried[rows, frames] = places
    patches = search.patches
    for templates, coarsest, share in ((patches.whole, 1, 1 / 2), (patches.halved, 0, 1 / 4)):
        found = register(
            search.pyramid, templates, rows, frames, places, affine, coarsest,
            share * search.settings.reach, search.settings, VOUCHED,
        )  # fmt: skip
        search.seen.improve_(found)
        left = ~search.seen.found[rows, frames]
        rows, frames, places, affine = rows[left], frames[left], places[left], affine[left]


def _carry_on(search: _Search, told: Tensor, tried: Tensor) -> None:
    """Looks for what is not found where neighbours went since it was seen last, forward and
    backward from the queries.

    Few neighbours may be in sight in the query's frame; many are where the point was seen last.
    The template is still the query's own patch.

    Args:
        told: bool [N, T], where neighbours of the point's own surface say where it is, going from
            the query's frame: if it was not found there it is hidden, and a step on would only
            lead along with what hides it.
    """
    seen, home = search.seen, search.patches.frames[:, None]
    at_once = AT_ONCE[told.device.type]
    times = torch.arange(told.shape[1], device=told.device)
    for forward in (True, False):
        ahead = home < times if forward else home > times
        # From the query's own frame neighbours were asked before.
        asked_from = home.expand_as(told)
        for _ in range(CARRIED):
            last = _seen_last(ahead & seen.found, home, forward)
            wanted = ahead & ~told & ~seen.found & (last != asked_from)
            asked_from = last
            for part in torch.nonzero(wanted.T).split(at_once):
                if len(part) == 0:
                    continue
                goal, rows = part.unbind(dim=1)
                origin = last[rows, goal]
                here, warp = seen.points[rows, origin], seen.affine[rows, origin]
                moves = moves_of_neighbours(rows, origin, here, goal, seen.points, seen.found)
                for move, at_last in zip(moves, tried, strict=True):
                    sent = torch.nonzero(move.agreed & ~seen.found[rows, goal])[:, 0]
                    turned = move.affine[sent] @ warp[sent]
                    _look_at(search, rows[sent], goal[sent], move.points[sent], turned, at_last)


def _seen_last(found: Tensor, home: Tensor, forward: bool) -> Tensor:
    """The frame between the query's and every other one in which a point was found last, int64
    [N, T]; the query's where there is none.

    Args:
        found: bool [N, T], of the frames after the query's or, not forward, before it.
        home: int64 [N, 1], the query's frame.
    """
    times = torch.arange(found.shape[1], device=found.device)
    seen = torch.where(found, times, home)
    if forward:
        return torch.cat([home, seen.cummax(dim=1).values[:, :-1]], dim=1)
    return torch.cat([seen.flip(1).cummin(dim=1).values.flip(1)[:, 1:], home], dim=1)


def _told(likely: Expected, other: Expected, seen: Registration) -> Tensor:
    """Where neighbours of the point's own surface say that it is, [N, T, 2]; NaN where they say
    nothing."""
    nothing = torch.full_like(likely.points, torch.nan)
    told = torch.where(_tells(other, seen)[..., None], other.points, nothing)
    return torch.where(_tells(likely, seen)[..., None], likely.points, told)


def _tells(answer: Expected, seen: Registration) -> Tensor:
    """bool [N, T]: where neighbours say something, of points about which they are mostly right."""
    both = answer.agreed & seen.found
    trusted = 2 * _confirmed(answer, seen).sum(dim=1) > both.sum(dim=1)
    return answer.agreed & trusted[:, None]


def _confirmed(answer: Expected, seen: Registration) -> Tensor:
    """bool [N, T]: what was found where neighbours say that it is."""
    apart = (answer.points - seen.points).norm(dim=-1)
    return answer.agreed & seen.found & (apart < AGREEMENT)


def _contradicted(
    likely: Expected, other: Expected, confirmed: Tensor, seen: Registration
) -> Tensor:
    """bool [N, T]: what was found where no neighbours place it, though they know the point, and is
    placed less surely than what they confirm in that frame: something else that looks like it."""
    told = seen.found & (likely.agreed | other.agreed)
    known = confirmed.sum(dim=1) > KNOWN * told.sum(dim=1)
    error = torch.where(confirmed, seen.error, torch.nan)
    limit = error.nanquantile(UPPER_QUARTER, dim=0).nan_to_num(torch.inf)
    limit = limit.clamp(min=CONTRADICTED)
    return told & ~confirmed & known[:, None] & (seen.error > limit)


def _seen_along(
    pyramid: Pyramid,
    patches: QueryPatches,
    start: Tensor,
    settings: RegistrationSettings,
    recalled: Recalled | None,
) -> Registration:
    """Patches registered from `start` [N, T, 2], forward and backward from their queries: each
    begins as deformed as it was seen last, so that it may turn and grow over time."""
    count, frames = start.shape[:2]
    home = patches.frames
    upright = torch.eye(2, device=start.device).repeat(count, 1, 1)
    seen = Registration(
        start.clone(),
        upright[:, None].repeat(1, frames, 1, 1),
        start.new_full((count, frames), torch.inf),
        torch.zeros(count, frames, dtype=torch.bool, device=start.device),
    )
    last = torch.stack([upright, upright])  # forward and backward, which go on side by side
    for k in range(frames):
        ways = (k, 1), (frames - 1 - k, -1)
        ahead = torch.stack([home < k, home > frames - 1 - k])
        for way, (frame, step) in enumerate(ways):
            if recalled is not None and recalled.after_gap(frame, step):
                entry = recalled.course.affine[:, frame]
                unknown = entry.isnan() | ~ahead[way, :, None, None]
                last[way] = torch.where(unknown, last[way], entry)
        way_of, rows = torch.nonzero(ahead, as_tuple=True)
        if len(rows) == 0:
            continue
        goal = torch.where(way_of == 0, ways[0][0], ways[1][0])
        found = register(
            pyramid, patches.whole, rows, goal, start[rows, goal], last[way_of, rows],
            COARSEST, settings.reach, settings,
        )  # fmt: skip
        seen.improve_(found)
        last[way_of, rows] = torch.where(
            found.found[:, None, None], found.affine, last[way_of, rows]
        )
    return seen


def _see_again(search: _Search, start: Tensor, recalled: Recalled | None) -> None:
    """Patches that are not seen at `start` [N, T, 2] registered from there, many frames at once: by
    now it is known how deformed they were before."""
    seen, home = search.seen, search.patches.frames[:, None]
    there = _seen_at(seen, start)
    times = torch.arange(start.shape[1], device=start.device)
    for forward in (True, False):
        ahead = home < times if forward else home > times
        asked_from = torch.full_like(home, -1).expand_as(there)
        for within in (SOON, len(times)):
            known, affine = _known_by(there & ahead, seen.affine, forward, recalled)
            last = _seen_last(known, home, forward)
            wanted = ahead & ~there & (last != asked_from) & ((times - last).abs() <= within)
            asked_from = torch.where(wanted, last, asked_from)
            for part in torch.nonzero(wanted.T).split(AT_ONCE[start.device.type]):
                goal, rows = part.unbind(dim=1)
                found = register(
                    search.pyramid, search.patches.whole, rows, goal, start[rows, goal],
                    affine[rows, last[rows, goal]], COARSEST, search.settings.reach,
                    search.settings,
                )  # fmt: skip
                seen.improve_(found)
                there[rows, goal] = found.found


def _known_by(
    there: Tensor, affine: Tensor, forward: bool, recalled: Recalled | None
) -> tuple[Tensor, Tensor]:
    """Where it is known how patches are deformed, bool [N, T], and how, [N, T, 2, 2]: in sight, and
    on this side of every gap what was known on the other."""
    if recalled is None:
        return there, affine
    known, affine = there.clone(), affine.clone()
    step = 1 if forward else -1
    for frame in range(max(step, 0), there.shape[1] + min(step, 0)):
        if recalled.after_gap(frame, step):
            entry = recalled.course.affine[:, frame]
            told = ~entry.isnan().flatten(1).any(dim=1)
            known[:, frame - step] |= told
            affine[:, frame - step] = torch.where(
                told[:, None, None], entry, affine[:, frame - step]
            )
    return known, affine


def _seen_at(seen: Registration, points: Tensor) -> Tensor:
    """bool [N, T], where patches are known to be seen at points [N, T, 2] px, or right beside."""
    return seen.found & ((seen.points - points).norm(dim=-1) < BESIDE)


def with_sightings(
    candidates: Sequence[Candidates],
    pyramid: Pyramid,
    sightings: Sightings,
    settings: RegistrationSettings,
) -> list[Candidates]:
    """One more candidate a frame: the registered place, the better the less speaks against it, or,
    where there is none, the one that neighbours carry the point to. Neither is dearer than the
    best match of features."""
    seen, told = sightings.registration, ~sightings.carried.isnan().any(dim=-1)
    points = torch.where(told[..., None], sightings.carried, seen.points)
    odds = odds_against(seen.error, sightings.confirmed)
    reward = (-odds.log()).clamp(0, settings.reward)
    price = torch.where(seen.found, -reward, torch.where(told, 0.0, NEVER))
    # What is not there must be finite too: an infinite variance makes NaN of its path.
    error = seen.error.masked_fill(~seen.found, 0.0)
    seen_variance = settings.error**2 + error.square()
    variance = torch.where(told, CARRIED_ERROR**2, seen_variance) / pyramid.scale.mean().square()
    return _with_told(candidates, pyramid.to_working(points), variance, price)


def with_carried(
    candidates: Sequence[Candidates], pyramid: Pyramid, carried: Tensor
) -> list[Candidates]:
    """One more candidate a frame, where the query's surface carries it: no dearer than the best
    match of features.

    Args:
        carried: [N, T, 2], working px; NaN where nothing is known.
    """
    known = ~carried.isnan().any(dim=-1)
    price = torch.where(known, 0.0, NEVER)
    variance = (CARRIED_ERROR / pyramid.scale.mean()).square().expand_as(price)
    return _with_told(candidates, carried.nan_to_num(0.0), variance, price)


def _with_told(
    candidates: Sequence[Candidates], points: Tensor, variance: Tensor, price: Tensor
) -> list[Candidates]:
    """One more candidate a frame, of points [N, T, 2], variance [N, T] and price [N, T]."""
    return [
        frame.with_told(points[:, t], variance[:, t], price[:, t])
        for t, frame in enumerate(candidates)
    ]


def taken_by_tracks(sightings: Sightings, pyramid: Pyramid, points: Tensor) -> Sightings:
    """The sightings that tracks went to: what was found elsewhere is not what was tracked.

    Args:
        points: [N, T, 2], the tracks, working px.
    """
    seen = sightings.registration
    apart = (seen.points - pyramid.to_picture(points)).norm(dim=-1)
    return replace(
        sightings, registration=replace(seen, found=seen.found & (apart < AGREEMENT))
    )
