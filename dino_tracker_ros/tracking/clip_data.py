"""What the optimization learns from, gathered from the clip's frames before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.best_buddies import choose_pairs, find_best_buddies
from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.observer import Observed, pictures_of
from dino_tracker_ros.tracking.saliency import salient_tokens
from dino_tracker_ros.tracking.sampling import BuddyTable, index_by_pair
from dino_tracker_ros.tracking.settings import Settings, TrajectorySettings
from dino_tracker_ros.tracking.stopwatch import Stopwatch
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import (
    FlowPair,
    Trajectories,
    chain,
    check_direct,
    log_offsets,
    of_frames,
)

DirectFlow = Callable[[Observed, Observed], FlowPair]
"""Flow straight from one frame to another, and back."""


@dataclass(frozen=True)
class ClipData:
    """Everything the losses learn from, on one device.

    Attributes:
        pictures: what Delta-DINO sees of each frame, see `TrackerModel.pictures`.
        features: frozen, [T, C, rows, cols].
        grid: where the tokens lie.
        trajectories: of flow.
        trajectory_foreground: bool [M].
        buddies: DINO best buddies and the frame pairs that were searched.
        foreground: bool [T, rows * cols].
    """

    pictures: Tensor
    features: Tensor
    grid: TokenGrid
    trajectories: Trajectories
    trajectory_foreground: Tensor
    buddies: BuddyTable
    foreground: Tensor


def clip_data(
    frames: Sequence[Observed],
    grid: TokenGrid,
    flows: Sequence[FlowPair],
    direct_flow: DirectFlow,
    most_pairs: int,
    settings: Settings,
    stopwatch: Stopwatch,
) -> ClipData:
    """What is learnt from frames: from those alone that have features.

    Args:
        frames: of the clip.
        grid: where their tokens lie.
        flows: T-1 pairs of flow between frames t and t+1.
        direct_flow: checks what they say together.
        most_pairs: frame pairs that the optimization gets to see.
        settings: the whole tree.
        stopwatch: counts the seconds of `trajectories` and `best_buddies`.
    """
    known = [t for t, frame in enumerate(frames) if frame.features is not None]
    seen = [frames[t] for t in known]
    features = torch.stack([found.features.finding for found in seen if found.features])
    units = unit_length(features, dim=1)
    with stopwatch.stage("trajectories"):
        chained = _trajectories(frames, flows, direct_flow, settings.trajectories)
        trajectories = of_frames(chained, known)
    with stopwatch.stage("best_buddies"):
        most = min(most_pairs, settings.best_buddies.pairs or most_pairs)
        pairs = choose_pairs(len(features), most, settings.optimizer.seed)
        searched = pairs if settings.loss.dino_best_buddies > 0 else []
        buddies = find_best_buddies(units, grid, searched, trajectories, settings.best_buddies)
        foreground = _foreground(seen, units, settings.foreground.source)
    rows = torch.arange(len(trajectories.start), device=features.device)
    start = trajectories.points[rows, trajectories.start]
    return ClipData(
        pictures=pictures_of(seen),
        features=features,
        grid=grid,
        trajectories=trajectories,
        trajectory_foreground=foreground[trajectories.start, grid.nearest(start)],
        buddies=index_by_pair(buddies, pairs, foreground),
        foreground=foreground,
    )


def _trajectories(
    frames: Sequence[Observed],
    flows: Sequence[FlowPair],
    direct_flow: DirectFlow,
    options: TrajectorySettings,
) -> Trajectories:
    offsets = {
        "all": list(range(1, len(frames))),
        "log": log_offsets(len(frames)),
        "none": [],
    }[options.direct_flow]
    return check_direct(
        chain(flows, options.spacing, options.loop_error),
        lambda s, t: direct_flow(frames[s], frames[t]),
        offsets,
        options.loop_error,
        options.direct_error,
    )


def _foreground(frames: Sequence[Observed], units: Tensor, source: str) -> Tensor:
    """bool [T, rows * cols]: the user's masks where there are any, else saliency."""
    if source == "none":
        return torch.ones(units.flatten(2)[:, 0].shape, dtype=torch.bool, device=units.device)
    salient = salient_tokens(units).flatten(1)
    rows = [
        found if frame.mask is None else frame.mask
        for frame, found in zip(frames, salient, strict=True)
    ]
    return torch.stack(rows)
