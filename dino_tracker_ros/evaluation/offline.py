"""Frames from anywhere through DinoTracker, at once or in overlapping clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError, QueryError
from dino_tracker_ros.tracking.optimizer import FitProgress
from dino_tracker_ros.tracking.queries import inside_image
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


class ClipTracker(Protocol):
    """What is used of DinoTracker."""

    def observe(self, frame: Frame) -> None: ...
    def fit(self, progress: Callable[[FitProgress], None] | None = None) -> object: ...
    def track(self, queries: NDArray[np.float32]) -> Tracks: ...
    def forget(self, frames: int) -> None: ...
    def reset(self) -> None: ...


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
    each starts from the fit of the one before, and a point goes on from the shared frame in which
    it was seen most clearly. What the later clip says about the shared frames counts: it has seen
    more, and the node's clips are joined in the same way. Points asked for after the first clip
    need a second pass over the earlier clips, newest first, that takes them back in time.

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
    run = _Run(frames, queries, settings, progress or (lambda stage, done, total: None), tracker)
    return run.tracks()


class _Run:
    """The tracks of one sequence as far as they are known."""

    def __init__(
        self,
        frames: Sequence[Frame],
        queries: NDArray[np.float32],
        settings: Settings,
        progress: Progress,
        tracker: ClipTracker | None,
    ) -> None:
        self._frames = frames
        self._queries = queries
        self._progress = progress
        self._tracker = DinoTracker(settings) if tracker is None else tracker
        clip = settings.clip
        self._bounds = clip_bounds(len(frames), clip.length, clip.overlap)
        count = len(queries)
        self._points = np.zeros((count, len(frames), 2), np.float32)
        self._occluded = np.ones((count, len(frames)), bool)
        self._confidence = np.zeros((count, len(frames)), np.float32)
        self._known = np.zeros((count, len(frames)), bool)
        self._stamps = np.zeros(len(frames), np.int64)
        self._size = (0, 0)

    def tracks(self) -> Tracks:
        times = np.rint(self._queries[:, 0]).astype(int)
        homes = np.array([self._home(t) for t in times], dtype=int)
        passes = len(self._bounds) + max([0, *homes])
        self._tracker.reset()
        for number, (start, end) in enumerate(self._bounds):
            begin = start if number == 0 else self._bounds[number - 1][1]
            if number > 0:
                self._tracker.forget(start - self._bounds[number - 1][0])
            self._fit(begin, end, number, passes)
            self._track(number, np.flatnonzero(homes <= number), homes)
        for back, number in enumerate(range(max([0, *homes]) - 1, -1, -1)):
            self._tracker.reset()
            self._fit(*self._bounds[number], len(self._bounds) + back, passes)
            self._track(number, np.flatnonzero(homes > number), homes)
        return Tracks(
            queries=self._queries,
            points=self._points,
            occluded=self._occluded,
            confidence=self._confidence,
            stamps=self._stamps,
            width=self._size[0],
            height=self._size[1],
        )

    def _home(self, time: int) -> int:
        """The first clip that holds the frame."""
        return next(n for n, (start, end) in enumerate(self._bounds) if start <= time < end)

    def _fit(self, begin: int, end: int, number: int, passes: int) -> None:
        clip = f" (clip {number + 1} of {passes})" if passes > 1 else ""
        for index in range(begin, end):
            frame = self._frames[index]
            self._stamps[index] = frame.stamp
            self._size = (frame.image.shape[1], frame.image.shape[0])
            self._tracker.observe(frame)
            self._progress(f"features and flow{clip}", index + 1 - begin, end - begin)
        self._tracker.fit(
            lambda step: self._progress(f"optimizing{clip}", step.iteration, step.iterations)
        )

    def _track(self, number: int, chosen: NDArray[np.int64], homes: NDArray[np.int64]) -> None:
        if not len(chosen):
            return
        start, end = self._bounds[number]
        queries = self._queries[chosen].copy()
        replaces = homes[chosen] < number  # what earlier clips said
        for row in np.flatnonzero(homes[chosen] != number):
            queries[row], inside = self._carry(int(chosen[row]), start, end)
            replaces[row] &= inside
        queries[:, 0] -= start
        result = self._tracker.track(queries)
        asked = np.arange(start, end) == np.rint(self._queries[chosen, :1])
        new = ~self._known[chosen, start:end] | (replaces[:, None] & ~asked)
        for target, source in (
            (self._points, result.points),
            (self._occluded, result.occluded),
            (self._confidence, result.confidence),
        ):
            part = target[chosen, start:end]
            part[new] = source[new]
            target[chosen, start:end] = part
        self._known[chosen, start:end] = True

    def _carry(
        self, index: int, start: int, end: int
    ) -> tuple[tuple[int, float, float], bool]:
        """Where a point that was tracked in the neighbouring clip enters this one, (t, x, y).

        And whether it was tracked to there: one that has left the picture enters at its border.
        """
        known = start + np.flatnonzero(self._known[index, start:end])
        places = self._points[index, known]
        inside = inside_image(places, *self._size)
        visible = inside & ~self._occluded[index, known]
        # The rule of identities.carried_over, in both directions of time.
        rank = np.where(inside, self._confidence[index, known] + 2 * visible, -1.0)
        best = int(rank.argmax())
        x, y = np.clip(places[best], 0, np.array(self._size) - 1)
        return (int(known[best]), float(x), float(y)), bool(inside[best])
