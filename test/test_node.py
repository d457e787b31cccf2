"""The node as a process of its own, over real DDS: what a robot sees of it."""

from __future__ import annotations

import importlib.util
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon build)")

from dino_tracker_ros.msg import Track
from geometry_msgs.msg import Point32, PointStamped, PolygonStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_peer import (
    HEIGHT,
    HERE,
    WIDTH,
    NodeProcess,
    Peer,
    compressed_message,
    stamp_of,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger
from tracker_double import DIVERGES, NO_MEMORY, SLOW, VELOCITY
from visualization_msgs.msg import MarkerArray

from dino_tracker_ros.ros.messages import image_message, time_of
from dino_tracker_ros.ros.messages import stamp_of as stamp_in
from dino_tracker_ros.visualization.overlay import id_colours

pytestmark = pytest.mark.ros
DOUBLE = HERE / "node_with_double.py"
REAL = HERE.parent / "scripts" / "tracker_node"
SMALL = {
    "preset": "cpu",
    "clip.length": 6,
    "clip.overlap": 2,
    "clip.flush_after": 0.0,
    "clip.queue": 100,
    "queries.grid_spacing": 16,
}
Start = Callable[..., NodeProcess]


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start(tmp_path: Path, peer: Peer) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def start_node(script: Path = DOUBLE, pythonpath: str = "", **more: Any) -> NodeProcess:
        parameters = SMALL | {name.replace("__", "."): value for name, value in more.items()}
        log = tmp_path / f"node{len(nodes)}.log"
        nodes.append(NodeProcess(log, script, parameters, pythonpath))
        peer.log = nodes[-1].said
        return nodes[-1]

    yield start_node
    for node in nodes:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


def change_state(peer: Peer, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(peer.call(ChangeState, "dino_tracker/change_state", request).success)


def state(peer: Peer) -> str:
    response = peer.call(GetState, "dino_tracker/get_state", GetState.Request())
    return str(response.current_state.label)


def set_parameter(peer: Peer, name: str, value: Any) -> Any:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return peer.call(SetParameters, "dino_tracker/set_parameters", request).results[0]


def trigger(peer: Peer, name: str) -> Any:
    return peer.call(Trigger, f"dino_tracker/{name}", Trigger.Request())


def test_images_in_tracks_out(start: Start, peer: Peer) -> None:
    start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(10))
    peer.wait_for_clips(2)
    first, second = peer.tracks
    assert [stamp_in(time) for time in first.stamps] == [stamp_of(n) for n in range(6)]
    assert [stamp_in(time) for time in second.stamps] == [stamp_of(n) for n in range(4, 10)]
    assert stamp_in(second.header.stamp) == stamp_of(9)
    assert second.header.frame_id == "camera"
    assert (first.width, first.height, first.clip_id, second.clip_id) == (WIDTH, HEIGHT, 0, 1)
    assert [track.id for track in first.tracks] == list(range(12))
    track = first.tracks[5]
    np.testing.assert_allclose(np.array(track.x) - track.x[0], np.arange(6) * VELOCITY[0])
    np.testing.assert_allclose(np.array(track.y) - track.y[0], np.arange(6) * VELOCITY[1])
    assert len(track.depth) == 0
    again = next(other for other in second.tracks if other.id == track.id)
    assert again.x[:2].tolist() == track.x[4:].tolist()
    peer.wait_for(frames_received=10, frames_processed=10, clips=2, queue=0, stage="idle")
    assert peer.diagnostics["frames_dropped"] == "0"
    assert peer.diagnostics["image_topic"] == "/image_raw"
    assert peer.diagnostics["image_qos"] == "reliable, keep last 20"
    assert peer.diagnostics["fit.stopped"] == "iterations"
    assert not peer.overlays


def test_the_overlay_is_drawn_for_those_who_look(start: Start, peer: Peer) -> None:
    start()
    camera = peer.camera()
    overlay = peer.node.create_subscription(Image, "dino_tracker/overlay", peer.overlays.append, 10)
    peer.wait_for_listener(camera)
    peer.wait(lambda: peer.node.count_publishers(overlay.topic_name) > 0)
    peer.play(camera, range(10))
    peer.wait(lambda: len(peer.overlays) == 2)
    peer.wait_for_clips(2)
    for message, clip, newest in zip(peer.overlays, peer.tracks, (5, 9)):
        assert (message.width, message.height, message.encoding) == (WIDTH, HEIGHT, "rgb8")
        assert stamp_in(message.header.stamp) == stamp_of(newest)
        assert message.header.frame_id == "camera"
        picture = np.asarray(message.data, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)
        for track, colour in zip(clip.tracks, id_colours([track.id for track in clip.tracks])):
            column, row = round(track.x[-1]), round(track.y[-1])
            if track.occluded[-1] == Track.VISIBLE:  # a dot in the colour of its id
                assert np.abs(picture[row, column] - colour).max() < 40
        column, row = round(clip.tracks[0].x[-5]), round(clip.tracks[0].y[-5])
        assert picture[row, column].any()  # its trail


SAYS_WHAT_IT_DRAWS = """
import sys
from dino_tracker_ros.ros import tracker_node

def saying(name):
    draw = getattr(tracker_node, name)
    def drawing(*positional, **named):
        print("called", name, flush=True)
        return draw(*positional, **named)
    return drawing

for name in ("draw_overlay", "marker_array"):
    setattr(tracker_node, name, saying(name))
sys.path.insert(0, {folder!r})
import node_with_double
"""


def test_nothing_is_drawn_where_nobody_looks(start: Start, peer: Peer, tmp_path: Path) -> None:
    script = tmp_path / "says_what_it_draws.py"
    script.write_text(SAYS_WHAT_IT_DRAWS.format(folder=str(HERE)))
    node = start(script)
    camera, infos = peer.camera(), peer.camera("camera_info", CameraInfo)
    peer.wait_for_listener(camera)
    peer.wait_for_listener(infos)

    def play(numbers: range) -> None:
        for number in numbers:
            infos.publish(calibrated())
            peer.play(camera, range(number, number + 1))
            time.sleep(0.1)

    play(range(10))
    peer.wait_for_clips(2)
    assert "called" not in node.said()
    markers: list[Any] = []
    for kind, name, take in ((Image, "overlay", peer.overlays), (MarkerArray, "markers", markers)):
        peer.node.create_subscription(kind, f"dino_tracker/{name}", take.append, 10)
    play(range(10, 40))  # until the node knows of the subscriptions
    peer.wait(lambda: bool(peer.overlays and markers), "for the pictures")
    assert "called draw_overlay" in node.said()
    assert "called marker_array" in node.said()


def calibrated() -> Any:
    info = CameraInfo(height=HEIGHT, width=WIDTH)
    info.k = [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0]
    return info


def test_markers_need_a_calibrated_camera_and_say_so(start: Start, peer: Peer) -> None:
    start()
    camera, infos = peer.camera(), peer.camera("camera_info", CameraInfo, reliable=False)
    markers: list[Any] = []
    topic = "dino_tracker/markers"
    peer.node.create_subscription(MarkerArray, topic, markers.append, 10)
    peer.wait_for_listener(camera)
    peer.wait_for_listener(infos)
    peer.wait(lambda: peer.node.count_publishers(topic) > 0, "for the publisher")

    def error_of_clip(numbers: range, said: str) -> None:
        peer.play(camera, numbers)
        peer.wait(lambda: said in peer.diagnostics.get("last_error", ""), f"for {said}")

    error_of_clip(range(6), "~/markers: no camera_info came on /camera_info")
    infos.publish(CameraInfo(height=HEIGHT, width=WIDTH))
    error_of_clip(range(6, 10), "camera_info has no focal length")
    wrong = calibrated()
    wrong.width = 2 * WIDTH
    infos.publish(wrong)
    error_of_clip(range(10, 14), "camera_info is for 128x48 pixels, the image has 64x48")
    assert not markers
    infos.publish(calibrated())
    peer.play(camera, range(14, 18))
    peer.wait(lambda: len(markers) == 1, "for markers")
    peer.wait_for_clips(4)
    seen = [track for track in peer.tracks[3].tracks if track.occluded[-1] == Track.VISIBLE]
    points = {each.id: each for each in markers[0].markers if each.ns == "points"}
    assert set(points) == {track.id for track in seen}
    for track in seen:
        place = points[track.id].pose.position
        assert place.x == pytest.approx((track.x[-1] - 31.5) / 50, abs=1e-6)
        assert (points[track.id].header.frame_id, place.z) == ("camera", 1.0)


def test_compressed_images(start: Start, peer: Peer) -> None:
    start(image__transport="compressed")
    camera = peer.camera("image_raw/compressed", CompressedImage)
    peer.wait_for_listener(camera)
    jpeg = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    camera.publish(compressed_message(jpeg[:40], 0))
    for number in range(1, 7):
        camera.publish(compressed_message(jpeg, number))
    peer.wait_for_clips(1)
    peer.wait_for(dropped__bad_image=1, clips=1)
    assert "JPEG without its end" in peer.diagnostics["last_error"]


def test_a_slow_network_may_be_best_effort(start: Start, peer: Peer) -> None:
    start()
    camera = peer.camera(reliable=False)
    peer.wait_for(image_qos="best effort, keep last 20")  # the node follows the publisher
    peer.wait_for_listener(camera)
    peer.play(camera, range(6))
    peer.wait_for_clips(1)


def test_a_publisher_that_cannot_be_heard_is_named(start: Start, peer: Peer) -> None:
    start(image__reliability="reliable", image__timeout=0.1)
    peer.camera(reliable=False)
    peer.wait(lambda: "hears nothing of them: set image.reliability to auto" in peer.message)
    assert peer.level == 1
    assert peer.diagnostics["publishers"] == "1"


def test_bad_images_are_told_counted_and_survived(start: Start, peer: Peer) -> None:
    node = start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(3))
    bad = [
        ({"step": 5}, "step 5: a row of 64 pixels takes 192 bytes"),
        ({"encoding": "rgb9"}, "encoding is 'rgb9'"),
        ({"height": 0}, "size 64x0"),
        ({"height": 1000}, "it needs"),
    ]
    for fields, said in bad:
        message = image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp_of(3), "camera")
        for name, value in fields.items():
            setattr(message, name, value)
        camera.publish(message)
        peer.wait(lambda said=said: said in peer.diagnostics.get("last_error", ""), f"for {said}")
        assert said in node.said()
    peer.play(camera, range(3, 6))
    peer.wait_for_clips(1)
    assert len(peer.tracks[0].stamps) == 6
    peer.wait_for(dropped__bad_image=4, frames_dropped=4, frames_received=10)
    assert peer.level == 1


