from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError
from dino_tracker_ros.evaluation.truths.recorded_tracks import truth_of_tracks
from dino_tracker_ros.tracking.tracks import Tracks

STAMPS = np.arange(10, 60, 10, dtype=np.int64)


def run() -> Tracks:
    """Two points in three frames; the second was not tracked in the first of them."""
    points = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    points[1, 0] = np.nan
    return Tracks(
        queries=np.array([[0, 0, 1], [1, 8, 9]], np.float32),
        points=points,
        occluded=np.array([[0, 0, 1], [1, 0, 0]], bool),
        confidence=np.ones((2, 3), np.float32),
        stamps=np.array([20, 30, 50], np.int64),
        width=40,
        height=30,
    )


def test_a_run_is_believed_where_it_said_something(caplog):
    truth = truth_of_tracks(run(), STAMPS, 40, 30, "run")
    assert truth.has_occlusion and truth.mask_areas is None
    assert truth.queries.tolist() == [[1, 0, 1], [2, 8, 9]]
    assert truth.evaluate.astype(int).tolist() == [[0, 1, 1, 0, 1], [0, 0, 1, 0, 1]]
    assert truth.occluded.astype(int).tolist() == [[1, 0, 0, 1, 1], [1, 1, 0, 1, 0]]
    assert truth.points[0, [1, 2, 4]].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert "3 of 5 frames; 0 of its 2 tracks" in caplog.text


def test_the_same_frames_need_no_word(caplog):
    truth_of_tracks(run(), run().stamps, 40, 30, "run")
    assert not caplog.text


def test_tracks_that_start_elsewhere_are_left_out(caplog):
    truth = truth_of_tracks(run(), np.array([30, 50]), 40, 30, "run")
    assert truth.queries.tolist() == [[0, 8, 9]]
    assert "1 of its 2 tracks start in another frame" in caplog.text
    with pytest.raises(GroundTruthError, match="no track"):
        truth_of_tracks(run(), np.array([50]), 40, 30, "run")


def test_a_run_that_calls_nothing_occluded_leaves_occlusion_unknown():
    tracks = run()
    tracks.occluded[0, 2] = False
    assert not truth_of_tracks(tracks, STAMPS, 40, 30, "run").has_occlusion


def test_a_tracker_may_see_a_point_outside_the_picture():
    tracks = run()
    tracks.points[0, 1] = 100, 100
    truth_of_tracks(tracks, STAMPS, 40, 30, "run")


def test_another_recording_is_refused():
    with pytest.raises(GroundTruthError, match="none of the 3 stamps in 'run'"):
        truth_of_tracks(run(), STAMPS + 1, 40, 30, "run")
    with pytest.raises(GroundTruthError, match="images of 40x30 px, but the frames have 80x60"):
        truth_of_tracks(run(), STAMPS, 80, 60, "run")


def test_no_tracks_at_all():
    nothing = {name: getattr(run(), name)[:0] for name in ("queries", "points", "occluded")}
    with pytest.raises(GroundTruthError, match="no track"):
        truth_of_tracks(replace(run(), **nothing), STAMPS, 40, 30, "run")
