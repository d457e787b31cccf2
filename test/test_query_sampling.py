from __future__ import annotations

import numpy as np

from dino_tracker_ros.evaluation.truths.query_sampling import queries_at, sample_queries

VISIBLE = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0, 1],  # in no fifth frame
        [0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)


def test_strided_asks_for_every_visible_point_of_every_fifth_frame():
    times, tracks = sample_queries(VISIBLE, "strided")
    assert list(zip(times, tracks)) == [(0, 0), (5, 0), (5, 1)]


def test_first_asks_for_each_point_once():
    times, tracks = sample_queries(VISIBLE, "first")
    assert list(zip(times, tracks)) == [(0, 0), (2, 1), (1, 2)]


def test_nothing_visible_asks_for_nothing():
    for mode in ("strided", "first"):
        assert [len(part) for part in sample_queries(VISIBLE[3:], mode)] == [0, 0]


def test_queries_are_where_the_track_is():
    points = np.arange(2 * 7 * 2, dtype=np.float32).reshape(2, 7, 2)
    assert queries_at(points, np.array([3, 0])).tolist() == [[3, 6, 7], [0, 14, 15]]
