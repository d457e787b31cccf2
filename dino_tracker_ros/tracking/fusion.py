"""Chained flow and feature matches fused into one track a point.

Flow is precise from frame to frame but drifts, and loses a point behind an occluder. A feature
match knows nothing of the frame before but does not drift. A Kalman filter, run from the query
forward and backward in time, weighs them by their errors: flow by how well its loop closes, a
match by how far its round trip to the query ends from where it began.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dino_tracker_ros.tracking.settings import FusionSettings
from dino_tracker_ros.tracking.trajectories import FlowPair, inside, loop_step

LOST = 1e6
"""Variance of a point that flow says nothing about, px²."""
RIM = 2.0
"""How far outside the pixel centres a point still counts as in the image, px: predictions of a
point on the border are no sharper."""
START = 0.1
"""Variance of a query point, px²."""


def match_variance(cycle_error: Tensor, settings: FusionSettings) -> Tensor:
    """Variance of feature matches, px², from their round-trip errors [N, T] px."""
    return settings.match_error**2 + (settings.cycle_weight * cycle_error) ** 2


def fuse(
    matches: Tensor,
    variance: Tensor,
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    settings: FusionSettings,
) -> tuple[Tensor, Tensor]:
    """Fuses matches with flow between neighbouring frames.

    Args:
        matches: [N, T, 2], (x, y) px, from features.
        variance: [N, T], of the matches, px² an axis.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) px.

    Returns:
        Points [N, T, 2] px, and their variance [N, T], px² an axis.
    """
    frames = matches.shape[1]
    points, uncertainty = matches.clone(), variance.clone()
    rows = torch.arange(len(matches), device=matches.device)
    points[rows, query_frame] = query_point
    uncertainty[rows, query_frame] = START
    for order in (range(1, frames), range(frames - 2, -1, -1)):
        for t in order:
            before = t - order.step
            there, back = flows[min(t, before)]
            flow = (there, back) if order.step > 0 else (back, there)
            active = (query_frame < t) if order.step > 0 else (query_frame > t)
            place, spread = _update(
                points[:, before],
                uncertainty[:, before],
                flow,
                matches[:, t],
                variance[:, t],
                settings,
            )
            points[:, t] = torch.where(active[:, None], place, points[:, t])
            uncertainty[:, t] = torch.where(active, spread, uncertainty[:, t])
    return points, uncertainty


def _update(
    points: Tensor,
    uncertainty: Tensor,
    flow: FlowPair,
    matches: Tensor,
    variance: Tensor,
    settings: FusionSettings,
) -> tuple[Tensor, Tensor]:
    """One step along flow, corrected by the matches there."""
    moved, loop_error = loop_step(points, flow)
    height, width = flow[0].shape[-2:]
    step = settings.flow_error**2 + (settings.loop_weight * loop_error) ** 2
    predicted = torch.where(inside(moved, width, height, RIM), uncertainty + step, LOST)
    innovation = matches - moved
    squared = innovation.square().sum(dim=-1)
    # Flow and match contradict each other: whichever errs, the prediction is worth no more than
    # their distance, and a sure match then wins.
    contradicted = squared > 2 * settings.gate**2 * (predicted + variance)
    predicted = torch.where(contradicted, torch.maximum(predicted, squared / 2), predicted)
    gain = predicted / (predicted + variance)
    return moved + gain[:, None] * innovation, (1 - gain) * predicted
