from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization import video as video_module
from dino_tracker_ros.visualization.output import OutputError, atomic_output, check_output
from dino_tracker_ros.visualization.overlay import (
    draw_overlay,
    draw_points,
    id_colours,
    montage,
    place_colours,
)
from dino_tracker_ros.visualization.pictures import write_overlay, write_sheet
from dino_tracker_ros.visualization.video import (
    FolderFrames,
    VideoError,
    VideoFrames,
    open_frames,
    write_video,
)

WIDTH, HEIGHT, T = 160, 120, 8


def make_tracks(occluded: bool = False) -> Tracks:
    x = np.linspace(30, 100, T)
    points = np.stack([np.stack([x, np.full(T, 40)], 1), np.stack([np.full(T, 120), x], 1)]).astype(
        np.float32
    )
    return Tracks(
        queries=np.array([[0, 30, 40], [0, 120, 30]], np.float32),
        points=points,
        occluded=np.full((2, T), occluded),
        confidence=np.ones((2, T), np.float32),
        stamps=np.arange(T) * 100_000_000,
        width=WIDTH,
        height=HEIGHT,
    )


def grey(value: int = 128) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def test_colours_belong_to_ids_and_differ():
    colours = id_colours(range(64))
    np.testing.assert_array_equal(id_colours([5, 63]), colours[[5, 63]])
    assert len({tuple(c) for c in colours.tolist()}) == 64
    hues = np.array([colorsys.rgb_to_hsv(*(c / 255))[0] for c in colours])
    apart = np.abs(np.diff(hues))
    assert np.minimum(apart, 1 - apart).min() > 0.2
    assert colours.max(axis=1).min() == 255  # bright, so that the dark rim makes a contrast
    assert id_colours([]).shape == (0, 3)


def test_colours_by_place_are_alike_among_neighbours():
    left, beside, right = place_colours(
        np.array([[0, 10, 50], [3, 14, 50], [0, 150, 50]], np.float32), WIDTH, HEIGHT
    ).astype(int)
    assert np.abs(left - beside).max() < 40
    assert np.abs(left - right).max() > 150
    assert place_colours(np.empty((0, 3), np.float32), WIDTH, HEIGHT).shape == (0, 3)


def test_visible_points_are_filled_and_hidden_ones_hollow():
    colours = id_colours([7, 3])
    seen = draw_overlay(grey(), make_tracks(), 0, ids=[7, 3])
    np.testing.assert_allclose(seen[40, 30], colours[0], atol=2)
    np.testing.assert_allclose(seen[30, 120], colours[1], atol=2)
    hidden = draw_overlay(grey(), make_tracks(occluded=True), 0)
    np.testing.assert_array_equal(hidden[40, 30], [128, 128, 128])
    assert (hidden[36:45, 26:35] != 128).any()


def test_original_is_not_drawn_into():
    image = grey()
    draw_overlay(image, make_tracks(), 5)
    assert (image == 128).all()


def test_trails_fade_with_age_and_stop_where_hidden():
    x = make_tracks().points[0, :, 0]
    drawn = draw_overlay(grey(0), make_tracks(), T - 1, trail=T).astype(int)
    middles = [drawn[40, round(float(x[t] + x[t + 1]) / 2)].max() for t in range(T - 2)]
    assert middles == sorted(middles) and middles[0] < middles[-1] / 2
    hidden = draw_overlay(grey(0), make_tracks(occluded=True), T - 1, trail=T)
    assert hidden[40, 40].max() == 0
    short = draw_overlay(grey(0), make_tracks(), T - 1, trail=2)
    assert short[40, 40].max() == 0


def test_points_outside_or_not_finite_do_no_harm():
    image = grey()
    points = np.array([[np.nan, 4], [1e9, -1e9], [np.inf, 3], [-5, 60]], np.float32)
    draw_points(image, points, np.array([False, True, False, True]), id_colours(range(4)), 3)
    assert (image == 128).all() or (image[50:70, :5] != 128).any()
    tracks = make_tracks()
    tracks.points[:, 3] = np.nan
    assert draw_overlay(grey(), tracks, 5).shape == (HEIGHT, WIDTH, 3)


def test_montage_holds_every_picture():
    images = [grey(v) for v in (10, 90, 170)]
    sheet = montage(images, ["a", "b", "c"], columns=2)
    assert sheet.ndim == 3 and sheet.dtype == np.uint8
    for value in (10, 90, 170):
        assert (sheet == value).all(axis=-1).sum() >= HEIGHT * WIDTH