def test_queries_come_in_every_way(start: Start, peer: Peer) -> None:
    node = start(queries__grid_spacing=0)
    camera = peer.camera()
    points = peer.node.create_publisher(PolygonStamped, "dino_tracker/query_points", 10)
    clicks = peer.node.create_publisher(PointStamped, "clicked_point", 10)
    masks = peer.node.create_publisher(Image, "dino_tracker/query_mask", 10)
    for publisher in (camera, points, clicks, masks):
        peer.wait_for_listener(publisher)
    polygon = PolygonStamped()
    polygon.header.stamp = time_of(stamp_of(2))
    polygon.polygon.points = [Point32(x=10.0, y=12.0), Point32(x=500.0, y=1.0)]
    points.publish(polygon)
    peer.wait_for(queries_waiting=2)
    click = PointStamped()
    click.point.x, click.point.y = 20.0, 22.0
    clicks.publish(click)
    peer.wait_for(queries_waiting=3)
    mask = image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp_of(1), "camera")
    masks.publish(mask)
    peer.wait(lambda: "query mask encoding is 'rgb8'" in node.said())
    mask.encoding, mask.step, mask.data = "mono8", WIDTH, bytes(HEIGHT * WIDTH)
    masks.publish(mask)
    peer.wait(lambda: "no point of the grid lies in the query mask" in node.said())
    mask.data = bytes([255]) * (HEIGHT * WIDTH)
    masks.publish(mask)
    peer.wait(lambda: int(peer.diagnostics.get("queries_waiting", 0)) > 3)
    peer.play(camera, range(6))
    peer.wait_for_clips(1)
    tracks = peer.tracks[0].tracks
    assert (tracks[0].query_index, tracks[0].x[2], tracks[0].y[2]) == (2, 10.0, 12.0)
    assert (tracks[1].query_index, tracks[1].x[0], tracks[1].y[0]) == (0, 20.0, 22.0)
    assert {track.query_index for track in tracks[2:]} == {1}
    peer.wait_for(queries_refused=1)
    assert "query point (500, 1) is outside the image of 64x48 pixels" in node.said()


