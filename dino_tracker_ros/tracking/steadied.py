"""Flow where pictures do not tell it: before a plain wall, along with the wall.

Where nothing is to be seen any flow explains the pictures. What an estimator fills in there is
noise, or goes along with whatever passes by. So flow gives way to the dominant motion where that
explains the pictures as well, and where they are too faint to tell the two apart. Once found, a
dominant motion is that of the same layer from frame to frame (Irani, Rousso and Peleg 1994), also
while things pass that have more edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_tracker_ros.tracking.direct_motion import (
    EDGE,
    Homography,
    Mask,
    Picture,
    direct_motion,
    levels_of,
    of_scale,
    read,
    slopes,
)
from dino_tracker_ros.tracking.trajectories import FlowPair

SMALLEST = 64
"""Side from which on a picture is asked for its dominant motion, px."""
SPACING = 6
"""Between the places where flow is asked for a first guess, px of the half-size pictures."""
SAME = 0.5
"""Places nearer than this to where the guess leads them go along with it, px there."""
WINDOW = 5
"""Side of the squares in which pictures are compared, px there."""
FAINT = 1.5
"""Blur behind which a slope is one of the picture and not of its noise, px there."""
QUIET = 20
"""Percentile of the squared differences along flow that is noise: there at least flow is right."""
ROUNDED = 0.05
"""The least that they are: gray values are whole numbers."""
AS_WELL = 1.5
"""How many times the noise the dominant motion may miss a square by more than flow, …"""
PIXEL = 3.0
"""… a pixel with its neighbours so many times as much, …"""
TELLS = 1.0
"""… and from which change of what is seen, in units of the noise, pictures tell the two apart."""
CELL = 16
"""Side of the parts of a picture that are asked whether they go along, px there, …"""
EDGES = 4
"""… those that have so many edges, …"""
SLACK = 0.15
"""… which may lie so far off, px there, …"""
MOSTLY = 0.6
"""… most of them not farther."""
MOST = 0.5
"""Share of these parts that must go along with what is called dominant."""
BESIDE = 3
"""Side of the squares around its edges that are a layer's, too, px there."""
OUTSIDE = 1e4
"""Squared difference of what is outside a picture."""


