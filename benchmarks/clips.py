"""What is tracked: a made clip or one from a folder, and the points asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.scores import count, scores, select_tracks
from dino_tracker_ros.evaluation.synthetic import make_clip
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.evaluation.truths.query_sampling import queries_at, sample_queries
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import open_frames

BLUR = 8.0
"""Longest smear of a blurred frame, px."""
NOISE = 6.0
"""Standard deviation of a blurred frame's noise, gray values of 0..255."""
QUALITY = 60
"""Of a blurred frame's JPEG, 0..100."""

SHOWN = {
    "pck": "PCK",
    "delta_3px": "δ_3px",
    "delta_average": "δ_avg",
    "occlusion_accuracy": "OA",
    "average_jaccard": "AJ",
}


@dataclass(frozen=True)
class Clip:
    """Frames, decoded, with their known tracks if there are any."""

    name: str
    frames: list[Frame]
    truth: GroundTruth | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        height, width = self.frames[0].image.shape[:2]
        return width, height


def made_clip(width: int, height: int, length: int, seed: int = 1) -> Clip:
    """A clip of two planes with exactly known tracks; see `evaluation.synthetic`."""
    made = make_clip(width, height, length, seed=seed)
    return Clip(f"made, {length} frames of {width}x{height}", made.frames, made.truth)


def folder_clip(folder: Path, length: int | None = None) -> Clip:
    """Pictures, with their gt.npz if it is there.

    Args:
        length: at most so many frames; None takes all.
    """
    if (folder / "gt.npz").is_file():
        labelled = load_clip_folder(folder)
        clip = Clip(labelled.name, list(labelled.frames), labelled.truth)
    else:
        clip = Clip(folder.resolve().name, list(open_frames(folder)), None)
    if length is None or length >= len(clip.frames):
        return clip
    return part(clip, 0, length)


def part(clip: Clip, start: int, end: int) -> Clip:
    """The frames from `start` to before `end`; points are asked for where they first show there."""
    frames, truth = clip.frames[start:end], clip.truth
    if truth is not None:
        points = truth.points[:, start:end]
        shown = (~truth.occluded & truth.evaluate)[:, start:end]
        times, tracks = sample_queries(shown, "first")
        areas = truth.mask_areas
        truth = replace(
            truth,
            queries=queries_at(points[tracks], times),
            points=points[tracks],
            occluded=truth.occluded[tracks, start:end],
            evaluate=truth.evaluate[tracks, start:end],
            mask_areas=None if areas is None else areas[start:end],
        )
    return Clip(f"{clip.name}, frames {start}..{end - 1}", frames, truth)


def blurred(clip: Clip, seed: int) -> Clip:
    """The clip as a small camera in motion sees it in poor light: every frame is smeared along a
    line of its own, noisy, and went through JPEG. Centres of smears stay where they were, so the
    known tracks hold.

    Args:
        seed: of smears and noise.
    """
    random = np.random.default_rng(seed)
    frames = []
    for frame in clip.frames:
        smear = _smear(random.uniform(1, BLUR), random.uniform(0, math.pi))
        picture = cv2.filter2D(frame.image.astype(np.float32), -1, smear)
        sent = np.clip(picture + random.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        _, packed = cv2.imencode(".jpg", cv2.cvtColor(sent, cv2.COLOR_RGB2BGR), options)
        shown = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
        frames.append(replace(frame, image=np.ascontiguousarray(shown)))
    return replace(clip, name=f"{clip.name}, blurred", frames=frames)


def _smear(length: float, angle: float) -> NDArray[np.float32]:
    """A line through the middle that sums to one, float32 [K, K]."""
    middle = math.ceil(BLUR / 2)
    along = np.linspace(-length / 2, length / 2, 64)
    x, y = along * math.cos(angle) + middle, along * math.sin(angle) + middle
    smear, _, _ = np.histogram2d(y, x, bins=2 * middle + 1, range=[[-0.5, 2 * middle + 0.5]] * 2)
    return (smear / smear.sum()).astype(np.float32)


def grid_queries(width: int, height: int, count: int) -> NDArray[np.float32]:
    """`count` points spread over the first frame, float32 [count, 3], (t, x, y)."""
    columns = max(1, math.ceil(math.sqrt(count * width / height)))
    rows = math.ceil(count / columns)
    index = np.arange(count)
    x = (index % columns + 0.5) * width / columns - 0.5
    y = (index // columns + 0.5) * height / rows - 0.5
    return np.column_stack([np.zeros(count), x, y]).astype(np.float32)


def accuracy(
    tracks: Tracks, truth: GroundTruth, chosen: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Scores in percent, by the names of SHOWN that the known tracks support.

    Args:
        chosen: bool [N], the tracks that count; None takes all.
    """
    counts = count(tracks, truth)
    if chosen is not None:
        counts = select_tracks(counts, chosen)
    found = scores([counts], resamples=0)
    return {name: 100 * found[name].value for name in SHOWN if name in found}


def mean_accuracy(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each score over several runs on one clip."""
    return {name: float(np.mean([found[name] for found in each])) for name in each[0]}
