"""The motion that most of a picture has, told by the picture itself.

Direct robust estimation (Odobez and Bouthemy 1995): a homography is adjusted until edges of the one
picture lie on those of the other. Edges are taken from all over the picture, as many from every
part that has some: what covers most of it wins, not what has the finest texture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""[h, w]."""
Picture = NDArray[np.float32]
"""Gray values 0..255, [h, w]."""
Homography = NDArray[np.float64]
"""[3, 3], of (x, y, 1) px from one picture to another."""

LEVELS = 3
"""Pictures that are looked at, each half as large as the one before."""
CELL = 16
"""Side of the parts of the finest picture that edges are taken from, px, …"""
QUOTA = 12
"""… and how many from each."""
FEWEST = 50
"""Edges from which on they tell a motion."""
EDGE = 0.5
"""Squared slope from which on, beyond what noise makes, there is an edge, gray values² per px²."""
COARSE = (2.0, 1.5, 1.0, 1.0, 0.7, 0.7)
"""By how much edges may miss each other in each step, px of the coarsest level, …"""
FINER = (1.0, 0.7, 0.5, 0.5)
"""… of those between, …"""
FINEST = (0.7, 0.5, 0.3, 0.3)
"""… and of the finest."""
FLOOR = 0.5
"""Squared difference of gray values that is nothing, whatever the noise."""
DAMPING = 1e-4
"""Of a step, of the mean curvature."""


@dataclass(frozen=True)
class _Edges:
    """K places [K] px with their gray values."""

    x: Picture
    y: Picture
    value: Picture


def levels_of(picture: Picture) -> list[Picture]:
    """The picture and coarser ones, finest first."""
    levels = [picture]
    for _ in range(LEVELS - 1):
        levels.append(cv2.pyrDown(levels[-1]))  # type: ignore[arg-type]
    return levels


def slopes(picture: Picture) -> tuple[Picture, Picture]:
    """Along x and y, gray values per px."""
    across = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return across, down  # type: ignore[return-value]


def read(picture: Picture, x: NDArray[np.float32], y: NDArray[np.float32]) -> Picture:
    """Bilinear values [h, w] at places px, [h, w] both; NaN outside."""
    return cv2.remap(  # type: ignore[return-value]
        picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan")
    )


def direct_motion(
    first: Sequence[Picture],
    second: Sequence[Picture],
    starts: Sequence[Homography],
    noise: float,
    within: Mask | None = None,
) -> Homography | None:
    """The homography from one picture to another that aligns most of their edges.

    Args:
        first, second: the pictures, see `levels_of`; of one level alone, for good guesses.
        starts: guesses, px of the finest level.
        noise: variance of the difference of the two pictures where they show the same.
        within: where in the first picture edges are taken from; None takes them from everywhere.

    Returns:
        px of the finest level; None where there are too few edges.
    """
    coarsest = len(first) - 1
    quiet = [noise / 4**k for k in range(len(first))]
    edges = [
        _edges(level, quiet[k], CELL >> k, QUOTA >> k, _shrunk(within, level.shape))
        for k, level in enumerate(first)
    ]

    def refined(start: Homography, level: int, misses: Sequence[float]) -> _Aligned | None:
        scaled = of_scale(start, 0.5**level)
        found = _aligned(second[level], edges[level], scaled, quiet[level], misses, level == 0)
        return None if found is None else _Aligned(found.share, of_scale(found.map, 2.0**level))

    tried = [refined(start, coarsest, COARSE) for start in starts]
    best = max((one for one in tried if one is not None), key=lambda one: one.share, default=None)
    for level in range(max(coarsest - 1, 0), -1, -1):
        if best is None:
            return None
        best = refined(best.map, level, FINER if level else FINEST)
    return None if best is None else best.map


@dataclass(frozen=True)
class _Aligned:
    """A motion, and the share of the edges that go along with it."""

    share: float
    map: Homography


