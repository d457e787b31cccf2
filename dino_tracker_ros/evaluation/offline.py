"""Frames from anywhere through DinoTracker, at once or in overlapping clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError, QueryError
from dino_tracker_ros.tracking.identities import (
    as_queries,
    carried_over,
    no_points,
    with_new,
    worth_keeping,
)
from dino_tracker_ros.tracking.optimizer import FitProgress
from dino_tracker_ros.tracking.queries import inside_image
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import LazyFrames

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


class ClipTracker(Protocol):
    """What is used of DinoTracker."""

    def observe(self, frame: Frame) -> None: ...
    def fit(self, progress: Callable[[FitProgress], None] | None = None) -> object: ...
    def track(self, queries: NDArray[np.float32]) -> Tracks: ...
    def forget(self, frames: int, keep: Collection[int] = ()) -> None: ...
    def reset(self) -> None: ...
    @property
    def keyframes(self) -> Sequence[int]: ...


def clip_bounds(frame_count: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """First and past-the-last frame of each clip; together they cover all frames."""
    bounds = [(0, min(length, frame_count))]
    while bounds[-1][1] < frame_count:
        start = bounds[-1][0] + length - overlap
        bounds.append((start, min(start + length, frame_count)))
    return bounds


def track_frames(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    settings: Settings,
    progress: Progress | None = None,
    tracker: ClipTracker | None = None,
) -> Tracks:
    """Tracks query points through all frames, forward and backward.

    Up to clip.length frames are one clip. More are cut into clips that share clip.overlap frames:
    each starts from the fit of the one before, and points go on as in the node
    (`identities`). What the later clip says about the shared frames counts: it has seen more, and
    the node's clips are joined in the same way. Points asked for after the first clip need a
    second pass that takes them back in time: the same, over the frames in reverse.

    Args:
        frames: T frames; read in order, at most twice.
        queries: float32 [N, 3], (t, x, y) in pixels of the frames.
        settings: of the tracker.
        progress: told about every frame read and every iteration.
        tracker: one that was made with these settings; None makes it.

    Raises:
        ClipError: less than two frames.
        QueryError: a query's frame is not among the frames.
        TrackerError: whatever DinoTracker raises.
    """
    if len(frames) < 2:
        raise ClipError(f"{len(frames)} frames: tracking needs at least two")
    queries = np.asarray(queries, dtype=np.float32).reshape(-1, 3)
    times = np.rint(queries[:, 0]).astype(int)
    for index in np.flatnonzero((times < 0) | (times >= len(frames)))[:1]:
        raise QueryError(
            f"query {index} is at frame {queries[index, 0]:g}: the frames are 0..{len(frames) - 1}"
        )
    tracker = DinoTracker(settings) if tracker is None else tracker
    bounds = clip_bounds(len(frames), settings.clip.length, settings.clip.overlap)
    homes = _homes(times, bounds)
    end = bounds[max([0, *homes])][1]
    late = np.flatnonzero(homes > 0)
    back = clip_bounds(end, settings.clip.length, settings.clip.overlap) if len(late) else []
    run = _Run(tracker, settings, progress or (lambda stage, done, total: None), [*bounds, *back])
    result = run.sweep(frames, queries, bounds)
    if len(late):
        turned = queries[late]
        turned[:, 0] = end - 1 - times[late]
        earlier = run.sweep(_Reversed(frames, result.stamps[:end]), turned, back)
        for source, row in enumerate(late):
            before = bounds[homes[row]][0]  # what the first pass does not tell
            for ours, theirs in (
                (result.points, earlier.points),
                (result.occluded, earlier.occluded),
                (result.confidence, earlier.confidence),
            ):
                ours[row, :before] = theirs[source, ::-1][:before]
    return result


def _homes(times: NDArray[np.int64], bounds: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The first clip that holds each frame."""
    return np.array([next(n for n, (_, end) in enumerate(bounds) if t < end) for t in times], int)


class _Reversed(LazyFrames):
    """The first frames of a sequence, from the last of them to the first, as if time ran back.

    Args:
        frames: T frames or more.
        stamps: int64 [T], of the first ones, ns.
    """

    def __init__(self, frames: Sequence[Frame], stamps: NDArray[np.int64]) -> None:
        self._frames = frames
        self.stamps = tuple(-int(stamp) for stamp in stamps[::-1])

    def _frame(self, index: int) -> Frame:
        return replace(self._frames[len(self) - 1 - index], stamp=self.stamps[index])


