"""Subscribed to /tracks and /diagnostics like anyone else, and asks for points."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.assembly import Clip

QUEUE = 100  # messages
ASKED_AT_ONCE = 1000  # messages of query points, one for each frame
Recorded = tuple[int, bytes]
"""When a message was received, ns, and the message as it came over the wire."""


class Listener:
    """Hears all that a tracker node publishes while it is spun.

    Args:
        context: of rclpy, initialised.
        tracker: name of the tracker node.

    Attributes:
        node: the rclpy node behind it.
        clips: tracks of each TrackArray.
        recorded: the same, serialized.
        tracked_at: stamp, ns, to the time.monotonic() at which tracks first had it.
        diagnostics: the last report, key to value.
        failed: whether its level was ERROR.
        query_topic: resolved name of the topic of query points.
    """

    def __init__(self, context: Any, tracker: str) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
        from geometry_msgs.msg import PolygonStamped
        from rclpy.executors import SingleThreadedExecutor
        from std_srvs.srv import Trigger

        from dino_tracker_ros.msg import TrackArray

        self.clips: list[Clip] = []
        self.recorded: list[Recorded] = []
        self.tracked_at: dict[int, float] = {}
        self.diagnostics: dict[str, str] = {}
        self.failed = False
        self._status_name = f"{tracker}: tracker"
        self._error_level = DiagnosticStatus.ERROR
        self.node: Any = rclpy.create_node("listener", context=context)
        self.node.create_subscription(TrackArray, "tracks", self._on_tracks, QUEUE, raw=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, QUEUE)
        self._asking = self.node.create_publisher(
            PolygonStamped, f"{tracker}/query_points", ASKED_AT_ONCE
        )
        self.query_topic: str = self._asking.topic_name
        self._flush: Any = self.node.create_client(Trigger, f"{tracker}/flush")
        self._executor: Any = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        """Ends the node."""
        self._executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Takes what is there, and what comes in that time."""
        end = time.monotonic() + seconds
        self._executor.spin_once(timeout_sec=seconds)
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def ask(self, queries: NDArray[np.float32], stamps: Mapping[int, int]) -> bool:
        """Sends query points, one message for each frame they are on.

        Args:
            queries: float32 [N, 3], (t, x, y).
            stamps: ns, of every frame t.

        Returns:
            False where nobody subscribes to them yet.
        """
        from geometry_msgs.msg import Point32, Polygon, PolygonStamped

        from dino_tracker_ros.ros.messages import time_of

        if not self._asking.get_subscription_count():
            return False
        for t in np.unique(queries[:, 0]):
            message = PolygonStamped()
            message.header.stamp = time_of(stamps[int(t)])
            own = queries[queries[:, 0] == t]
            message.polygon = Polygon(points=[Point32(x=float(x), y=float(y)) for _, x, y in own])
            self._asking.publish(message)
        return True

    def flush(self) -> None:
        """Asks the node to track the frames that wait for a full clip."""
        from std_srvs.srv import Trigger

        self._flush.call_async(Trigger.Request())

    def number(self, name: str) -> int:
        """A counter of the last report, 0 where there is none."""
        return int(float(self.diagnostics.get(name, "0") or 0))

    def signs(self) -> tuple[object, ...]:
        """Whatever changes while the node gets on."""
        names = (
            "stage", "seconds.features", "seconds.flow", "seconds.track", "frames_processed",
            "frames_dropped", "queue", "clips", "clips_failed", "clip_pending", "fit.iteration",
            "fit.iterations",
        )  # fmt: skip
        return (*(self.diagnostics.get(name) for name in names), len(self.clips))

    def _on_tracks(self, data: bytes) -> None:
        from rclpy.serialization import deserialize_message

        from dino_tracker_ros.msg import TrackArray
        from dino_tracker_ros.ros.messages import tracks_of

        now = time.monotonic()
        self.recorded.append((time.time_ns(), data))
        tracks, ids, _ = tracks_of(deserialize_message(data, TrackArray))
        self.clips.append((tracks, ids))
        for stamp in tracks.stamps.tolist():
            self.tracked_at.setdefault(stamp, now)

    def _on_report(self, message: Any) -> None:
        for status in message.status:
            if status.name == self._status_name:
                self.diagnostics = {value.key: value.value for value in status.values}
                self.failed = status.level == self._error_level
