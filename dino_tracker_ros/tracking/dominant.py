"""Where points go on that have left the picture or are hidden: with the motion most of it has.

The dominant motion (Odobez and Bouthemy 1995) is here a homography from frame to frame, which holds
for a camera that turns and for whatever is flat or far away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.lattice import all_over
from dino_tracker_ros.tracking.trajectories import FlowPair, inside, loop_step, sample_map

SPACING = 12
"""Between the places where flow is asked, px."""
CLOSES = 1.0
"""Forward-backward error up to which flow is believed, px."""
SAME = 1.0
"""Places nearer than this to where a motion leads them go along with it, px."""
MOST = 0.6
"""Share of the places that flow tells of that must go along."""
FEWEST = 16
"""And how many at the least."""
SINGULAR = 1e-3
"""Areas that a motion shrinks to less than this share, or mirrors, are not of one surface."""
ALONG = 1.0
"""How far from the dominant motion a point may step that goes along with it, px, …"""
ALONG_SHARE = 0.05
"""… and beside that, of the step."""
EXACTLY = 0.2
"""How far from it one may step that is led on within the picture, px: a leg of an animal, whose
surface is lost too, may go along with the ground for a while, but not so closely."""
TOLD = 0.1
"""How far flow may be from it where nothing is to be seen, px: there it was taken for flow."""
OUTSIDE = 2.0
"""How far outside the pixel centres a point has left the picture, px."""


@dataclass(frozen=True)
class DominantMotion:
    """Of T frames.

    Attributes:
        maps: float32 [T-1, 3, 3], homographies of (x, y, 1) px from frame t to t+1.
        known: bool [T-1], whether most of the picture goes along.
    """

    maps: Tensor
    known: Tensor


def dominant_motion(flows: Sequence[FlowPair]) -> DominantMotion:
    """The motion of most of the picture, from T-1 pairs of flow between frames t and t+1."""
    if not flows:
        return DominantMotion(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.bool))
    height, width = flows[0][0].shape[-2:]
    device = flows[0][0].device
    places = all_over(height, width, SPACING, flows[0][0])
    steps = [loop_step(places, flow) for flow in flows]
    moved = torch.stack([step[0] for step in steps])
    closed = torch.stack([step[1] < CLOSES for step in steps]) & inside(moved, width, height)
    here = places.cpu().numpy()
    fitted = [
        _homography(here[told], there[told])
        for there, told in zip(moved.cpu().numpy(), closed.cpu().numpy(), strict=True)
    ]
    maps = np.stack([np.eye(3) if found is None else found for found in fitted])
    known = torch.tensor([found is not None for found in fitted], device=device)
    return DominantMotion(torch.from_numpy(maps).float().to(device), known)


def _homography(here: np.ndarray, there: np.ndarray) -> np.ndarray | None:
    """The map that most of the places [K, 2] agree with, or None."""
    if len(here) < FEWEST:
        return None
    found, agree = cv2.findHomography(here, there, cv2.RANSAC, SAME)
    if found is None or agree.sum() < max(FEWEST, MOST * len(here)):
        return None
    return found if np.linalg.det(found) > SINGULAR else None


def moved_by(maps: Tensor, points: Tensor) -> Tensor:
    """Points [..., 2] px by homographies [..., 3, 3]; NaN where that is behind the camera."""
    far = (maps @ torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)[..., None])[..., 0]
    depth = far[..., 2:]
    return far[..., :2] / torch.where(depth > 0, depth, torch.nan)


def carried_along(
    carried: Tensor,
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    plain: Tensor,
    recalled: Recalled | None = None,
) -> tuple[Tensor, Tensor]:
    """Adds where points are whose surface is known no more: of those that went along with the
    dominant motion until then, what has left the picture or comes back, and what something hides
    before a part of it that is still in the picture.

    Args:
        carried: [N, T, 2], where their own surface carries N queries, px of the flow; NaN where
            nothing is known.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) px.
        plain: bool [N], where nothing is to be seen at the query, so that no surface is known.
        recalled: where it led them behind gaps; None where there are no gaps.

    Returns:
        [N, T, 2], NaN where nothing is known; and where the dominant motion leads queries for as
        long as they go along with it, likewise.
    """
    if not flows:
        return carried, carried
    motion = dominant_motion(flows)
    backward = torch.linalg.inv(motion.maps)
    height, width = flows[0][0].shape[-2:]
    frames = range(1, len(flows) + 1)
    result = carried.clone()
    led_to = torch.full_like(carried, torch.nan)
    for goals, maps, step in ((frames, motion.maps, 1), (reversed(frames), backward, -1)):
        at, left = query_point.clone(), torch.zeros_like(query_frame, dtype=torch.bool)
        along, exact = torch.ones_like(left), torch.ones_like(left)
        for later in goals:
            between = later - 1
            goal = later if step > 0 else between
            active = step * (goal - query_frame) > 0
            led, told = moved_by(maps[between], at), carried[:, goal]
            unknown = told.isnan().any(dim=-1)
            apart = (led - told).norm(dim=-1)
            limit = ALONG + ALONG_SHARE * (led - at).norm(dim=-1)
            # Of a point whose surface is not known from the query on, nothing but flow before a
            # plain wall tells that it goes along.
            first = query_frame == goal - step
            flow = sample_map(flows[between][0 if step > 0 else 1], at)
            told_by_flow = plain & ((at + flow - led).norm(dim=-1) < TOLD)
            agrees = motion.known[between] & torch.where(
                unknown, ~first | told_by_flow, apart < limit
            )
            if recalled is not None and between < recalled.keyframes:
                led = recalled.course.led[:, goal]
                agrees = ~led.isnan().any(dim=-1)
            along &= ~active | agrees
            exact &= ~active | unknown | (apart < EXACTLY)
            at = torch.where(active[:, None], torch.where(unknown[:, None], led, told), at)
            gone = active & along & unknown
            left |= gone & ~inside(at, width, height, OUTSIDE)
            carried_on = gone & (left | exact)
            result[carried_on, goal] = at[carried_on]
            led_to[active & along, goal] = at[active & along]
    return result, led_to
