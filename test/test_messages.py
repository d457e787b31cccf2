"""Arrays to messages and back, and what /diagnostics says."""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon build)")

from builtin_interfaces.msg import Time
from dino_tracker_ros.msg import Track, TrackArray
from geometry_msgs.msg import Point32, PointStamped, PolygonStamped
from rclpy.serialization import deserialize_message, serialize_message

from dino_tracker_ros.ros import messages
from dino_tracker_ros.ros.clip_buffer import BufferCounts, Drop
from dino_tracker_ros.ros.diagnostics import (
    NO_COUNTS,
    NO_INPUT,
    ErrorLog,
    ErrorStatus,
    InputStatus,
    Level,
    health_of,
)
from dino_tracker_ros.ros.image_decoding import ImageError, decode
from dino_tracker_ros.ros.worker import FitStatus, WorkerStatus
from dino_tracker_ros.tracking.tracks import Tracks

pytestmark = pytest.mark.ros
STAMPS = np.array([1_700_000_000_900_000_000, 1_700_000_001_000_000_001], np.int64)


@pytest.fixture
def tracks() -> Tracks:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 64, (3, 2, 2)).astype(np.float32)
    frames = np.array([1, 0, 1])
    return Tracks(
        queries=np.column_stack([frames, points[np.arange(3), frames]]).astype(np.float32),
        points=points,
        occluded=np.array([[0, 1], [0, 0], [1, 0]], bool),
        confidence=rng.uniform(0, 1, (3, 2)).astype(np.float32),
        stamps=STAMPS,
        width=64,
        height=48,
    )


@pytest.mark.parametrize("with_depth", [False, True])
def test_tracks_survive_the_wire(tracks: Tracks, with_depth: bool) -> None:
    ids = np.array([7, 2, 4_000_000_000], np.uint32)
    depth = np.array([[1, np.nan], [2, 3], [np.nan, 4]], np.float32) if with_depth else None
    sent = messages.track_array(tracks, ids, depth, "camera", clip_id=5)
    received = deserialize_message(serialize_message(sent), TrackArray)
    back, back_ids, back_depth = messages.tracks_of(received)
    for name in ("queries", "points", "occluded", "confidence", "stamps"):
        expected, found = getattr(tracks, name), getattr(back, name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert (back.width, back.height) == (64, 48)
    np.testing.assert_array_equal(back_ids, ids)
    if depth is None:
        assert back_depth is None
    else:
        np.testing.assert_array_equal(back_depth, depth)
    assert received.clip_id == 5


def test_the_header_has_the_newest_frames_stamp(tracks: Tracks) -> None:
    message = messages.track_array(tracks, np.arange(3, dtype=np.uint32), None, "camera", 0)
    assert message.header.stamp == Time(sec=1_700_000_001, nanosec=1)
    assert message.header.frame_id == "camera"
    assert message.tracks[0].occluded.tolist() == [Track.VISIBLE, Track.OCCLUDED]
    assert isinstance(message.tracks[0].x, array)
    assert len(message.tracks[0].depth) == 0


def test_what_was_asked_for_before_the_clip_says_so(tracks: Tracks) -> None:
    queries = tracks.queries.copy()
    queries[0] = (-2, 5.0, 6.0)
    hidden = tracks.occluded.copy()
    hidden[0] = [True, *[False] * (hidden.shape[1] - 1)]
    earlier = replace(tracks, queries=queries, occluded=hidden)
    ids = np.arange(len(queries), dtype=np.uint32)
    message = messages.track_array(earlier, ids, None, "camera", 1)
    assert message.tracks[0].query_index == Track.EARLIER
    assert message.tracks[1].query_index == tracks.queries[1, 0]
    told, _, _ = messages.tracks_of(deserialize_message(serialize_message(message), TrackArray))
    # Who has only this message takes the first place where it is seen.
    np.testing.assert_array_equal(told.queries[0], [1, *earlier.points[0, 1]])
    np.testing.assert_array_equal(told.queries[1], tracks.queries[1])


def test_no_tracks(tracks: Tracks) -> None:
    nothing = Tracks(
        queries=np.zeros((0, 3), np.float32),
        points=np.zeros((0, 2, 2), np.float32),
        occluded=np.zeros((0, 2), bool),
        confidence=np.zeros((0, 2), np.float32),
        stamps=STAMPS,
        width=64,
        height=48,
    )
    message = messages.track_array(nothing, np.zeros(0, np.uint32), None, "camera", 1)
    back, ids, depth = messages.tracks_of(message)
    assert back.points.shape == (0, 2, 2)
    assert len(ids) == 0
    assert depth is None


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, 10**9, 1_700_000_001_000_000_001])
def test_stamps_are_exact(stamp: int) -> None:
    assert messages.stamp_of(messages.time_of(stamp)) == stamp


