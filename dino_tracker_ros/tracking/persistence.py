"""Whether a point is in sight where its patch is not found.

Of a stiff thing what is in sight is found, mostly: what is not found has been hidden since it was
seen last, unless its track went along with flow since then, and what is around it stayed from
frame to frame what it was. Of what bends, hardly anything is found, hidden or not: there history
says nothing, but features do, which find their way back to the query from where it is in sight.
So history counts the less, the less stiff the thing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.pyramid import Pyramid
from dino_tracker_ros.tracking.steps import across, off_flow, since_seen
from dino_tracker_ros.tracking.trajectories import FlowPair, sample_map

OFF = 3.0
"""Farther off its flow than this a step says no more, px."""
LEVEL, RADIUS = 1, 4
"""Of the pyramid, and half the side of the patches that are compared on it, px there."""
ODDS = 5.7
"""Of being in sight to not being, …"""
TRIP_POWER, TRIP_NONE = 0.8, 0.3
"""… the less the longer the round trip to the query's frame, tokens; how much counts as nothing, …
"""
STEPS_POWER, STEPS_NONE = 0.8, 0.05
"""… and, all to the power of how stiff the thing is, the less the farther the track went off flow,
px², …"""
CHANGE_POWER, CHANGE_NONE = 1.4, 0.05
"""… the less the more the patch changed in a frame, of 1 - normalised cross-correlation, …"""
CONTRAST_POWER, CONTRAST_NONE = 1.2, 0.1
"""… and the less the more contrast there was to find it by, gray values of 0..255."""


@dataclass(frozen=True)
class History:
    """What happened to N points in T frames since they were seen, or happens until they are seen
    again, whichever is less; infinite where they never are.

    Attributes:
        off: [N, T], how far their tracks went off flow, sum of squares, px².
        change: [N, T], the largest change of what is around them from frame to frame, 0..2.
    """

    off: Tensor
    change: Tensor


def history(
    pyramid: Pyramid,
    flows: Sequence[FlowPair],
    points: Tensor,
    seen: Tensor,
    recalled: Recalled | None = None,
) -> History:
    """What happened to points since they were seen.

    Args:
        pyramid: of T frames.
        flows: T-1 pairs of flow between frames t and t+1.
        points: [N, T, 2], the tracks, (x, y) working px.
        seen: bool [N, T], where the points' patches were found or asked for.
        recalled: what happened behind gaps; None where there are no gaps.
    """
    off, change = off_flow(points, flows).clamp(max=OFF).square(), _changes(pyramid, points)
    if recalled is not None:
        off = across(off, recalled.keyframes, recalled.course.strayed, torch.inf)
        change = across(change, recalled.keyframes, recalled.course.changed, torch.inf)
    return History(since_seen(off, seen, torch.add), since_seen(change, seen, torch.maximum))


def in_sight(past: History, contrast: Tensor, trip: Tensor, stiff: Tensor) -> Tensor:
    """How probably points that are not seen are in sight: a logistic regression.

    Args:
        past: of N points in T frames.
        contrast: [N], of the patches, standard deviation of gray values 0..255.
        trip: [N, T], how far from the query features find its tracked point back, tokens.
        stiff: [N], see `stiffness`.

    Returns:
        [N, T] in 0..1; it is meant for those that are not seen.
    """
    off, change = past.off, past.change
    against = (off + STEPS_NONE) ** STEPS_POWER * (change + CHANGE_NONE) ** CHANGE_POWER
    against = against * ((contrast + CONTRAST_NONE) ** CONTRAST_POWER)[:, None]
    against = against ** stiff[:, None]
    against = against * (trip + TRIP_NONE) ** TRIP_POWER
    return ODDS / (ODDS + against)


def _changes(pyramid: Pyramid, points: Tensor) -> Tensor:
    """How unlike the patches around tracks [N, T, 2] are from frame to frame, [N, T-1] in 0..2."""
    pictures = pyramid.levels[LEVEL]
    around = square(RADIUS, 1.0, points)
    changes = points.new_zeros(len(points), points.shape[1] - 1)
    before = None
    for t, picture in enumerate(pictures):
        places = pyramid.to_picture(points[:, t, None]) / 2**LEVEL + around
        patch = sample_map(picture[None], places.reshape(-1, 2)).view(len(points), -1)
        patch = patch - patch.mean(dim=1, keepdim=True)
        patch = patch / (patch.norm(dim=1, keepdim=True) + 1e-3)
        if before is not None:
            changes[:, t - 1] = 1 - (before * patch).sum(dim=1)
        before = patch
    return changes
