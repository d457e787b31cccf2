"""Known tracks of a clip, and what must hold before anything is scored against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError

BORDER = 1.0
"""How far outside the picture a label may lie, px: hand-made ones do by a little."""


class GroundTruthError(TrackerError):
    """Known tracks cannot be read, or contradict the clip or themselves."""


@dataclass(frozen=True)
class GroundTruth:
    """Known tracks of one clip of T frames.

    Attributes:
        queries: float32 [N, 3], (t, x, y).
        points: float32 [N, T, 2], (x, y) px; NaN where unknown.
        occluded: bool [N, T].
        evaluate: bool [N, T], true where a score may look.
        has_occlusion: whether `occluded` is a label; if not, only positions can be scored.
        width, height: size of the frames, px.
        mask_areas: int64 [T], px of the foreground in each frame; None without masks.
    """

    queries: NDArray[np.float32]
    points: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    evaluate: NDArray[np.bool_]
    has_occlusion: bool
    width: int
    height: int
    mask_areas: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class LabelledClip:
    """Frames with known tracks. Frames from files are decoded when they are asked for."""

    name: str
    frames: Sequence[Frame]
    truth: GroundTruth


def checked(truth: GroundTruth, frame_count: int, source: object) -> GroundTruth:
    """The truth, if a clip of `frame_count` frames can be scored against it.

    Queries that lie outside the picture by up to `BORDER` are moved to its border.

    Args:
        truth: as read.
        frame_count: T.
        source: where it comes from, for the message.

    Raises:
        GroundTruthError: no track, an array of another shape, a query outside the clip, or a
            point that is to be scored and is not known.
    """
    count = len(truth.queries)
    if not count:
        raise GroundTruthError(f"'{source}' holds no track that can be scored")
    shapes = {
        "queries": (truth.queries.shape, (count, 3)),
        "points": (truth.points.shape, (count, frame_count, 2)),
        "occluded": (truth.occluded.shape, (count, frame_count)),
        "evaluate": (truth.evaluate.shape, (count, frame_count)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise GroundTruthError(
                f"{name} in '{source}' is {shape}: {count} queries over {frame_count} frames "
                f"need {expected}"
            )
    if truth.mask_areas is not None and len(truth.mask_areas) != frame_count:
        raise GroundTruthError(
            f"'{source}' has {len(truth.mask_areas)} masks for {frame_count} frames"
        )
    times, places = truth.queries[:, 0], truth.queries[:, 1:]
    wrong = (times != np.rint(times)) | (times < 0) | (times > frame_count - 1)
    wrong |= np.isnan(times) | ~_near_picture(places, truth.width, truth.height)
    for index in np.flatnonzero(wrong)[:1]:
        time, x, y = truth.queries[index]
        raise GroundTruthError(
            f"query {index} of '{source}' is at frame {time:g}, ({x:g}, {y:g}) px: the frames "
            f"are 0..{frame_count - 1} of {truth.width}x{truth.height} px"
        )
    if np.isnan(truth.points[truth.evaluate & ~truth.occluded]).any():
        raise GroundTruthError(f"points in '{source}' are NaN where they are to be scored")
    border = np.array([truth.width, truth.height]) - 0.5
    queries = truth.queries.copy()
    queries[:, 1:] = np.clip(places, -0.5, border)
    return replace(truth, queries=queries)


def check_labels_in_picture(truth: GroundTruth, source: object) -> None:
    """Refuses visible points outside the picture, which tell of another scale.

    Raises:
        GroundTruthError: a visible point lies outside by more than `BORDER`.
    """
    outside = ~_near_picture(truth.points, truth.width, truth.height)
    for index, frame in np.argwhere(outside & truth.evaluate & ~truth.occluded)[:1]:
        x, y = truth.points[index, frame]
        raise GroundTruthError(
            f"track {index} of '{source}' is visible at ({x:g}, {y:g}) px in frame {frame}, "
            f"outside the {truth.width}x{truth.height} px of the picture: is it of another size?"
        )


def _near_picture(
    points: NDArray[np.float32], width: int, height: int
) -> NDArray[np.bool_]:
    low, high = -0.5 - BORDER, np.array([width, height]) - 0.5 + BORDER
    return np.all((points >= low) & (points <= high), axis=-1)