def test_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.image_message(image, int(STAMPS[1]), "camera")
    assert messages.stamp_of(message.header.stamp) == STAMPS[1]
    decoded = decode(
        message.height, message.width, message.encoding, message.step, False, message.data
    )
    np.testing.assert_array_equal(decoded, image)


def test_queries() -> None:
    polygon = PolygonStamped()
    polygon.header.stamp = messages.time_of(int(STAMPS[0]))
    polygon.polygon.points = [Point32(x=1.5, y=2.0), Point32(x=3.0, y=-4.0)]
    stamp, places = messages.query_of_polygon(polygon)
    assert stamp == STAMPS[0]
    assert places.tolist() == [[1.5, 2.0], [3.0, -4.0]]
    assert messages.query_of_polygon(PolygonStamped())[1].shape == (0, 2)
    click = PointStamped()
    click.point.x, click.point.y = 8.0, 9.0
    stamp, places = messages.query_of_click(click)
    assert (stamp, places.tolist()) == (0, [[8.0, 9.0]])


def test_query_masks() -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 255
    message = messages.image_message(np.zeros((4, 6, 3), np.uint8), 5, "camera")
    with pytest.raises(ImageError, match="query mask encoding is 'rgb8': use mono8"):
        messages.query_of_mask(message)
    message.encoding, message.step, message.data = "mono8", 6, array("B", mask.tobytes())
    stamp, found = messages.query_of_mask(message)
    assert stamp == 5
    np.testing.assert_array_equal(found, mask > 0)


CAMERA = InputStatus("/image_raw", "reliable, keep last 10", 1, "", "", 0.1, 0.5, 0)


def test_a_healthy_node() -> None:
    counts = BufferCounts(12, dict.fromkeys(Drop, 1), streams=1, waiting=2)
    worker = WorkerStatus(
        stage="fitting",
        clips=3,
        points_alive=40,
        points_created=50,
        fit=FitStatus(5, 60, 1.25, "", {"flow": 0.5}),
        stage_seconds={"features": 2.0},
    )
    health = health_of(
        "active", CAMERA, counts, worker, ErrorStatus(), queue_capacity=60, clip_length=48,
        image_timeout=2, dropped_before=len(Drop),
    )  # fmt: skip
    assert health.level is Level.OK
    assert health.message == "fitting: 3 clips, 40 points alive"
    assert health.values["frames_dropped"] == str(len(Drop))
    assert health.values["dropped.bad_image"] == "1"
    assert health.values["points_retired"] == "10"
    assert health.values["fit.iteration"] == "5"
    assert health.values["fit.loss.flow"] == "0.5"
    assert health.values["seconds.features"] == "2.000"
    message = messages.diagnostic_array(health, Time(sec=3), "dino_tracker: tracker", "cpu")
    back = deserialize_message(serialize_message(message), type(message))
    assert back.status[0].level == b"\x00"
    assert {pair.key: pair.value for pair in back.status[0].values} == dict(health.values)


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({"state": "inactive"}, Level.OK, "inactive"),
        ({"configure_failed": True}, Level.ERROR, "configure failed: no weights"),
        ({"worker": WorkerStatus(last_clip_failed=True)}, Level.ERROR, "last clip failed: no we"),
        ({"camera": NO_INPUT}, Level.WARN, "no image yet"),
        (
            {"camera": InputStatus("/a", "best effort", 0, "; nobody publishes /d", "", 3, 0, 0)},
            Level.WARN,
            "no image for 3.0 s: waiting for /a (best effort), 0 publishers; nobody publishes /d",
        ),
        (
            {"camera": InputStatus("/a", "reliable", 1, "", "QoS does not fit", 0.1, 0, 0)},
            Level.WARN,
            "QoS does not fit",
        ),
        ({"errors": ErrorStatus(2, "bad image", 1.0)}, Level.WARN, "bad image"),
        ({"dropped_before": -3}, Level.WARN, "3 frames dropped since the last report"),
    ],
)
def test_an_unhealthy_node(changes: dict[str, object], level: Level, said: str) -> None:
    arguments = {
        "state": "active",
        "camera": CAMERA,
        "counts": NO_COUNTS,
        "worker": WorkerStatus(),
        "errors": ErrorStatus(1, "no weights", 100.0),
        "image_timeout": 2.0,
    }
    health = health_of(**(arguments | changes))  # type: ignore[arg-type]
    assert health.level is level
    assert health.message.startswith(said)


def test_the_error_log_counts_all_and_repeats_nothing() -> None:
    log = ErrorLog()
    assert log.status().seconds_since_last is None
    assert log.add("frame 12: step 5 is wrong")
    assert not log.add("frame 13: step 5 is wrong")
    assert log.add("something else")
    assert log.status().count == 3
    assert log.status().last == "something else"
