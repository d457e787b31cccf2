"""The made clip's known tracks, checked against its pixels and against its own geometry."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation.synthetic import (
    SyntheticClip,
    SyntheticError,
    make_clip,
    project,
    write_clip,
)
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    return make_clip(width=320, height=240, length=16, seed=3, tracks=90)


def own_homographies(clip: SyntheticClip, index: int) -> np.ndarray:
    return clip.foreground if clip.on_object[index] else clip.background


def test_same_arguments_make_the_same_clip(clip):
    again = make_clip(width=320, height=240, length=16, seed=3, tracks=90)
    np.testing.assert_array_equal(clip.frames[7].image, again.frames[7].image)
    np.testing.assert_array_equal(clip.truth.points, again.truth.points)
    other = make_clip(width=320, height=240, length=16, seed=4, tracks=90)
    assert (clip.frames[7].image != other.frames[7].image).any()


def test_tracks_pass_through_their_queries(clip):
    times = clip.truth.queries[:, 0].astype(int)
    rows = np.arange(len(times))
    np.testing.assert_allclose(clip.truth.points[rows, times], clip.truth.queries[:, 1:], atol=1e-3)
    assert not clip.truth.occluded[rows, times].any()
    assert clip.truth.evaluate[rows, times].all()


def test_tracks_return_through_the_inverse_homographies(clip):
    for index in range(0, len(clip.truth.queries), 7):
        motion = own_homographies(clip, index)
        on_photo = project(np.linalg.inv(motion), clip.truth.points[index].astype(float))
        assert np.ptp(on_photo, axis=0).max() < 1e-2


def test_pixels_follow_the_tracks(clip):
    """A patch of the query's frame, warped by the true motion, is found where the track says."""
    half, residuals = 7, []
    for index in range(0, len(clip.truth.queries), 3):
        t0 = int(clip.truth.queries[index, 0])
        motion = own_homographies(clip, index)
        for t in range(0, 16, 5):
            seen = clip.truth.evaluate[index, t] & ~clip.truth.occluded[index, t]
            if t == t0 or not seen:
                continue
            x, y = clip.truth.points[index, t]
            if not (16 < x < 304 and 16 < y < 224):
                continue
            # Both frames on the pixel grid of frame t.
            warped = cv2.warpPerspective(
                clip.frames[t0].image, motion[t] @ np.linalg.inv(motion[t0]), (320, 240)
            )
            before = cv2.cvtColor(warped, cv2.COLOR_RGB2GRAY)
            now = cv2.cvtColor(clip.frames[t].image, cv2.COLOR_RGB2GRAY)
            cx, cy = round(float(x)), round(float(y))
            patch = before[cy - half : cy + half + 1, cx - half : cx + half + 1]
            around = now[cy - half - 4 : cy + half + 5, cx - half - 4 : cx + half + 5]
            match = cv2.matchTemplate(around, patch, cv2.TM_CCOEFF_NORMED)
            _, best, _, place = cv2.minMaxLoc(match)
            if best > 0.8:  # else the neighbourhood lies on both layers
                residuals.append(np.hypot(place[0] - 4, place[1] - 4))
    assert len(residuals) > 30
    assert np.median(residuals) == 0
    assert np.quantile(residuals, 0.9) <= 1.5


def test_object_hides_background_points_and_lets_them_return(clip):
    hidden = clip.truth.occluded
    points = clip.truth.points
    beyond = ((points < -0.5) | (points > np.array([320, 240]) - 0.5)).any(axis=-1)
    behind = hidden & ~beyond
    assert behind.sum() > 20
    assert not behind[clip.on_object].any()
    returns = (hidden[:, :-1] & ~hidden[:, 1:]).any(axis=1)
    assert returns.sum() >= 5
    # Counted again by the ellipse itself.
    for index, t in np.argwhere(~clip.on_object[:, None] & ~beyond & clip.truth.evaluate):
        unit = project(np.linalg.inv(clip.foreground[t]), points[index, t].astype(float))
        inside = np.hypot(*(unit / np.array(clip.semi_axes))) < 1
        assert inside == hidden[index, t]


def test_soft_edge_is_not_scored(clip):
    points, skipped = clip.truth.points, ~clip.truth.evaluate
    assert 0 < skipped.sum() < 0.05 * skipped.size
    for index, t in np.argwhere(skipped):
        unit = project(np.linalg.inv(clip.foreground[t]), points[index, t].astype(float))
        assert abs(np.hypot(*(unit / np.array(clip.semi_axes))) - 1) < 0.1


def test_light_changes_and_frames_are_noisy(clip):
    means = [frame.image.mean() for frame in clip.frames]
    assert max(means) / min(means) > 1.1
    assert all(frame.image.dtype == np.uint8 for frame in clip.frames)
    assert all(b.stamp > a.stamp for a, b in zip(clip.frames, clip.frames[1:]))


@pytest.mark.parametrize(("width", "height", "length"), [(90, 160, 2), (201, 67, 3), (128, 128, 5)])
def test_any_size_and_length(width, height, length):
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    clip = make_clip(width=width, height=height, length=length, seed=1, tracks=20)
    assert len(clip.frames) == length
    assert clip.frames[0].image.shape == (height, width, 3)
    assert len(clip.truth.queries) > 0
    # No frame looks past the photograph's border.
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    seen = project(np.linalg.inv(clip.background)[:, None], corners[None])
    limit = [round(width * 1.5) - 1, round(height * 1.5) - 1]
    assert (seen >= 0).all() and (seen <= limit).all()


def test_own_photographs_and_progress():
    random = np.random.default_rng(0)
    noise = [cv2.resize(random.integers(0, 255, (40, 50, 3), np.uint8), (400, 300)) for _ in "ab"]
    steps = []
    make_clip(96, 80, 3, photos=(noise[0], noise[1]), progress=lambda *s: steps.append(s))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    flat = np.full((100, 100, 3), 128, np.uint8)
    with pytest.raises(SyntheticError, match="at least 2 frames"):
        make_clip(96, 80, 1, photos=(flat, flat))
    with pytest.raises(SyntheticError, match="64x64"):
        make_clip(40, 80, 3, photos=(flat, flat))


def test_written_clip_reads_back(clip, tmp_path):
    write_clip(clip, tmp_path / "made")
    back = load_clip_folder(tmp_path / "made")
    np.testing.assert_array_equal(back.truth.points, clip.truth.points)
    np.testing.assert_array_equal(back.truth.queries, clip.truth.queries)
    np.testing.assert_array_equal(back.truth.occluded, clip.truth.occluded)
    assert back.truth.has_occlusion
    np.testing.assert_array_equal(back.frames[5].image, clip.frames[5].image)
