"""Depth images: from a message's bytes to metres, and from tracked pixels to depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.ros.image_decoding import ImageError, samples

Depth = NDArray[np.float32]

_UNITS = {"16UC1": (np.uint16, 0.001), "mono16": (np.uint16, 0.001), "32FC1": (np.float32, 1.0)}


def decode_depth(
    height: int, width: int, encoding: str, step: int, is_bigendian: bool, data: Any
) -> Depth:
    """The metres of a depth image (REP 118): 16UC1 in millimetres or 32FC1 in metres.

    Returns:
        float32 [height, width], metres along the optical axis; NaN where nothing was measured
        (zero, negative, infinite or NaN in the message).

    Raises:
        ImageError: the fields contradict each other, or there is no measurement at all.
    """
    if encoding not in _UNITS:
        raise ImageError(f"depth encoding is '{encoding}': use {' or '.join(sorted(_UNITS))}")
    dtype, metres = _UNITS[encoding]
    raw = samples(height, width, 1, dtype, step, is_bigendian, data, what=f"{encoding} depth image")
    depth = raw.astype(np.float32) * np.float32(metres)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    if np.isnan(depth).all():
        raise ImageError(
            f"{encoding} depth image {width}x{height} holds no measurement (all zero, NaN or "
            "infinite): check the depth camera's range and its topic"
        )
    return depth


def depth_at(
    depth: Depth, points: NDArray[np.float32], width: int, height: int
) -> NDArray[np.float32]:
    """The depth at pixels of the image that the depth image is registered to.

    The nearest pixel is taken: interpolation would invent surfaces between an edge's two sides.

    Args:
        depth: float32 [h, w], metres; covers the same view as the image, at any resolution.
        points: float32 [N, 2], (x, y) in image pixels.
        width, height: of the image, px.

    Returns:
        float32 [N], metres; NaN outside the image and where nothing was measured.
    """
    scale = np.array([depth.shape[1] / width, depth.shape[0] / height])
    with np.errstate(invalid="ignore"):
        cells = np.floor((points + 0.5) * scale).astype(np.int64)
    inside = ((cells >= 0) & (cells < (depth.shape[1], depth.shape[0]))).all(axis=1)
    inside &= np.isfinite(points).all(axis=1)
    found = np.full(len(points), np.nan, np.float32)
    found[inside] = depth[cells[inside, 1], cells[inside, 0]]
    return found
