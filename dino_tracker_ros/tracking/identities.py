"""Points that keep their identity from one overlapping clip to the next.

A clip is tracked on its own, from query points. For a point to go on living, it is asked for
again in the next clip, on a frame that both clips share. Which frame and where is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.queries import inside_image
from dino_tracker_ros.tracking.tracks import Tracks


@dataclass(frozen=True)
class Points:
    """M living points.

    Attributes:
        ids: uint32 [M], never given twice.
        stamps: int64 [M], ns, the frame on which the point is asked for next.
        places: float32 [M, 2], (x, y) px on that frame.
        current: float32 [M, 2], (x, y) px on the newest frame it was tracked to.
        next_id: the id of the next new point.
    """

    ids: NDArray[np.uint32]
    stamps: NDArray[np.int64]
    places: NDArray[np.float32]
    current: NDArray[np.float32]
    next_id: int

    def __len__(self) -> int:
        return len(self.ids)


def no_points(next_id: int = 0) -> Points:
    """No living point; ids go on from `next_id`."""
    empty = np.zeros((0, 2), np.float32)
    return Points(np.zeros(0, np.uint32), np.zeros(0, np.int64), empty, empty, next_id)


def with_new(points: Points, places: NDArray[np.float32], stamp: int) -> Points:
    """Adds points under new ids.

    Args:
        points: those that live already.
        places: float32 [N, 2], (x, y) px.
        stamp: of the frame they lie on, ns.
    """
    count = len(places)
    ids = np.arange(points.next_id, points.next_id + count, dtype=np.uint32)
    return Points(
        ids=np.concatenate([points.ids, ids]),
        stamps=np.concatenate([points.stamps, np.full(count, stamp, np.int64)]),
        places=np.concatenate([points.places, places]).astype(np.float32),
        current=np.concatenate([points.current, places]).astype(np.float32),
        next_id=points.next_id + count,
    )


def as_queries(points: Points, stamps: NDArray[np.int64]) -> NDArray[np.float32]:
    """The query points of a clip.

    A point whose frame has left the clip (the clip before failed) is asked for at its last known
    place on the oldest frame: a guess, but the only one there is.

    Args:
        points: the living points.
        stamps: int64 [T], ns, of the clip's frames, oldest first.

    Returns:
        float32 [M, 3], (t, x, y).
    """
    frame = np.searchsorted(stamps, points.stamps)
    known = np.isin(points.stamps, stamps)
    places = np.where(known[:, None], points.places, points.current)
    return np.column_stack([np.where(known, frame, 0), places]).astype(np.float32)


def carried_over(points: Points, tracks: Tracks, overlap: int) -> Points:
    """The points that live on after a clip, and where the next clip asks for them.

    A point is asked for on the most confident frame, among the last `overlap` ones, on which it
    is visible; where it is visible on none of them, on the most confident one on which its
    predicted place lies in the image. A point that was visible nowhere but on its query's frame,
    or that lies outside the image on all of those frames, dies.

    Args:
        points: the points tracked, in the order of the tracks.
        tracks: N = M tracks over T frames.
        overlap: frames shared with the next clip, >= 1; more than T counts as T.
    """
    if not len(points):
        return points
    inside = inside_image(tracks.points, tracks.width, tracks.height)
    visible = inside & ~tracks.occluded
    every = np.arange(len(points))
    elsewhere = visible.copy()
    elsewhere[every, tracks.queries[:, 0].astype(np.int64)] = False

    first = max(0, tracks.points.shape[1] - overlap)
    # Visible frames rank above all others, frames outside the image below.
    rank = np.where(inside, tracks.confidence + 2 * visible, -1.0)[:, first:]
    best = first + rank.argmax(axis=1)
    alive = elsewhere.any(axis=1) & inside[every, best]
    return replace(
        points,
        ids=points.ids[alive],
        stamps=tracks.stamps[best[alive]],
        places=tracks.points[every[alive], best[alive]],
        current=tracks.points[alive, -1],
    )
