"""Trackers to compare with: nothing moves, Lucas-Kanade, chained flow, raw DINOv2 matching.

Each takes frames and queries and returns tracks, as `offline.track_frames` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_tracker_ros.tracking.backbone import load_backbone
from dino_tracker_ros.tracking.clip import Frame, WorkingSize, working_size
from dino_tracker_ros.tracking.device import find_device, find_precision
from dino_tracker_ros.tracking.flow import load_flow
from dino_tracker_ros.tracking.matching import sample_tokens, unit_length
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.trajectories import follow
from dino_tracker_ros.tracking.weights import WeightsCache

LOOP_ERROR = 1.5  # px, the forward-backward error from which a step counts as lost
MATCH_TEMPERATURE = 0.02  # of the softmax over raw cosines

Progress = Callable[[int, int], None]
"""Called with (frames done, T)."""

Step = Callable[[int, int, NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""(from frame, to frame, points [M, 2]) to the points there [M, 2] and bool [M], step confirmed."""


def flows_at_hand(settings: Settings) -> tuple[str, ...]:
    """Flow methods to chain: DIS, and RAFT where its weights are on this machine.

    It is the RAFT of the settings if they have one, else the larger one that is there.
    """
    if settings.flow.method != "dis":
        return ("dis", settings.flow.method)
    there = {status.name for status in WeightsCache().status() if status.present}
    return ("dis", *[method for method in ("raft_large", "raft_small") if method in there][:1])


def track_static(frames: Sequence[Frame], queries: NDArray[np.float32]) -> Tracks:
    """Every point stays where it was asked for and is always visible."""
    points = np.repeat(queries[:, None, 1:], len(frames), axis=1).astype(np.float32)
    return _tracks(frames, queries, points, np.zeros(points.shape[:2], bool))


