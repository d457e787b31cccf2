"""A clip played to a real node around a stand-in for the model, and what is recorded of it."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon build)")
pytest.importorskip("rosbags", reason="the bags are written and read by the package rosbags")

from ros_peer import PATIENCE, NodeProcess, Peer
from tracker_double import REFUSED, VELOCITY, TrackerDouble

from dino_tracker_ros import cli
from dino_tracker_ros.evaluation import suite
from dino_tracker_ros.evaluation.assembly import join_clips, tracks_of_queries
from dino_tracker_ros.evaluation.bags.tracks import read_clips
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.live import session
from dino_tracker_ros.evaluation.live.player import Player, PlayerError
from dino_tracker_ros.evaluation.live.processes import LiveError, own_domain
from dino_tracker_ros.evaluation.live.replay import LiveRun, replay_clip
from dino_tracker_ros.evaluation.report.results import load_results
from dino_tracker_ros.ros.messages import image_message, stamp_of, tracks_of
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import SettingError

pytestmark = pytest.mark.ros
DOUBLE = Path(__file__).parent / "node_with_double.py"
FIRST = 1_300_000_000_000_000_000  # the stamps are of a day long gone
QUERIES = np.array([[0, 10, 12], [0, 20, 8], [3, 30, 20]], np.float32)
SMALL = {"clip.length": "6", "clip.overlap": "2"}


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "node_command", lambda: [sys.executable, str(DOUBLE)])


def made_frames(
    count: int, period: float = 0.02, colour: tuple[int, int, int] = (0, 0, 0)
) -> list[Frame]:
    image = np.full((48, 64, 3), colour, np.uint8)
    return [Frame(image, FIRST + round(1e9 * period * number)) for number in range(count)]


def run(
    tmp_path: Path,
    frames: list[Frame],
    rate: float = 1.0,
    values: Mapping[str, str] | None = None,
    **more: Any,
) -> LiveRun:
    values = {**SMALL, **(values or {})}
    return replay_clip(
        frames, QUERIES, values, "cpu", rate, tmp_path / "run", tmp_path / "node.log",
        lambda stage, done, total: None, **more,
    )  # fmt: skip


@pytest.mark.parametrize("rate", [1.0, 4.0, math.inf])
def test_nothing_is_lost_whatever_the_rate(tmp_path: Path, rate: float) -> None:
    frames = made_frames(15)
    result = run(tmp_path, frames, rate)
    stamps = np.array([frame.stamp for frame in frames])
    np.testing.assert_array_equal(result.tracks.stamps, stamps)
    tracks, found = tracks_of_queries(result.tracks, QUERIES, stamps)
    assert found.all()
    times = np.arange(15, dtype=np.float32)
    for row, (t, x, y) in enumerate(QUERIES):
        seen = ~tracks.occluded[row]
        true = np.array([x, y]) + (times - t)[:, None] * VELOCITY
        np.testing.assert_allclose(tracks.points[row, seen], true[seen], atol=1e-4)
        assert seen[int(t) :].all()
    measures = result.measures
    assert measures["frames_published"] == measures["frames_tracked"] == 15
    assert measures["frames_dropped"] == measures["frames_lost"] == 0
    assert 0 < measures["latency_median"] <= measures["latency_95"] <= result.seconds
    assert 0 < measures["lag"] <= result.seconds
    assert not [name for name in measures if name.startswith("dropped.")]
    assert result.stages["features"] > 0
    clips = read_clips(tmp_path / "run", "/tracks")
    assert [len(clip[0].stamps) for clip in clips] == [6, 6, 6, 3]


def test_the_users_own_parameters_may_lose_images_and_it_is_told(tmp_path: Path) -> None:
    params = tmp_path / "robot.yaml"
    params.write_text(
        "/**:\n  ros__parameters:\n    queries: {grid_spacing: 16}\n"
        "    image: {transport: compressed}\n    depth: {enabled: true}\n"  # of the robot's camera
    )
    result = run(tmp_path, made_frames(16), params_file=params, values={"clip.max_rate": "25"})
    measures = result.measures
    assert measures["frames_published"] == 16
    assert measures["dropped.rate"] == measures["frames_dropped"] == 8
    assert measures["frames_tracked"] == len(result.tracks.stamps) == 8
    assert measures["frames_lost"] == 0
    assert len(result.ids) > len(QUERIES)  # the robot's grid is there as well
    # A point on an image that was dropped begins on the nearest that was not.
    stamps = np.array([frame.stamp for frame in made_frames(16)])
    _, found = tracks_of_queries(result.tracks, QUERIES, stamps)
    assert found.all()


def test_the_command_replays_with_a_robots_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "run_suite", partial(suite.run_suite, make_tracker=TrackerDouble))
    clip, weights, params = tmp_path / "clip", tmp_path / "weights", tmp_path / "robot.yaml"
    params.write_text("/**:\n  ros__parameters:\n    clip: {max_rate: 10.0}\n")
    weights.write_bytes(b"for the hash in the report")
    (clip / "frames").mkdir(parents=True)
    for number in range(15):  # which is at 30 Hz
        cv2.imwrite(str(clip / "frames" / f"{number:04d}.png"), np.zeros((48, 64, 3), np.uint8))
    steps = np.arange(15, dtype=np.float32) - QUERIES[:, :1]
    points = QUERIES[:, None, 1:] + steps[..., None] * VELOCITY
    seen = np.ones(points.shape[:2], bool)
    np.savez(
        clip / "gt.npz", queries=QUERIES[:, [0, 2, 1]], points=points, occluded=~seen, evaluate=seen
    )
    options = ["--replay", "--params-file", params, "--out", tmp_path / "out", "--preset", "cpu"]
    settings = ["--set", f"backbone.weights={weights}", "--set", "clip.length=6",
                "--set", "clip.overlap=2"]  # fmt: skip
    assert cli.main([str(each) for each in ("evaluate", clip, *options, *settings)]) == 0
    (result,), _ = load_results(tmp_path / "out")
    assert result.run["node's parameters"] == str(params)
    offline, replayed = result.methods
    assert not offline.live
    assert replayed.live["dropped.rate"] == replayed.live["frames_dropped"] == 10
    assert replayed.live["frames_tracked"] == 5


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"values": {"clip.lenght": "6"}}, SettingError, "did you mean 'clip.length'"),
        ({"values": {"clip.queue": "0"}}, SettingError, "clip.queue"),
        ({"values": {"device": "cuda:7"}}, LiveError, "device is 'cuda:7'"),
        ({"rate": 0.0}, PlayerError, "rate of playback is 0"),
        ({"params_file": Path("none.yaml")}, LiveError, "no file of parameters 'none.yaml'"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_no_bag(
    tmp_path: Path, more: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        run(tmp_path, made_frames(4), **more)
    assert not {path.name for path in tmp_path.iterdir()} - {"node.log"}


def test_a_node_that_tracks_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LiveError, match=r"published no tracks: frame 13.*the frame is refused"):
        run(tmp_path, made_frames(4, colour=REFUSED))
    assert not (tmp_path / "run").exists()


def test_by_hand_the_tracks_are_the_same(tmp_path: Path) -> None:
    """As with `ros2 bag play` and `ros2 bag record`: a node, the points, the images, /tracks."""
    frames = made_frames(9)
    bag, truth = tmp_path / "clip", tmp_path / "clip.npz"
    with new_bag(bag) as writer:
        for frame in frames:
            writer.write_image("/camera/image_raw", frame, "camera")
    still = np.repeat(QUERIES[:, None, 1:], len(frames), axis=1)
    seen = np.zeros(still.shape[:2], bool)
    np.savez(truth, queries=QUERIES[:, [0, 2, 1]], points=still, occluded=seen, evaluate=~seen)
    node = NodeProcess(
        tmp_path / "node.log", DOUBLE,
        {**SMALL, "preset": "cpu", "use_sim_time": "true", "clip.flush_after": 0.5},
        params_file=session.evaluation_parameters(),
    )  # fmt: skip
    peer = Peer()
    peer.log = node.said
    try:
        peer.wait_for_state("active")
        done = subprocess.run(
            [sys.executable, "-m", "dino_tracker_ros.evaluation.live.ask", str(bag)],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert "asked dino_tracker for 3 points of 'clip'" in done.stdout, done.stderr
        camera = peer.camera()
        peer.wait_for_listener(camera)
        for frame in frames:
            camera.publish(image_message(frame.image, frame.stamp, "camera"))
        peer.wait_for(frames_processed=9, clip_pending=0, clips=2)
        peer.wait_for_clips(2)
    finally:
        node.end(signal.SIGINT)
        peer.close()
    clips = [tracks_of(message)[:2] for message in peer.tracks]
    by_hand, ids = join_clips(clips)
    result = run(tmp_path, frames)
    np.testing.assert_array_equal(by_hand.points, result.tracks.points)
    np.testing.assert_array_equal(by_hand.occluded, result.tracks.occluded)
    np.testing.assert_array_equal(ids, result.ids)


@pytest.mark.parametrize(
    ("made", "said"),
    [(False, "no file or folder"), (True, "has no known tracks")],
)
def test_asking_for_unknown_points_is_one_line(tmp_path: Path, made: bool, said: str) -> None:
    bag = tmp_path / "clip"
    if made:
        with new_bag(bag) as writer:
            writer.write_image("/image_raw", made_frames(1)[0], "camera")
    done = subprocess.run(
        [sys.executable, "-m", "dino_tracker_ros.evaluation.live.ask", str(bag)],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


class FakeNode:
    """Takes publishers for what they published, in one list."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int]] = []

    def create_publisher(self, kind: type, topic: str, quality: object) -> SimpleNamespace:
        def publish(message: Any) -> None:
            time = message.clock if topic == "/clock" else message.header.stamp
            self.published.append((topic, stamp_of(time)))

        return SimpleNamespace(publish=publish, get_subscription_count=lambda: 1)


def test_the_clock_runs_on_between_the_images_and_stands_at_their_stamps() -> None:
    node, frames = FakeNode(), made_frames(3, period=0.12)
    player = Player(node, frames, rate=2.0)
    assert not node.published
    while not player.is_through:
        time.sleep(player.play())
    clock = [stamp for topic, stamp in node.published if topic == "/clock"]
    assert clock == sorted(clock)
    assert len(clock) > 3
    for frame in frames:
        image = node.published.index(("image_raw", frame.stamp))
        assert node.published[image - 1] == ("/clock", frame.stamp)
    assert list(player.published_at) == [frame.stamp for frame in frames]


def test_live_runs_at_once_have_domains_of_their_own() -> None:
    before = dict(os.environ)
    with own_domain() as first:
        assert os.environ["ROS_DOMAIN_ID"] == str(first)
        with own_domain() as second:
            assert first != second
    assert dict(os.environ) == before
