"""What the tracker returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tracks:
    """N point trajectories over T frames, in pixels of the input image.

    Attributes:
        queries: float32 [N, 3], (t, x, y): frame index and position of each query point.
        points: float32 [N, T, 2], (x, y), pixel centres at integers.
        occluded: bool [N, T].
        confidence: float32 [N, T], 0..1, that the point is there and visible.
        stamps: int64 [T], nanoseconds, oldest first.
        width, height: size of the input image, px.
    """

    queries: NDArray[np.float32]
    points: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    stamps: NDArray[np.int64]
    width: int
    height: int