def track_lucas_kanade(frames: Sequence[Frame], queries: NDArray[np.float32]) -> Tracks:
    """Pyramidal Lucas-Kanade from frame to frame (OpenCV), checked forward and backward.

    A point whose step failed goes on from where the step put it, and stays occluded until a later
    step is confirmed.
    """
    pictures = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in frames]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)

    def move(
        source: int, target: int, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
            pictures[source], pictures[target], points[:, None], None,
            winSize=(21, 21), maxLevel=4, criteria=criteria,
        )  # fmt: skip
        return moved[:, 0], found[:, 0] > 0

    def step(
        source: int, target: int, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        there, found = move(source, target, points)
        back, found_back = move(target, source, there)
        loop = np.linalg.norm(back - points, axis=-1)
        return there, found & found_back & (loop < LOOP_ERROR)

    return _chain(frames, queries, step)


def track_chained_flow(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    settings: Settings,
    progress: Progress | None = None,
    method: str = "",
) -> Tracks:
    """Optical flow chained from frame to frame, at the tracker's working size.

    A point goes on after a step that does not close its loop within
    trajectories.loop_error; it counts as occluded in the frame where that step ended.

    Args:
        method: of flow; empty takes flow.method.

    Raises:
        WeightsError: the flow's weights cannot be had.
    """
    own = method in ("", settings.flow.method)
    device = find_device(settings.device)
    size = _working_size(frames, settings)
    flow = load_flow(
        method or settings.flow.method,
        cache=WeightsCache(),
        weights=settings.flow.weights if own else "",
        updates=settings.flow.updates,
        precision=find_precision(settings.precision, device),
        device=device,
    )
    pairs: list[tuple[Tensor, Tensor]] = []
    before = None
    for number, frame in enumerate(frames, start=1):
        encoded = flow.encode(_as_tensor(frame, size))
        if before is not None:
            pairs.append((flow.flow(before, encoded)[0], flow.flow(encoded, before)[0]))
        before = encoded
        if progress is not None:
            progress(number, len(frames))

    def step(
        source: int, target: int, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        there, back = pairs[min(source, target)]
        way = (there, back) if target > source else (back, there)
        start = torch.from_numpy(size.to_working(points)).to(there.device)
        moved, valid = follow(start, way, settings.trajectories.loop_error)
        return size.to_input(moved.cpu().numpy()), valid.cpu().numpy()

    return _chain(frames, queries, step)


@torch.no_grad()
def track_raw_dino(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    settings: Settings,
    progress: Progress | None = None,
    block: int = 0,
) -> Tracks:
    """The nearest token of one block, averaged over its neighbours.

    Tumanyan et al. 2024, tab. 1, "DINOv2": no optimization. The position is the mean of token
    centres within head.radius of the most similar one, weighted by a softmax of the cosine. A
    point is occluded where that cosine is below inference.visible_cosine.

    Args:
        block: whose tokens are matched; 0 takes backbone.block.

    Raises:
        WeightsError: the backbone's weights cannot be had.
    """
    device = find_device(settings.device)
    size = _working_size(frames, settings)
    chosen = settings.backbone
    backbone = load_backbone(
        chosen.model,
        cache=WeightsCache(),
        weights=chosen.weights,
        blocks=[block or chosen.block],
        stride=chosen.stride,
        final_norm=chosen.final_norm,
        precision=find_precision(settings.precision, device),
        device=device,
    )
    grid = backbone.grid(size.height, size.width)
    maps = []
    for number, frame in enumerate(frames, start=1):
        maps.append(backbone.features(_as_tensor(frame, size))[0])
        if progress is not None:
            progress(number, len(frames))
    tokens = torch.cat(maps).flatten(2)
    times = torch.from_numpy(np.rint(queries[:, 0]).astype(np.int64)).to(device)
    places = torch.from_numpy(size.to_working(queries[:, 1:])).to(device)
    wanted = unit_length(sample_tokens(tokens, times, places, grid), dim=1)
    found, cosines = [], []
    for frame_tokens in tokens:
        similarity = wanted @ unit_length(frame_tokens, dim=0)
        found.append(_soft_peak(similarity, grid, settings.head.radius))
        cosines.append(similarity.max(dim=1).values)
    points = size.to_input(torch.stack(found, dim=1).cpu().numpy())
    occluded = torch.stack(cosines, dim=1) < settings.inference.visible_cosine
    return _tracks(frames, queries, points, occluded.cpu().numpy())


def _soft_peak(similarity: Tensor, grid: TokenGrid, radius: float) -> Tensor:
    """Where rows of cosines [N, tokens] peak, (x, y) px [N, 2]."""
    centres = grid.centres(similarity.device).reshape(-1, 2)
    peak = centres[similarity.argmax(dim=1)]
    near = torch.cdist(peak, centres) <= radius
    weight = torch.softmax((similarity / MATCH_TEMPERATURE).masked_fill(~near, -torch.inf), dim=1)
    return weight @ centres


def _working_size(frames: Sequence[Frame], settings: Settings) -> WorkingSize:
    height, width = frames[0].image.shape[:2]
    return working_size(width, height, settings.clip.longest_side)


def _as_tensor(frame: Frame, size: WorkingSize) -> Tensor:
    return torch.from_numpy(size.resize(frame.image)).permute(2, 0, 1)[None]


def _chain(frames: Sequence[Frame], queries: NDArray[np.float32], step: Step) -> Tracks:
    """Follows each point from its query frame to both ends of the clip, one frame at a time."""
    count = len(frames)
    height, width = frames[0].image.shape[:2]
    times = np.rint(queries[:, 0]).astype(int)
    points = np.zeros((len(queries), count, 2), np.float32)
    occluded = np.zeros((len(queries), count), bool)
    points[np.arange(len(queries)), times] = queries[:, 1:]
    steps = [(t, t + 1) for t in range(count - 1)] + [(t, t - 1) for t in range(count - 1, 0, -1)]
    for source, target in steps:
        going = times <= source if target > source else times >= source
        if not going.any():
            continue
        moved, confirmed = step(source, target, points[going, source])
        points[going, target] = moved
        inside = np.all((moved >= -0.5) & (moved < np.array([width, height]) - 0.5), axis=1)
        occluded[going, target] = ~(confirmed & inside)
    return _tracks(frames, queries, points, occluded)


def _tracks(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    points: NDArray[np.float32],
    occluded: NDArray[np.bool_],
) -> Tracks:
    height, width = frames[0].image.shape[:2]
    return Tracks(
        queries=np.asarray(queries, np.float32),
        points=points.astype(np.float32),
        occluded=occluded,
        confidence=(~occluded).astype(np.float32),
        stamps=np.array([frame.stamp for frame in frames], np.int64),
        width=width,
        height=height,
    )