def test_lifecycle_up_and_down_twice(start: Start, peer: Peer) -> None:
    start(autostart="false")
    camera = peer.camera()
    assert state(peer) == "unconfigured"
    assert not trigger(peer, "reset").success
    for turn in (1, 2):
        assert change_state(peer, Transition.TRANSITION_CONFIGURE)
        peer.wait_for_state("inactive")
        assert camera.get_subscription_count() == 0
        result = set_parameter(peer, "clip.length", 7)
        assert not result.successful
        assert "clip.length cannot change while the node is configured" in result.reason
        assert change_state(peer, Transition.TRANSITION_ACTIVATE)
        peer.wait_for_listener(camera)
        peer.play(camera, range(6))
        peer.wait_for_clips(turn)
        assert change_state(peer, Transition.TRANSITION_DEACTIVATE)
        peer.wait(lambda: camera.get_subscription_count() == 0, "for the subscription to go")
        assert change_state(peer, Transition.TRANSITION_CLEANUP)
        peer.wait_for_state("unconfigured")
        assert set_parameter(peer, "clip.overlap", 1).successful
    first, second = peer.tracks[0], peer.tracks[1]
    assert (first.clip_id, second.clip_id) == (0, 1)
    assert {track.id for track in first.tracks}.isdisjoint(track.id for track in second.tracks)
    assert change_state(peer, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(peer) == "finalized"


def test_a_missing_gpu_is_told_and_can_be_mended(start: Start, peer: Peer) -> None:
    node = start(device="cuda:0")
    peer.wait(lambda: peer.level == 2)
    assert peer.message == (
        "configure failed: cannot configure: device is 'cuda:0', but there are 0 GPUs: "
        "set device to cpu"
    )
    assert "there are 0 GPUs" in node.said()
    assert "Traceback" not in node.said()
    assert set_parameter(peer, "device", "cpu").successful
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    peer.wait_for_state("active")


def test_an_impossible_parameter_is_told_and_can_be_mended(start: Start, peer: Peer) -> None:
    node = start(clip__length=0)
    peer.wait(lambda: peer.level == 2)
    assert "parameter clip.length:" in peer.message
    assert "Traceback" not in node.said()
    assert not set_parameter(peer, "clip.length", 1).successful
    assert set_parameter(peer, "clip.length", 6).successful
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)


