"""The bounded queue between the camera's callbacks and the worker."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from dino_tracker_ros.ros.depth import Depth
from dino_tracker_ros.tracking.clip import Frame


class Drop(str, Enum):
    """Why a frame was not tracked; the values are keys in /diagnostics."""

    BAD_IMAGE = "bad_image"
    QUEUE_FULL = "queue_full"
    OUT_OF_ORDER = "out_of_order"
    DUPLICATE = "duplicate"
    RATE = "rate"
    PAUSED = "paused"
    UNSYNCHRONISED = "unsynchronised"
    REFUSED = "refused"
    DISCARDED = "discarded"


@dataclass(frozen=True)
class CameraFrame:
    """A frame with what the node needs beside the pixels.

    Attributes:
        frame: image and stamp.
        frame_id: of the camera.
        depth: float32 [h, w] metres, registered to the image; None without a depth camera.
        new_stream: why a new stream begins with this frame; empty where it continues one.
    """

    frame: Frame
    frame_id: str
    depth: Depth | None = None
    new_stream: str = ""


@dataclass(frozen=True)
class BufferCounts:
    """Frames since the buffer was made.

    Attributes:
        received: every frame that came, good or bad.
        dropped: those that were not tracked, by reason.
        streams: how often a stream began.
        waiting: frames in the queue now.
    """

    received: int
    dropped: Mapping[Drop, int]
    streams: int
    waiting: int


class ClipBuffer:
    """Keeps frames in the order of their stamps until the worker takes them.

    Thread-safe: any thread may put and count, one thread takes.

    Args:
        capacity: most frames that wait.
        drop: which frame goes when the queue is full, "oldest" or "newest".
        max_rate: frames closer in time than this are thinned out, Hz; 0 keeps all.
        jump_back: a stamp older than the last one by more than this begins a new stream,
            s; less is a late frame and dropped.
    """

    def __init__(
        self, capacity: int, drop: str = "oldest", max_rate: float = 0.0, jump_back: float = 0.2
    ) -> None:
        self._capacity = capacity
        self._drop_oldest = drop == "oldest"
        # A tenth of slack, so that jitter does not halve the rate of a 30 Hz camera kept at 30 Hz.
        self._min_interval = 0.9e9 / max_rate if max_rate else 0.0
        self._jump_back = jump_back * 1e9
        self._queue: deque[CameraFrame] = deque()
        self._changed = threading.Condition()
        self._received = 0
        self._dropped: Counter[Drop] = Counter()
        self._streams = 0
        self._last: Frame | None = None
        self._begin = "first frame"

    def put(self, item: CameraFrame) -> None:
        """Accepts or drops a frame, and counts it."""
        with self._changed:
            self._received += 1
            reason = self._refusal(item.frame)
            if reason is not None:
                self._dropped[reason] += 1
                return
            item = replace(item, new_stream=self._new_stream(item.frame))
            self._last, self._begin = item.frame, ""
            self._streams += bool(item.new_stream)
            if len(self._queue) < self._capacity:
                self._queue.append(item)
            else:
                self._dropped[Drop.QUEUE_FULL] += 1
                self._replace_one(item)
            self._changed.notify()

    def take(self, timeout: float) -> CameraFrame | None:
        """The oldest frame, or None when none came for `timeout` seconds."""
        with self._changed:
            if not self._queue:
                self._changed.wait(timeout)
            return self._queue.popleft() if self._queue else None

    def count_drop(self, reason: Drop, received: bool = True) -> None:
        """Counts a frame that was lost outside the buffer.

        Args:
            reason: why.
            received: it was never put, so it counts as received here.
        """
        with self._changed:
            self._received += received
            self._dropped[reason] += 1

    def restart(self, reason: str) -> None:
        """Empties the queue; the next frame begins a new stream for the reason given."""
        with self._changed:
            self._dropped[Drop.DISCARDED] += len(self._queue)
            self._queue.clear()
            self._last, self._begin = None, reason

    @property
    def newest_stamp(self) -> int | None:
        """Stamp of the last frame accepted in this stream, ns; None before the first."""
        with self._changed:
            return None if self._last is None else self._last.stamp

    def counts(self) -> BufferCounts:
        """A copy of all counters."""
        with self._changed:
            return BufferCounts(
                received=self._received,
                dropped={reason: self._dropped[reason] for reason in Drop},
                streams=self._streams,
                waiting=len(self._queue),
            )

    def _refusal(self, frame: Frame) -> Drop | None:
        if self._last is None or frame.image.shape != self._last.image.shape:
            return None
        step = frame.stamp - self._last.stamp
        if step == 0:
            return Drop.DUPLICATE
        if -self._jump_back <= step < 0:
            return Drop.OUT_OF_ORDER
        if 0 < step < self._min_interval:
            return Drop.RATE
        return None

    def _new_stream(self, frame: Frame) -> str:
        if self._last is None:
            return self._begin
        if frame.image.shape != self._last.image.shape:
            old, new = self._last.image.shape, frame.image.shape
            return f"image size changed from {old[1]}x{old[0]} to {new[1]}x{new[0]}"
        if frame.stamp < self._last.stamp:
            return f"time jumped back by {(self._last.stamp - frame.stamp) * 1e-9:.3f} s"
        return ""

    def _replace_one(self, item: CameraFrame) -> None:
        """Drops one frame of a full queue; a stream's beginning moves to its next frame."""
        if self._drop_oldest:
            gone = self._queue.popleft()
            self._queue.append(item)
            if gone.new_stream and not self._queue[0].new_stream:
                self._queue[0] = replace(self._queue[0], new_stream=gone.new_stream)
        elif item.new_stream:
            self._begin = item.new_stream
            self._streams -= 1
            self._last = None