class _Run:
    """One tracker's way through clips, which it may go in several sweeps.

    Args:
        tracker: its clips are made here.
        settings: of the tracker.
        progress: told about every frame read and every iteration.
        clips: bounds of all that will be gone through.
    """

    def __init__(
        self,
        tracker: ClipTracker,
        settings: Settings,
        progress: Progress,
        clips: Sequence[tuple[int, int]],
    ) -> None:
        self._tracker = tracker
        self._settings = settings
        self._progress = progress
        self._clips = len(clips)
        self._done = 0

    def sweep(
        self,
        frames: Sequence[Frame],
        queries: NDArray[np.float32],
        bounds: Sequence[tuple[int, int]],
    ) -> Tracks:
        """Tracks of queries from the first clip that each is in to the last, hidden before that.

        Args:
            frames: T frames or more.
            queries: float32 [N, 3].
            bounds: of clips that cover T frames.
        """
        count, length = len(queries), bounds[-1][1]
        result = Tracks(
            queries=queries,
            points=np.zeros((count, length, 2), np.float32),
            occluded=np.ones((count, length), bool),
            confidence=np.zeros((count, length), np.float32),
            stamps=np.zeros(length, np.int64),
            width=0,
            height=0,
        )
        times = np.rint(queries[:, 0]).astype(int)
        homes = _homes(times, bounds)
        rows = homes.argsort(kind="stable")  # of points by their ids
        points, tracks, before = no_points(), None, (0, 0)
        self._tracker.reset()
        for number, (start, end) in enumerate(bounds):
            if number > 0:
                most = self._settings.clip.keyframes
                if tracks is not None:
                    points = carried_over(points, tracks, before[1] - start, most, patience=None)
                keep = worth_keeping(points, int(result.stamps[start]), most)
                self._tracker.forget(start - before[0], keep)
            size = self._fit(frames, result.stamps, range(before[1], end))
            result = replace(result, width=size[0], height=size[1])
            known = len(points)
            for row in rows[homes[rows] == number]:
                stamp = int(result.stamps[times[row]])
                points = with_new(points, queries[row : row + 1, 1:], stamp)
            if len(points):
                clip = slice(start, end)
                asked = as_queries(points, result.stamps[clip], self._tracker.keyframes)
                tracks = self._tracker.track(asked)
                _write(result, rows[: len(points)], clip, tracks, known, before[1] - start)
            before = start, end
        return result

    def _fit(
        self, frames: Sequence[Frame], stamps: NDArray[np.int64], numbers: range
    ) -> tuple[int, int]:
        """Observes frames, notes their stamps, fits to the clip, and tells the frames' size."""
        self._done += 1
        clip = f" (clip {self._done} of {self._clips})" if self._clips > 1 else ""
        for index in numbers:
            frame = frames[index]
            stamps[index] = frame.stamp
            self._tracker.observe(frame)
            self._progress(f"features and flow{clip}", 1 + index - numbers.start, len(numbers))
        self._tracker.fit(
            lambda step: self._progress(f"optimizing{clip}", step.iteration, step.iterations)
        )
        return frame.image.shape[1], frame.image.shape[0]


def _write(
    result: Tracks, rows: NDArray[np.int64], clip: slice, tracks: Tracks, known: int, told: int
) -> None:
    """Notes a clip's tracks, except where a point that was known was asked for anew: there it
    stays as it was. One that was outside the picture there was asked for at the border: it stays
    as it was wherever it was known.

    Args:
        result: what is known of all queries, changed in place.
        rows: of the tracks in it.
        clip: its frames in it.
        tracks: of the clip.
        known: so many tracks, the first ones, are of points that earlier clips told of, …
        told: … in so many of the clip's frames, the first ones.
    """
    frames = np.arange(tracks.points.shape[1])
    asked = frames == tracks.queries[:, :1]
    earlier = result.points[rows, clip]
    outside = ~inside_image(earlier, result.width, result.height)
    kept = asked | (asked & outside).any(axis=1, keepdims=True)
    kept = kept & (frames < told) & (np.arange(len(rows)) < known)[:, None]
    for target, source in (
        (result.points, tracks.points),
        (result.occluded, tracks.occluded),
        (result.confidence, tracks.confidence),
    ):
        part = target[rows, clip]
        part[~kept] = source[~kept]
        target[rows, clip] = part
