"""The command line: outputs whole or absent, errors one line, every setting reachable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from dino_tracker_ros import cli
from dino_tracker_ros.evaluation import baselines, offline
from dino_tracker_ros.evaluation.npz_file import NpzError
from dino_tracker_ros.evaluation.offline import clip_bounds, track_frames
from dino_tracker_ros.evaluation.tracks_file import TracksFileError, load_tracks
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError, QueryError
from dino_tracker_ros.tracking.optimizer import FitProgress
from dino_tracker_ros.tracking.settings import PRESETS, Settings, describe, preset, with_values
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import VideoFrames, write_video

WIDTH, HEIGHT, T = 96, 64, 10
SPEED = 2.0  # px per frame, to the right


def moving_frame(index: int) -> Frame:
    """A texture that moves to the right; the frame's number is in its first pixel."""
    texture = np.random.default_rng(0).integers(0, 255, (HEIGHT, 2 * WIDTH, 3), np.uint8)
    shift = WIDTH - round(SPEED * index)
    image = np.ascontiguousarray(texture[:, shift : shift + WIDTH])
    image[0, 0] = index
    return Frame(image, index * 100_000_000)


class FakeTracker:
    """Knows the motion; a point is visible inside the image. Records what it is asked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.calls: list[tuple[str, object]] = []
        self.frames: list[Frame] = []
        self.kept: list[Frame] = []

    @property
    def keyframes(self) -> list[int]:
        return [frame.stamp for frame in self.kept]

    def observe(self, frame: Frame) -> None:
        assert not self.frames or frame.stamp > self.frames[-1].stamp
        self.frames.append(frame)
        self.calls.append(("observe", int(frame.image[0, 0, 0])))

    def fit(self, progress=None) -> None:
        self.calls.append(("fit", [int(frame.image[0, 0, 0]) for frame in self.frames]))
        if progress is not None:
            progress(FitProgress(1, 1, 0.1, {}))

    def track(self, queries: np.ndarray) -> Tracks:
        self.calls.append(("track", len(queries)))
        if ((queries[:, 0] < -len(self.kept)) | (queries[:, 0] >= len(self.frames))).any():
            raise QueryError("query outside the clip")
        times, kept = (
            np.array([int(frame.image[0, 0, 0]) for frame in frames], int)
            for frames in (self.frames, self.kept)
        )
        asked = np.concatenate([times, kept])[queries[:, 0].astype(int)]  # kept ones end the list
        x = queries[:, 1:2] + SPEED * (times - asked[:, None])
        points = np.stack([x, np.repeat(queries[:, 2:], len(times), 1)], axis=-1)
        outside = (x < -0.5) | (x > WIDTH - 0.5)
        confidence = np.where(outside, 0.1, 0.9).astype(np.float32)
        stamps = np.array([frame.stamp for frame in self.frames], np.int64)
        return Tracks(
            queries.astype(np.float32), points.astype(np.float32), outside, confidence, stamps,
            WIDTH, HEIGHT,
        )  # fmt: skip

    def forget(self, frames: int, keep: Collection[int] = ()) -> None:
        self.calls.append(("forget", frames))
        gone = [*self.kept, *self.frames[:frames]]
        self.kept = [frame for frame in gone if frame.stamp in keep]
        del self.frames[:frames]

    def reset(self) -> None:
        self.calls.append(("reset", None))
        self.frames.clear()
        self.kept.clear()


@pytest.fixture
def fake(monkeypatch) -> list[FakeTracker]:
    """DinoTracker replaced where the offline loop makes it; the list fills with those made."""
    made: list[FakeTracker] = []

    def make(settings: Settings) -> FakeTracker:
        made.append(FakeTracker(settings))
        return made[-1]

    monkeypatch.setattr(offline, "DinoTracker", make)
    return made


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(T):
        cv2.imwrite(str(folder / f"{index:04d}.png"), moving_frame(index).image[..., ::-1])
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse's own errors
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# the offline loop ----------------------------------------------------------------------------


def clip_settings(length: int, overlap: int) -> Settings:
    return with_values(Settings(), {"clip.length": length, "clip.overlap": overlap})


@pytest.mark.parametrize("count", [2, 5, 6, 7, 9, 10, 11, 23])
@pytest.mark.parametrize(("length", "overlap"), [(6, 2), (6, 5), (2, 1)])
def test_clips_cover_all_frames_and_overlap(count, length, overlap):
    bounds = clip_bounds(count, length, overlap)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    for (start, end), (next_start, next_end) in pairwise(bounds):
        assert end - next_start == overlap
        assert next_end > end
        assert end - start == length


def test_short_sequence_is_one_clip():
    tracker = FakeTracker(Settings())
    frames = [moving_frame(t) for t in range(6)]
    queries = np.array([[0, 10, 5], [4, 30, 20]], np.float32)
    tracks = track_frames(frames, queries, clip_settings(6, 2), tracker=tracker)
    fits = [what for name, what in tracker.calls if name == "fit"]
    assert fits == [[0, 1, 2, 3, 4, 5]]
    assert tracks.points.shape == (2, 6, 2)
    np.testing.assert_array_equal(tracks.stamps, [frame.stamp for frame in frames])
    assert (tracks.width, tracks.height) == (WIDTH, HEIGHT)


def test_long_sequence_slides_on_and_goes_back_for_late_queries():
    tracker = FakeTracker(Settings())
    frames = [moving_frame(t) for t in range(11)]
    queries = np.array([[0, 10, 5], [5, 40, 9], [10, 60, 20], [7, 50, 30]], np.float32)
    tracks = track_frames(frames, queries, clip_settings(5, 2), tracker=tracker)
    expected = queries[:, 1:2] + SPEED * (np.arange(11) - queries[:, :1])
    np.testing.assert_allclose(tracks.points[..., 0], expected, atol=1e-4)
    np.testing.assert_allclose(tracks.points[..., 1], queries[:, 2:].repeat(11, 1))
    assert not tracks.occluded.any()
    fits = [what for name, what in tracker.calls if name == "fit"]
    assert fits == [
        [0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10],  # forward
        [10, 9, 8, 7, 6], [7, 6, 5, 4, 3], [4, 3, 2, 1, 0],  # back
    ]  # fmt: skip
    assert [what for name, what in tracker.calls if name == "forget"] == [3, 3, 3, 3]


class ClipNumbering(FakeTracker):
    """As confidence it tells the first frame of the clip that it has, in hundredths."""

    def track(self, queries: np.ndarray) -> Tracks:
        tracks = super().track(queries)
        first = int(self.frames[0].image[0, 0, 0])
        return replace(tracks, confidence=np.full_like(tracks.confidence, first / 100))


def test_of_shared_frames_the_later_clip_is_believed_as_in_the_node():
    frames = [moving_frame(t) for t in range(11)]
    queries = np.array([[0, 10, 5], [4, 30, 9], [5, 40, 9], [10, 60, 20]], np.float32)
    tracker = ClipNumbering(Settings())
    tracks = track_frames(frames, queries, clip_settings(5, 2), tracker=tracker)
    forward = [0, 0, 0, 3, 3, 3, 6, 6, 6, 6, 6]
    asked_in_first = [0, 0, 0, 3, 0, 3, 6, 6, 6, 6, 6]  # where it was asked for it stays
    back_to_second = [4, 4, 4, *forward[3:]]  # back in time the later clip is the one before
    back_to_third = [4, 4, 4, 4, 4, 7, *forward[6:]]
    np.testing.assert_array_equal(
        np.rint(100 * tracks.confidence), [forward, asked_in_first, back_to_second, back_to_third]
    )


def test_no_second_pass_where_all_queries_start_in_the_first_clip():
    tracker = FakeTracker(Settings())
    frames = [moving_frame(t) for t in range(11)]
    queries = np.array([[0, 10, 5], [4, 30, 9]], np.float32)
    track_frames(frames, queries, clip_settings(5, 2), tracker=tracker)
    assert sum(name == "observe" for name, _ in tracker.calls) == 11


def test_point_that_left_the_image_stays_occluded_in_later_clips():
    frames = [moving_frame(t) for t in range(11)]
    queries = np.array([[0, 90, 5]], np.float32)
    tracks = track_frames(frames, queries, clip_settings(5, 2), tracker=FakeTracker(Settings()))
    assert tracks.occluded[0].tolist() == [False] * 3 + [True] * 2 + tracks.occluded[0, 5:].tolist()
    assert tracks.occluded[0, 5:].all()


def test_progress_counts_every_frame():
    seen: dict[str, tuple[int, int]] = {}
    track_frames(
        [moving_frame(t) for t in range(8)], np.array([[0, 10, 5]], np.float32),
        clip_settings(5, 2), lambda stage, done, total: seen.update({stage: (done, total)}),
        FakeTracker(Settings()),
    )  # fmt: skip
    assert seen["features and flow (clip 1 of 2)"] == (5, 5)
    assert seen["features and flow (clip 2 of 2)"] == (3, 3)
    assert seen["optimizing (clip 2 of 2)"] == (1, 1)


def test_offline_refuses_too_little():
    queries = np.array([[0, 10, 5]], np.float32)
    with pytest.raises(ClipError, match="1 frames"):
        track_frames([moving_frame(0)], queries, Settings(), tracker=FakeTracker(Settings()))
    with pytest.raises(QueryError, match=r"query 1 is at frame 3: the frames are 0\.\.2"):
        track_frames(
            [moving_frame(t) for t in range(3)], np.array([[0, 1, 1], [3, 1, 1]], np.float32),
            Settings(), tracker=FakeTracker(Settings()),
        )  # fmt: skip


# the trackers to compare with ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["lucas_kanade", "chained_flow"])
def test_baselines_follow_a_known_shift_both_ways(method):
    texture = cv2.GaussianBlur(
        np.random.default_rng(1).integers(0, 255, (120, 240, 3), np.uint8), (0, 0), 2
    )
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    frames = [
        Frame(np.ascontiguousarray(texture[:, 60 - 2 * t : 220 - 2 * t]), t) for t in range(8)
    ]
    queries = np.array([[0, 60, 60], [4, 80, 50], [7, 90, 70]], np.float32)
    if method == "lucas_kanade":
        tracks = baselines.track_lucas_kanade(frames, queries)
    else:
        settings = with_values(
            preset("cpu"), {"flow.method": "raft_large", "clip.longest_side": 0}
        )
        tracks = baselines.track_chained_flow(frames, queries, settings, method="dis")
    expected = queries[:, 1:2] + 2 * (np.arange(8) - queries[:, :1])
    assert np.abs(tracks.points[..., 0] - expected).max() < 0.5
    assert np.abs(tracks.points[..., 1] - queries[:, 2:]).max() < 0.5
    assert not tracks.occluded.any()


def test_baseline_flags_points_that_leave():
    frames = [moving_frame(t) for t in range(6)]
    queries = np.array([[0, 92, 30]], np.float32)
    assert baselines.track_lucas_kanade(frames, queries).occluded[0, 3:].all()


def test_static_baseline_stays():
    queries = np.array([[2, 5, 6]], np.float32)
    tracks = baselines.track_static([moving_frame(t) for t in range(4)], queries)
    assert tracks.points[0].tolist() == [[5, 6]] * 4
    assert not tracks.occluded.any()


def test_raw_dino_finds_a_shifted_photograph(weights_cache, photo):
    settings = with_values(preset("cpu"), {"clip.longest_side": 0, "backbone.stride": 14})
    crops = [np.ascontiguousarray(photo[100:324, 100 + s : 338 + s]) for s in (0, 14, 28)]
    frames = [Frame(crop, t) for t, crop in enumerate(crops)]
    queries = np.array([[0, 150, 100], [2, 60, 150], [1, 120, 60]], np.float32)
    tracks = baselines.track_raw_dino(frames, queries, settings, block=8)
    expected = queries[:, 1:2] - 14 * (np.arange(3) - queries[:, :1])
    error = np.hypot(tracks.points[..., 0] - expected, tracks.points[..., 1] - queries[:, 2:])
    assert np.median(error) < 7


# track ---------------------------------------------------------------------------------------


def test_track_writes_tracks_overlay_and_sheet(capsys, fake, pictures, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run(
        capsys, "track", pictures, "--out", out / "t.npz", "--overlay", out / "t.mp4",
        "--sheet", out / "t.png", "--grid-spacing", 16, "--preset", "cpu", "--rate", 10,
        "--set", "optimizer.iterations=7", "--set", "head.radius=12.5",
    )  # fmt: skip
    assert code == 0
    assert "24 points through 10 frames" in text
    settings = fake[0].settings
    assert settings.optimizer.iterations == 7
    assert settings.head.radius == 12.5
    with np.load(out / "t.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {
            "queries", "points", "occluded", "confidence", "stamps", "width", "height", "settings",
        }  # fmt: skip
        assert archive["points"].shape == (24, T, 2)
        assert archive["points"].dtype == np.float32
        assert archive["stamps"].tolist() == [t * 100_000_000 for t in range(T)]
        stored = json.loads(str(archive["settings"]))
    assert stored == {info.name: info.value for info in describe(settings)}
    back = load_tracks(out / "t.npz")
    assert (back.width, back.height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(
        back.points[..., 0], back.queries[:, 1:2] + SPEED * np.arange(T), atol=1e-4
    )
    assert len(VideoFrames(out / "t.mp4")) == T
    assert cv2.imread(str(out / "t.png")) is not None
    assert len(list(out.iterdir())) == 3


@pytest.mark.parametrize("kind", ["csv", "csv with header", "npz"])
def test_queries_from_files(capsys, fake, pictures, tmp_path, kind):
    values = np.array([[0, 10.5, 20], [3, 30, 40]], np.float32)
    if kind == "npz":
        path = tmp_path / "q.npz"
        np.savez(path, queries=values)
    else:
        path = tmp_path / "q.csv"
        head = "t,x,y\n# by hand\n" if "header" in kind else ""
        path.write_text(head + "0,10.5,20\n3,30,40\n")
    code, _, _ = run(
        capsys, "track", pictures, "--queries", path, "--out", tmp_path / "t.npz",
        "--start", 2, "--frames", 5,
    )  # fmt: skip
    assert code == 0
    tracks = load_tracks(tmp_path / "t.npz")
    np.testing.assert_array_equal(tracks.queries, values)
    assert tracks.points.shape == (2, 5, 2)
    assert [what for name, what in fake[0].calls if name == "observe"] == [2, 3, 4, 5, 6]


def test_video_input(capsys, fake, tmp_path):
    video = tmp_path / "in.mp4"
    write_video(video, [moving_frame(t).image for t in range(6)], rate=20)
    code, _, _ = run(capsys, "track", video, "--out", tmp_path / "t.npz")
    assert code == 0
    assert load_tracks(tmp_path / "t.npz").stamps.tolist() == [t * 50_000_000 for t in range(6)]


def failures(tmp_path: Path, pictures: Path) -> dict[str, tuple[list[object], str]]:
    out = ["--out", tmp_path / "t.npz"]
    existing = tmp_path / "old.npz"
    existing.write_text("precious")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.csv").write_text("0,1\n")
    (tmp_path / "words.csv").write_text("a,b,c\n")
    (tmp_path / "late.csv").write_text("40,1,1\n")
    return {
        "missing input": (["track", tmp_path / "no.mp4", *out], "no video or folder"),
        "undecodable": (["track", tmp_path / "bad.mp4", *out], "not a video"),
        "no output": (["track", pictures], "nothing to write"),
        "exists": (["track", pictures, "--out", existing], "exists"),
        "wrong suffix": (["track", pictures, "--overlay", tmp_path / "a.gif"], "end in .mp4"),
        "unknown setting": (
            ["track", pictures, *out, "--set", "optimizer.iteration=3"],
            "did you mean 'optimizer.iterations'",
        ),
        "bad value": (["track", pictures, *out, "--set", "clip.length=1"], "allowed is 2..1000"),
        "no value": (["track", pictures, *out, "--set", "clip.length"], "write NAME=VALUE"),
        "bad preset": (["track", pictures, *out, "--preset", "fast"], "invalid choice: 'fast'"),
        "no query file": (["track", pictures, *out, "--queries", tmp_path / "q.csv"], "no file"),
        "bad query file": (["track", pictures, *out, "--queries", tmp_path / "bad.csv"], "t,x,y"),
        "no numbers": (["track", pictures, *out, "--queries", tmp_path / "words.csv"], "t,x,y"),
        "late query": (["track", pictures, *out, "--queries", tmp_path / "late.csv"], "frame 40"),
        "one frame": (["track", pictures, *out, "--frames", 1], "at least 2"),
        "bad start": (["track", pictures, *out, "--start", 10], "frames 0..9"),
        "bad rate": (["track", pictures, *out, "--rate", 0], "above 0"),
        "too many": (
            ["track", pictures, *out, "--grid-spacing", 2, "--set", "queries.maximum=9"],
            "queries.maximum is 9",
        ),
        "no grid": (["track", pictures, *out, "--grid-spacing", 0], "grid_spacing is 0"),
        "no clip": (["evaluate", tmp_path], "no gt.npz"),
    }


@pytest.mark.parametrize("name", [
    "missing input", "undecodable", "no output", "exists", "wrong suffix", "unknown setting",
    "bad value", "no value", "bad preset", "no query file", "bad query file", "no numbers",
    "late query", "one frame", "bad start", "bad rate", "too many", "no grid", "no clip",
])  # fmt: skip
def test_expected_errors_are_one_line_and_code_2(capsys, fake, pictures, tmp_path, name):
    arguments, message = failures(tmp_path, pictures)[name]
    before = {p.name for p in tmp_path.iterdir()}
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert {p.name for p in tmp_path.iterdir()} == before
    assert (tmp_path / "old.npz").read_text() == "precious"


def test_missing_device_is_an_expected_error(capsys, pictures, tmp_path):
    code, _, err = run(
        capsys, "track", pictures, "--out", tmp_path / "t.npz", "--set", "device=toaster",
        "--preset", "cpu",
    )  # fmt: skip
    assert code == 2
    assert "device is 'toaster'" in err
    assert not (tmp_path / "t.npz").exists()


def test_overwrite_replaces(capsys, fake, pictures, tmp_path):
    (tmp_path / "t.npz").write_text("old")
    code, _, _ = run(capsys, "track", pictures, "--out", tmp_path / "t.npz", "--overwrite")
    assert code == 0
    assert load_tracks(tmp_path / "t.npz").points.shape[1] == T


def test_interrupted_run_writes_nothing(capsys, monkeypatch, pictures, tmp_path):
    class Interrupted(FakeTracker):
        def fit(self, progress=None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(offline, "DinoTracker", Interrupted)
    code, _, err = run(
        capsys, "track", pictures, "--out", tmp_path / "t.npz", "--overlay", tmp_path / "t.mp4"
    )
    assert code == 130
    assert "interrupted" in err
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_missing_torch_is_one_line(capsys, monkeypatch, pictures, tmp_path):
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(offline, "DinoTracker", missing)
    code, _, err = run(capsys, "track", pictures, "--out", tmp_path / "t.npz", "--preset", "cpu")
    assert code == 2
    assert "pip install torch torchvision" in err


def test_tracks_file_that_is_none(tmp_path):
    (tmp_path / "t.npz").write_text("no")
    with pytest.raises(NpzError, match=r"t\.npz' cannot be read as \.npz: it is damaged") as raised:
        load_tracks(tmp_path / "t.npz")
    assert "allow_pickle" not in str(raised.value)
    with pytest.raises(NpzError, match="No such file"):
        load_tracks(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(TracksFileError, match="not a tracks file: it has no queries, points"):
        load_tracks(tmp_path / "other.npz")


@pytest.mark.parametrize(("name", "value", "said"), [
    ("queries", np.zeros((2, 2)), r"queries in .* is \(2, 2\): 1 tracks"),
    ("queries", np.array([[0, 1, 1], [5, 1, 1]]), r"query 1 .* frame 5: the frames are 0\.\.3"),
    ("points", np.zeros((2, 4)), r"points in .* need \(2, 4, 2\)"),
    ("occluded", np.zeros(8), r"occluded in .* is \(8,\): 2 tracks over 4 frames"),
    ("confidence", np.full((2, 4), "x"), "not numbers"),
    ("stamps", np.array([0, 1, 1, 2]), "do not increase"),
    ("width", np.array([96]), "width in"),
])  # fmt: skip
def test_tracks_that_contradict_themselves(tmp_path, name, value, said):
    arrays = {
        "queries": np.zeros((2, 3)), "points": np.zeros((2, 4, 2)), "occluded": np.zeros((2, 4)),
        "confidence": np.ones((2, 4)), "stamps": np.arange(4), "width": 96, "height": 64,
    }  # fmt: skip
    np.savez(tmp_path / "t.npz", **arrays)
    assert load_tracks(tmp_path / "t.npz").points.dtype == np.float32
    np.savez(tmp_path / "t.npz", **{**arrays, name: value})
    with pytest.raises(TracksFileError, match=said):
        load_tracks(tmp_path / "t.npz")


# weights, settings ---------------------------------------------------------------------------


def test_settings_lists_every_setting_of_every_preset(capsys):
    code, out, _ = run(capsys, "settings")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    for info in describe(preset("paper")):
        assert info.description in lines[info.name]
        assert info.allowed in lines[info.name]
    assert all(name in out.splitlines()[0].split() for name in PRESETS)
    code, out, _ = run(capsys, "settings", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    for name in PRESETS:
        for info in describe(preset(name)):
            assert rows[info.name]["presets"][name] == info.value


@pytest.mark.parametrize("command", ["track", "evaluate"])
def test_help_describes_every_setting(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    for info in describe(Settings()):
        assert f"  {info.name} = " in out
        assert info.description in out


@pytest.mark.parametrize("info", describe(Settings()), ids=lambda info: info.name)
def test_every_setting_can_be_given(capsys, fake, pictures, tmp_path, info):
    """Its default as text comes through unchanged; a value it does not allow is refused."""
    value = str(info.value).lower() if isinstance(info.value, bool) else info.value
    arguments = ["track", pictures, "--out", tmp_path / "t.npz", "--preset", "robot"]
    code, _, err = run(capsys, *arguments, "--set", f"{info.name}={value}")
    assert code == 0, err
    chosen = {each.name: each.value for each in describe(fake[0].settings)}
    assert chosen[info.name] == info.value
    if info.type is str and not info.choices:
        return  # any text goes
    code, _, err = run(capsys, *arguments, "--overwrite", "--set", f"{info.name}=impossible")
    assert code == 2
    assert info.name in err


def test_weights_lists_the_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DINO_TRACKER_CACHE", str(tmp_path / "cache"))
    code, out, _ = run(capsys, "weights")
    assert code == 0
    assert str(tmp_path / "cache") in out
    for name in ("facebook/dinov2-small", "raft_large", "raft_small"):
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert "missing" in line


def test_unknown_weights_are_an_expected_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DINO_TRACKER_CACHE", str(tmp_path / "cache"))
    code, _, err = run(capsys, "weights", "--fetch", "raft_huge")
    assert code == 2
    assert "'raft_huge' names no weights" in err


def test_runs_as_a_module():
    command = [sys.executable, "-m", "dino_tracker_ros.cli", "settings"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "optimizer.iterations" in done.stdout


def test_settings_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from dino_tracker_ros.cli import main; sys.exit(main(['settings']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
