"""A stand-in for DinoTracker, for tests of what surrounds it: quick, exact, and told to fail.

The scene moves by VELOCITY from frame to frame, so every true track is known. A frame whose first
pixel has one of the colours below makes that call fail as the real one could.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError, FrameError, OptimizationError, QueryError
from dino_tracker_ros.tracking.tracks import Tracks

VELOCITY = np.array([1.0, 0.5], np.float32)  # px a frame
REFUSED = (1, 2, 3)
NO_MEMORY = (4, 5, 6)
DIVERGES = (7, 8, 9)
SLOW = (10, 11, 12)


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's own."""


class TrackerDouble:
    """Keeps to DinoTracker's contract as far as the worker sees it."""

    def __init__(self, settings: object = None) -> None:
        self.settings = settings
        self.frames: list[Frame] = []
        self.kept: list[Frame] = []
        self._taken = 0  # frames observed since the last reset
        self._number: dict[int, int] = {}  # of each frame, by its stamp
        self.confidence = 0.9  # of what is seen
        self.fits = 0
        self.resets = 0

    @property
    def keyframes(self) -> list[int]:
        return [frame.stamp for frame in self.kept]

    @property
    def frame_count(self) -> int:
        return len(self.frames)

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        return {"features": 0.25 * len(self.frames), "fit": float(self.fits)}

    def observe(self, frame: Frame) -> None:
        if self._marked(frame, REFUSED):
            raise FrameError("the frame is refused: send another")
        if self._marked(frame, NO_MEMORY):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nand more")
        if self.frames and frame.stamp <= self.frames[-1].stamp:
            raise FrameError("stamps must grow")
        if self.frames and frame.image.shape != self.frames[0].image.shape:
            raise FrameError("sizes must not change")
        self.frames.append(frame)
        self._number[frame.stamp] = self._taken
        self._taken += 1

    def fit(
        self, progress: Callable[[Any], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Any:  # fmt: skip
        if len(self.frames) < 2:
            raise ClipError("two frames are needed")
        if any(self._marked(frame, DIVERGES) for frame in self.frames):
            raise OptimizationError("the loss is NaN at iteration 3: lower the learning rate")
        iterations = 1000 if any(self._marked(frame, SLOW) for frame in self.frames) else 2
        for done in range(1, iterations + 1):
            if cancelled is not None and cancelled():
                return SimpleNamespace(
                    iterations=done - 1, seconds=0.0, stopped="cancelled", losses={}
                )
            if progress is not None:
                progress(
                    SimpleNamespace(
                        iteration=done, iterations=iterations, seconds=0.01, losses={"flow": 0.5}
                    )
                )
            if iterations > 2:
                time.sleep(0.05)
        self.fits += 1
        return SimpleNamespace(
            iterations=iterations, seconds=0.1, stopped="iterations", losses={"flow": 0.25}
        )

    def track(self, queries: np.ndarray) -> Tracks:
        if not self.frames:
            raise ClipError("the clip is empty")
        length = len(self.frames)
        height, width = self.frames[0].image.shape[:2]
        for t, x, y in queries:
            in_image = -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
            if not (-len(self.kept) <= t < length and in_image):
                raise QueryError(f"query ({t:g}, {x:g}, {y:g}) is outside")
        held = [*self.frames, *self.kept]  # so that -1 is the newest keyframe
        numbers = np.array([self._number[frame.stamp] for frame in held], np.float32)
        steps = numbers[None, :length] - numbers[queries[:, 0].astype(int), None]
        points = queries[:, None, 1:] + steps[..., None] * VELOCITY
        outside = ((points < -0.5) | (points > np.array([width, height]) - 0.5)).any(axis=-1)
        return Tracks(
            queries=queries.astype(np.float32),
            points=points.astype(np.float32),
            occluded=outside,
            confidence=np.where(outside, 0.1, self.confidence).astype(np.float32),
            stamps=np.array([frame.stamp for frame in self.frames], np.int64),
            width=width,
            height=height,
        )

    def forget(self, frames: int, keep: Collection[int] = ()) -> None:
        if frames > len(self.frames):
            raise ClipError("fewer frames are there")
        gone = [*self.kept, *self.frames[:frames]]
        self.kept = [frame for frame in gone if frame.stamp in keep]
        del self.frames[:frames]

    def reset(self) -> None:
        self.frames.clear()
        self.kept.clear()
        self._number.clear()
        self._taken = 0
        self.resets += 1

    @staticmethod
    def _marked(frame: Frame, colour: tuple[int, int, int]) -> bool:
        return tuple(frame.image[0, 0]) == colour
