from __future__ import annotations

import numpy as np

from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.evaluation.truths.query_sampling import (
    asked_everywhere,
    queries_at,
    sample_queries,
)

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


def test_every_asks_for_every_visible_point_of_every_frame():
    times, tracks = sample_queries(VISIBLE, "every")
    assert set(zip(times, tracks)) == set(zip(*np.nonzero(VISIBLE.T)))


def test_nothing_visible_asks_for_nothing():
    for mode in ("strided", "first", "every"):
        assert [len(part) for part in sample_queries(VISIBLE[3:], mode)] == [0, 0]


def test_queries_are_where_the_track_is():
    points = np.arange(2 * 7 * 2, dtype=np.float32).reshape(2, 7, 2)
    assert queries_at(points, np.array([3, 0])).tolist() == [[3, 6, 7], [0, 14, 15]]


def test_asked_everywhere_asks_once_for_each_frame_that_shows_a_track():
    first, second = np.zeros((2, 4, 2), np.float32)
    first[:] = [[1, 1], [2, 2], [3, 3], [4, 4]]
    second[:] = [[5, 1], [np.nan, np.nan], [5, 3], [5, 4]]
    truth = GroundTruth(
        queries=np.array([[0, 1, 1], [2, 3, 3], [0, 5, 1]], np.float32),
        points=np.stack([first, first, second]),
        occluded=np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool),
        evaluate=np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]], bool),
        has_occlusion=True,
        width=8,
        height=8,
    )
    asked = asked_everywhere(truth)
    expected = [[0, 1, 1], [0, 5, 1], [2, 3, 3], [2, 5, 3], [3, 4, 4]]
    assert asked.queries.tolist() == expected
    np.testing.assert_array_equal(asked.points[0], first)
    np.testing.assert_array_equal(asked.points[1], second)
    assert asked.occluded.shape == asked.evaluate.shape == (5, 4)
    assert asked.evaluate[1].tolist() == [True, True, True, False]


def test_asked_everywhere_of_nothing_is_nothing():
    truth = GroundTruth(
        queries=np.zeros((0, 3), np.float32), points=np.zeros((0, 4, 2), np.float32),
        occluded=np.zeros((0, 4), bool), evaluate=np.zeros((0, 4), bool),
        has_occlusion=True, width=8, height=8,
    )  # fmt: skip
    assert asked_everywhere(truth).queries.shape == (0, 3)
