"""Which of the pixels around a query belong to its own surface: those that move as it does.

A patch beside an outline shows two surfaces, and what hid a point is still beside it when it comes
out. Flow from the query's frame, forward and backward, tells them apart where they part; where they
move alike there is nothing to tell. Stereo weighs the pixels of its windows to the same end
(adaptive support: Yoon and Kweon 2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dino_tracker_ros.tracking.trajectories import FlowPair, loop_step, sample_map

MOTION = 0.7
"""How far the motion of a pixel of the query's surface may be from the query's, px a frame…"""
SLOPE = 0.1
"""… and how much more of it for every px between them: surfaces turn, shear and grow."""


def moving_along(
    flows: Sequence[FlowPair], frames: Tensor, points: Tensor, loop_error: float, offsets: Tensor
) -> Tensor:
    """How surely the surroundings of points move along with them.

    Args:
        flows: T-1 pairs of flow between frames t and t+1.
        frames: int64 [N], of the points.
        points: [N, 2], (x, y) working px.
        loop_error: forward-backward error up to which the flow at a point is believed, px.
        offsets: [K, 2] from each point, working px.

    Returns:
        [N, K] in 0..1; one where flow cannot tell.
    """
    allowed = MOTION + SLOPE * offsets.norm(dim=-1)
    support = points.new_ones(len(points), len(offsets))
    for frame in frames.unique().tolist():
        rows = torch.nonzero(frames == frame)[:, 0]
        at = points[rows]
        around = (at[:, None] + offsets).flatten(0, 1)
        for flow in _leaving(flows, frame):
            moved, error = loop_step(at, flow)
            motion = sample_map(flow[0], around).view(len(rows), len(offsets), 2)
            apart = (motion - (moved - at)[:, None]).norm(dim=-1) / allowed
            closed = (error < loop_error)[:, None]
            support[rows] *= torch.where(closed, 1 / (1 + apart**4), 1.0)
    return support


def _leaving(flows: Sequence[FlowPair], frame: int) -> Iterator[FlowPair]:
    """Flow from a frame to the next one and to the one before, each with its way back."""
    if frame < len(flows):
        yield flows[frame]
    if frame > 0:
        there, back = flows[frame - 1]
        yield back, there
