"""Points that live on from clip to clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dino_tracker_ros.tracking.identities import (
    CHANGED,
    SURE,
    as_queries,
    carried_over,
    no_points,
    with_new,
    worth_keeping,
)
from dino_tracker_ros.tracking.tracks import Tracks

STAMPS = np.arange(10, 16, dtype=np.int64)  # six frames


def places(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float32).reshape(-1, 2)


def tracks_of(
    points: np.ndarray, occluded: np.ndarray, confidence: np.ndarray | None = None, query: int = 0
) -> Tracks:
    count, length = occluded.shape
    return Tracks(
        queries=np.column_stack([np.full(count, query), points[:, query]]).astype(np.float32),
        points=points.astype(np.float32),
        occluded=occluded,
        confidence=np.full((count, length), 0.5, np.float32) if confidence is None else confidence,
        stamps=STAMPS[:length],
        width=100,
        height=50,
    )


def moving(start: tuple[float, float], velocity: tuple[float, float]) -> np.ndarray:
    """[1, 6, 2]"""
    return (np.array(start) + np.outer(np.arange(6), velocity))[None]


def test_new_points_get_new_ids() -> None:
    points = with_new(no_points(), places((1, 2), (3, 4)), stamp=10)
    points = with_new(points, places((5, 6)), stamp=11)
    assert points.ids.tolist() == [0, 1, 2]
    assert points.ids.dtype == np.uint32
    assert len(no_points(points.next_id)) == 0
    assert with_new(no_points(points.next_id), places((7, 8)), 12).ids.tolist() == [3]


def test_queries_are_asked_for_on_their_frames() -> None:
    points = with_new(no_points(), places((1, 2)), stamp=12)
    points = with_new(points, places((3, 4)), stamp=15)
    queries = as_queries(points, STAMPS)
    np.testing.assert_array_equal(queries, [[2, 1, 2], [5, 3, 4]])
    assert queries.dtype == np.float32


def test_a_point_whose_frame_is_gone_is_asked_for_at_its_last_place() -> None:
    points = with_new(no_points(), places((1, 2)), stamp=3)
    np.testing.assert_array_equal(as_queries(points, STAMPS), [[0, 1, 2]])


def test_a_point_lives_on_at_its_most_confident_visible_frame_of_the_overlap() -> None:
    points = with_new(no_points(), places((10, 10)), stamp=10)
    confidence = np.array([[1, 1, 0.9, 0.4, 0.8, 0.99]], np.float32)
    occluded = np.array([[0, 0, 0, 0, 0, 1]], bool)
    alive = carried_over(points, tracks_of(moving((10, 10), (2, 1)), occluded, confidence), 3)
    assert alive.ids.tolist() == [0]
    assert alive.stamps.tolist() == [14]
    np.testing.assert_array_equal(alive.places, [[18, 14]])
    np.testing.assert_array_equal(alive.current, [[20, 15]])


def test_a_point_hidden_in_the_overlap_is_asked_for_at_its_predicted_place() -> None:
    points = with_new(no_points(), places((10, 10)), stamp=10)
    confidence = np.array([[1, 1, 1, 0.1, 0.3, 0.2]], np.float32)
    occluded = np.array([[0, 0, 0, 1, 1, 1]], bool)
    alive = carried_over(points, tracks_of(moving((10, 10), (2, 1)), occluded, confidence), 3)
    assert alive.stamps.tolist() == [14]


def test_a_point_seen_on_its_querys_frame_only_dies() -> None:
    points = with_new(no_points(), places((10, 10), (20, 20)), stamp=12)
    both = np.concatenate([moving((10, 10), (0, 0)), moving((20, 20), (0, 0))])
    occluded = np.array([[1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 0]], bool)
    alive = carried_over(points, tracks_of(both, occluded, query=2), 3)
    assert alive.ids.tolist() == [1]
    assert alive.next_id == 2


def test_a_point_that_left_the_image_dies() -> None:
    points = with_new(no_points(), places((80, 10)), stamp=10)
    left = tracks_of(moving((80, 10), (10, 0)), np.zeros((1, 6), bool))  # out from frame 2 on
    assert len(carried_over(points, left, 3)) == 0


def test_a_point_that_leaves_within_the_overlap_is_asked_for_where_it_was_inside() -> None:
    points = with_new(no_points(), places((60, 10)), stamp=10)
    leaving = tracks_of(moving((60, 10), (10, 0)), np.zeros((1, 6), bool))  # out from frame 4 on
    alive = carried_over(points, leaving, 3)
    assert alive.stamps.tolist() == [13]
    np.testing.assert_array_equal(alive.places, [[90, 10]])


def test_an_overlap_longer_than_the_clip_is_the_clip() -> None:
    points = with_new(no_points(), places((10, 10)), stamp=10)
    alive = carried_over(points, tracks_of(moving((10, 10), (1, 1)), np.zeros((1, 6), bool)), 99)
    assert len(alive) == 1


def test_a_point_whose_frame_is_kept_is_asked_for_there_again() -> None:
    points = with_new(no_points(), places((10, 10), (15, 10)), stamp=10)
    points = with_new(points, places((20, 10)), stamp=11)
    points = with_new(points, places((30, 10)), stamp=14)
    ways = np.concatenate([moving((x, 10), (2, 1)) for x in (10, 15, 18, 22)])
    alive = carried_over(points, tracks_of(ways, np.zeros((4, 6), bool)), 3, keyframes=1)
    # The frame of the first two is kept, that of the last one stays in the clip.
    assert alive.stamps.tolist() == [10, 10, 13, 14]
    np.testing.assert_array_equal(alive.places, [[10, 10], [15, 10], [24, 13], [30, 10]])
    np.testing.assert_array_equal(alive.current, ways[:, -1])
    queries = as_queries(alive, STAMPS[3:], keyframes=[9, 10])
    np.testing.assert_array_equal(
        queries, [[-1, 10, 10], [-1, 15, 10], [0, 24, 13], [1, 30, 10]]
    )


def test_who_is_surely_seen_is_asked_for_anew_where_most_are() -> None:
    """The first is sure in frames 3 and 4, the second in 4 and 5, the third nowhere; the fourth's
    own frame is in the next clip."""
    points = with_new(no_points(), places((10, 10), (15, 10), (20, 10)), stamp=10)
    points = with_new(points, places((30, 10)), stamp=13)
    confidence = np.full((4, 6), 0.5, np.float32)
    confidence[0, 3:5] = confidence[1, 4:] = confidence[3, 3:] = SURE
    ways = np.concatenate([moving((x, 10), (2, 1)) for x in (10, 15, 20, 30)])
    tracks = tracks_of(ways, np.zeros((4, 6), bool), confidence)
    alive = carried_over(points, tracks, 3, keyframes=2)
    assert alive.stamps.tolist() == [14, 14, 10, 13]
    np.testing.assert_array_equal(alive.places[:2], ways[:2, 4])
    # Who is hidden is not sure, whatever the confidence.
    hidden = tracks_of(ways, np.ones((4, 6), bool), confidence)
    assert carried_over(points, hidden, 3, 2, patience=None).stamps.tolist() == [10, 10, 10, 13]


def test_who_looks_as_in_the_query_is_asked_for_there_again() -> None:
    """All are surely seen. The first looks as it did; the second has turned in frame 5, the third
    was not found there."""
    points = with_new(no_points(), places((10, 10), (15, 10), (20, 10)), stamp=10)
    ways = np.concatenate([moving((x, 10), (2, 1)) for x in (10, 15, 20)])
    deformed = np.full((3, 6), CHANGED - 0.01, np.float32)
    deformed[1, 5], deformed[2, 5] = CHANGED, np.inf
    sure = np.full((3, 6), SURE, np.float32)
    tracks = replace(tracks_of(ways, np.zeros((3, 6), bool), sure), deformed=deformed)
    alive = carried_over(points, tracks, 3, keyframes=1)
    assert alive.stamps.tolist() == [10, 15, 15]
    np.testing.assert_array_equal(alive.places, [[10, 10], *ways[1:, 5]])


def test_frames_that_most_points_are_asked_on_are_kept() -> None:
    points = with_new(no_points(), places((1, 1)), stamp=8)
    points = with_new(points, places((1, 1), (2, 2)), stamp=9)
    points = with_new(points, places((1, 1), (2, 2), (3, 3)), stamp=10)
    points = with_new(points, places((1, 1), (2, 2)), stamp=11)
    points = with_new(points, places((1, 1)), stamp=14)
    assert worth_keeping(points, oldest=14, most=9) == [8, 9, 10, 11]
    assert worth_keeping(points, oldest=14, most=2) == [10, 11]  # of as many points the newer one
    assert worth_keeping(points, oldest=14, most=0) == []
    assert worth_keeping(no_points(), oldest=14, most=3) == []
    assert worth_keeping(points, oldest=14, most=9, chosen=points.stamps != 9) == [8, 10, 11]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_point_that_is_not_seen_is_waited_for(patience: int) -> None:
    points = with_new(no_points(), places((10, 10)), stamp=10)
    seen, hidden = np.zeros((1, 6), bool), np.ones((1, 6), bool)
    way = moving((10, 70), (10, 0))  # outside the picture
    for _ in range(2):
        points = carried_over(points, tracks_of(moving((10, 10), (1, 0)), seen), 3, 1, patience)
        for _ in range(patience - 1):
            points = carried_over(points, tracks_of(way, hidden), 3, 1, patience)
            assert points.ids.tolist() == [0]
    assert len(carried_over(points, tracks_of(way, hidden), 3, 1, patience)) == 0


def test_nothing_dies_without_an_end_of_patience() -> None:
    points = with_new(no_points(), places((80, 10)), stamp=10)
    left = tracks_of(moving((80, 10), (10, 0)), np.zeros((1, 6), bool))  # out from frame 2 on
    alive = carried_over(points, left, 3, patience=None)
    np.testing.assert_array_equal(alive.places, [[99, 10]])  # at the border it left by


def test_no_points_stay_no_points() -> None:
    nothing = tracks_of(np.zeros((0, 6, 2)), np.zeros((0, 6), bool))
    assert len(carried_over(no_points(4), nothing, 3)) == 0


def test_a_point_keeps_its_id_and_its_way_through_many_overlapping_clips() -> None:
    """A perfect tracker, 4 frames new each clip: the ids and the positions go on without a jump."""
    start, velocity = np.array([5.0, 5.0]), np.array([0.5, 0.25])
    points = with_new(no_points(), start[None].astype(np.float32), stamp=0)
    for first in range(0, 40, 4):
        stamps = np.arange(first, first + 6, dtype=np.int64)
        queries = as_queries(points, stamps)
        frames = np.arange(6)[None, :, None] - queries[:, 0, None, None]
        tracks = Tracks(
            queries=queries,
            points=(queries[:, None, 1:] + frames * velocity).astype(np.float32),
            occluded=np.zeros((1, 6), bool),
            confidence=np.full((1, 6), 0.5, np.float32),
            stamps=stamps,
            width=100,
            height=50,
        )
        np.testing.assert_allclose(
            tracks.points[0], start + stamps[:, None] * velocity, rtol=1e-6, atol=1e-4
        )
        points = carried_over(points, tracks, overlap=2)
    assert points.ids.tolist() == [0]
