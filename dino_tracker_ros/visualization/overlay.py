"""Tracks drawn on pictures: dots where points are seen, rings where they are hidden, and trails."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.tracks import Tracks

_SHIFT = 4  # OpenCV draws at 1/2**4 px
_DARK = (24, 24, 24)
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def id_colours(ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """A vivid colour for each id, always the same, uint8 [N, 3] RGB.

    Steps of the golden ratio keep the hues of neighbouring ids far apart.
    """
    numbers = np.asarray(ids, dtype=np.float64).reshape(-1)
    hsv = np.empty((1, len(numbers), 3), np.float32)
    hsv[0, :, 0] = 360 * ((0.12 + numbers * _GOLDEN_RATIO) % 1.0)
    hsv[0, :, 1] = 0.62 + 0.3 * ((numbers * 3) % 4) / 3
    hsv[0, :, 2] = 1.0
    if not len(numbers):
        return np.empty((0, 3), np.uint8)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    return np.asarray(rgb * 255 + 0.5, np.uint8)


def place_colours(queries: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """Colours by where points were asked for, so that neighbours look alike, uint8 [N, 3] RGB.

    Whatever moves together keeps its rainbow, and a track that jumped stands out of it.

    Args:
        queries: float32 [N, 3], (t, x, y).
        width, height: of the image, px.
    """
    if not len(queries):
        return np.empty((0, 3), np.uint8)
    hsv = np.ones((1, len(queries), 3), np.float32)
    hsv[0, :, 0] = 300 * np.clip(queries[:, 1] / width, 0, 1)
    hsv[0, :, 1] = 0.45 + 0.5 * np.clip(queries[:, 2] / height, 0, 1)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    return np.asarray(rgb * 255 + 0.5, np.uint8)


def draw_overlay(
    image: NDArray[np.uint8],
    tracks: Tracks,
    frame_index: int,
    *,
    ids: Sequence[int] | NDArray[np.integer] | None = None,
    trail: int = 8,
) -> NDArray[np.uint8]:
    """A copy of the picture with the tracks as they stand in one frame.

    Args:
        image: uint8 [H, W, 3] RGB, at the tracks' size.
        tracks: N tracks over T frames.
        frame_index: which frame the picture is, 0..T-1.
        ids: N numbers that choose the colours; None colours points by their queries' places.
        trail: frames of the past that fade behind each point.
    """
    if ids is None:
        colours = place_colours(tracks.queries, tracks.width, tracks.height)
    else:
        colours = id_colours(ids)
    radius = point_radius(tracks.width, tracks.height)
    drawn = _draw_trails(image, tracks, frame_index, colours, radius, trail)
    draw_points(
        drawn, tracks.points[:, frame_index], tracks.occluded[:, frame_index], colours, radius
    )
    return drawn


def draw_points(
    image: NDArray[np.uint8],
    points: NDArray[np.float32],
    occluded: NDArray[np.bool_],
    colours: NDArray[np.uint8],
    radius: float,
) -> None:
    """Draws points into the picture itself; the fast part, without trails.

    Args:
        image: uint8 [H, W, 3] RGB, changed in place.
        points: [N, 2], (x, y) px; those that are not finite are left out.
        occluded: bool [N]; hidden points become rings.
        colours: uint8 [N, 3] RGB.
        radius: of a dot, px.
    """
    outer = round((radius + 1) * 2**_SHIFT)
    inner = round(radius * 2**_SHIFT)
    ring, rim = round((radius + 0.5) * 2**_SHIFT), round((radius + 2) * 2**_SHIFT)
    width = max(1, round(radius / 2.5))
    for place, hidden, colour in zip(_fixed(points), occluded, colours.tolist()):
        if place is None:
            continue
        if hidden:
            cv2.circle(image, place, rim, _DARK, width, cv2.LINE_AA, _SHIFT)
            cv2.circle(image, place, ring, colour, width, cv2.LINE_AA, _SHIFT)
        else:
            cv2.circle(image, place, outer, _DARK, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(image, place, inner, colour, -1, cv2.LINE_AA, _SHIFT)


def point_radius(width: int, height: int) -> float:
    """Radius in px of a dot that is well seen on a picture of that size."""
    return max(2.0, min(width, height) / 130)


def montage(
    images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int
) -> NDArray[np.uint8]:
    """A contact sheet of pictures of one size, each under its caption, uint8 [H, W, 3] RGB."""
    height, width = images[0].shape[:2]
    gap = max(4, width // 80)
    band = max(20, height // 14)
    rows = -(-len(images) // columns)
    sheet = np.full(
        (gap + rows * (band + height + gap), gap + columns * (width + gap), 3), 250, np.uint8
    )
    for index, (image, caption) in enumerate(zip(images, captions)):
        row, column = divmod(index, columns)
        top, left = gap + row * (band + height + gap), gap + column * (width + gap)
        sheet[top + band : top + band + height, left : left + width] = image
        scale = band / 36
        cv2.putText(
            sheet, caption, (left + 2, top + round(band * 0.7)), cv2.FONT_HERSHEY_SIMPLEX,
            scale, (40, 40, 40), max(1, round(1.6 * scale)), cv2.LINE_AA,
        )  # fmt: skip
    return sheet


def _draw_trails(
    image: NDArray[np.uint8],
    tracks: Tracks,
    frame_index: int,
    colours: NDArray[np.uint8],
    radius: float,
    trail: int,
) -> NDArray[np.uint8]:
    """Older parts are more transparent; a hidden stretch leaves no trail."""
    first = max(0, frame_index - trail)
    if first == frame_index:
        return image.copy()
    layer, opacity = image.copy(), np.zeros(image.shape[:2], np.uint8)
    thickness = max(1, round(radius / 1.8))
    for t in range(first, frame_index):
        strength = round(230 * (t + 1 - first) / (frame_index - first))
        seen = ~(tracks.occluded[:, t] | tracks.occluded[:, t + 1])
        starts, ends = _fixed(tracks.points[seen, t]), _fixed(tracks.points[seen, t + 1])
        for start, end, colour in zip(starts, ends, colours[seen].tolist()):
            if start is None or end is None:
                continue
            # The layer is painted wider and without blending: opacity alone makes the soft edge.
            cv2.line(layer, start, end, colour, thickness + 2, cv2.LINE_8, _SHIFT)
            cv2.line(opacity, start, end, strength, thickness, cv2.LINE_AA, _SHIFT)
    alpha = cv2.merge([opacity] * 3)
    # 8-bit products rounded as (x + 127) / 255, all in OpenCV: a live node has no time for float.
    front = cv2.multiply(layer, alpha, scale=1 / 255)
    back = cv2.multiply(image, 255 - alpha, scale=1 / 255)
    return cv2.add(front, back).astype(np.uint8)


def _fixed(points: NDArray[np.float32]) -> list[tuple[int, int] | None]:
    """Points in OpenCV's fixed-point pixels; far outside is clipped, not finite is None."""
    finite = np.isfinite(points[:, 0] + points[:, 1])
    limit = 2**15
    scaled = np.rint(np.clip(np.nan_to_num(points), -limit, limit) * 2**_SHIFT).astype(int)
    return [(int(x), int(y)) if finite[row] else None for row, (x, y) in enumerate(scaled)]
