"""Optical flow chained into trajectories, kept only where it agrees with itself.

Tumanyan et al. 2024, sec. 3.2: a step is kept where flow there and back closes, and a chained
position is kept where flow from the start frame straight to it, if that closes, says the same.
All positions are (x, y) in working pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FlowPair = tuple[Tensor, Tensor]
"""Flow a to b and flow b to a, each float32 [2, H, W] (x, y) in px."""


@dataclass(frozen=True)
class Trajectories:
    """M trajectories over T frames.

    Attributes:
        points: float32 [M, T, 2], (x, y) px; meaningful only where valid.
        valid: bool [M, T].
        start: int64 [M], the frame each trajectory starts in.
    """

    points: Tensor
    valid: Tensor
    start: Tensor


def sample_map(values: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of a map at pixel positions, clamped at the border.

    Args:
        values: [C, H, W].
        points: [N, 2] (x, y) px.

    Returns:
        [N, C].
    """
    height, width = values.shape[-2:]
    size = points.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = (2 * points / size - 1)[None, None]
    found = F.grid_sample(
        values[None], grid.to(values.dtype), padding_mode="border", align_corners=True
    )
    return found[0, :, 0].T


def inside(points: Tensor, width: int, height: int, rim: float = 0.0) -> Tensor:
    """bool [...]: which (x, y) [..., 2] lie in the box of pixel centres, widened by `rim` px."""
    limit = points.new_tensor([width - 1, height - 1]) + rim
    return ((points >= -rim) & (points <= limit)).all(dim=-1)


def loop_step(points: Tensor, flow: FlowPair) -> tuple[Tensor, Tensor]:
    """One step along a flow, and how far the way back misses the start.

    Args:
        points: [N, 2] (x, y) px in the first frame.
        flow: there and back, each [2, H, W] px.

    Returns:
        The points in the second frame [N, 2], and the forward-backward errors [N], px.
    """
    there, back = flow
    moved = points + sample_map(there, points)
    returned = moved + sample_map(back, moved)
    return moved, (returned - points).norm(dim=-1)


def follow(points: Tensor, flow: FlowPair, loop_error: float) -> tuple[Tensor, Tensor]:
    """One step along a flow, valid where its loop closes and it stays in the image.

    Args:
        loop_error: largest forward-backward error that counts as closed, px.

    Returns:
        The points in the second frame [N, 2], and which steps are valid, bool [N].
    """
    moved, error = loop_step(points, flow)
    height, width = flow[0].shape[-2:]
    return moved, (error < loop_error) & inside(moved, width, height)


def chain(flows: Sequence[FlowPair], spacing: int, loop_error: float) -> Trajectories:
    """Chains flow between neighbouring frames into trajectories.

    A trajectory starts in every cell of spacing x spacing pixels that no earlier trajectory
    covers, and ends at the first step that is not valid. Those of one frame are dropped.

    Args:
        flows: T-1 pairs of flow between frames t and t+1.
        spacing: side of a cell, px; 1 is the published density.
        loop_error: see `follow`.
    """
    height, width = flows[0][0].shape[-2:]
    device = flows[0][0].device
    rows, columns = -(-height // spacing), -(-width // spacing)
    frames = len(flows) + 1
    cells = torch.stack(
        torch.meshgrid(
            torch.arange(columns, device=device), torch.arange(rows, device=device), indexing="xy"
        ),
        dim=-1,
    ).reshape(-1, 2)
    limit = torch.tensor([width - 1, height - 1], device=device)
    cell_points = torch.minimum(cells * spacing + (spacing - 1) / 2, limit).float()

    alive = torch.zeros(0, dtype=torch.long, device=device)  # ids
    at = torch.zeros(0, 2, device=device)
    starts: list[Tensor] = []
    columns_of_time: list[tuple[Tensor, Tensor]] = []
    born = 0
    for t in range(frames):
        covered = torch.zeros(rows * columns, dtype=torch.bool, device=device)
        cell = ((at + 0.5) / spacing).floor().long()
        covered[cell[:, 1] * columns + cell[:, 0]] = True
        if t < frames - 1:
            fresh = cell_points[~covered]
            ids = torch.arange(born, born + len(fresh), device=device)
            born += len(fresh)
            starts.append(torch.full((len(fresh),), t, device=device))
            alive, at = torch.cat([alive, ids]), torch.cat([at, fresh])
        columns_of_time.append((alive, at))
        if t < frames - 1:
            at, valid = follow(at, flows[t], loop_error)
            alive, at = alive[valid], at[valid]

    points = torch.zeros(born, frames, 2, device=device)
    valid = torch.zeros(born, frames, dtype=torch.bool, device=device)
    for t, (ids, positions) in enumerate(columns_of_time):
        points[ids, t] = positions
        valid[ids, t] = True
    return _kept(Trajectories(points, valid, torch.cat(starts)), min_frames=2)


def of_frames(trajectories: Trajectories, frames: Sequence[int]) -> Trajectories:
    """What trajectories are in some of their frames; those seen in fewer than two are dropped.

    Args:
        frames: ascending.
    """
    if len(frames) == trajectories.valid.shape[1]:
        return trajectories
    chosen = torch.tensor(frames, device=trajectories.valid.device)
    points, valid = trajectories.points[:, chosen], trajectories.valid[:, chosen]
    start = valid.to(torch.uint8).argmax(dim=1)  # the first of the largest
    return _kept(Trajectories(points, valid, start), min_frames=2)


def check_direct(
    trajectories: Trajectories,
    direct_flow: Callable[[int, int], FlowPair],
    offsets: list[int],
    loop_error: float,
    direct_error: float,
) -> Trajectories:
    """Drops the parts of trajectories that flow straight from their start frame contradicts.

    Args:
        direct_flow: (s, t) to the flow between frames s and t.
        offsets: ascending distances t - s that are checked. A contradiction drops the frames
            up to the neighbouring distances, which answer for themselves; with every distance
            checked that is the published rule, one frame.
        loop_error: largest round trip at which the direct flow is believed, px.
        direct_error: largest distance between the two that is no contradiction, px.
    """
    points, valid, start = trajectories.points, trajectories.valid.clone(), trajectories.start
    frames = valid.shape[1]
    for s in range(frames - 1):
        members = torch.nonzero(start == s)[:, 0]
        for k, offset in enumerate(offsets):
            t = s + offset
            if t >= frames:
                break
            there = members[valid[members, t]]
            if len(there) == 0:
                continue
            direct, closed = follow(points[there, s], direct_flow(s, t), loop_error)
            apart = (direct - points[there, t]).norm(dim=-1) >= direct_error
            wrong = there[closed & apart, None]
            first = s + (offsets[k - 1] if k else 0) + 1
            end = min(frames, s + offsets[k + 1]) if k + 1 < len(offsets) else frames
            valid[wrong, torch.arange(first, end, device=wrong.device)] = False
    return _kept(Trajectories(points, valid, start), min_frames=2)


def log_offsets(frames: int) -> list[int]:
    """Distances 2, 4, 8… below `frames`: a direct check at a cost that grows as T log T."""
    offsets = []
    offset = 2
    while offset < frames:
        offsets.append(offset)
        offset *= 2
    return offsets


def _kept(trajectories: Trajectories, min_frames: int) -> Trajectories:
    keep = trajectories.valid.sum(dim=1) >= min_frames
    return Trajectories(
        trajectories.points[keep], trajectories.valid[keep], trajectories.start[keep]
    )
