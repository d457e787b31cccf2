"""Pictures of the worst tracks: which they are, what they show."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from known_result import FRAMES, HEIGHT, WIDTH, known_clip, off_by
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.report.strips import (
    clip_pictures,
    distances,
    sheet_frames,
    sheet_name,
    strip_name,
    worst_tracks,
)
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth


def picture(data: bytes) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def magenta(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean (x, y) of the pixels in the predictions' colour; NaN of none."""
    away = np.abs(image.astype(int) - (255, 80, 220)).max(axis=-1)
    y, x = np.nonzero(away < 40)
    return np.array([x.mean(), y.mean()]) if len(x) > 15 else np.full(2, np.nan)


@pytest.fixture
def truth() -> GroundTruth:
    return known_clip().truth


def test_the_worst_are_those_with_the_largest_mean_error(truth: GroundTruth) -> None:
    errors = np.zeros((14, FRAMES))
    errors[:, 1:] = np.arange(14)[:, None]
    errors[13, 0] = 13  # asked for later
    errors[3, 9] = 200  # once, but far
    worst = worst_tracks(off_by(truth, errors), truth, "strided")
    assert [track.index for track in worst] == [3, 13, 12, 11, 10, 9, 8, 7, 6, 5]
    # Of frames 1 to 11 three are hidden: eight count.
    assert worst[0].error == pytest.approx((7 * 3 + 200) / 8, rel=1e-5)
    assert worst[1].error == pytest.approx(13, rel=1e-5)


def test_hidden_frames_and_the_querys_own_do_not_make_a_track_bad(truth: GroundTruth) -> None:
    errors = np.zeros((14, FRAMES))
    errors[2, 5:8] = 100  # hidden there
    errors[4, 0] = 100  # asked for there
    errors[6, 1] = 8
    worst = worst_tracks(off_by(truth, errors), truth, "strided")
    assert worst[0].index == 6
    assert worst[1].error == pytest.approx(0, abs=1e-4)


def test_mode_first_leaves_out_what_comes_before_the_query(truth: GroundTruth) -> None:
    errors = np.zeros((14, FRAMES))
    errors[13, :6] = 50  # asked for in frame 6
    tracks = off_by(truth, errors)
    assert worst_tracks(tracks, truth, "strided")[0].error > 20
    assert worst_tracks(tracks, truth, "first")[0].error == pytest.approx(0, abs=1e-4)


def test_a_strip_shows_the_query_and_the_worst_frame_among_six_to_eight(
    truth: GroundTruth,
) -> None:
    errors = np.zeros((14, FRAMES))
    errors[13, 3] = 60
    worst = worst_tracks(off_by(truth, errors), truth, "strided")[0]
    assert worst.index == 13
    assert {3, 6} <= set(worst.frames)
    assert list(worst.frames) == sorted(set(worst.frames))
    assert 6 <= len(worst.frames) <= 8


def test_distances_are_known_only_where_the_truth_is_visible(truth: GroundTruth) -> None:
    found = distances(off_by(truth, np.full((14, FRAMES), 2.5)), truth)
    np.testing.assert_array_equal(np.isnan(found), truth.occluded)
    np.testing.assert_allclose(found[~truth.occluded], 2.5, rtol=1e-5)


def test_pictures_are_those_that_the_report_asks_for() -> None:
    clip = known_clip()
    tracks = off_by(clip.truth, np.full((14, FRAMES), 3.0))
    pictures = clip_pictures(clip, tracks)
    expected = {
        strip_name(track.index, frame)
        for track in worst_tracks(tracks, clip.truth, "strided")
        for frame in track.frames
    }
    for frame in sheet_frames(clip.truth):
        expected |= {sheet_name("truth", frame), sheet_name("tracks", frame)}
    assert set(pictures) == expected
    for name, data in pictures.items():
        shape = (160, 160, 3) if name.startswith("track-") else (HEIGHT, WIDTH, 3)
        assert picture(data).shape == shape


def test_a_crop_shows_the_prediction_where_it_is_from_the_truth() -> None:
    clip = known_clip()
    plain = [
        dataclasses.replace(frame, image=np.full_like(frame.image, 90)) for frame in clip.frames
    ]
    clip = dataclasses.replace(clip, frames=plain)
    errors = np.zeros((14, FRAMES))
    errors[10, 1:] = 24.0  # straight below
    tracks = off_by(clip.truth, errors)
    worst = worst_tracks(tracks, clip.truth, "strided")[0]
    assert worst.index == 10
    crop = picture(clip_pictures(clip, tracks)[strip_name(10, 11)])
    # Both lie around the crop's middle, the prediction 12 px of the image below it; of the
    # coloured pixels the line's, which reach up to the truth, are the fewer.
    x, y = magenta(crop)
    assert x == pytest.approx(80, abs=4)
    assert y == pytest.approx(80 + 12 * 160 / worst.side, abs=10)


def test_a_point_that_left_the_picture_or_is_no_number_is_no_trouble() -> None:
    clip = known_clip()
    errors = np.full((14, FRAMES), 3.0)
    errors[1] = 1e6
    tracks = off_by(clip.truth, errors)
    tracks.points[2, 4] = np.nan
    tracks.points[2, 9:] = np.inf
    pictures = clip_pictures(clip, tracks)
    assert all(len(data) for data in pictures.values())
    assert worst_tracks(tracks, clip.truth, "strided")[0].index == 1


def test_without_labels_or_tracks_there_are_no_pictures() -> None:
    clip = known_clip()
    nowhere = dataclasses.replace(clip.truth, evaluate=np.zeros((14, FRAMES), bool))
    tracks = off_by(clip.truth, np.zeros((14, FRAMES)))
    assert clip_pictures(dataclasses.replace(clip, truth=nowhere), tracks) == {}
    none = known_clip(tracks=14).truth
    empty = dataclasses.replace(
        none, queries=none.queries[:0], points=none.points[:0], occluded=none.occluded[:0],
        evaluate=none.evaluate[:0],
    )  # fmt: skip
    tracks = off_by(empty, np.zeros((0, FRAMES)))
    assert clip_pictures(dataclasses.replace(clip, truth=empty), tracks) == {}