def test_without_pytorch_there_is_one_clear_line(start: Start, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    node = start(REAL, str(tmp_path), preset="auto")
    peer.wait(lambda: peer.level == 2)
    assert "No module named 'torch'" in peer.message
    assert "requirements.txt" in peer.message
    assert "Traceback" not in node.said()
    assert state(peer) == "unconfigured"
    assert node.end(signal.SIGINT) == 0


def test_reset_pause_flush_and_clear(start: Start, peer: Peer) -> None:
    start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(3))
    peer.wait_for(frames_processed=3, clip_pending=3)
    assert trigger(peer, "flush").success
    peer.wait_for_clips(1)
    assert len(peer.tracks[0].stamps) == 3

    pause = peer.call(SetBool, "dino_tracker/pause", SetBool.Request(data=True))
    assert pause.success
    peer.play(camera, range(3, 5))
    peer.wait_for(dropped__paused=2, state="paused")
    assert peer.call(SetBool, "dino_tracker/pause", SetBool.Request(data=False)).success
    peer.play(camera, range(5, 6))
    peer.wait_for(frames_processed=4, state="active")

    assert trigger(peer, "reset").success
    peer.wait_for(clip_frames=0, points_alive=0)
    peer.play(camera, range(6, 12))
    peer.wait_for_clips(2)
    assert len(peer.tracks[1].stamps) == 6
    assert min(track.id for track in peer.tracks[1].tracks) == 12  # ids are not given twice

    assert trigger(peer, "clear_queries").success
    peer.wait_for(points_alive=0, clips=2)


