"""What the tracker returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EARLIER = 2**32 - 1
"""Track.msg's `query_index` of points that were asked for before the first of its frames."""


@dataclass(frozen=True)
class Tracks:
    """N point trajectories over T frames, in pixels of the input image.

    Attributes:
        queries: float32 [N, 3], (t, x, y): frame index and position of each query point; a
            negative index is that of a keyframe, which is none of the T frames.
        points: float32 [N, T, 2], (x, y), pixel centres at integers.
        occluded: bool [N, T].
        confidence: float32 [N, T], 0..1, that the point is there and visible.
        stamps: int64 [T], nanoseconds, oldest first.
        width, height: size of the input image, px.
        deformed: float32 [N, T], how much what is around each point was deformed since its query,
            see `keyframes.deformation`; infinite where that is not known, None where nowhere.
    """

    queries: NDArray[np.float32]
    points: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    stamps: NDArray[np.int64]
    width: int
    height: int
    deformed: NDArray[np.float32] | None = None

    @property
    def query_indices(self) -> NDArray[np.uint32]:
        """uint32 [N], the frame of each query, or EARLIER."""
        times = self.queries[:, 0].astype(np.int64)
        return np.where(times < 0, EARLIER, times).astype(np.uint32)


def told_queries(
    indices: NDArray[np.uint32], points: NDArray[np.float32], occluded: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Queries of tracks that tell in which frame they were asked for: those asked for earlier are
    taken to be asked for where they are seen first.

    Args:
        indices: uint32 [N], of frames, or EARLIER.
        points: float32 [N, T, 2].
        occluded: bool [N, T].

    Returns:
        float32 [N, 3], (t, x, y).
    """
    times = np.where(indices == EARLIER, occluded.argmin(axis=1), indices).astype(np.int64)
    places = points[np.arange(len(points)), times]
    return np.column_stack([times, places]).astype(np.float32).reshape(-1, 3)
