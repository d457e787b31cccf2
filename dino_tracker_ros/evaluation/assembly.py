"""Overlapping clips of tracks, joined to tracks of the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.tracks import Tracks

Clip = tuple[Tracks, NDArray[np.uint32]]
"""Tracks of one clip, and the id of each point."""


def join_clips(clips: Sequence[Clip]) -> Clip:
    """Tracks over all stamps of the clips.

    A later clip replaces what earlier ones said about the same stamp: it has seen more. Where a
    point was not tracked it is NaN, occluded, and of confidence 0.

    Args:
        clips: at least one, oldest first, all of one image size.

    Returns:
        One track per id, whose query is the point's first one, and the ids in ascending order.
    """
    stamps = np.unique(np.concatenate([tracks.stamps for tracks, _ in clips]))
    ids = np.unique(np.concatenate([numbers for _, numbers in clips]))
    shape = (len(ids), len(stamps))
    queries = np.full((len(ids), 3), np.nan, np.float32)
    points = np.full((*shape, 2), np.nan, np.float32)
    occluded = np.ones(shape, bool)
    confidence = np.zeros(shape, np.float32)
    for tracks, numbers in clips:
        rows = np.searchsorted(ids, numbers)
        columns = np.searchsorted(stamps, tracks.stamps)
        place = np.ix_(rows, columns)
        points[place] = tracks.points
        occluded[place] = tracks.occluded
        confidence[place] = tracks.confidence
        new = np.isnan(queries[rows, 0])
        first = tracks.queries[new].copy()
        first[:, 0] = columns[first[:, 0].astype(int)]
        queries[rows[new]] = first
    newest = clips[-1][0]
    whole = Tracks(queries, points, occluded, confidence, stamps, newest.width, newest.height)
    return whole, ids


def tracks_of_queries(
    tracks: Tracks,
    queries: NDArray[np.float32],
    stamps: NDArray[np.int64],
    tolerance: float = 0.5,
) -> tuple[Tracks, NDArray[np.bool_]]:
    """The tracks that belong to given queries, in their order, over given frames.

    Args:
        tracks: N tracks, each with the query it was asked for with.
        queries: float32 [M, 3], (t, x, y), t an index into `stamps`.
        stamps: int64 [T], ns, of all frames, sorted; those of the tracks are among them.
        tolerance: largest distance between the place asked for and the track's query, px.

    Returns:
        M tracks over T frames, and bool [M], which of them were found. A query without a track
        stays where it is, occluded; so does a track in frames that the tracker did not get. A
        query on such a frame is taken to be on the nearest one that it got, as the node does.
    """
    columns = np.searchsorted(stamps, tracks.stamps)
    times = tracks.queries[:, 0].astype(int)
    points = np.repeat(queries[:, None, 1:], len(stamps), axis=1)
    occluded = np.ones(points.shape[:2], bool)
    confidence = np.zeros(points.shape[:2], np.float32)
    found = np.zeros(len(queries), bool)
    for row, (time, x, y) in enumerate(queries):
        distance = np.hypot(tracks.queries[:, 1] - x, tracks.queries[:, 2] - y)
        nearest = int(np.abs(tracks.stamps - stamps[int(time)]).argmin())
        distance = np.where(times == nearest, distance, np.inf)
        if not len(distance) or distance.min() > tolerance:
            continue
        best = int(distance.argmin())
        found[row] = True
        known = np.isfinite(tracks.points[best, :, 0])
        points[row, columns[known]] = tracks.points[best, known]
        occluded[row, columns] = tracks.occluded[best]
        confidence[row, columns] = tracks.confidence[best]
    given = replace(
        tracks, queries=queries, points=points, occluded=occluded, confidence=confidence,
        stamps=stamps,
    )  # fmt: skip
    return given, found