def test_a_loop_in_time_begins_a_new_stream(start: Start, peer: Peer) -> None:
    start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(20, 26))
    peer.play(camera, range(6))
    peer.wait_for_clips(2)
    assert stamp_in(peer.tracks[1].stamps[0]) == stamp_of(0)
    peer.wait_for(streams=2, clips=2)


def test_failures_of_the_tracker_are_told_and_survived(start: Start, peer: Peer) -> None:
    node = start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(6), DIVERGES)
    peer.wait_for_clips(1)
    peer.wait(lambda: peer.level == 2)
    assert peer.message.startswith("last clip failed: optimization: the loss is NaN")
    peer.play(camera, range(6, 7), NO_MEMORY)
    peer.wait(lambda: "out of memory" in node.said())
    peer.play(camera, range(7, 13))
    peer.wait_for_clips(2)
    assert peer.tracks[1].tracks[0].id == 0
    peer.wait_for(dropped__refused=1, errors=2)


def test_images_are_received_while_the_tracker_optimizes(start: Start, peer: Peer) -> None:
    start(clip__queue=6)
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(6), SLOW)
    peer.wait_for(stage="fitting")
    peer.play(camera, range(6, 14))
    peer.wait_for(frames_received=14, queue=6, dropped__queue_full=2)
    assert not peer.tracks
    assert trigger(peer, "reset").success  # ends the optimization
    peer.wait_for(stage="idle", dropped__discarded=6)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_cleanly_even_while_it_optimizes(
    start: Start, peer: Peer, how: signal.Signals
) -> None:
    node = start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(6), SLOW)
    peer.wait_for(stage="fitting")
    assert node.end(how) == 0
    assert "Traceback" not in node.said()


def test_an_impatient_ctrl_c_ends_the_node_as_cleanly(start: Start, peer: Peer) -> None:
    node = start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(6), SLOW)
    peer.wait_for(stage="fitting")
    while node.process.poll() is None:
        node.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert node.process.returncode == 0
    assert "Traceback" not in node.said()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_while_it_loads(start: Start, peer: Peer, how: signal.Signals) -> None:
    node = start(device="slow")
    peer.wait(lambda: "loading the tracker" in node.said())
    assert node.end(how) == 0
    assert "ERROR" not in node.said()
    assert "Traceback" not in node.said()


def test_killed_and_restarted(start: Start, peer: Peer) -> None:
    node = start()
    camera = peer.camera()
    peer.wait_for_listener(camera)
    peer.play(camera, range(6))
    peer.wait_for_clips(1)
    assert node.end(signal.SIGKILL) == -signal.SIGKILL
    start()
    peer.wait_for(frames_received=0, state="active")
    peer.wait(lambda: peer.diagnostics.get("publishers") == "1")
    peer.wait_for_listener(camera)
    end = 6

    def play_one() -> bool:  # DDS may take a while to forget the dead reader
        nonlocal end
        peer.play(camera, range(end, end + 1))
        end += 1
        return len(peer.tracks) >= 2

    peer.wait(play_one)
    assert peer.tracks[1].clip_id == 0


