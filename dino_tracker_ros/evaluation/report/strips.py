"""Pictures of one clip: its worst tracks frame by frame, and the ground truth beside the tracks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.metrics import Mode, scored_frames
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth, LabelledClip
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.overlay import draw_overlay
from dino_tracker_ros.visualization.video import VideoError

WORST = 10  # tracks of a clip that get a strip
SPREAD = 6  # frames of a strip beside the query's and the worst
SHEET_FRAMES = 3  # frames that show truth and tracks side by side

_FAR = 10_000  # px from a crop, beyond which OpenCV need not draw
_NOWHERE = np.full(2, np.nan, np.float32)
_CROP = 160  # px, side of a strip's pictures
_SHEET_WIDTH = 560  # px at most
_QUALITY = 82  # of the JPEGs
_PREDICTED = (255, 80, 220)  # rare in pictures of the world
_TRUE = (255, 255, 255)
_TRUE_HIDDEN = (150, 150, 150)
_DARK = (20, 20, 20)
# Colour, radius and line width (-1 fills) of the circles that make one mark.
_DOT = ((_DARK, 6, -1), (_PREDICTED, 5, -1))
_RING = ((_DARK, 7, 4), (_PREDICTED, 7, 2))


@dataclass(frozen=True)
class WorstTrack:
    """A track that went far astray.

    Attributes:
        index: its query's number.
        error: px, mean distance to the truth over the frames that count and where it is visible.
        frames: what its strip shows, ascending: the query's frame, the worst one, others between.
        side: px of the picture that the strip's crops show, in width and height.
    """

    index: int
    error: float
    frames: tuple[int, ...]
    side: int


def distances(tracks: Tracks, truth: GroundTruth) -> NDArray[np.float32]:
    """Distance of each point from the truth, px, [N, T]; NaN where one is hidden or unknown."""
    away = np.linalg.norm(tracks.points - truth.points, axis=-1)
    known = truth.evaluate & ~truth.occluded & np.isfinite(away)
    return np.where(known, away, np.nan).astype(np.float32)


def worst_tracks(tracks: Tracks, truth: GroundTruth, mode: Mode) -> list[WorstTrack]:
    """The tracks with the largest mean error, worst first, at most `WORST`."""
    error = distances(tracks, truth)
    error[~scored_frames(truth.queries, error.shape[1], mode)] = np.nan
    counted = np.flatnonzero(np.isfinite(error).any(axis=1))
    means = np.nanmean(error[counted], axis=1)
    worst = np.argsort(-means, kind="stable")[:WORST]
    return [
        _worst_track(int(counted[row]), float(means[row]), error[counted[row]], tracks, truth)
        for row in worst
    ]


def sheet_frames(truth: GroundTruth) -> list[int]:
    """Frames for the side-by-side pictures, spread over those with visible labels."""
    labelled = np.flatnonzero((truth.evaluate & ~truth.occluded).any(axis=0))
    if not len(labelled):
        return []
    spread = np.linspace(0, len(labelled) - 1, SHEET_FRAMES + 2)[1:-1]
    return [int(frame) for frame in labelled[np.unique(np.rint(spread).astype(int))]]


def strip_name(track: int, frame: int) -> str:
    """File name of one picture of a track's strip."""
    return f"track-{track}-frame-{frame}.jpg"


def sheet_name(what: str, frame: int) -> str:
    """File name of a side-by-side picture; `what` is "truth" or "tracks"."""
    return f"{what}-frame-{frame}.jpg"


def clip_pictures(clip: LabelledClip, tracks: Tracks, mode: Mode = "strided") -> dict[str, bytes]:
    """JPEGs by file name: strips of the worst tracks, side-by-side pictures of a few frames.

    In a strip the truth is a cross, grey where it is hidden; the prediction is a dot, a ring where
    it is said to be hidden.

    Args:
        clip: T frames with N known tracks.
        tracks: of the clip's queries.
        mode: which frames count.

    Raises:
        VideoError: a frame cannot be read.
    """
    truth = clip.truth
    worst_in = defaultdict(list)
    for track in worst_tracks(tracks, truth, mode):
        for index in track.frames:
            worst_in[index].append(track)
    sheets = sheet_frames(truth)
    known = _as_tracks(truth, tracks)
    pictures = {}
    for index in sorted({*worst_in, *sheets}):  # in order, since a video is cheap only so
        image = clip.frames[index].image
        for track in worst_in[index]:
            crop = _crop(image, track, index, tracks, truth)
            pictures[strip_name(track.index, index)] = _jpeg(crop)
        if index in sheets:
            pictures[sheet_name("truth", index)] = _sheet(image, known, index)
            pictures[sheet_name("tracks", index)] = _sheet(image, tracks, index)
    return pictures


