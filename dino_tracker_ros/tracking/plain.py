"""Points before which there is nothing to see, and whether they are in sight.

Of a plain wall no patch is found again. But where the dominant motion leads such a point, the wall
is as plain and as bright as it was at the query, and what passes before it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.lattice import all_over, square
from dino_tracker_ros.tracking.pixels import steepness
from dino_tracker_ros.tracking.pyramid import Pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair, follow, sample_map

LEVEL = 1
"""Of the pyramid, on which all here is looked at."""
WINDOW = 2
"""Slopes are means over a square that reaches this many px of that level to each side, …"""
RADIUS = 3
"""… and patches reach this many."""
LEAST_NOISE = 0.5
"""Noise that gray values have at the least: they are whole numbers."""
NEAR = 5.0
"""Tracks farther than this from where the dominant motion leads them have left it, px."""
UNLIKE = 4.0
"""Gray values, root mean square, by which a patch in sight may differ from the query's, …"""
UNLIKE_NOISE = 3.0
"""… and so many times the noise beside that."""
STEEP = 4.0
"""How fast the odds of being in sight fall with that difference, its power."""
SPACING = 12
"""Between the places where brightness is compared from frame to frame, px."""
CLOSES = 0.5
"""Forward-backward error up to which flow is believed there, px."""
DARK = 16.0
"""Gray value below which a place does not tell how much brighter a frame is."""
FEWEST = 50
"""Places that must tell."""


def is_plain(pyramid: Pyramid, query_frame: Tensor, query_point: Tensor) -> Tensor:
    """Where a step of a half-size pixel changes no more than noise does, bool [N].

    Args:
        pyramid: of T frames.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
    """
    plain = torch.zeros_like(query_frame, dtype=torch.bool)
    for frame in query_frame.unique().tolist():
        rows = torch.nonzero(query_frame == frame)[:, 0]
        steep = steepness(pyramid.levels[LEVEL][frame])
        around = F.avg_pool2d(steep[None, None], 2 * WINDOW + 1, 1, WINDOW)[0]
        there = sample_map(around, pyramid.to_picture(query_point[rows]) / 2**LEVEL)[:, 0]
        plain[rows] = there < pyramid.noise[LEVEL, frame].clamp(min=LEAST_NOISE).square()
    return plain


def plain_in_sight(
    pyramid: Pyramid,
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    points: Tensor,
    led: Tensor,
) -> Tensor:
    """How probably points are in sight that are where the dominant motion leads plain ones, by what
    the picture looks like there.

    Args:
        pyramid: of T frames.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) working px.
        points: [N, T, 2], the tracks, working px.
        led: [N, T, 2], where the dominant motion leads those that are plain, working px; NaN where
            that is not known, or they are not.

    Returns:
        [N, T] in 0..1; NaN where they are elsewhere, or it is not known how bright the frames are.
    """
    told = torch.full_like(points[..., 0], torch.nan)
    known = (points - led).norm(dim=-1) < NEAR
    if not known.any():
        return told
    pictures, noise = pyramid.levels[LEVEL], pyramid.noise[LEVEL]
    around = square(RADIUS, 1.0, points)

    def patches(frame: int, rows: Tensor, places: Tensor) -> Tensor:
        at = pyramid.to_picture(places[rows, None]) / 2**LEVEL + around
        return sample_map(pictures[frame][None], at.reshape(-1, 2)).view(len(rows), len(around))

    home = points.new_zeros(len(points), len(around))
    for frame in query_frame.unique().tolist():
        rows = torch.nonzero(query_frame == frame)[:, 0]
        home[rows] = patches(frame, rows, query_point)
    brighter = _brighter(pictures, flows, pyramid)
    for frame in range(len(pictures)):
        rows = torch.nonzero(known[:, frame])[:, 0]
        asked = query_frame[rows]
        expected = home[rows] * brighter[asked, frame, None]
        unlike = (patches(frame, rows, points[:, frame]) - expected).square().mean(dim=1).sqrt()
        limit = UNLIKE + UNLIKE_NOISE * torch.maximum(noise[frame], noise[asked])
        told[rows, frame] = 1 / (1 + (unlike / limit) ** STEEP)
    return told


def _brighter(pictures: Tensor, flows: Sequence[FlowPair], pyramid: Pyramid) -> Tensor:
    """How many times as bright each frame is as each other, [T, T], the other first; NaN where
    flow between them does not tell."""
    steps = pictures.new_full((len(flows),), torch.nan)
    height, width = flows[0][0].shape[-2:]
    here = all_over(height, width, SPACING, flows[0][0])
    for t, flow in enumerate(flows):
        there, valid = follow(here, flow, CLOSES)
        before, after = (
            sample_map(pictures[t + k][None], pyramid.to_picture(places[valid]) / 2**LEVEL)[:, 0]
            for k, places in enumerate((here, there))
        )
        bright = before > DARK
        if bright.sum() >= FEWEST:
            steps[t] = (after[bright].clamp(min=1.0) / before[bright]).median().log()
    total = F.pad(steps.nan_to_num(0.0).cumsum(0), (1, 0))
    unknown = F.pad(steps.isnan().long().cumsum(0), (1, 0))
    same = unknown[:, None] == unknown
    return torch.where(same, (total - total[:, None]).exp(), torch.nan)
