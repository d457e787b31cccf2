"""Plays frames as a camera would: sensor_msgs/Image with the recorded stamps, and /clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError

FRAME_ID = "camera"
CLOCK_PERIOD = 0.025  # s between messages on /clock, as `ros2 bag play --clock` has it


class PlayerError(TrackerError):
    """The frames cannot be played."""


class Player:
    """Publishes frames at the pace of their stamps, whenever `play` is called in time.

    Args:
        node: an rclpy node.
        frames: T frames, stamps increasing.
        rate: how much faster than recorded; infinity does not wait between frames.

    Attributes:
        published_at: stamp, ns, to the time.monotonic() at which its image was published.

    Raises:
        PlayerError: the rate is not positive.
    """

    def __init__(self, node: Any, frames: Sequence[Frame], rate: float) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image

        if not rate > 0:
            raise PlayerError(f"the rate of playback is {rate:g}: it must be greater than 0")
        self._frames = frames
        self._rate = rate
        quality = QoSProfile(depth=len(frames), reliability=ReliabilityPolicy.RELIABLE)
        self._images = node.create_publisher(Image, "image_raw", quality)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._next = 0
        self._stamp = frames[0].stamp
        self._message = self._ready(0)
        self._first_stamp = self._stamp
        self._begin: float | None = None
        self.published_at: dict[int, float] = {}

    @property
    def is_heard(self) -> bool:
        """Whether somebody subscribes to the images."""
        return bool(self._images.get_subscription_count())

    @property
    def is_through(self) -> bool:
        """Whether all frames are published."""
        return self._next == len(self._frames)

    def play(self) -> float:
        """Publishes the next image if it is due, and the time; the first call begins to play.

        Returns:
            Seconds until it should be called again.
        """
        if self.is_through:
            return CLOCK_PERIOD
        now = time.monotonic()
        if self._begin is None:
            self._begin = now
        due = self._begin + (self._stamp - self._first_stamp) * 1e-9 / self._rate
        if now < due:
            self._tell_time(self._stamp - int((due - now) * self._rate * 1e9))
            return min(due - now, CLOCK_PERIOD)
        self._tell_time(self._stamp)
        self.published_at[self._stamp] = now
        self._images.publish(self._message)
        self._next += 1
        if not self.is_through:
            self._message = self._ready(self._next)
        return 0.0

    def _ready(self, index: int) -> Any:
        """The message of a frame, made before its time."""
        from dino_tracker_ros.ros.messages import image_message

        frame = self._frames[index]
        self._stamp = frame.stamp
        return image_message(frame.image, frame.stamp, FRAME_ID)

    def _tell_time(self, stamp: int) -> None:
        from rosgraph_msgs.msg import Clock

        from dino_tracker_ros.ros.messages import time_of

        self._clock.publish(Clock(clock=time_of(stamp)))
