"""How stiff the thing is that a point lies on.

Of a stiff thing patches are found wherever they are in sight; of what bends hardly ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dino_tracker_ros.tracking.affine import distances
from dino_tracker_ros.tracking.consensus import NEIGHBOURS
from dino_tracker_ros.tracking.keyframes import Recalled

LIKE_NEIGHBOURS = 20
"""Frames of its own that say as much about how stiff a point's surface is as its neighbours do."""
AT_ONCE = 1024
"""Points whose neighbours are looked for together: each takes a line of a table of all points."""


def stiffness(
    points: Tensor, seen: Tensor, query_frame: Tensor, recalled: Recalled | None = None
) -> Tensor:
    """Share of frames in which points' patches were found, [N] in 0..1: each one's own and, the
    fewer frames there are, that of the points nearest to it in its query's frame, itself included.

    Args:
        points: [N, T, 2], the tracks, px.
        seen: bool [N, T].
        query_frame: int64 [N].
        recalled: in how many frames that are gone patches were found; None where none are.
    """
    found, frames = seen.float().sum(dim=1), torch.full_like(points[:, 0, 0], seen.shape[1])
    if recalled is not None:
        found, frames = found + recalled.found, frames + recalled.frames
    own = found / frames
    beside = []
    for rows in torch.arange(len(points), device=points.device).split(AT_ONCE):
        home = query_frame[rows]
        apart = distances(points.transpose(0, 1)[home], points[rows, home][:, None])
        nearest = apart.topk(min(NEIGHBOURS, len(points)), dim=1, largest=False).indices
        beside.append(own[nearest].mean(dim=1))
    return (found + LIKE_NEIGHBOURS * torch.cat(beside)) / (frames + LIKE_NEIGHBOURS)
