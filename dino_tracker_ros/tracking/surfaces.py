"""The surface that a query is on, where an outline passes it: how it moves, and what belongs to it.

Of the two motions around a query (`motions`) its own is the one along which the picture stays what
it is. One side in time may not tell, because there the query is hidden: of the frames before and
those after, the half that speaks for a motion counts, as in stereo with occlusions (Kang, Szeliski
and Chai 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.dominant import carried_along
from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.motions import (
    AT_ONCE,
    CARRY,
    NEAR,
    Motions,
    design,
    followed,
    surroundings,
    two_motions,
)
from dino_tracker_ros.tracking.pixels import steepness
from dino_tracker_ros.tracking.plain import is_plain
from dino_tracker_ros.tracking.pyramid import COARSEST, Pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair, sample_map

NOISE = 6.0
"""How far gray values of one place may be apart in two frames, 0..255."""
SLACK = 0.5
"""How far a motion may miss such a place, px: on a steep edge gray values then differ by more."""
WORST = 9.0
"""Largest cost of a pixel, in squares of that: what hides it may look like anything."""
WINDOW = 2
"""Costs are means over a square that reaches this many samples to each side."""
CLEAR = 0.5
"""How much less a query's own motion must cost than the other, …"""
SURE = 0.5
"""… and how much less for all that it costs itself: it may be that neither fits."""
EXPLAINED = 0.75
"""Share of its surroundings that must go along with a query's motion or the other: about limbs
there are more than two."""
STEEP = 4.0
"""How fast what belongs to a surface falls off with cost, …"""
DOUBT = 2.0
"""… from a little above one half where both motions fit it alike."""


@dataclass(frozen=True)
class Surfaces:
    """The surfaces that N queries of T frames are on.

    Attributes:
        pyramid: of the frames, a little smoother.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
        motions: around the queries, working px.
        own: int64 [N], which motion is the query's.
        parted: bool [N], there are two, and it is clear which one is the query's.
        carried: [N, T, 2], where that one carries it, or the only one there is, or the dominant
            one, working px; NaN where nothing is known.
        led: [N, T, 2], where the dominant motion leads it while it goes along with that, likewise.
        plain: bool [N], nothing is to be seen at the query.
    """

    pyramid: Pyramid
    query_frame: Tensor
    query_point: Tensor
    motions: Motions
    own: Tensor
    parted: Tensor
    carried: Tensor
    led: Tensor
    plain: Tensor


def find_surfaces(
    pyramid: Pyramid,
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    recalled: Recalled | None = None,
) -> Surfaces:
    """The surfaces that queries are on.

    Args:
        pyramid: of T frames.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
        recalled: from clips before; None where there are no gaps.
    """
    pyramid = replace(pyramid, levels=[_smooth(level) for level in pyramid.levels[: COARSEST + 1]])
    motions = two_motions(surroundings(flows, query_frame, query_point, NEAR))
    window = square(WINDOW, 1.0, query_point) / pyramid.scale
    costs = _costs(pyramid, query_frame, query_point, motions, 0, window)
    costs = costs[..., costs.shape[-1] // 2]  # at the queries, [2, N]
    least, own = costs.min(dim=0)
    clear = costs.amax(dim=0) - least > (SURE * least).clamp(min=CLEAR)
    told = motions.explained >= EXPLAINED
    parted = told & motions.both & clear
    own = torch.where(motions.both, own, 0)
    known = parted | (told & ~motions.both)
    carried = _carried(flows, query_frame, query_point, motions, own, known)
    plain = is_plain(pyramid, query_frame, query_point)
    carried, led = carried_along(carried, flows, query_frame, query_point, plain, recalled)
    return Surfaces(pyramid, query_frame, query_point, motions, own, parted, carried, led, plain)


def own_support(surfaces: Surfaces, level: int, offsets: Tensor) -> Tensor:
    """How surely what surrounds queries belongs to their surface, by what it looks like later.

    Args:
        level: of the pyramid that is looked at.
        offsets: [side², 2] from each query, working px, a square lattice row by row.

    Returns:
        [N, side²] in 0..1; one where nothing is known.
    """
    support = surfaces.query_point.new_ones(len(surfaces.query_point), len(offsets))
    rows = torch.nonzero(surfaces.parted)[:, 0]
    frames, points = surfaces.query_frame[rows], surfaces.query_point[rows]
    motions = replace(surfaces.motions, maps=surfaces.motions.maps[:, rows])
    first, second = _costs(surfaces.pyramid, frames, points, motions, level, offsets)
    margin = torch.where(surfaces.own[rows, None] == 0, second - first, first - second)
    support[rows] = torch.sigmoid(STEEP * margin + DOUBT)
    return support


def _costs(
    pyramid: Pyramid,
    frames: Tensor,
    points: Tensor,
    motions: Motions,
    level: int,
    offsets: Tensor,
) -> Tensor:
    """How much the picture around points changes along both motions, [2, N, side²] in 0..WORST."""
    pictures, side = pyramid.levels[level], round(len(offsets) ** 0.5)
    places = points[:, None] + offsets
    moves = design(offsets) @ motions.maps  # [2, N, D, side², 2]
    costs = moves.new_full((2, len(points), len(offsets)), WORST)

    def seen(values: Tensor, at: Tensor) -> Tensor:
        on_level = pyramid.to_picture(at) / 2**level
        return sample_map(values[None], on_level.reshape(-1, 2)).view(at.shape[:-1])

    for frame in frames.unique().tolist():
        rows = torch.nonzero(frames == frame)[:, 0]
        here = seen(pictures[frame], places[rows])
        allowed = NOISE**2 + SLACK**2 * seen(steepness(pictures[frame]), places[rows])
        for forward in (True, False):
            changes = [
                (seen(pictures[frame + step], places[rows] + moves[:, rows, k]) - here)
                .square()
                .div(allowed)
                .clamp(max=WORST)
                for k, step in enumerate(motions.frames)
                if (step > 0) == forward and 0 <= frame + step < len(pictures)
            ]
            if changes:
                change = torch.stack(changes).mean(dim=0).view(-1, 1, side, side)
                change = F.pad(change, (WINDOW,) * 4, mode="replicate")
                mean = F.avg_pool2d(change, 2 * WINDOW + 1, stride=1).view(2, len(rows), -1)
                costs[:, rows] = torch.minimum(costs[:, rows], mean)
    return costs


def _carried(
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    motions: Motions,
    own: Tensor,
    known: Tensor,
) -> Tensor:
    """Where their own motions, if known, carry queries, see `Surfaces.carried`."""
    frames = len(flows) + 1
    places = query_point.new_full((len(query_point), frames, 2), torch.nan)
    for rows in torch.nonzero(known)[:, 0].split(AT_ONCE[known.device.type]):
        steps = surroundings(flows, query_frame[rows], query_point[rows], min(CARRY, frames - 1))
        maps, kept = followed(steps, motions.members[own[rows], rows])
        for k, step in enumerate(steps.frames):
            some = rows[kept[:, k]]
            places[some, query_frame[some] + step] = query_point[some] + maps[kept[:, k], k, 0]
    return places


def _smooth(pictures: Tensor) -> Tensor:
    """Pictures [T, h, w] with each pixel a weighted mean of itself and its neighbours."""
    # Sums of slices: on a CPU a convolution of one channel takes four times as long.
    padded = F.pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    padded = (padded[:, :, :-2] + padded[:, :, 2:]) / 4 + padded[:, :, 1:-1] / 2
    return (padded[:, :-2] + padded[:, 2:]) / 4 + padded[:, 1:-1] / 2
