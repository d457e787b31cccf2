"""The one thread that owns the model: frames in, clips of tracks out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.ros.clip_buffer import CameraFrame, ClipBuffer, Drop
from dino_tracker_ros.ros.depth import depth_at
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import OptimizationError, TrackerError
from dino_tracker_ros.tracking.identities import (
    as_queries,
    carried_over,
    no_points,
    with_new,
    worth_keeping,
)
from dino_tracker_ros.tracking.queries import grid_holes, inside_image, points_in_mask
from dino_tracker_ros.tracking.tracks import Tracks

POLL = 0.05  # seconds between looks at the flags while no frame comes


class PointTracker(Protocol):
    """The part of DinoTracker that the worker uses."""

    def observe(self, frame: Frame) -> None: ...

    def fit(self, progress: Callable[[Any], None], cancelled: Callable[[], bool]) -> Any: ...

    def track(self, queries: NDArray[np.float32]) -> Tracks: ...

    def forget(self, frames: int, keep: Collection[int] = ()) -> None: ...

    def reset(self) -> None: ...

    @property
    def keyframes(self) -> Sequence[int]: ...

    @property
    def stage_seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Numbering:
    """The next point's id and the next clip's number: they go on from worker to worker."""

    point: int = 0
    clip: int = 0


@dataclass(frozen=True)
class WorkerSettings:
    """What the worker needs of the node's settings.

    Attributes:
        length, overlap: of a clip, frames.
        keyframes: most frames that are kept beside it.
        grid_spacing: px; 0 for no grid.
        mask_spacing: between points asked for with a mask, px.
        maximum: most points alive at once.
        patience: clips in a row without being seen until a point is given up.
        flush_after: seconds without an image after which a partial clip is tracked; 0 never.
        minimum_frames: new frames that a partial clip needs.
    """

    length: int
    overlap: int
    keyframes: int
    grid_spacing: int
    mask_spacing: int
    maximum: int
    patience: int
    flush_after: float
    minimum_frames: int


@dataclass(frozen=True)
class ClipResult:
    """One tracked clip.

    Attributes:
        clip_id: number of the clip, never given twice.
        ids: uint32 [N].
        tracks: N tracks over T frames.
        depth: float32 [N, T] metres, NaN where unknown; None without a depth camera.
        frame_id: of the camera.
        image: uint8 [H, W, 3], the newest frame.
    """

    clip_id: int
    ids: NDArray[np.uint32]
    tracks: Tracks
    depth: NDArray[np.float32] | None
    frame_id: str
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class FitStatus:
    """The last optimization, or the running one."""

    iteration: int = 0
    iterations: int = 0
    seconds: float = 0.0
    stopped: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerStatus:
    """What the worker did and does; a copy, safe to keep."""

    stage: str = "loading"
    frames_processed: int = 0
    clip_frames: int = 0
    clip_pending: int = 0
    clips: int = 0
    clips_failed: int = 0
    last_clip_failed: bool = False
    tracks: int = 0
    points_alive: int = 0
    points_created: int = 0
    queries_waiting: int = 0
    queries_refused: int = 0
    fit: FitStatus = FitStatus()
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def points_retired(self) -> int:
        """Points that were tracked once and no longer are."""
        return self.points_created - self.points_alive


@dataclass(frozen=True)
class _Asked:
    """Query points whose frame has not been in a clip yet; stamp 0 means the oldest frame."""

    stamp: int
    places: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class _Seen:
    """What the worker keeps of a frame that the tracker holds."""

    stamp: int
    depth: NDArray[np.float32] | None


class Worker:
    """Owns the tracker on a thread of its own; every method may be called from any other.

    No exception leaves the thread: each becomes a call of `on_error`, and the thread lives on.

    Args:
        load: makes the tracker; called on the worker's thread.
        release: gives memory back; called when the tracker is gone and when memory ran out.
        buffer: where the frames come from.
        settings: see WorkerSettings.
        on_clip: called on the worker's thread with every tracked clip.
        on_error: called on any thread with a text for the log and the diagnostics.
        first: what points and clips are numbered from.
    """

    def __init__(
        self,
        load: Callable[[], PointTracker],
        release: Callable[[], None],
        buffer: ClipBuffer,
        settings: WorkerSettings,
        on_clip: Callable[[ClipResult], None],
        on_error: Callable[[str], None],
        first: Numbering | None = None,
    ) -> None:
        self._first = first or Numbering()
        self._load = load
        self._release = release
        self._buffer = buffer
        self._settings = settings
        self._on_clip = on_clip
        self._on_error = on_error

        self._lock = threading.Lock()  # guards _status and _asked
        self._status = WorkerStatus()
        self._asked: list[_Asked] = []

        self._loaded = threading.Event()
        self._load_error: BaseException | None = None
        self._stop = threading.Event()
        self._active = threading.Event()
        self._cancel = threading.Event()  # ends a running optimization
        self._restart = threading.Event()
        self._flush = threading.Event()
        self._clear = threading.Event()

        # Touched by the worker's thread only.
        self._points = no_points(self._first.point)
        self._window: list[_Seen] = []
        self._newest: CameraFrame | None = None
        self._pending = 0
        self._next_clip = self._first.clip
        self._last_frame_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="dino_tracker_worker", daemon=True)

    # From any thread -------------------------------------------------------------------------

    @property
    def numbering(self) -> Numbering:
        """What the next worker numbers from."""
        return Numbering(self._points.next_id, self._next_clip)

    def start(self, keep_waiting: Callable[[], bool] = lambda: True) -> None:
        """Starts the thread and waits until the tracker is loaded.

        Args:
            keep_waiting: asked ten times a second; false gives up.

        Raises:
            Exception: whatever `load` raised.
            InterruptedError: `keep_waiting` said no.
        """
        self._thread.start()
        while not self._loaded.wait(0.1):
            if not keep_waiting():
                self._stop.set()
                raise InterruptedError("stopped while the tracker was loading")
        if self._load_error is not None:
            raise self._load_error

    def activate(self) -> None:
        """Begins to take frames."""
        self._active.set()

    def deactivate(self) -> None:
        """Stops taking frames, cancels a running optimization, drops frames and points."""
        self._active.clear()
        self.restart("node was activated again")

    def restart(self, reason: str) -> None:
        """Drops all frames, living points and the fit; ids are not given again."""
        self._buffer.restart(reason)
        self._restart.set()
        self._cancel.set()

    def flush(self) -> None:
        """Tracks the frames that are there, without waiting for a full clip."""
        self._flush.set()

    def clear_points(self) -> None:
        """Drops all points, living and asked for; the grid begins anew with the next clip."""
        with self._lock:
            self._asked.clear()
        self._clear.set()

    def ask(self, stamp: int, places: NDArray[np.float32]) -> None:
        """Asks for points.

        Args:
            stamp: of the frame they lie on, ns; 0 for the newest.
            places: float32 [N, 2], (x, y) px.
        """
        self._ask(_Asked(stamp or self._buffer.newest_stamp or 0, places))

    def ask_in_mask(self, stamp: int, mask: NDArray[np.bool_]) -> None:
        """Asks for a grid of points inside a mask.

        Args:
            stamp: of the frame the mask belongs to, ns; 0 for the newest.
            mask: bool [H, W], of the image's size.
        """
        spacing = self._settings.mask_spacing
        places = points_in_mask(mask, spacing)
        if not len(places):
            self._on_error(
                f"no point of the grid lies in the query mask ({mask.sum()} pixels): mark more "
                f"pixels or lower queries.mask_spacing ({spacing} px)"
            )
            return
        self._ask(_Asked(stamp or self._buffer.newest_stamp or 0, places, mask))

    def stop(self, timeout: float = 10.0) -> bool:
        """Ends the thread and frees the tracker; true where it ended in time."""
        self._stop.set()
        self._active.clear()
        self._cancel.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> WorkerStatus:
        """What the worker does now."""
        with self._lock:
            return replace(self._status, queries_waiting=sum(len(a) for a in self._asked))

    # On the worker's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tracker = self._load()
        except BaseException as error:  # told to whoever waits in start()
            self._load_error = error
            return
        finally:
            self._loaded.set()
        while not self._stop.is_set():
            try:
                self._step(tracker)
            except Exception as error:  # the thread must live on
                self._on_error(f"worker: {describe_error(error)}")
        del tracker
        self._release()

    def _step(self, tracker: PointTracker) -> None:
        if self._restart.is_set():
            self._restart.clear()
            self._cancel.clear()
            self._drop_everything(tracker)
        if self._clear.is_set():
            self._clear.clear()
            self._points = no_points(self._points.next_id)
        self._note(stage="idle", tracker=tracker)
        if not self._active.is_set():
            self._active.wait(POLL)
            return
        item = self._buffer.take(POLL)
        if item is not None:
            self._observe(tracker, item)
            if len(self._window) >= self._settings.length:
                self._process(tracker)
        elif self._partial_clip_is_due():
            self._process(tracker)

    def _partial_clip_is_due(self) -> bool:
        if self._flush.is_set():
            self._flush.clear()
            return self._pending >= 1 and len(self._window) >= 2
        after = self._settings.flush_after
        waited = after > 0 and time.monotonic() - self._last_frame_at > after
        return waited and self._pending_is_enough()

    def _pending_is_enough(self) -> bool:
        return len(self._window) >= 2 and self._pending >= self._settings.minimum_frames

    def _observe(self, tracker: PointTracker, item: CameraFrame) -> None:
        if item.new_stream and self._window:
            if self._pending_is_enough():
                self._process(tracker)
            self._drop_everything(tracker)
        self._note(stage="observing", tracker=tracker)
        try:
            tracker.observe(item.frame)
        except Exception as error:  # one bad frame is one bad frame
            self._buffer.count_drop(Drop.REFUSED, received=False)
            self._on_error(f"frame {item.frame.stamp}: {describe_error(error)}")
            if is_out_of_memory(error):
                self._free(tracker)
            return
        self._window.append(_Seen(item.frame.stamp, item.depth))
        self._newest = item
        self._pending += 1
        self._last_frame_at = time.monotonic()
        with self._lock:
            processed = self._status.frames_processed + 1
            self._status = replace(self._status, frames_processed=processed)

    def _process(self, tracker: PointTracker) -> None:
        """Fits and tracks the window, then forgets all but its overlap."""
        clip_id, self._next_clip = self._next_clip, self._next_clip + 1
        try:
            fitted = self._fit(tracker)
            if self._cancel.is_set():
                return
            self._track(tracker, clip_id)
            self._note(last_clip_failed=not fitted)
        except Exception as error:  # a failed clip must not end the stream
            self._on_error(f"clip {clip_id}: {describe_error(error)}")
            self._note(clips_failed=self.status().clips_failed + 1, last_clip_failed=True)
            if is_out_of_memory(error):
                self._free(tracker)
        gone = max(0, len(self._window) - self._settings.overlap)
        if gone:
            tracker.forget(gone, self._worth_keeping())
            del self._window[:gone]
        self._pending = 0
        self._note(tracker=tracker)

    def _fit(self, tracker: PointTracker) -> bool:
        """False where the optimization failed; the clip is then tracked with the model as it is."""
        self._note(stage="fitting", fit=FitStatus(), tracker=tracker)

        def progress(now: Any) -> None:
            fit = FitStatus(now.iteration, now.iterations, now.seconds, "", dict(now.losses))
            self._note(fit=fit)

        try:
            report = tracker.fit(progress=progress, cancelled=self._cancel.is_set)
        except OptimizationError as error:
            self._on_error(f"optimization: {error}")
            return False
        iterations = self.status().fit.iterations or report.iterations
        self._note(
            fit=FitStatus(
                report.iterations, iterations, report.seconds, report.stopped, dict(report.losses)
            )
        )
        return True

    def _track(self, tracker: PointTracker, clip_id: int) -> None:
        assert self._newest is not None
        self._note(stage="tracking", tracker=tracker)
        stamps = np.array([seen.stamp for seen in self._window], np.int64)
        self._enter_new_points(stamps)
        tracks = tracker.track(as_queries(self._points, stamps, tracker.keyframes))
        result = ClipResult(
            clip_id=clip_id,
            ids=self._points.ids,
            tracks=tracks,
            depth=self._depth_of(tracks),
            frame_id=self._newest.frame_id,
            image=self._newest.frame.image,
        )
        settings = self._settings
        self._points = carried_over(
            self._points, tracks, settings.overlap, settings.keyframes, settings.patience
        )
        self._on_clip(result)
        self._note(clips=self.status().clips + 1, tracks=len(result.ids))

    def _worth_keeping(self) -> list[int]:
        """Stamps of the frames that the next clip will still ask points on."""
        oldest = self._window[-min(len(self._window), self._settings.overlap)].stamp
        return worth_keeping(self._points, oldest, self._settings.keyframes)

    def _enter_new_points(self, stamps: NDArray[np.int64]) -> None:
        """Asked points whose frame is here begin to live; then holes of the grid are filled."""
        assert self._newest is not None
        height, width = self._newest.frame.image.shape[:2]
        with self._lock:
            ready = [asked for asked in self._asked if asked.stamp <= stamps[-1]]
            self._asked = [asked for asked in self._asked if asked.stamp > stamps[-1]]
        for asked in ready:
            self._enter(asked, stamps, width, height)
        if self._settings.grid_spacing:
            # The living points are known on the newest frame that was tracked before.
            seam = max(0, len(stamps) - self._pending - 1)
            holes = grid_holes(width, height, self._settings.grid_spacing, self._points.current)
            room = max(0, self._settings.maximum - len(self._points))
            self._add(holes[:room], int(stamps[seam]))

    def _enter(self, asked: _Asked, stamps: NDArray[np.int64], width: int, height: int) -> None:
        if asked.stamp and asked.stamp < stamps[0]:
            self._refuse(
                len(asked),
                f"{len(asked)} query points on the frame of {seconds(asked.stamp)} s come too "
                f"late: the clip begins at {seconds(int(stamps[0]))} s; send them sooner or "
                "raise clip.overlap",
            )
            return
        if asked.mask is not None and asked.mask.shape != (height, width):
            self._refuse(
                len(asked),
                f"query mask is {asked.mask.shape[1]}x{asked.mask.shape[0]} pixels: "
                f"the image is {width}x{height}",
            )
            return
        good = inside_image(asked.places, width, height)
        for x, y in asked.places[~good]:
            self._refuse(
                1, f"query point ({x:g}, {y:g}) is outside the image of {width}x{height} pixels"
            )
        places = asked.places[good]
        room = max(0, self._settings.maximum - len(self._points))
        if len(places) > room:
            self._refuse(
                len(places) - room,
                f"{len(places) - room} query points are more than queries.maximum "
                f"({self._settings.maximum}) allows: raise it",
            )
        nearest = int(np.abs(stamps - asked.stamp).argmin()) if asked.stamp else 0
        self._add(places[:room], int(stamps[nearest]))

    def _add(self, places: NDArray[np.float32], stamp: int) -> None:
        self._points = with_new(self._points, places, stamp)

    def _depth_of(self, tracks: Tracks) -> NDArray[np.float32] | None:
        if all(seen.depth is None for seen in self._window):
            return None
        depth = np.full(tracks.occluded.shape, np.nan, np.float32)
        for t, seen in enumerate(self._window):
            if seen.depth is not None:
                depth[:, t] = depth_at(seen.depth, tracks.points[:, t], tracks.width, tracks.height)
        depth[tracks.occluded] = np.nan
        return depth

    def _drop_everything(self, tracker: PointTracker) -> None:
        tracker.reset()
        self._window.clear()
        self._newest = None
        self._pending = 0
        self._points = no_points(self._points.next_id)

    def _free(self, tracker: PointTracker) -> None:
        """After running out of memory: the frames go, the living points stay."""
        tracker.reset()
        self._window.clear()
        self._pending = 0
        self._release()

    def _ask(self, asked: _Asked) -> None:
        with self._lock:
            waiting = sum(len(other) for other in self._asked)
            fits = waiting + len(asked) <= self._settings.maximum
            if fits:
                self._asked.append(asked)
        if not fits:
            self._refuse(
                len(asked),
                f"{len(asked)} query points and the {waiting} that wait are more than "
                f"queries.maximum ({self._settings.maximum}): raise it",
            )

    def _refuse(self, count: int, reason: str) -> None:
        with self._lock:
            refused = self._status.queries_refused + count
            self._status = replace(self._status, queries_refused=refused)
        self._on_error(reason)

    def _note(self, tracker: PointTracker | None = None, **changes: Any) -> None:
        """Writes down what the worker does, for other threads."""
        if tracker is not None:
            changes["stage_seconds"] = dict(tracker.stage_seconds)
        with self._lock:
            self._status = replace(
                self._status,
                clip_frames=len(self._window),
                clip_pending=self._pending,
                points_alive=len(self._points),
                points_created=self._points.next_id - self._first.point,
                **changes,
            )


def describe_error(error: BaseException) -> str:
    """One line for people: a tracker's own error as it is, any other with its type."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, TrackerError):
        return text
    if is_out_of_memory(error):
        return (
            f"out of memory ({text}): lower clip.length, clip.longest_side or queries.maximum, "
            "or raise backbone.stride"
        )
    return f"{type(error).__name__}: {text}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or not (this side knows PyTorch's error by name only)."""
    return isinstance(error, MemoryError) or "outofmemory" in type(error).__name__.lower()


def seconds(stamp: int) -> str:
    """A stamp in ns as seconds, all digits."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"
