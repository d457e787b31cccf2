"""Points and trails in space, for RViz."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon build)")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo
from visualization_msgs.msg import Marker, MarkerArray

from dino_tracker_ros.ros.markers import (
    TRAIL,
    CameraError,
    Pinhole,
    marker_array,
    pinhole_of,
    places_in_space,
)
from dino_tracker_ros.ros.messages import stamp_of
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.overlay import id_colours

pytestmark = pytest.mark.ros
CAMERA = Pinhole(64, 48, focal=(100.0, 80.0), centre=(31.5, 23.5))
T = 12


def made_tracks(occluded: np.ndarray) -> Tracks:
    count = len(occluded)
    points = np.random.default_rng(0).uniform(5, 40, (count, T, 2)).astype(np.float32)
    return Tracks(
        queries=np.zeros((count, 3), np.float32),
        points=points,
        occluded=occluded,
        confidence=np.ones((count, T), np.float32),
        stamps=np.arange(T, dtype=np.int64) * 10**8,
        width=64,
        height=48,
    )


def test_points_project_back_onto_their_pixels() -> None:
    tracks = made_tracks(np.zeros((3, T), bool))
    depth = np.random.default_rng(1).uniform(0.5, 8, (3, T)).astype(np.float32)
    for given in (depth, None):
        places = places_in_space(tracks, given, CAMERA)
        np.testing.assert_allclose(places[..., 2], 1 if given is None else depth)
        pixels = places[..., :2] / places[..., 2:] * CAMERA.focal + CAMERA.centre
        np.testing.assert_allclose(pixels, tracks.points, atol=1e-4)


def test_what_is_hidden_or_has_no_depth_is_nowhere() -> None:
    occluded = np.zeros((2, T), bool)
    occluded[0, 4] = True
    depth = np.ones((2, T), np.float32)
    depth[1, 7] = np.nan
    places = places_in_space(made_tracks(occluded), depth, CAMERA)
    nowhere = np.isnan(places).all(axis=-1)
    assert np.argwhere(nowhere).tolist() == [[0, 4], [1, 7]]
    assert np.isfinite(places[~nowhere]).all()


def test_markers_are_the_newest_points_with_their_trails() -> None:
    occluded = np.zeros((4, T), bool)
    occluded[1, -1] = True  # hidden now: nothing of it
    occluded[2, -4] = True  # its trail begins after that
    occluded[3, -2] = True  # no trail at all
    tracks, ids = made_tracks(occluded), np.array([7, 8, 9, 2**32 - 1], np.uint32)
    depth = np.full((4, T), 2, np.float32)
    sent = marker_array(tracks, ids, depth, CAMERA, "optical")
    markers = deserialize_message(serialize_message(sent), MarkerArray).markers
    assert markers[0].action == Marker.DELETEALL
    shown = {(each.ns, each.id): each for each in markers[1:]}
    assert set(shown) == {
        ("points", 7), ("trails", 7), ("points", 9), ("trails", 9), ("points", 2**31 - 1),
    }  # fmt: skip
    assert all(each.header.frame_id == "optical" for each in markers)
    assert all(stamp_of(each.header.stamp) == tracks.stamps[-1] for each in markers)
    place = shown["points", 9].pose.position
    assert (place.x, place.y, place.z) == pytest.approx(
        tuple(places_in_space(tracks, depth, CAMERA)[2, -1])
    )
    assert shown["points", 9].type == Marker.SPHERE
    assert shown["trails", 9].type == Marker.LINE_STRIP
    assert len(shown["trails", 7].points) == TRAIL + 1
    assert len(shown["trails", 9].points) == 3
    for (_, number), each in shown.items():
        colour = np.array([each.color.r, each.color.g, each.color.b]) * 255
        of_id = id_colours([2**32 - 1 if number == 2**31 - 1 else number])[0]
        np.testing.assert_allclose(colour, of_id, atol=0.01)
        assert each.color.a == 1


def test_a_sphere_looks_equally_large_at_any_distance() -> None:
    tracks, ids = made_tracks(np.zeros((1, T), bool)), np.array([0], np.uint32)
    sizes = []
    for metres in (1, 5):
        depth = np.full((1, T), metres, np.float32)
        sizes.append(marker_array(tracks, ids, depth, CAMERA, "c").markers[1].scale.x)
    assert sizes[1] == pytest.approx(5 * sizes[0])


def test_no_tracks_clear_the_picture() -> None:
    tracks = made_tracks(np.zeros((0, T), bool))
    markers = marker_array(tracks, np.zeros(0, np.uint32), None, CAMERA, "camera").markers
    assert [each.action for each in markers] == [Marker.DELETEALL]


def test_the_camera_is_the_rectified_one_if_there_is_one() -> None:
    info = CameraInfo(width=64, height=48)
    with pytest.raises(CameraError, match="no focal length: calibrate"):
        pinhole_of(info)
    info.k = [90.0, 0.0, 30.0, 0.0, 91.0, 20.0, 0.0, 0.0, 1.0]
    assert pinhole_of(info) == Pinhole(64, 48, (90.0, 91.0), (30.0, 20.0))
    info.p = [100.0, 0.0, 31.5, 0.0, 0.0, 80.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert pinhole_of(info) == CAMERA


def test_camera_info_of_another_image_is_refused() -> None:
    tracks = made_tracks(np.zeros((1, T), bool))
    with pytest.raises(CameraError, match="for 128x48 pixels, the image has 64x48"):
        places_in_space(tracks, None, Pinhole(128, 48, (100.0, 80.0), (0.0, 0.0)))