def moving_images(count: int = 12) -> list[np.ndarray]:
    images = []
    for t in range(count):
        image = grey(40)
        cv2.circle(image, (20 + 8 * t, 60), 12, (250, 60, 20), -1)
        images.append(image)
    return images


@pytest.mark.parametrize("encoder", ["ffmpeg", "opencv"])
def test_written_video_reads_back(tmp_path, monkeypatch, encoder):
    if encoder == "opencv":
        monkeypatch.setattr(video_module, "find_ffmpeg", lambda: None)
    elif video_module.find_ffmpeg() is None:
        pytest.skip("neither ffmpeg nor imageio-ffmpeg is installed")
    path = tmp_path / "clip.mp4"
    images = moving_images()
    assert write_video(path, iter(images), rate=10) == 12
    frames = VideoFrames(path)
    assert len(frames) == 12
    assert [frame.stamp for frame in frames] == [t * 100_000_000 for t in range(12)]
    for t in (0, 11, 3, 4):  # forward, far back, on
        difference = np.abs(frames[t].image.astype(int) - images[t]).mean()
        assert difference < 4, f"frame {t}"
    part = VideoFrames(path, start=5, count=3)
    assert [frame.stamp for frame in part] == [500_000_000, 600_000_000, 700_000_000]
    assert np.abs(part[0].image.astype(int) - images[5]).mean() < 4
    assert list(tmp_path.iterdir()) == [path]


def test_odd_sizes_can_be_written(tmp_path):
    write_video(tmp_path / "odd.mp4", [np.zeros((61, 43, 3), np.uint8)] * 3, rate=10)
    assert len(VideoFrames(tmp_path / "odd.mp4")) == 3


@pytest.mark.parametrize("encoder", ["ffmpeg", "opencv"])
def test_failed_video_leaves_nothing(tmp_path, monkeypatch, encoder):
    if encoder == "opencv":
        monkeypatch.setattr(video_module, "find_ffmpeg", lambda: None)
    elif video_module.find_ffmpeg() is None:
        pytest.skip("neither ffmpeg nor imageio-ffmpeg is installed")
    images = [*moving_images(3), np.zeros((5, 5, 3), np.uint8)]
    with pytest.raises(VideoError, match="this video holds"):
        write_video(tmp_path / "clip.mp4", images, rate=10)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_input(tmp_path):
    with pytest.raises(VideoError, match="no video or folder"):
        open_frames(tmp_path / "none.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError, match="not a video"):
        open_frames(tmp_path / "bad.mp4")
    with pytest.raises(VideoError, match="no picture"):
        open_frames(tmp_path / ".")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"not a picture")
    with pytest.raises(VideoError, match="cannot be decoded"):
        _ = open_frames(folder)[0]


def test_folder_frames_have_stamps_from_the_rate(tmp_path):
    for t, image in enumerate(moving_images(5)):
        cv2.imwrite(str(tmp_path / f"{t:03d}.png"), image[..., ::-1])
    frames = FolderFrames(tmp_path, rate=20, start=1, count=3)
    assert [frame.stamp for frame in frames] == [50_000_000, 100_000_000, 150_000_000]
    np.testing.assert_array_equal(frames[-1].image, moving_images(5)[3])
    assert len(frames[1:]) == 2
    with pytest.raises(IndexError):
        frames[3]
    with pytest.raises(VideoError, match=r"start is frame 5.*0\.\.4"):
        FolderFrames(tmp_path, start=5)


def test_outputs_are_whole_or_absent_and_never_replaced_unasked(tmp_path):
    path = tmp_path / "new" / "a.txt"

    def fail_halfway() -> None:
        with atomic_output(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert list(path.parent.iterdir()) == []
    with atomic_output(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(OutputError, match="exists"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="cannot be made"):
        check_output(path / "below" / "b.txt", overwrite=False)


def test_overlay_video_and_sheet(tmp_path):
    frames = [Frame(image, t * 100_000_000) for t, image in enumerate(moving_images(T))]
    steps = []
    write_overlay(
        tmp_path / "o.mp4", frames, make_tracks(), 10, progress=lambda *s: steps.append(s)
    )
    assert steps[-1] == (T, T)
    assert len(VideoFrames(tmp_path / "o.mp4")) == T
    write_sheet(tmp_path / "o.png", frames, make_tracks())
    sheet = cv2.imread(str(tmp_path / "o.png"))
    assert sheet.shape[0] > 3 * HEIGHT and sheet.shape[1] > 3 * WIDTH
