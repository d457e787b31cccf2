"""Between the tracker's arrays and ROS messages."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PointStamped, PolygonStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from dino_tracker_ros.msg import Track, TrackArray
from dino_tracker_ros.ros.diagnostics import Health
from dino_tracker_ros.ros.image_decoding import ImageError, decode
from dino_tracker_ros.tracking.tracks import Tracks, told_queries


def stamp_of(time: Any) -> int:
    """A builtin_interfaces/Time as nanoseconds."""
    return int(time.sec) * 10**9 + int(time.nanosec)


def time_of(stamp: int) -> Any:
    """Nanoseconds as a builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp), 10**9)
    return Time(sec=sec, nanosec=nanosec)


def track_array(
    tracks: Tracks,
    ids: NDArray[np.uint32],
    depth: NDArray[np.float32] | None,
    frame_id: str,
    clip_id: int,
) -> Any:
    """N tracks as a TrackArray, whose header has the newest frame's stamp.

    Args:
        tracks: N tracks over T frames.
        ids: uint32 [N].
        depth: float32 [N, T] metres, NaN where unknown; None without a depth camera.
        frame_id: of the images.
        clip_id: number of the clip.
    """
    message = TrackArray(width=tracks.width, height=tracks.height, clip_id=clip_id)
    message.header.stamp = time_of(tracks.stamps[-1])
    message.header.frame_id = frame_id
    message.stamps = [time_of(stamp) for stamp in tracks.stamps]
    asked = tracks.query_indices
    message.tracks = [
        Track(
            id=int(ids[n]),
            query_index=int(asked[n]),
            x=_floats(tracks.points[n, :, 0]),
            y=_floats(tracks.points[n, :, 1]),
            occluded=_bytes(tracks.occluded[n]),
            confidence=_floats(tracks.confidence[n]),
            depth=_floats(depth[n]) if depth is not None else array("f"),
        )
        for n in range(len(ids))
    ]
    return message


def tracks_of(message: Any) -> tuple[Tracks, NDArray[np.uint32], NDArray[np.float32] | None]:
    """A TrackArray as (tracks, ids uint32 [N], depth float32 [N, T] or None)."""
    stamps = np.array([stamp_of(time) for time in message.stamps], np.int64)
    count, length = len(message.tracks), len(stamps)
    points = np.empty((count, length, 2), np.float32)
    occluded = np.empty((count, length), bool)
    confidence = np.empty((count, length), np.float32)
    asked = np.empty(count, np.uint32)
    for n, track in enumerate(message.tracks):
        points[n, :, 0], points[n, :, 1] = track.x, track.y
        occluded[n] = np.asarray(track.occluded, np.uint8) != Track.VISIBLE
        confidence[n] = track.confidence
        asked[n] = track.query_index
    depth = None
    if count and all(len(track.depth) == length for track in message.tracks):
        depth = np.array([track.depth for track in message.tracks], np.float32)
    ids = np.array([track.id for track in message.tracks], np.uint32)
    tracks = Tracks(
        queries=told_queries(asked, points, occluded),
        points=points,
        occluded=occluded,
        confidence=confidence,
        stamps=stamps,
        width=message.width,
        height=message.height,
    )
    return tracks, ids, depth


def image_message(image: NDArray[np.uint8], stamp: int, frame_id: str) -> Any:
    """uint8 [H, W, 3] RGB as a sensor_msgs/Image."""
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=width * 3)
    message.header.stamp = time_of(stamp)
    message.header.frame_id = frame_id
    # An array is taken as it is; bytes would be checked one by one.
    message.data = array("B", np.ascontiguousarray(image).tobytes())
    return message


def query_of_polygon(message: PolygonStamped) -> tuple[int, NDArray[np.float32]]:
    """(stamp in ns, float32 [N, 2] px) of ~/query_points."""
    places = np.array([(p.x, p.y) for p in message.polygon.points], np.float32)
    return stamp_of(message.header.stamp), places.reshape(-1, 2)


def query_of_click(message: PointStamped) -> tuple[int, NDArray[np.float32]]:
    """(stamp in ns, float32 [1, 2] px) of /clicked_point."""
    place = np.array([[message.point.x, message.point.y]], np.float32)
    return stamp_of(message.header.stamp), place


def query_of_mask(message: Image) -> tuple[int, NDArray[np.bool_]]:
    """(stamp in ns, bool [H, W]) of ~/query_mask.

    Raises:
        ImageError: the image is malformed or not mono8.
    """
    if message.encoding not in ("mono8", "8UC1"):
        raise ImageError(f"query mask encoding is '{message.encoding}': use mono8")
    image = decode(
        message.height,
        message.width,
        message.encoding,
        message.step,
        bool(message.is_bigendian),
        message.data,
    )
    return stamp_of(message.header.stamp), image[..., 0] > 0


def diagnostic_array(health: Health, stamp: Any, name: str, hardware: str) -> Any:
    """One DiagnosticStatus in a DiagnosticArray.

    Args:
        health: level, sentence and values.
        stamp: builtin_interfaces/Time of the report.
        name: of the status.
        hardware: the compute device.
    """
    status = DiagnosticStatus(
        level=bytes([health.level.value]), name=name, message=health.message, hardware_id=hardware
    )
    status.values = [KeyValue(key=key, value=value) for key, value in health.values.items()]
    array_message = DiagnosticArray(status=[status])
    array_message.header.stamp = stamp
    return array_message


def _floats(values: NDArray[np.float32]) -> array[float]:
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())


def _bytes(values: Iterable[Any]) -> array[int]:
    return array("B", np.ascontiguousarray(values, np.uint8).tobytes())
