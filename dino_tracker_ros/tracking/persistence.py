"""Whether a point is still in sight though its patch is not found again.

A patch that has bent, blurred or hardly any contrast is not found and yet in sight: since it was
seen last, its track went along with flow, and from frame to frame what is around it stayed what it
is. Where something comes before the point, the track leaves that one's flow and the picture around
it is another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.registration import Pyramid
from dino_tracker_ros.tracking.steps import off_flow, since_seen
from dino_tracker_ros.tracking.trajectories import FlowPair, sample_map

OFF = 3.0
"""Farther off its flow than this a step says no more, px."""
LEVEL, RADIUS = 1, 4
"""Of the pyramid, and half the side of the patches that are compared on it, px there."""
ODDS = 13.0
"""Of being in sight to not being, …"""
STEPS_POWER, STEPS_NONE = 0.4, 0.05
"""… the less the farther the track went off flow, px²; how much counts as nothing, …"""
CHANGE_POWER, CHANGE_NONE = 0.7, 0.05
"""… the less the more the patch changed in a frame, of 1 - normalised cross-correlation, …"""
CONTRAST_POWER, CONTRAST_NONE = 1.0, 0.1
"""… and the less the more contrast there was to find it by, gray values of 0..255."""


def in_sight(
    pyramid: Pyramid, flows: Sequence[FlowPair], points: Tensor, seen: Tensor, contrast: Tensor
) -> Tensor:
    """How probably points that are not seen are in sight: a logistic regression.

    Args:
        pyramid: of T frames.
        flows: T-1 pairs of flow between frames t and t+1.
        points: [N, T, 2], the tracks, (x, y) working px.
        seen: bool [N, T], where the points' patches were found or asked for.
        contrast: [N], of the patches, standard deviation of gray values 0..255.

    Returns:
        [N, T] in 0..1; it is meant for those that are not seen.
    """
    off = since_seen(off_flow(points, flows).clamp(max=OFF).square(), seen, torch.add)
    change = since_seen(_changes(pyramid, points), seen, torch.maximum)
    against = (off + STEPS_NONE) ** STEPS_POWER * (change + CHANGE_NONE) ** CHANGE_POWER
    against = against * ((contrast + CONTRAST_NONE) ** CONTRAST_POWER)[:, None]
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
