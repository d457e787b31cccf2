"""Points that keep their identity from one overlapping clip to the next.

A clip is tracked on its own, from query points. For a point to go on living, it is asked for again
in the next clip: if it is surely seen but looks unlike its query by now, in a frame that both clips
share, else in the one that it was asked on before, which is kept as a keyframe. Which, and where,
is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.queries import inside_image
from dino_tracker_ros.tracking.tracks import Tracks

SURE = 0.9
"""Confidence from which on a point is surely seen."""
CHANGED = 0.5
"""Deformation, see `keyframes.deformation`, from which on a point looks unlike its query."""
NEVER = 1 << 30
"""Clips since a point was seen that never was."""


@dataclass(frozen=True)
class Points:
    """M living points.

    Attributes:
        ids: uint32 [M], never given twice.
        stamps: int64 [M], ns, the frame on which the point is asked for.
        places: float32 [M, 2], (x, y) px on that frame.
        current: float32 [M, 2], (x, y) px on the newest frame it was tracked to.
        unseen: int64 [M], clips since it was seen in another frame than that; NEVER and more
            where it never was.
        next_id: the id of the next new point.
    """

    ids: NDArray[np.uint32]
    stamps: NDArray[np.int64]
    places: NDArray[np.float32]
    current: NDArray[np.float32]
    unseen: NDArray[np.int64]
    next_id: int

    def __len__(self) -> int:
        return len(self.ids)


def no_points(next_id: int = 0) -> Points:
    """No living point; ids go on from `next_id`."""
    empty = np.zeros((0, 2), np.float32)
    none = np.zeros(0, np.int64)
    return Points(np.zeros(0, np.uint32), none, empty, empty, none, next_id)


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
        unseen=np.concatenate([points.unseen, np.full(count, NEVER, np.int64)]),
        next_id=points.next_id + count,
    )


def as_queries(
    points: Points, stamps: NDArray[np.int64], keyframes: Sequence[int] = ()
) -> NDArray[np.float32]:
    """The query points of a clip.

    A point whose frame is gone (the clip before failed) is asked for at its last known place on
    the oldest frame: a guess, but the only one there is.

    Args:
        points: the living points.
        stamps: int64 [T], ns, of the clip's frames, oldest first.
        keyframes: stamps of the K frames that were kept, ns, oldest first.

    Returns:
        float32 [M, 3], (t, x, y); -K..-1 for keyframes.
    """
    kept = np.array(keyframes, np.int64)
    in_clip, in_kept = np.isin(points.stamps, stamps), np.isin(points.stamps, kept)
    frame = np.where(
        in_clip,
        np.searchsorted(stamps, points.stamps),
        np.where(in_kept, np.searchsorted(kept, points.stamps) - len(kept), 0),
    )
    places = np.where((in_clip | in_kept)[:, None], points.places, points.current)
    return np.column_stack([frame, places]).astype(np.float32)


def worth_keeping(
    points: Points, oldest: int, most: int, chosen: NDArray[np.bool_] | None = None
) -> list[int]:
    """Stamps of the frames to keep as keyframes: those that most points are asked on.

    Args:
        points: the living points.
        oldest: stamp of the next clip's oldest frame, ns: of older ones some are kept.
        most: how many, at the most; of as many points, newer frames.
        chosen: bool [M], the points that count; None takes all.
    """
    stamps = points.stamps if chosen is None else points.stamps[chosen]
    frames, counts = np.unique(stamps[stamps < oldest], return_counts=True)
    ranked = np.lexsort((frames, counts))[::-1][:most]
    return sorted(int(stamp) for stamp in frames[ranked])


def carried_over(
    points: Points, tracks: Tracks, overlap: int, keyframes: int = 0, patience: int | None = 1
) -> Points:
    """The points that live on after a clip, and where the next clip asks for them.

    A point whose frame the next clip holds is asked for there again. Of the others

    - those that are surely seen, unlike their query, in one of the last `overlap` frames, the one
      that shows most of them so, are asked for anew there;
    - those whose frame is kept, see `worth_keeping`, are asked for there again: nothing drifts,
      and who is hidden is not mistaken for what hides it;
    - what is left is asked for on the most confident of the last frames on which it is visible or,
      where there is none, on which its predicted place lies in the image. Without such a place, it
      dies.

    Any point dies that was never seen but where it was asked for, or not for `patience` clips.

    Args:
        points: the points tracked, in the order of the tracks.
        tracks: N = M tracks over T frames.
        overlap: frames shared with the next clip, >= 1; more than T counts as T.
        keyframes: how many frames will be kept, at the most.
        patience: None lets no point die: one that left the picture is asked for at its border.
    """
    if not len(points):
        return points
    inside = inside_image(tracks.points, tracks.width, tracks.height)
    visible = inside & ~tracks.occluded
    elsewhere = visible & (np.arange(visible.shape[1]) != tracks.queries[:, :1])
    unseen = np.where(elsewhere.any(axis=1), 0, points.unseen + 1)

    first = max(0, tracks.points.shape[1] - overlap)
    oldest = int(tracks.stamps[first])
    gone = points.stamps < oldest
    sure = gone[:, None] & (visible & (tracks.confidence >= SURE))[:, first:]
    if tracks.deformed is not None:
        sure &= tracks.deformed[:, first:] >= CHANGED
    shared = sure.shape[1] - 1 - int(sure.sum(axis=0)[::-1].argmax())  # the newest of the best
    anew = sure[:, shared]
    keep = worth_keeping(points, oldest, keyframes, chosen=~anew)
    lost = gone & ~anew & ~np.isin(points.stamps, keep)

    # Visible frames rank above all others, frames outside the image below.
    rank = np.where(inside, tracks.confidence + 2 * visible, -1.0)[:, first:]
    frame = first + np.where(anew, shared, rank.argmax(axis=1))
    every = np.arange(len(points))
    border = np.array([tracks.width, tracks.height], np.float32) - 1
    asked = np.clip(tracks.points[every, frame], 0, border)
    moved = anew | lost
    alive = np.ones(len(points), bool)
    if patience is not None:
        alive = (unseen < patience) & (~lost | inside[every, frame])
    return replace(
        points,
        ids=points.ids[alive],
        stamps=np.where(moved, tracks.stamps[frame], points.stamps)[alive],
        places=np.where(moved[:, None], asked, points.places)[alive],
        current=tracks.points[alive, -1],
        unseen=unseen[alive],
    )
