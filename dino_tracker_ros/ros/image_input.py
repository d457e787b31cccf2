"""From image topics to frames: raw, compressed, or synchronised with depth and camera_info."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dino_tracker_ros.ros.clip_buffer import CameraFrame, Drop
from dino_tracker_ros.ros.depth import Depth, decode_depth
from dino_tracker_ros.ros.diagnostics import InputStatus
from dino_tracker_ros.ros.image_decoding import ImageError, decode, decode_compressed
from dino_tracker_ros.ros.loading import MissingPackageError
from dino_tracker_ros.ros.messages import stamp_of
from dino_tracker_ros.ros.node_settings import DepthSettings, ImageSettings
from dino_tracker_ros.tracking.clip import Frame

IMAGE_TOPIC = "image_raw"
DEPTH_TOPIC = "depth/image_raw"
INFO_TOPIC = "camera_info"


class ImageInput:
    """Subscribes to the camera and turns its messages into frames.

    Args:
        node: an rclpy node.
        image: transport, reliability and queue of the subscriptions.
        depth: whether and how depth is synchronised.
        on_frame: called with every good frame.
        on_drop: called with the reason for every lost one.
        on_error: called with a text for every bad message.

    Attributes:
        info_topic: resolved name of the topic of camera_info.
        camera_info: its newest message; None before the first.

    Raises:
        MissingPackageError: depth is enabled and message_filters is not installed.
    """

    def __init__(
        self,
        node: Any,
        image: ImageSettings,
        depth: DepthSettings,
        on_frame: Callable[[CameraFrame], None],
        on_drop: Callable[[Drop], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._node = node
        self._image = image
        self._depth = depth
        self._on_frame = on_frame
        self._on_drop = on_drop
        self._on_error = on_error
        self._filters = _import_message_filters() if depth.enabled else None

        # As image_transport has it: the compressed topic hangs below the (remapped) raw one.
        topic = node.resolve_topic_name(IMAGE_TOPIC)
        self._compressed = image.transport == "compressed"
        if self._compressed and not topic.endswith("/compressed"):
            topic += "/compressed"
        self._topic = topic
        self.info_topic: str = node.resolve_topic_name(INFO_TOPIC)
        self.camera_info: CameraInfo | None = None
        self._subscriptions: list[Any] = []
        self._synchronizer: Any = None
        self._reliable = image.reliability != "best_effort"
        self._unmatched = 0
        self._incompatible = ""
        self._last_image_at: float | None = None
        self._decode_seconds = 0.0
        self._bad_depth = 0

    def open(self) -> None:
        """Subscribes."""
        self._subscribe(self._wants_reliable())

    def close(self) -> None:
        """Ends all subscriptions."""
        self._synchronizer = None
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)
        for _ in range(self._unmatched):
            self._on_drop(Drop.UNSYNCHRONISED)
        self._unmatched = 0

    def follow_publishers(self) -> None:
        """Subscribes anew where the publishers offer another reliability, and tells of a publisher
        that the subscription cannot hear; call it now and then."""
        if self._subscriptions and self._wants_reliable() != self._reliable:
            self.close()
            self._subscribe(not self._reliable)
        incompatible = self._why_incompatible()
        if incompatible and incompatible != self._incompatible:
            self._on_error(incompatible)
        self._incompatible = incompatible

    def status(self) -> InputStatus:
        """What the subscription is like now."""
        reliability = "reliable" if self._reliable else "best effort"
        since = None if self._last_image_at is None else time.monotonic() - self._last_image_at
        return InputStatus(
            topic=self._topic,
            qos=f"{reliability}, keep last {self._image.qos_depth}",
            publishers=self._node.count_publishers(self._topic),
            waiting_for=self._unpublished_companions(),
            incompatible=self._incompatible,
            seconds_since_image=since,
            decode_seconds=self._decode_seconds,
            bad_depth=self._bad_depth,
        )

    def _wants_reliable(self) -> bool:
        if self._image.reliability != "auto":
            return self._image.reliability == "reliable"
        # Best effort fits every publisher but loses large images; a reliable one should be used.
        best_effort = self._publishers_are_best_effort()
        return not any(best_effort) if best_effort else self._reliable

    def _publishers_are_best_effort(self) -> list[bool]:
        return [
            info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
            for info in self._node.get_publishers_info_by_topic(self._topic)
        ]

    def _why_incompatible(self) -> str:
        """Only reliability can be: the subscription asks for nothing else."""
        deaf_to = sum(self._publishers_are_best_effort()) if self._reliable else 0
        if not deaf_to:
            return ""
        return (
            f"{deaf_to} publishers on {self._topic} offer best effort, the subscription asks for "
            "reliable and hears nothing of them: set image.reliability to auto or best_effort"
        )

    def _subscribe(self, reliable: bool) -> None:
        self._reliable = reliable
        image_type = CompressedImage if self._compressed else Image
        callback = self._on_compressed if self._compressed else self._on_raw
        if self._filters is None:
            # Best effort hears every publisher, and such small messages are not lost.
            heard = QoSProfile(
                depth=self._image.qos_depth, reliability=ReliabilityPolicy.BEST_EFFORT
            )
            self._subscriptions = [
                self._node.create_subscription(image_type, self._topic, callback, self._qos()),
                self._node.create_subscription(CameraInfo, self.info_topic, self._on_info, heard),
            ]
            return
        topics = (
            (image_type, self._topic),
            (Image, self._node.resolve_topic_name(DEPTH_TOPIC)),
            (CameraInfo, self.info_topic),
        )
        filters = [
            self._filters.Subscriber(self._node, message_type, topic, qos_profile=self._qos())
            for message_type, topic in topics
        ]
        filters[0].registerCallback(self._count_unmatched)
        self._synchronizer = self._filters.ApproximateTimeSynchronizer(
            filters, queue_size=self._image.qos_depth, slop=self._depth.max_delay
        )
        self._synchronizer.registerCallback(self._on_synchronised)
        self._subscriptions = [filter_.sub for filter_ in filters]

    def _qos(self) -> QoSProfile:
        reliability = (
            ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT
        )
        return QoSProfile(depth=self._image.qos_depth, reliability=reliability)

    def _unpublished_companions(self) -> str:
        if self._filters is None:
            return ""
        names = [self._node.resolve_topic_name(DEPTH_TOPIC), self.info_topic]
        missing = [name for name in names if not self._node.count_publishers(name)]
        return f"; nobody publishes {' and '.join(missing)}" if missing else ""

    def _on_raw(self, message: Image) -> None:
        self._receive(message, None)

    def _on_compressed(self, message: CompressedImage) -> None:
        self._receive(message, None)

    def _on_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    def _count_unmatched(self, message: Any) -> None:
        """An image came; what of it is too old to find its depth any more is lost."""
        self._unmatched += 1
        if self._unmatched > self._image.qos_depth:
            self._unmatched -= 1
            self._on_drop(Drop.UNSYNCHRONISED)

    def _on_synchronised(self, message: Any, depth: Image, info: CameraInfo) -> None:
        self._unmatched = max(0, self._unmatched - 1)
        self.camera_info = info
        self._receive(message, self._decode_depth(message, depth, info))

    def _receive(self, message: Any, depth: Depth | None) -> None:
        started = time.monotonic()
        self._last_image_at = started
        stamp = stamp_of(message.header.stamp)
        try:
            frame = Frame(_pixels(message), stamp)
        except ImageError as error:
            self._on_drop(Drop.BAD_IMAGE)
            self._on_error(f"{self._topic} at {stamp} ns: {error}")
            return
        finally:
            self._decode_seconds += time.monotonic() - started
        self._on_frame(CameraFrame(frame, message.header.frame_id, depth))

    def _decode_depth(self, message: Any, depth: Image, info: CameraInfo) -> Depth | None:
        """None where the depth cannot be used; the image is tracked all the same."""
        try:
            _check_registration(message, depth, info)
            return decode_depth(
                depth.height,
                depth.width,
                depth.encoding,
                depth.step,
                bool(depth.is_bigendian),
                depth.data,
            )
        except ImageError as error:
            self._bad_depth += 1
            self._on_error(f"{DEPTH_TOPIC} at {stamp_of(depth.header.stamp)} ns: {error}")
            return None


def _pixels(message: Any) -> Any:
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    return decode(
        message.height,
        message.width,
        message.encoding,
        message.step,
        bool(message.is_bigendian),
        message.data,
    )


def _check_registration(message: Any, depth: Image, info: CameraInfo) -> None:
    """Depth belongs to the image's pixels only if both are seen by the same camera."""
    if depth.header.frame_id != message.header.frame_id:
        raise ImageError(
            f"depth frame_id is '{depth.header.frame_id}', the image's "
            f"'{message.header.frame_id}': publish depth registered to the image"
        )
    if isinstance(message, Image) and (info.width, info.height) != (message.width, message.height):
        raise ImageError(
            f"camera_info is for {info.width}x{info.height} pixels, the image has "
            f"{message.width}x{message.height}: publish the camera_info of this image"
        )


def _import_message_filters() -> Any:
    try:
        import message_filters
    except ImportError as error:
        raise MissingPackageError(
            "depth.enabled needs the ROS package message_filters, which is not installed: "
            "install ros-<distro>-message-filters or set depth.enabled to false"
        ) from error
    return message_filters
