"""What /diagnostics says: one level, one sentence, and named values."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dino_tracker_ros.ros.clip_buffer import BufferCounts, Drop
from dino_tracker_ros.ros.worker import WorkerStatus

RECENT = 10.0  # seconds that an error keeps the level up
REPEAT = 5.0  # seconds before the log says again what differs in numbers only


class Level(Enum):
    """Values of diagnostic_msgs/DiagnosticStatus.level."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class InputStatus:
    """What the image subscription is like.

    Attributes:
        topic: resolved name.
        qos: in words.
        publishers: how many there are.
        waiting_for: other topics that have no publisher, with their types; empty where none.
        incompatible: why a publisher's QoS does not fit; empty where it does.
        seconds_since_image: None before the first image.
        decode_seconds: spent on decoding, in all.
        bad_depth: depth images that could not be used.
    """

    topic: str
    qos: str
    publishers: int
    waiting_for: str
    incompatible: str
    seconds_since_image: float | None
    decode_seconds: float
    bad_depth: int


@dataclass(frozen=True)
class ErrorStatus:
    """Errors of the node's life.

    Attributes:
        count: how many.
        last: text of the last one.
        seconds_since_last: None where there was none.
    """

    count: int = 0
    last: str = ""
    seconds_since_last: float | None = None


class ErrorLog:
    """Counts errors and decides which are worth a line in the log. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._last = ""
        self._last_at: float | None = None
        self._logged: dict[str, float] = {}

    def add(self, text: str) -> bool:
        """Counts an error; false where the log said the same, but for numbers, moments ago."""
        now = time.monotonic()
        kind = re.sub(r"[\d.]+", "", text)
        with self._lock:
            self._count += 1
            self._last, self._last_at = text, now
            self._logged = {k: at for k, at in self._logged.items() if now - at < REPEAT}
            is_new = kind not in self._logged
            self._logged.setdefault(kind, now)
            return is_new

    def status(self) -> ErrorStatus:
        """How many there were, and the last."""
        with self._lock:
            since = None if self._last_at is None else time.monotonic() - self._last_at
            return ErrorStatus(self._count, self._last, since)


@dataclass(frozen=True)
class Health:
    """A report for one moment."""

    level: Level
    message: str
    values: Mapping[str, str]


NO_INPUT = InputStatus("", "", 0, "", "", None, 0.0, 0)
NO_COUNTS = BufferCounts(received=0, dropped=dict.fromkeys(Drop, 0), streams=0, waiting=0)


def health_of(
    state: str,
    camera: InputStatus,
    counts: BufferCounts,
    worker: WorkerStatus,
    errors: ErrorStatus,
    *,
    queue_capacity: int = 0,
    clip_length: int = 0,
    image_timeout: float = 0.0,
    configure_failed: bool = False,
    dropped_before: int = 0,
) -> Health:
    """The node's health.

    Args:
        state: lifecycle state, or "paused".
        camera, counts, worker, errors: what the parts of the node say.
        queue_capacity, clip_length: frames.
        image_timeout: seconds without an image that are too many.
        configure_failed: the last attempt to configure failed.
        dropped_before: frames dropped at the time of the last report.
    """
    dropped = sum(counts.dropped.values())
    values = {
        "state": state,
        "stage": worker.stage,
        "image_topic": camera.topic,
        "image_qos": camera.qos,
        "publishers": str(camera.publishers),
        "seconds_since_image": _seconds(camera.seconds_since_image),
        "frames_received": str(counts.received),
        "frames_processed": str(worker.frames_processed),
        "frames_dropped": str(dropped),
        **{f"dropped.{reason.value}": str(counts.dropped[reason]) for reason in Drop},
        "bad_depth": str(camera.bad_depth),
        "queue": str(counts.waiting),
        "queue_capacity": str(queue_capacity),
        "clip_frames": str(worker.clip_frames),
        "clip_length": str(clip_length),
        "clip_pending": str(worker.clip_pending),
        "clips": str(worker.clips),
        "clips_failed": str(worker.clips_failed),
        "tracks": str(worker.tracks),
        "points_alive": str(worker.points_alive),
        "points_created": str(worker.points_created),
        "points_retired": str(worker.points_retired),
        "queries_waiting": str(worker.queries_waiting),
        "queries_refused": str(worker.queries_refused),
        "streams": str(counts.streams),
        "fit.iteration": str(worker.fit.iteration),
        "fit.iterations": str(worker.fit.iterations),
        "fit.seconds": f"{worker.fit.seconds:.3f}",
        "fit.stopped": worker.fit.stopped,
        **{f"fit.loss.{name}": f"{loss:.6g}" for name, loss in worker.fit.losses.items()},
        "seconds.decode": f"{camera.decode_seconds:.3f}",
        **{f"seconds.{name}": f"{spent:.3f}" for name, spent in worker.stage_seconds.items()},
        "errors": str(errors.count),
        "last_error": errors.last,
    }
    level, message = _verdict(
        state, camera, worker, errors, image_timeout, configure_failed, dropped - dropped_before
    )
    return Health(level, message, values)


def _verdict(
    state: str,
    camera: InputStatus,
    worker: WorkerStatus,
    errors: ErrorStatus,
    image_timeout: float,
    configure_failed: bool,
    dropped: int,
) -> tuple[Level, str]:
    if configure_failed:
        return Level.ERROR, f"configure failed: {errors.last}"
    if state != "active":
        return Level.OK, state
    if worker.last_clip_failed:
        return Level.ERROR, f"last clip failed: {errors.last}"
    if camera.incompatible:
        return Level.WARN, camera.incompatible
    since = camera.seconds_since_image
    if since is None or since > image_timeout:
        for_how_long = "yet" if since is None else f"for {since:.1f} s"
        return Level.WARN, (
            f"no image {for_how_long}: waiting for {camera.topic} ({camera.qos}), "
            f"{camera.publishers} publishers{camera.waiting_for}"
        )
    if errors.seconds_since_last is not None and errors.seconds_since_last < RECENT:
        return Level.WARN, errors.last
    if dropped > 0:
        return Level.WARN, f"{dropped} frames dropped since the last report"
    return Level.OK, f"{worker.stage}: {worker.clips} clips, {worker.points_alive} points alive"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"