def _worst_track(
    index: int, mean: float, error: NDArray[np.float32], tracks: Tracks, truth: GroundTruth
) -> WorstTrack:
    query = int(np.rint(truth.queries[index, 0]))
    labelled = np.flatnonzero(truth.evaluate[index])
    spread = labelled[np.rint(np.linspace(0, len(labelled) - 1, SPREAD)).astype(int)]
    frames = sorted({query, int(np.nanargmax(error)), *(int(frame) for frame in spread)})
    # One scale for the whole strip, wide enough for truth and prediction in every picture.
    shift = np.abs(tracks.points[index, frames] - truth.points[index, frames])
    shift[~truth.evaluate[index, frames]] = 0
    shortest = min(truth.width, truth.height)
    side = max(shortest / 5, 1.3 * float(np.nanmax(shift, initial=0)) + shortest / 12)
    return WorstTrack(index, mean, tuple(frames), round(min(side, shortest)))


def _crop(
    image: NDArray[np.uint8], track: WorstTrack, frame: int, tracks: Tracks, truth: GroundTruth
) -> NDArray[np.uint8]:
    """The surroundings of truth and prediction with both drawn in, uint8 [_CROP, _CROP, 3]."""
    true = truth.points[track.index, frame] if truth.evaluate[track.index, frame] else _NOWHERE
    corners = np.array([true, tracks.points[track.index, frame]], np.float64)
    there = [bool(np.isfinite(corner).all()) for corner in corners]
    middle = corners[there].mean(axis=0) if any(there) else truth.queries[track.index, 1:]
    limit = np.array([image.shape[1], image.shape[0]]) - track.side
    left, top = np.clip(np.rint(middle - track.side / 2), 0, limit).astype(int)
    part = image[top : top + track.side, left : left + track.side]
    how = cv2.INTER_AREA if track.side > _CROP else cv2.INTER_CUBIC
    crop = np.ascontiguousarray(cv2.resize(part, (_CROP, _CROP), interpolation=how), np.uint8)

    places = (corners - (left, top) + 0.5) * _CROP / track.side - 0.5
    true_place, place = (
        [int(value) for value in np.clip(np.rint(row), -_FAR, _FAR)] if known else None
        for row, known in zip(places, there)
    )
    hidden = truth.occluded[track.index, frame]
    if true_place and place and not hidden:
        for paint, width in ((_DARK, 3), (_PREDICTED, 1)):
            cv2.line(crop, true_place, place, paint, width, cv2.LINE_AA)
    if place:
        for paint, radius, width in _RING if tracks.occluded[track.index, frame] else _DOT:
            cv2.circle(crop, place, radius, paint, width, cv2.LINE_AA)
    if true_place:
        for paint, length, width in ((_DARK, 18, 4), (_TRUE_HIDDEN if hidden else _TRUE, 16, 2)):
            cv2.drawMarker(crop, true_place, paint, cv2.MARKER_CROSS, length, width, cv2.LINE_AA)
    return crop


def _as_tracks(truth: GroundTruth, tracks: Tracks) -> Tracks:
    """The truth as tracks, with points only where they are labelled."""
    return Tracks(
        queries=truth.queries,
        points=np.where(truth.evaluate[..., None], truth.points, np.nan).astype(np.float32),
        occluded=truth.occluded,
        confidence=(~truth.occluded).astype(np.float32),
        stamps=tracks.stamps,
        width=truth.width,
        height=truth.height,
    )


def _sheet(image: NDArray[np.uint8], tracks: Tracks, frame: int) -> bytes:
    drawn = draw_overlay(image, tracks, frame)
    scale = min(1.0, _SHEET_WIDTH / drawn.shape[1])
    size = (round(drawn.shape[1] * scale), round(drawn.shape[0] * scale))
    return _jpeg(np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    if not done:
        raise VideoError(f"a picture of {image.shape} cannot be encoded as JPEG")
    return bytes(data.tobytes())
