"""Tracks in bags, as messages of the node's kind, and as files for others."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read and written by the package rosbags")

from bag_files import STORAGES, bag_path, open_bag, picture, write_pictures

from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY, typestore
from dino_tracker_ros.evaluation.bags.reader import BagError, BagReader
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag, write_tracks
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.track_export import ExportError, save_csv, save_tap_vid
from dino_tracker_ros.evaluation.tracks_file import load_tracks, save_tracks
from dino_tracker_ros.evaluation.truths.loading import load_clips, load_truth
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks

STEP = 40_000_000
WIDTH, HEIGHT = 40, 24


def some_tracks(count: int = 3, start: int = 0, length: int = 5) -> Tracks:
    """Tracks over frames start .. start+length-1, whose positions tell frame and point."""
    frames = np.arange(start, start + length)
    points = np.empty((count, length, 2), np.float32)
    points[..., 0] = np.arange(count)[:, None] + 0.1 * frames
    points[..., 1] = 10 + 0.3 * frames
    occluded = (np.arange(count)[:, None] + frames) % 4 == 3
    times = np.arange(count) % 2
    return Tracks(
        queries=np.column_stack([times, points[np.arange(count), times]]).astype(np.float32),
        points=points,
        occluded=occluded,
        confidence=np.where(occluded, 0.25, 0.75).astype(np.float32),
        stamps=np.array(10**9 + STEP * frames, np.int64),
        width=WIDTH,
        height=HEIGHT,
    )


def assert_same(a: Tracks, b: Tracks) -> None:
    assert (a.width, a.height) == (b.width, b.height)
    for name in ("queries", "points", "occluded", "confidence", "stamps"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype


IDS = np.array([4, 7, 9], np.uint32)


# Messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_tracks_come_back_as_they_were(tmp_path, storage):
    path = bag_path(tmp_path, storage)
    tracks = some_tracks()
    tracks.points[2, 3] = np.nan
    with open_bag(path, storage) as bag:
        write_tracks(bag, "/tracks", tracks, IDS, "camera_optical", clip_id=5)
    back, ids = read_track_bag(path)
    assert_same(back, tracks)
    assert ids.tolist() == IDS.tolist()
    with BagReader(path) as reader:
        (recorded,) = reader.messages("/tracks", [TRACK_ARRAY])
        message = reader.deserialize(recorded)
    assert (recorded.time, message.header.frame_id) == (tracks.stamps[-1], "camera_optical")
    assert message.clip_id == 5


def test_overlapping_clips_are_joined_and_the_later_one_wins(tmp_path):
    early, late = some_tracks(start=0), some_tracks(start=3)
    late.points[..., 1] += 1
    with new_bag(tmp_path / "bag") as bag:
        write_tracks(bag, "/tracks", early, IDS, "camera", clip_id=0)
        write_tracks(bag, "/tracks", late, IDS + 1, "camera", clip_id=2)
    tracks, ids = read_track_bag(tmp_path / "bag")
    assert ids.tolist() == [4, 5, 7, 8, 9, 10]
    assert tracks.stamps.tolist() == [10**9 + STEP * frame for frame in range(8)]
    np.testing.assert_array_equal(tracks.points[0, :5], early.points[0])
    assert np.isnan(tracks.points[0, 5:]).all()
    np.testing.assert_array_equal(tracks.points[1, 3:], late.points[0])
    assert tracks.queries[1, 0] == 3
    with new_bag(tmp_path / "same") as bag:
        write_tracks(bag, "/tracks", early, IDS, "camera", clip_id=0)
        write_tracks(bag, "/tracks", late, IDS, "camera", clip_id=1)
    tracks, _ = read_track_bag(tmp_path / "same")
    np.testing.assert_array_equal(tracks.points[:, 3:], late.points)
    np.testing.assert_array_equal(tracks.points[:, :3], early.points[:, :3])


@pytest.mark.ros
def test_the_node_s_own_messages_are_read(tmp_path):
    """Serialized by ROS, as `ros2 bag record` stores them."""
    pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon)")
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2 (rclpy)")
    from dino_tracker_ros.msg import TrackArray

    from dino_tracker_ros.ros.messages import track_array, tracks_of

    depth = np.ones((3, 5), np.float32)
    message = track_array(some_tracks(), IDS, depth, "camera", clip_id=3)
    with new_bag(tmp_path / "bag") as bag:
        bag.write_serialized("/tracks", TRACK_ARRAY, 7, serialization.serialize_message(message))
    back, ids = read_track_bag(tmp_path / "bag")
    assert_same(back, some_tracks())
    assert ids.tolist() == IDS.tolist()
    # And what is written here, ROS reads.
    with new_bag(tmp_path / "ours") as bag:
        write_tracks(bag, "/tracks", some_tracks(), IDS, "camera")
    with BagReader(tmp_path / "ours") as reader:
        (recorded,) = reader.messages("/tracks", [TRACK_ARRAY])
    received, received_ids, _ = tracks_of(
        serialization.deserialize_message(bytes(recorded.data), TrackArray)
    )
    assert_same(received, some_tracks())
    assert received_ids.tolist() == IDS.tolist()


@pytest.mark.ros
def test_the_definition_has_the_hash_that_ros_gives_it():
    index = pytest.importorskip("ament_index_python", reason="needs ROS 2")
    try:
        share = Path(index.get_package_share_directory("dino_tracker_ros"))
    except (index.PackageNotFoundError, OSError):
        pytest.skip("the package is not built, or its workspace is not sourced")
    description = share / "msg" / "TrackArray.json"
    if not description.is_file():
        pytest.skip("this ROS distribution has no type hashes (before Iron)")
    assert typestore(False).hash_rihs01(TRACK_ARRAY) in description.read_text()


# What cannot be joined, or is damaged ----------------------------------------------------------


def test_two_runs_in_one_bag_are_refused(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        write_tracks(bag, "/tracks", some_tracks(start=0), IDS, "camera", clip_id=1)
        write_tracks(bag, "/tracks", some_tracks(start=5), IDS, "camera", clip_id=0)
    with pytest.raises(BagError, match="clip_id 0 after 1: two nodes published, or one was"):
        read_track_bag(tmp_path / "bag")


def test_tracks_of_two_image_sizes_are_refused(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        write_tracks(bag, "/tracks", some_tracks(start=0), IDS, "camera", clip_id=0)
        wider = replace(some_tracks(start=5), width=80)
        write_tracks(bag, "/tracks", wider, IDS, "camera", clip_id=1)
    with pytest.raises(BagError, match=r"message 1 .* is for images of 80x24 px, .* for 40x24"):
        read_track_bag(tmp_path / "bag")


def test_topics_of_tracks_are_chosen_as_those_of_images_are(tmp_path):
    path = tmp_path / "bag"
    write_pictures(path)
    with pytest.raises(BagError, match="has no topic with tracks"):
        read_track_bag(path)
    with new_bag(path, overwrite=True) as bag:
        bag.write_image("/image", Frame(picture(0), 5), "camera")
        write_tracks(bag, "/a", some_tracks(), IDS, "camera")
        write_tracks(bag, "/b", some_tracks(), IDS, "camera")
    with pytest.raises(BagError, match="2 topics with tracks: choose from /a, /b"):
        read_track_bag(path)
    with pytest.raises(BagError, match=r"'/image' .* holds sensor_msgs/msg/Image, not tracks"):
        read_track_bag(path, "/image")
    assert len(read_track_bag(path, "/b")[1]) == 3


def test_no_message_is_an_error(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        bag._writer.add_connection("/tracks", TRACK_ARRAY, typestore=typestore(False))
    with pytest.raises(BagError, match="no message on /tracks: did the node finish a clip"):
        read_track_bag(tmp_path / "bag")


def test_another_version_of_the_message_is_refused(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        other = bag._writer.add_connection(
            "/tracks", TRACK_ARRAY, msgdef="uint8 other", rihs01="RIHS01_" + "1" * 64
        )
        bag._writer.write(other, 5, b"\x00\x01\x00\x00\x05")
    with pytest.raises(BagError, match="another version of dino_tracker_ros/msg/TrackArray"):
        read_track_bag(tmp_path / "bag")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.tracks[1], "x", m.tracks[1].x[:4]), "track 7 has 4 values in x for 5"),
        (lambda m: setattr(m.tracks[0], "query_index", 5), "track 4 has query_index 5 for 5"),
        (lambda m: m.stamps.reverse(), "5 stamps that do not increase"),
        (lambda m: setattr(m.tracks[1], "id", 4), "has an id twice"),
        (lambda m: m.stamps.clear(), "0 stamps that do not increase"),
    ],
)
def test_a_message_that_contradicts_itself_is_named(tmp_path, monkeypatch, change, message):
    with new_bag(tmp_path / "bag") as bag:
        write = bag.write
        monkeypatch.setattr(bag, "write", lambda *a: change(a[-1]) or write(*a))
        write_tracks(bag, "/tracks", some_tracks(), IDS, "camera")
    with pytest.raises(BagError, match=f"message 0 on /tracks .*{message}.*damaged"):
        read_track_bag(tmp_path / "bag")


def test_a_cut_off_message_is_named(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        bag.write_serialized("/tracks", TRACK_ARRAY, 5, b"\x00\x01\x00\x00" + bytes(30))
    with pytest.raises(BagError, match=r"on /tracks in bag .*, recorded at 5 ns, is damaged"):
        read_track_bag(tmp_path / "bag")


# For others ----------------------------------------------------------------------------------


def test_npz_has_the_ids(tmp_path):
    save_tracks(tmp_path / "a.npz", some_tracks(), ids=IDS)
    assert_same(load_tracks(tmp_path / "a.npz"), some_tracks())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["ids"].tolist() == IDS.tolist()
        assert "settings" not in archive


def test_csv_says_where_each_track_was_and_can_be_scored_against(tmp_path):
    tracks = some_tracks()
    tracks.points[1, 4] = np.nan
    save_csv(tmp_path / "a.csv", tracks, IDS)
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14
    assert rows[0] == {
        "track": "4", "stamp": str(10**9), "x": "0", "y": "10", "occluded": "0",
        "confidence": "0.75",
    }  # fmt: skip
    truth = load_truth(tmp_path / "a.csv", tracks.stamps, WIDTH, HEIGHT)
    known = np.isfinite(tracks.points[..., 0])
    np.testing.assert_array_equal(truth.evaluate, known)
    np.testing.assert_array_equal(truth.points[known], tracks.points[known])
    np.testing.assert_array_equal(truth.occluded[known], tracks.occluded[known])


def test_tap_vid_form_is_read_back_as_a_clip(tmp_path, caplog):
    tracks = some_tracks()
    tracks.points[2, 1] = np.nan
    # Images that no track is about do not get in.
    stamps = [tracks.stamps[0] - STEP, *tracks.stamps.tolist()]
    frames = [Frame(picture(index), stamp) for index, stamp in enumerate(stamps)]
    save_tap_vid(tmp_path / "a.pkl", "walk", frames, tracks)
    assert "1 of 15 positions are unknown" in caplog.text
    (clip,) = load_clips(tmp_path / "a.pkl", "first")
    assert clip.name == "walk"
    assert len(clip.frames) == 5
    np.testing.assert_array_equal(clip.frames[0].image, picture(1))
    visible = ~tracks.occluded
    visible[2, 1] = False
    np.testing.assert_array_equal(clip.truth.occluded, ~visible)
    np.testing.assert_allclose(clip.truth.points[visible], tracks.points[visible], atol=1e-4)


def test_tap_vid_form_needs_the_tracks_images(tmp_path):
    tracks = some_tracks()
    frames = [Frame(picture(index), stamp) for index, stamp in enumerate(tracks.stamps.tolist())]
    with pytest.raises(ExportError, match="2 of the tracks' 5 frames are not among the 3 images"):
        save_tap_vid(tmp_path / "a.pkl", "walk", frames[:3], tracks)
    with pytest.raises(ExportError, match="images are 40x24 px, the tracks are for 80x24"):
        save_tap_vid(tmp_path / "a.pkl", "walk", frames, replace(tracks, width=80))
    assert list(tmp_path.iterdir()) == []