def test_an_impossible_change_of_state_is_refused_and_survived(start: Start, peer: Peer) -> None:
    start()
    peer.wait_for_state("active")
    assert not change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert state(peer) == "active"


def test_simulated_time_that_stands_still_stops_nothing(start: Start, peer: Peer) -> None:
    start(use_sim_time="true")
    camera = peer.camera()
    peer.wait_for_listener(camera)
    before = peer.reports
    peer.play(camera, range(6))
    peer.wait_for_clips(1)
    peer.wait(lambda: peer.reports >= before + 2)


HAS_MESSAGE_FILTERS = importlib.util.find_spec("message_filters") is not None


@pytest.mark.skipif(HAS_MESSAGE_FILTERS, reason="message_filters is installed here")
def test_depth_without_message_filters_is_one_clear_line(start: Start, peer: Peer) -> None:
    node = start(depth__enabled="true")
    peer.wait(lambda: peer.level == 2)
    assert "depth.enabled needs the ROS package message_filters" in peer.message
    assert "Traceback" not in node.said()


@pytest.mark.skipif(not HAS_MESSAGE_FILTERS, reason="needs message_filters, which is not on PyPI")
def test_depth_is_synchronised_and_told_where_it_is_missing(start: Start, peer: Peer) -> None:
    start(depth__enabled="true")
    camera = peer.camera()
    depth_camera = peer.camera("depth/image_raw")
    infos = peer.camera("camera_info", CameraInfo)
    for publisher in (camera, depth_camera, infos):
        peer.wait_for_listener(publisher)
    for number in range(6):
        metres = np.full((HEIGHT, WIDTH), 2.0 + number, np.float32)
        if number == 3:
            metres[:] = np.nan
        peer.play(camera, range(number, number + 1))
        depth = Image(height=HEIGHT, width=WIDTH, encoding="32FC1", step=WIDTH * 4)
        depth.header.stamp, depth.header.frame_id = time_of(stamp_of(number)), "camera"
        depth.data = metres.tobytes()
        depth_camera.publish(depth)
        info = CameraInfo(height=HEIGHT, width=WIDTH)
        info.header = depth.header
        infos.publish(info)
    peer.wait_for_clips(1)
    seen = np.array(peer.tracks[0].tracks[0].depth)
    np.testing.assert_array_equal(seen, [2, 3, 4, np.nan, 6, 7])
    peer.wait_for(bad_depth=1)
    assert "holds no measurement" in peer.diagnostics["last_error"]


@pytest.mark.weights
def test_the_real_tracker_over_dds(
    start: Start, peer: Peer, weights_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A textured scene that moves by whole pixels: the true tracks are known."""
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    node = start(
        REAL,
        clip__longest_side=112,
        clip__length=4,
        optimizer__iterations=2,
        optimizer__warm_iterations=1,
        clip__flush_after=0.5,
        clip__minimum_frames=1,
        queries__grid_spacing=32,
    )
    camera = peer.camera()
    peer.wait_for_listener(camera)
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), (160, 128))
    for number in range(6):
        picture = np.ascontiguousarray(texture[8 + number : 88 + number, 8:120])
        camera.publish(image_message(picture, stamp_of(number), "camera"))
    peer.wait_for_clips(2)
    peer.wait_for(clips=2, frames_processed=6, errors=0)
    assert "GOMP_SPINCOUNT = '10000'" in node.said()  # its threads leave the cores to others
    message = peer.tracks[0]
    assert len(message.tracks) == 6
    for track in message.tracks:
        at_query = track.query_index
        assert abs(track.x[at_query] - track.x[0]) < 1e-3
        assert np.isfinite(track.x).all()
        assert np.isfinite(track.y).all()
        assert all(0 <= value <= 1 for value in track.confidence)
    assert {track.id for track in peer.tracks[1].tracks} >= {track.id for track in message.tracks}
    errors = [abs(t.y[1] - (t.y[0] - 1)) + abs(t.x[1] - t.x[0]) for t in message.tracks]
    assert np.median(errors) < 4
    assert float(peer.diagnostics["seconds.features"]) > 0