def half_gray(image: NDArray[np.uint8]) -> Picture:
    """What `steadied` sees of an image [H, W, 3]: gray values at half its size."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.pyrDown(gray.astype(np.float32))  # type: ignore[return-value]


@dataclass(frozen=True)
class Layer:
    """What goes along with the dominant motion.

    Attributes:
        motion: from the frame before, half-size px.
        edges: bool [h, w], where it has edges, and right beside, in the later frame.
    """

    motion: Homography
    edges: Mask


@dataclass(frozen=True)
class Compared:
    """Two neighbouring frames, half-size, and what is seen along the flow between them.

    Attributes:
        here, there: of both, finest level first, equally bright.
        ahead, back: flow, [2, h, w] px of theirs.
        missed: [h, w], squared differences along the former.
        noise: the least of them.
        guesses: of a motion that they have in common.
    """

    here: Sequence[Picture]
    there: Sequence[Picture]
    ahead: Picture
    back: Picture
    missed: Picture
    noise: float
    guesses: Sequence[Homography]


@dataclass(frozen=True)
class Dominant:
    """A motion that most of a picture goes along with.

    Attributes:
        motion: half-size px.
        led: [2, h, w], the motion as flow, px.
        more: [h, w], how much more than flow it misses, squared differences.
        along: bool [h, w], the edges that go along.
    """

    motion: Homography
    led: Picture
    more: Picture
    along: Mask

    def layer(self) -> Layer:
        """As the next pair of frames wants to know it."""
        edges = cv2.dilate(self.along.astype(np.uint8), np.ones((BESIDE, BESIDE), np.uint8))
        size = edges.shape[::-1]
        later = cv2.warpPerspective(edges, self.motion, size, flags=cv2.INTER_NEAREST)
        return Layer(self.motion, later > 0)


def compared(here: Picture, there: Picture, flow: FlowPair) -> Compared | None:
    """Two neighbouring frames along flow; None where they are too small to tell anything.

    Args:
        here, there: half-size pictures of them, see `half_gray`: they show what matters, in a
            quarter of the time and with less noise.
        flow: between them, there and back, px.
    """
    if min(flow[0].shape[1:]) < SMALLEST:
        return None
    ahead, back = (_halved(each) for each in flow)
    change = _change(here, there, ahead)
    seen = change[np.isfinite(change)]
    brighter = np.median(seen) if len(seen) else np.float32(0)
    missed = _squared(change - brighter)
    noise = max(ROUNDED, float(np.percentile(_mean(missed), QUIET)))
    levels = levels_of(here), levels_of(there - brighter)
    return Compared(*levels, ahead, back, missed, noise, _guesses(ahead))


def dominant(pair: Compared, before: Layer | None) -> Dominant | None:
    """The motion that most of two frames has; None where most of them has none in common.

    Args:
        before: what went along as far as the first of them; None where that is not known.
    """
    return _followed(pair, before) or _dominant(pair, pair.guesses, None)


def steadied(flow: FlowPair, pair: Compared, found: Dominant) -> FlowPair:
    """Flow between two frames, there and back, px, with the dominant motion where pictures tell
    nothing."""
    here, there = pair.here[0], pair.there[0]
    inverse = np.linalg.inv(found.motion).astype(np.float64)
    led_back = _flow_of(inverse, here.shape)
    missed_back, missed_led = (
        _squared(_change(there, here, each)) for each in (pair.back, led_back)
    )
    ahead = _undecided(here, pair.ahead - found.led, found.more, pair.noise)
    back = _undecided(there, pair.back - led_back, missed_led - missed_back, pair.noise)
    return _given_way(flow[0], ahead, found.motion), _given_way(flow[1], back, inverse)


def _followed(pair: Compared, before: Layer | None) -> Dominant | None:
    """The motion of a known layer."""
    if before is None:
        return None
    starts = [before.motion, *pair.guesses]
    # In coarser pictures its edges run into those of what passes.
    finest = replace(pair, here=pair.here[:1], there=pair.there[:1])
    return _dominant(finest, starts, before.edges) or _dominant(pair, starts, before.edges)


def _dominant(
    pair: Compared, starts: Sequence[Homography], within: Mask | None
) -> Dominant | None:
    """The motion that most parts of the picture, or of what is within the mask, go along with."""
    here, there = pair.here[0], pair.there[0]
    motion = direct_motion(pair.here, pair.there, starts, pair.noise, within)
    if motion is None or np.linalg.det(motion) <= 0:
        return None
    led = _flow_of(motion, here.shape)
    more = _squared(_change(here, there, led)) - pair.missed
    across, down = slopes(here)
    steep = across**2 + down**2
    edges = steep > EDGE + 4 * pair.noise
    along = edges & (_mean(more) < AS_WELL * pair.noise + SLACK**2 * _mean(steep))
    asked = edges if within is None else edges & within
    seen = _by_cell(asked)
    told = seen >= EDGES
    if not told.any() or (_by_cell(along & asked) > MOSTLY * seen)[told].mean() < MOST:
        return None
    return Dominant(motion, led, more, along)


def _guesses(flow: Picture) -> list[Homography]:
    """No motion, and the homography that most of the flow [2, h, w] agrees with."""
    y, x = np.mgrid[: flow.shape[1] : SPACING, : flow.shape[2] : SPACING].reshape(2, -1)
    here = np.stack([x, y], axis=1).astype(np.float32)
    found, _ = cv2.findHomography(here, here + flow[:, y, x].T, cv2.RANSAC, SAME)
    return [np.eye(3)] if found is None else [np.eye(3), found.astype(np.float64)]


def _undecided(here: Picture, apart: Picture, more: Picture, noise: float) -> Mask:
    """bool [h, w]: where pictures do not tell flow from a motion.

    A pixel is, if it lies in any square that is: an outline beside it speaks for what is behind it.

    Args:
        apart: [2, h, w], flow less the motion, px.
        more: [h, w], how much more than flow the motion misses, squared differences.
        noise: the least of them along flow.
    """
    across, down = slopes(cv2.GaussianBlur(here, (0, 0), FAINT))  # type: ignore[arg-type]
    told = _mean((across * apart[0] + down * apart[1]) ** 2)
    square = (_mean(more) < AS_WELL * noise) & (told < TELLS * noise)
    around = cv2.dilate(square.astype(np.uint8), np.ones((WINDOW, WINDOW), np.uint8))
    return (around > 0) & (cv2.blur(more, (3, 3)) < PIXEL * AS_WELL * noise)


def _given_way(flow: Tensor, undecided: Mask, motion: Homography) -> Tensor:
    """Flow [2, H, W] with the motion where a half-size picture leaves it open, bool [h, w]."""
    height, width = flow.shape[1:]
    mask = cv2.resize(undecided.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    led = _flow_of(of_scale(motion, 2.0), (height, width))
    where = torch.from_numpy(mask > 0).to(flow.device)
    return torch.where(where, torch.from_numpy(led).to(flow.device), flow)


def _halved(flow: Tensor) -> Picture:
    """Flow [2, H, W] as half-size pictures have it: pixel k of theirs lies on pixel 2k."""
    half = (flow[:, ::2, ::2] / 2).float().cpu().numpy()
    return np.ascontiguousarray(half)


def _flow_of(motion: Homography, shape: tuple[int, ...]) -> Picture:
    """A motion as flow [2, h, w]."""
    x = np.arange(shape[1], dtype=np.float32)
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    m = motion.astype(np.float32)
    # What comes from behind the camera goes nowhere near the picture.
    near = np.maximum(m[2, 0] * x + (m[2, 1] * y + m[2, 2]), np.float32(1e-6))
    led_x = (m[0, 0] * x + (m[0, 1] * y + m[0, 2])) / near
    led_y = (m[1, 0] * x + (m[1, 1] * y + m[1, 2])) / near
    return np.stack([led_x - x, led_y - y])


def _change(here: Picture, there: Picture, flow: Picture) -> Picture:
    """What is seen there along flow less what is here; NaN outside."""
    x = np.arange(here.shape[1], dtype=np.float32)
    y = np.arange(here.shape[0], dtype=np.float32)[:, None]
    return read(there, x + flow[0], y + flow[1]) - here


def _squared(change: Picture) -> Picture:
    return np.nan_to_num(change**2, nan=OUTSIDE).clip(max=OUTSIDE)


def _mean(values: Picture) -> Picture:
    """Means over squares."""
    return cv2.blur(values, (WINDOW, WINDOW))  # type: ignore[return-value]


def _by_cell(mask: Mask) -> NDArray[np.int64]:
    """How many of each cell."""
    height, width = (-(-side // CELL) * CELL for side in mask.shape)
    wide = np.zeros((height, width), bool)
    wide[: mask.shape[0], : mask.shape[1]] = mask
    return wide.reshape(height // CELL, CELL, width // CELL, CELL).sum(axis=(1, 3))