def of_scale(motion: Homography, scale: float) -> Homography:
    """The same motion in pictures `scale` times as large."""
    wide = np.diag([scale, scale, 1.0])
    return wide @ motion @ np.linalg.inv(wide)


def _shrunk(mask: Mask | None, shape: tuple[int, ...]) -> Mask | None:
    """The mask of a coarser picture [h, w]: each of its pixels in which there is some of it."""
    if mask is None or mask.shape == shape:
        return mask
    share = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return share > 0


def _edges(picture: Picture, noise: float, cell: int, quota: int, within: Mask | None) -> _Edges:
    """At most `quota` edges of every cell, drawn by chance, the same for the same picture."""
    across, down = slopes(picture)
    steep = across**2 + down**2 > EDGE + 4 * noise
    if within is not None:
        steep &= within
    y, x = np.nonzero(steep[2:-2, 2:-2])
    y, x = y + 2, x + 2
    across_cells, down_cells = (side // cell + 1 for side in picture.shape[::-1])
    cells = across_cells * down_cells
    part = ((y // cell) * across_cells + x // cell).astype(np.min_scalar_type(cells))
    order = np.random.default_rng(0).permutation(len(part))
    order = order[np.argsort(part[order], kind="stable")]  # of short numbers: by radix
    count = np.bincount(part, minlength=cells)
    begins = (count.cumsum() - count)[part[order]]  # of each one's cell
    chosen = order[np.arange(len(part)) - begins < quota]
    x, y = x[chosen], y[chosen]
    return _Edges(x.astype(np.float32), y.astype(np.float32), picture[y, x])


def _aligned(
    picture: Picture,
    edges: _Edges,
    start: Homography,
    noise: float,
    misses: Sequence[float],
    projective: bool,
) -> _Aligned | None:
    """A motion after a robust Gauss-Newton step for each of `misses` px (weights of Geman and
    McClure); affine steps or projective ones."""
    if len(edges.x) < FEWEST:
        return None
    height, width = picture.shape
    half = max(height, width) / 2
    # In units of half the picture from its centre all unknowns are of one size.
    to_unit = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, half]]) / half
    from_unit = np.linalg.inv(to_unit)
    motion = to_unit @ start @ from_unit
    here = to_unit @ np.stack([edges.x, edges.y, np.ones_like(edges.x)])
    across, down = slopes(picture)
    share = 0.0
    for miss in misses:
        x, y, depth = motion @ here
        before_camera = depth > 0
        depth = np.where(before_camera, depth, 1.0)
        there = (from_unit @ np.stack([x / depth, y / depth, np.ones_like(x)])).astype(np.float32)
        at = there[:1], there[1:2]
        value, right, below = (read(values, *at)[0] for values in (picture, across, down))
        usable = np.isfinite(value + right + below) & before_camera
        if usable.sum() < FEWEST:
            return None
        value, right, below = (np.where(usable, v, 0.0) for v in (value, right, below))
        error = value - edges.value
        allowed = FLOOR + 2 * noise + miss**2 * (right**2 + below**2)
        agreement = np.where(usable, 1 / (1 + error**2 / allowed) ** 2, 0.0)
        share = float(agreement.sum() / usable.sum())
        step_x, step_y = right / depth, below / depth
        columns = [step_x * here[0], step_x * here[1], step_x]
        columns += [step_y * here[0], step_y * here[1], step_y]
        if projective:
            away = -(step_x * x + step_y * y) / depth
            columns += [away * here[0], away * here[1]]
        design = np.stack(columns, axis=1) * half
        weighted = design * (agreement / allowed)[:, None]
        squares = weighted.T @ design
        squares += np.eye(len(squares)) * (DAMPING * np.trace(squares) / len(squares) + 1e-9)
        step = np.zeros(9)
        step[: len(columns)] = -np.linalg.solve(squares, weighted.T @ error)
        motion = motion + step.reshape(3, 3)
        if not np.isfinite(motion).all() or abs(motion[2, 2]) < 1e-3:
            return None
        motion = motion / motion[2, 2]
    return _Aligned(share, from_unit @ motion @ to_unit)
