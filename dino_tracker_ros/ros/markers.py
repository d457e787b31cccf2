"""Tracks in space: visualization_msgs markers in the camera's optical frame (REP 103)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from dino_tracker_ros.ros.messages import time_of
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.overlay import id_colours, point_radius

PLANE = 1.0  # m in front of the camera, where points go whose depth nobody measures
TRAIL = 8  # frames of the past behind each point, as on the overlay
_LARGEST_ID = 2**31  # a marker's id is signed


class CameraError(TrackerError):
    """Pixels cannot be placed in space with this camera_info."""


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion.

    Attributes:
        width, height: of its images, px.
        focal: (x, y), px.
        centre: (x, y), px.
    """

    width: int
    height: int
    focal: tuple[float, float]
    centre: tuple[float, float]


def pinhole_of(info: Any) -> Pinhole:
    """The camera of a sensor_msgs/CameraInfo: its rectified one, and where there is none its K.

    Raises:
        CameraError: the camera is not calibrated.
    """
    p, k = info.p, info.k
    focal, centre = ((p[0], p[5]), (p[2], p[6])) if p[0] else ((k[0], k[4]), (k[2], k[5]))
    if not (focal[0] > 0 and focal[1] > 0):
        raise CameraError("camera_info has no focal length: calibrate the camera")
    return Pinhole(info.width, info.height, focal, centre)


def places_in_space(
    tracks: Tracks, depth: NDArray[np.float32] | None, camera: Pinhole
) -> NDArray[np.float64]:
    """Where points are, as the camera sees them in each frame.

    Args:
        tracks: N tracks over T frames.
        depth: float32 [N, T], metres along the optical axis, NaN where unknown; None puts every
            point on the plane `PLANE` metres in front of the camera.
        camera: of the images.

    Returns:
        [N, T, 3], metres, x right, y down, z forward; NaN where a point is hidden or its depth
        unknown.

    Raises:
        CameraError: the camera has images of another size.
    """
    if (camera.width, camera.height) != (tracks.width, tracks.height):
        raise CameraError(
            f"camera_info is for {camera.width}x{camera.height} pixels, the image has "
            f"{tracks.width}x{tracks.height}: publish the camera_info of this image"
        )
    rays = (tracks.points - np.array(camera.centre)) / np.array(camera.focal)
    ahead = np.full(tracks.occluded.shape, PLANE) if depth is None else depth.astype(np.float64)
    ahead = np.where(tracks.occluded, np.nan, ahead)
    return np.concatenate([rays * ahead[..., None], ahead[..., None]], axis=-1)


def marker_array(
    tracks: Tracks,
    ids: NDArray[np.uint32],
    depth: NDArray[np.float32] | None,
    camera: Pinhole,
    frame_id: str,
) -> Any:
    """The newest frame's points as spheres, each with its trail, and nothing of earlier messages.

    A sphere looks as large as the overlay's dot, wherever it is, and has its colour. The id of a
    marker is the track's; namespaces are `points` and `trails`.

    Args:
        tracks: N tracks over T frames.
        ids: uint32 [N].
        depth, camera: as in `places_in_space`, whose errors it raises.
        frame_id: of the images.
    """
    places = places_in_space(tracks, depth, camera)[:, -1 - TRAIL :]
    size = 2 * point_radius(tracks.width, tracks.height) / camera.focal[0]  # at 1 m
    colours = id_colours(ids) / 255

    def marker(row: int, namespace: str, kind: int, scale: float) -> Any:
        made = Marker(ns=namespace, id=int(ids[row]) % _LARGEST_ID, type=kind)
        made.header.stamp, made.header.frame_id = time_of(tracks.stamps[-1]), frame_id
        made.scale.x = made.scale.y = made.scale.z = float(scale)
        r, g, b = colours[row].tolist()
        made.color = ColorRGBA(r=r, g=g, b=b, a=1.0)
        return made

    clear = Marker(action=Marker.DELETEALL)
    clear.header.stamp, clear.header.frame_id = time_of(tracks.stamps[-1]), frame_id
    markers = [clear]
    known = ~np.isnan(places[..., 2])
    for row in np.flatnonzero(known[:, -1]).tolist():
        (newest,) = _points(places[row, -1:])
        point = marker(row, "points", Marker.SPHERE, size * newest.z)
        point.pose.position = newest
        markers.append(point)
        # The trail reaches back to where the point was last unknown.
        gaps = np.flatnonzero(~known[row])
        trail = places[row, (gaps[-1] + 1 if len(gaps) else 0) :]
        if len(trail) > 1:
            line = marker(row, "trails", Marker.LINE_STRIP, size * newest.z / 4)
            line.points = _points(trail)
            markers.append(line)
    return MarkerArray(markers=markers)


def _points(places: NDArray[np.float64]) -> list[Any]:
    return [Point(x=x, y=y, z=z) for x, y, z in places.tolist()]
