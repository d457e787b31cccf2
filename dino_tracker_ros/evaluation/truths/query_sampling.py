"""Which points of known tracks are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth

STRIDE = 5
"""Frames between the queries of one track in mode "strided"."""


def sample_queries(
    visible: NDArray[np.bool_], mode: Mode
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where TAP-Vid asks for tracks (Doersch et al. 2022, sec. 3).

    Args:
        visible: bool [N, T].
        mode: "strided" asks in every fifth frame for every point that is visible there; "first"
            asks for each point where it is first visible; "every" (ours) in every frame, which says
            more where few frames are labelled.

    Returns:
        The frame and the track of each query, int64 [M] each. A track that is never visible (or,
        strided, in no such frame) is not asked for.
    """
    if mode == "first":
        tracks = np.flatnonzero(visible.any(axis=1))
        return visible[tracks].argmax(axis=1), tracks
    stride = STRIDE if mode == "strided" else 1
    steps, tracks = np.nonzero(visible[:, ::stride].T)
    return steps * stride, tracks


def queries_at(points: NDArray[np.float32], times: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [M, 3], (t, x, y), of tracks [M, T, 2] asked for at frames int64 [M]."""
    places = points[np.arange(len(times)), times]
    return np.column_stack([times, places]).astype(np.float32)


def asked_everywhere(truth: GroundTruth) -> GroundTruth:
    """The same tracks, each asked for in every frame in which it is known and visible.

    Rows with the same points are queries of one track.
    """
    known = truth.evaluate & ~truth.occluded & np.isfinite(truth.points).all(axis=-1)
    places = np.nan_to_num(truth.points, nan=-1e6)
    rows = np.sort(np.unique(places, axis=0, return_index=True)[1])
    times, tracks = sample_queries(known[rows], "every")
    chosen = rows[tracks]
    return replace(
        truth,
        queries=queries_at(truth.points[chosen], times),
        points=truth.points[chosen],
        occluded=truth.occluded[chosen],
        evaluate=truth.evaluate[chosen],
    )
