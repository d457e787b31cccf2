"""Scores of point tracks against known ones: TAP-Vid, and BADJA's two position scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["strided", "first"]

TAP_VID_THRESHOLDS = (1, 2, 4, 8, 16)  # px
TAP_VID_SIZE = 256  # px; width and height to which TAP-Vid scales coordinates
BADJA_SIZE = (854, 480)  # px, (width, height) at which delta_3px is defined


@dataclass(frozen=True)
class TapVidScores:
    """Shares in 0..1; NaN where there was nothing to score.

    Attributes:
        delta: per threshold, share of the visible points predicted closer than it.
        delta_average: mean of `delta`.
        jaccard: per threshold, hits / (visible points + wrong claims of visibility); None
            without true occlusion labels, as are the two below.
        average_jaccard: mean of `jaccard` (AJ).
        occlusion_accuracy: share of right occlusion flags (OA).
    """

    delta: tuple[float, ...]
    delta_average: float
    jaccard: tuple[float, ...] | None
    average_jaccard: float | None
    occlusion_accuracy: float | None


def scored_frames(queries: NDArray[np.float32], frame_count: int, mode: Mode) -> NDArray[np.bool_]:
    """Which frames of each track count.

    Args:
        queries: [N, 3], (t, x, y).
        frame_count: T.
        mode: "strided" takes all frames but the query's, "first" those after it.

    Returns:
        bool [N, T].
    """
    frames = np.arange(frame_count)[None, :]
    query_frames = np.round(queries[:, :1]).astype(np.int64)
    return frames != query_frames if mode == "strided" else frames > query_frames


def tap_vid(
    points: NDArray[np.float32],
    occluded: NDArray[np.bool_] | None,
    true_points: NDArray[np.float32],
    true_occluded: NDArray[np.bool_],
    scored: NDArray[np.bool_],
    width: int,
    height: int,
) -> TapVidScores:
    """TAP-Vid's scores for one video (Doersch et al. 2022, sec. 3).

    Args:
        points, true_points: [N, T, 2], (x, y) in pixels of a width x height image. True points
            may be NaN where they are occluded or not scored.
        occluded: bool [N, T]; None scores positions only.
        true_occluded: bool [N, T].
        scored: bool [N, T], what counts; see `scored_frames`.
        width, height: image size, px; coordinates are scaled from it to 256 x 256.
    """
    scale = np.array([TAP_VID_SIZE / width, TAP_VID_SIZE / height])
    error = (points.astype(np.float64) - true_points) * scale
    squared = np.sum(np.square(error), axis=-1)
    visible = ~true_occluded & scored
    within = [squared < threshold**2 for threshold in TAP_VID_THRESHOLDS]
    delta = tuple(_ratio(near & visible, visible) for near in within)
    if occluded is None:
        return TapVidScores(delta, float(np.mean(delta)), None, None, None)
    claimed = ~occluded & scored
    jaccard = tuple(
        _divide(
            np.sum(near & visible & claimed),
            np.sum(visible) + np.sum(claimed & ~(near & visible)),
        )
        for near in within
    )
    return TapVidScores(
        delta=delta,
        delta_average=float(np.mean(delta)),
        jaccard=jaccard,
        average_jaccard=float(np.mean(jaccard)),
        occlusion_accuracy=_ratio((occluded == true_occluded) & scored, scored),
    )


def pck(
    points: NDArray[np.float32],
    true_points: NDArray[np.float32],
    scored: NDArray[np.bool_],
    mask_areas: NDArray[np.int64],
    factor: float = 0.2,
) -> float:
    """BADJA's delta_seg: share of joints closer than factor·√(area of the animal's mask).

    Biggs et al. 2018, sec. 5. NaN where nothing is scored.

    Args:
        points, true_points: [N, T, 2], (x, y) px.
        scored: bool [N, T], visible labelled joints.
        mask_areas: [T], px² in the same pixels as the points.
    """
    near = _distance(points, true_points) < factor * np.sqrt(mask_areas)[None, :]
    return _ratio(near & scored, scored)


def delta_pixels(
    points: NDArray[np.float32],
    true_points: NDArray[np.float32],
    scored: NDArray[np.bool_],
    width: int,
    height: int,
    threshold: float = 3.0,
) -> float:
    """BADJA's delta_3px: share of joints closer than `threshold` px once scaled to 854 x 480.

    Args:
        points, true_points: [N, T, 2], (x, y) in pixels of a width x height image.
        scored: bool [N, T], visible labelled joints.
    """
    scale = np.array([BADJA_SIZE[0] / width, BADJA_SIZE[1] / height])
    near = _distance(points * scale, true_points * scale) < threshold
    return _ratio(near & scored, scored)


def _distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]).astype(np.float64)


def _ratio(hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    return _divide(np.sum(hits), np.sum(of))


def _divide(numerator: np.integer, denominator: np.integer) -> float:
    return float(numerator / denominator) if denominator else float("nan")
