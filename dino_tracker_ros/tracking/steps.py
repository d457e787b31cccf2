"""How tracks got from frame to frame, and what that adds up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dino_tracker_ros.tracking.trajectories import FlowPair, sample_map


def off_flow(points: Tensor, flows: Sequence[FlowPair]) -> Tensor:
    """How far steps of tracks [N, T, 2] are from flow, there or back, whichever is nearer, [N, T-1]
    px."""
    off = points.new_zeros(len(points), len(flows))
    for t, (there, back) in enumerate(flows):
        here, step = points[:, t], points[:, t + 1] - points[:, t]
        ahead = (sample_map(there, here) - step).norm(dim=-1)
        behind = (sample_map(back, points[:, t + 1]) + step).norm(dim=-1)
        off[:, t] = torch.minimum(ahead, behind)
    return off


def across(steps: Tensor, gaps: int, behind: Tensor, unknown: float) -> Tensor:
    """Steps [N, T-1] with, for the first ones, which cross gaps, what is known to have happened
    until the frame behind them, `behind` [N, T]; `unknown` where that is NaN."""
    happened = behind[:, 1 : gaps + 1].nan_to_num(unknown, posinf=torch.inf)
    return torch.cat([happened, steps[:, gaps:]], dim=1)


def since_seen(
    steps: Tensor, seen: Tensor, join: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What steps [N, T-1] between frames add up to since a point was seen, or until it is seen
    again, whichever is less; [N, T], infinite where it never is."""
    total = torch.where(seen, 0.0, torch.inf).to(steps.dtype)
    last = seen.shape[1] - 1
    for t in range(last):
        total[:, t + 1] = torch.minimum(total[:, t + 1], join(total[:, t], steps[:, t]))
    for t in reversed(range(last)):
        total[:, t] = torch.minimum(total[:, t], join(total[:, t + 1], steps[:, t]))
    return total
