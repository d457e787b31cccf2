"""How probably what was found is not the point, though it looks like its patch.

Along an edge, on a texture that repeats or where the point is hidden, something else may look as
much like its patch as it does itself. What gives that away: the fit hardly tells where the patch
lies, neighbours do not say that it is there, and the track had to leave the flow to get to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.steps import across, off_flow, since_seen
from dino_tracker_ros.tracking.trajectories import FlowPair

ODDS = 0.03
"""Of being wrong to being right, …"""
ERROR_POWER, ERROR_NONE = 2.3, 0.1
"""… the more the less surely the patch is placed, px; how much counts as nothing, …"""
OFF_POWER, OFF_NONE, OFF_MOST = 0.85, 0.5, 60.0
"""… the more the farther the track once went off flow, px; how much counts as nothing, and from
where on it is flow that may be wrong, …"""
UNCONFIRMED = 8.0
"""… and so many times as much where no neighbours say that it is there."""
OFF_UNKNOWN = 4.0
"""How far off flow where there is no track yet, px."""


def odds_against(error: Tensor, confirmed: Tensor, off: Tensor | None = None) -> Tensor:
    """Odds that what was found is not the point, or not within 4/256 of the picture's width of
    where it is: a logistic regression.

    Args:
        error: [N, T], standard deviation of the place, px of the registration's picture.
        confirmed: bool [N, T], neighbours say that it is there.
        off: [N, T] working px, see `farthest_off`; None where there are no tracks yet.

    Returns:
        [N, T], 0 and more; above one where it is more probably wrong.
    """
    far = torch.full_like(error, OFF_UNKNOWN) if off is None else off.clamp(max=OFF_MOST)
    odds = ODDS * (error + ERROR_NONE) ** ERROR_POWER * (far + OFF_NONE) ** OFF_POWER
    return torch.where(confirmed, odds, UNCONFIRMED * odds)


def farthest_off(
    points: Tensor, flows: Sequence[FlowPair], query_frame: Tensor, recalled: Recalled | None = None
) -> Tensor:
    """The largest step off flow that tracks took between their queries and every frame.

    Args:
        points: [N, T, 2] working px.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        recalled: how far they went behind gaps; None where there are no gaps.

    Returns:
        [N, T] working px.
    """
    home = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    home[torch.arange(len(points), device=points.device), query_frame] = True
    steps = off_flow(points, flows)
    if recalled is not None:
        steps = across(steps, recalled.keyframes, recalled.course.off, OFF_UNKNOWN)
    return since_seen(steps, home, torch.maximum)
