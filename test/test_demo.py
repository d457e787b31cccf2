"""The demo's parts, and the demo itself with a stand-in for the model in a real node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation import demo
from dino_tracker_ros.evaluation.assembly import join_clips, tracks_of_queries
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import write_video

HERE = Path(__file__).parent
WIDTH, HEIGHT = 40, 30
DEMO_TIMEOUT = 180  # s, far more than it takes: only a hang reaches it


# joining clips -------------------------------------------------------------------------------


def make_tracks(stamps: list[int], queries: list[tuple[int, float, float]], speed: float) -> Tracks:
    """Points that move to the right by `speed` px per stamp."""
    times = np.array(stamps)
    asked = np.array(queries, np.float32).reshape(-1, 3)
    start = np.array([stamps[int(t)] for t in asked[:, 0]])
    x = asked[:, 1:2] + speed * (times - start[:, None])
    points = np.stack([x, np.repeat(asked[:, 2:], len(times), 1)], -1).astype(np.float32)
    shape = points.shape[:2]
    return Tracks(
        asked, points, np.zeros(shape, bool), np.ones(shape, np.float32), times, WIDTH, HEIGHT
    )


def test_clips_are_joined_by_id_and_stamp():
    first = make_tracks([10, 11, 12, 13], [(0, 5, 5), (2, 9, 9)], speed=1)
    # The second clip carries 7 on, has lost 3, and begins 8.
    second = make_tracks([12, 13, 14, 15], [(1, 50, 9), (3, 1, 1)], speed=2)
    whole, ids = join_clips(
        [(first, np.array([3, 7], np.uint32)), (second, np.array([7, 8], np.uint32))]
    )
    assert ids.tolist() == [3, 7, 8]
    assert whole.stamps.tolist() == [10, 11, 12, 13, 14, 15]
    assert whole.points[0, :4, 0].tolist() == [5, 6, 7, 8]
    assert np.isnan(whole.points[0, 4:]).all()
    assert whole.occluded[0].tolist() == [False] * 4 + [True] * 2
    assert whole.confidence[0].tolist() == [1] * 4 + [0] * 2
    # Where both clips speak, the later one counts.
    assert whole.points[1, :, 0].tolist() == [7, 8, 48, 50, 52, 54]
    # A query stays what was first asked for.
    assert whole.queries.tolist() == [[0, 5, 5], [2, 9, 9], [5, 1, 1]]


def test_tracks_are_given_back_to_their_queries():
    asked = [(0, 5, 5), (0, 20, 5), (2, 5, 5)]
    got = make_tracks([10, 12, 13], [(1, 5.2, 5), (0, 20, 5)], speed=1)
    stamps = np.array([10, 11, 12, 13])
    tracks, found = tracks_of_queries(got, np.array(asked, np.float32), stamps)
    assert found.tolist() == [False, True, True]
    # Not tracked: it stays, occluded.
    assert tracks.points[0].tolist() == [[5, 5]] * 4
    assert tracks.occluded[0].all()
    # Frame 11 was never received.
    assert tracks.points[1, :, 0].tolist() == [20, 20, 22, 23]
    assert tracks.occluded[1].tolist() == [False, True, False, False]
    np.testing.assert_allclose(tracks.points[2, [0, 2, 3], 0], [3.2, 5.2, 6.2], atol=1e-5)
    assert tracks.queries.tolist() == [list(map(float, query)) for query in asked]


# errors of the demo --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optimizer.iteration=3"], "did you mean 'optimizer.iterations'"),
        (["--set", "clip.length"], "write NAME=VALUE"),
        (["--video", "no.mp4"], "no video or folder 'no.mp4'"),
        (["--frames", "nowhere"], "nowhere"),
        (["--bag", "no_bag"], "no_bag"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(tmp_path, arguments, message):
    command = [sys.executable, "-m", "dino_tracker_ros.evaluation.demo", "--out", tmp_path / "out"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "tracks.mp4").exists()


def test_settings_reach_the_node_with_their_types():
    checked = demo._checked_values(["optimizer.time_budget=5", "clip.length=90", "device=cpu"])
    assert checked == {"optimizer.time_budget": "5.0", "clip.length": "90", "device": "cpu"}


# the demo over ROS ---------------------------------------------------------------------------

WITH_DOUBLE = """
import sys
from dino_tracker_ros.evaluation import demo
from dino_tracker_ros.evaluation.live import session
session.node_command = lambda: [sys.executable, {script!r}]
sys.exit(demo.main(sys.argv[1:]))
"""


def start_demo(tmp_path: Path, script: Path, *arguments: str) -> subprocess.Popen[str]:
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon)")
    command = [sys.executable, "-c", WITH_DOUBLE.format(script=str(script))]
    return subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        # A shell's background job ignores Ctrl-C, and so would everything it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def table_of(text: str) -> dict[str, str]:
    lines = (line.rsplit("  ", 1) for line in text.splitlines() if "  " in line)
    return {name.strip(): value.strip() for name, value in lines}


@pytest.mark.ros
def test_demo_on_a_made_clip(tmp_path):
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    running = start_demo(
        tmp_path, HERE / "node_with_double.py", "--count", "12", "--rate", "20",
        "--set", "clip.length=8", "--set", "clip.overlap=3",
    )  # fmt: skip
    out, err = running.communicate(timeout=DEMO_TIMEOUT)
    assert running.returncode == 0, err
    table = table_of(out)
    assert table["frames in"] == "12"
    assert table["frames dropped"] == "0"
    assert table["clips"] == "2"
    assert int(table["tracks"]) > 60
    for score in ("δ_avg", "OA", "AJ"):
        assert 0 <= float(table[score].removesuffix(" %")) <= 100
    assert "seconds: fit" in table
    for stage in ("making a clip", "replaying", "features and flow", "drawing"):
        assert f"{stage}: 100%" in err
    video = cv2.VideoCapture(str(tmp_path / "out" / "tracks.mp4"))
    assert video.read()[0]
    assert cv2.imread(str(tmp_path / "out" / "tracks.png")) is not None


def own_input(tmp_path: Path, kind: str) -> list[str]:
    """Seven pictures as what a user may have, and the options that name it."""
    if kind == "bag":
        pytest.importorskip("rosbags", reason="bags are written and read by the package rosbags")
        from bag_files import write_pictures

        stamps = [10**9 + 40_000_000 * index for index in range(7)]
        path = write_pictures(tmp_path / "bag", topics=("/left", "/right"), stamps=stamps)
        return ["--bag", str(path), "--topic", "/right"]
    images = [np.full((96, 128, 3), 20 * index, np.uint8) for index in range(7)]
    if kind == "video":
        write_video(tmp_path / "in.mp4", images, rate=25)
        return ["--video", str(tmp_path / "in.mp4")]
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "pictures" / f"{index:03d}.png"), image)
    return ["--frames", str(tmp_path / "pictures"), "--rate", "30"]


@pytest.mark.ros
@pytest.mark.parametrize("kind", ["frames", "video", "bag"])
def test_demo_on_own_input_has_no_accuracy(tmp_path, kind):
    source = own_input(tmp_path, kind)
    running = start_demo(
        tmp_path, HERE / "node_with_double.py", *source, "--set", "queries.grid_spacing=16"
    )
    out, err = running.communicate(timeout=DEMO_TIMEOUT)
    assert running.returncode == 0, err
    table = table_of(out)
    assert table["frames in"] == "7"
    assert table["clips"] == "1"  # fewer frames than a clip: flushed
    assert int(table["tracks"]) > 0
    assert "δ_avg" not in table
    assert (tmp_path / "out" / "tracks.png").is_file()


@pytest.mark.ros
def test_demo_says_why_the_node_does_not_start(tmp_path):
    running = start_demo(
        tmp_path, HERE / "node_with_double.py", "--count", "3", "--set", "device=cuda:7"
    )
    _, err = running.communicate(timeout=DEMO_TIMEOUT)
    assert running.returncode == 2
    assert "device is 'cuda:7'" in err
    assert "Traceback" not in err


@pytest.mark.ros
def test_demo_says_what_a_dying_node_said(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import sys; sys.exit('out of luck')\n")
    running = start_demo(tmp_path, script, "--count", "3")
    _, err = running.communicate(timeout=DEMO_TIMEOUT)
    assert running.returncode == 2
    assert "the node ended with code 1: out of luck" in err


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_process_survives_the_demo(tmp_path, number):
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    mark = f"optimizer.seed:={os.getpid()}{int(number)}"
    running = start_demo(
        tmp_path, HERE / "node_with_double.py", "--set", mark.replace(":=", "="), "--rate", "1"
    )
    give_up = time.monotonic() + DEMO_TIMEOUT
    while not processes_with(mark):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < give_up, "the node was never started"
        time.sleep(0.1)
    time.sleep(2)
    running.send_signal(number)
    running.communicate(timeout=DEMO_TIMEOUT)
    assert running.returncode in (130, 143)
    assert processes_with(mark) == []


def processes_with(text: str) -> list[int]:
    """Processes whose command line holds the text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended while we looked
            continue
    return found
