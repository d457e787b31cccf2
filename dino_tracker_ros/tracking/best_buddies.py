"""Best buddies: tokens of two frames that are each other's nearest neighbour.

Tumanyan et al. 2024, sec. 3.2: DINO best buddies teach what flow cannot see (points that return,
large motion), so they are kept only where flow says nothing, and weighted by how unambiguous
and how similar they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

import cv2
import numpy as np
import torch
from torch import Tensor

from dino_tracker_ros.tracking.settings import BestBuddySettings
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import Trajectories


@dataclass(frozen=True)
class BestBuddies:
    """B best buddies, sorted by frame pair.

    Attributes:
        frames: int64 [B, 2], source and target frame, source < target.
        tokens: int64 [B, 2], source and target token, row-major index.
        cosine: float32 [B], of the raw features.
        ambiguity: float32 [B], 0..1, second similarity peak over the first, the worse direction.
    """

    frames: Tensor
    tokens: Tensor
    cosine: Tensor
    ambiguity: Tensor

    def __len__(self) -> int:
        return len(self.frames)


def mutual_nearest(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows and columns of a similarity matrix choose each other.

    Args:
        similarity: [n, m].

    Returns:
        Row and column indices, int64 [k] each.
    """
    # On a CPU, max is twice as fast as argmax.
    to_column = similarity.max(dim=1).indices
    to_row = similarity.max(dim=0).indices
    rows = torch.arange(len(similarity), device=similarity.device)
    mutual = to_row[to_column] == rows
    return rows[mutual], to_column[mutual]


def ambiguity(
    similarity: Tensor, peaks: Tensor, grid: TokenGrid, settings: BestBuddySettings
) -> Tensor:
    """How close a second similarity peak comes to the first.

    The second peak of a greedy non-maximum suppression is the most similar token whose box does
    not overlap the first one's too much, so no loop is needed.

    Args:
        similarity: [k, n], each row a point's similarity with every token.
        peaks: int64 [k], each row's best token.
        grid: of the n tokens.

    Returns:
        [k], 0..1: second peak over first; 0 where no other candidate is left.
    """
    n = similarity.shape[1]
    values, candidates = similarity.topk(min(settings.peak_candidates, n), dim=1)
    step = grid.spacing
    side = 2 * settings.peak_box
    dx = (candidates % grid.cols - (peaks % grid.cols)[:, None]).abs() * step
    dy = (candidates // grid.cols - (peaks // grid.cols)[:, None]).abs() * step
    shared = (side - dx).clamp(min=0) * (side - dy).clamp(min=0)
    overlap = shared / (2 * side**2 - shared)
    apart = overlap <= settings.peak_overlap
    second = values.masked_fill(~apart, 0.0).amax(dim=1)
    first = similarity.gather(1, peaks[:, None])[:, 0].clamp(min=1e-8)
    return (second / first).clamp(0.0, 1.0)


def find_best_buddies(
    features: Tensor,
    grid: TokenGrid,
    pairs: Iterable[tuple[int, int]],
    trajectories: Trajectories,
    settings: BestBuddySettings,
) -> BestBuddies:
    """DINO best buddies of some frame pairs, where flow says nothing.

    Args:
        features: [T, C, rows, cols], of unit length.
        grid: where the tokens lie.
        pairs: frame pairs (i, j), i < j.
        trajectories: what flow says.
    """
    tokens = features.flatten(2)
    pairs = list(pairs)
    used = set(chain.from_iterable(pairs))
    with ThreadPoolExecutor() as pool:
        look_up = partial(nearest_trajectory, trajectories, grid)
        nearest = dict(zip(used, pool.map(look_up, used), strict=True))
    found: list[tuple[Tensor, ...]] = []
    for i, j in pairs:
        similarity = (tokens[i].T @ tokens[j]).float()
        rows, columns = mutual_nearest(similarity)
        silent = ~(
            _follows(trajectories, nearest[i], rows, j)
            | _follows(trajectories, nearest[j], columns, i)
        )
        rows, columns = rows[silent], columns[silent]
        if len(rows) == 0:
            continue
        unsure = torch.maximum(
            ambiguity(similarity[rows], columns, grid, settings),
            ambiguity(similarity.T[columns], rows, grid, settings),
        )
        frames = torch.tensor([[i, j]], device=rows.device).expand(len(rows), 2)
        found.append(
            (frames, torch.stack([rows, columns], dim=1), similarity[rows, columns], unsure)
        )
    if not found:
        none = torch.zeros(0, 2, dtype=torch.long, device=features.device)
        empty = torch.zeros(0, device=features.device)
        return BestBuddies(none, none, empty, empty)
    return BestBuddies(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def choose_pairs(frames: int, most: int, seed: int) -> list[tuple[int, int]]:
    """Frame pairs (i, j), i < j: all of them, or `most` drawn evenly (0 draws all)."""
    pairs = [(i, j) for i in range(frames) for j in range(i + 1, frames)]
    if most == 0 or most >= len(pairs):
        return pairs
    chosen = np.random.default_rng(seed).choice(len(pairs), size=most, replace=False)
    return [pairs[k] for k in sorted(chosen)]


def nearest_trajectory(trajectories: Trajectories, grid: TokenGrid, frame: int) -> Tensor:
    """For every token of a frame, the trajectory that passes nearest to it.

    Returns:
        int64 [rows * cols]; -1 where no trajectory is in the frame.
    """
    device = trajectories.points.device
    centres = grid.centres().reshape(-1, 2).round().long().numpy()
    centres = np.clip(centres, 0, [grid.width - 1, grid.height - 1])
    ids = torch.nonzero(trajectories.valid[:, frame])[:, 0]
    if len(ids) == 0:
        return torch.full((len(centres),), -1, device=device)
    pixels = trajectories.points[ids, frame].round().long().cpu().numpy()
    owner = np.full((grid.height, grid.width), -1, dtype=np.int64)
    owner[pixels[:, 1], pixels[:, 0]] = ids.cpu().numpy()
    empty = (owner < 0).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_owner = np.full(labels.max() + 1, -1, dtype=np.int64)
    occupied = empty == 0
    label_owner[labels[occupied]] = owner[occupied]
    found = label_owner[labels[centres[:, 1], centres[:, 0]]]
    return torch.from_numpy(found).to(device)


def _follows(trajectories: Trajectories, nearest: Tensor, tokens: Tensor, frame: int) -> Tensor:
    ids = nearest[tokens]
    if len(trajectories.valid) == 0:
        return torch.zeros_like(ids, dtype=torch.bool)
    return (ids >= 0) & trajectories.valid[ids.clamp(min=0), frame]
