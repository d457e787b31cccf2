"""Rooms: before a plain wall with four posters two photographs pass, while the camera sways.

Of the wall itself nothing is to be seen, so flow there is what an estimator fills in. Points are
asked for anywhere, on the wall too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import SHOWN, Clip, accuracy, grid_queries, mean_accuracy
from benchmarks.messages import say
from benchmarks.options import FRAMES, Options
from benchmarks.output import Result, Table
from benchmarks.runs import warm_up
from dino_tracker_ros.evaluation.synthetic import packaged_photos, project
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracker import DinoTracker

QUICK_FRAMES = 12
POINTS = 120
CANVAS = 1.8
"""Side of the wall / side of the picture."""
NOISE = 2.0
"""Of a frame, gray values."""
PERIOD = 40.0
"""Of the camera's sway, frames."""
AWAY = 12
"""From a poster, where a point is one of the plain wall, px of a picture of 384 lines."""

_Picture = NDArray[np.float32]
_Maps = NDArray[np.float64]


@dataclass(frozen=True)
class Room:
    """A clip, and which of its N points are of the plain wall, bool [N]."""

    clip: Clip
    plain: NDArray[np.bool_]


@dataclass(frozen=True)
class _Layer:
    """A picture [h, w, 3] and where it goes: homographies [T, 3, 3] of its px to the frames'."""

    picture: _Picture
    maps: _Maps


def make_room(width: int, height: int, length: int, seed: int) -> Room:
    """A room; the same arguments make the same one."""
    random = np.random.default_rng(seed)
    photos = packaged_photos()
    canvas, posters = _wall(random, width, height, photos)
    wall = _Layer(canvas, _sway(random, canvas, width, height, length))
    passing = [_passing(random, photos[k], width, height, length, k == 0) for k in (0, 1)]
    layers = [wall, *passing]
    frames, shown = [], np.zeros((length, height, width), np.uint8)
    for t in range(length):
        picture, shown[t] = _rendered(layers, t, width, height)
        noisy = picture + random.normal(0, NOISE, picture.shape)
        frames.append(Frame(noisy.clip(0, 255).round().astype(np.uint8), t * 100_000_000))
    truth, on_wall = _followed(random, layers, shown)
    reach = round(AWAY * height / 384)
    near = cv2.dilate(posters.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    times = truth.queries[:, 0].astype(int)
    at = project(np.linalg.inv(wall.maps[times]), truth.queries[:, 1:].astype(float))
    x, y = at.round().astype(int).T
    x, y = x.clip(0, near.shape[1] - 1), y.clip(0, near.shape[0] - 1)
    name = f"room, {length} frames of {width}x{height}"
    return Room(Clip(name, frames, truth), on_wall & ~near[y, x])


def benchmark(options: Options) -> Result:
    """Fits and tracks a room for each repeat."""
    frames = options.frames or (QUICK_FRAMES if options.quick else FRAMES)
    tracker = DinoTracker(options.settings)
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for seed in range(1, options.repeats + 1):
        room = make_room(*options.size, frames, seed)
        truth = room.clip.truth
        assert truth is not None, "rooms have known tracks"
        if seed == 1:
            warm_up(tracker, room.clip.frames, grid_queries(*room.clip.size, 16))
        tracker.reset()
        for frame in room.clip.frames:
            tracker.observe(frame)
        tracker.fit()
        tracks = tracker.track(truth.queries)
        for which, chosen in (("plain wall", room.plain), ("all else", ~room.plain)):
            scored = int(chosen.sum()), accuracy(tracks, truth, chosen)
            found.setdefault(which, []).append(scored)
        say(f"room of seed {seed} is tracked")
    return _result(options, frames, found)


def _result(
    options: Options, frames: int, found: dict[str, list[tuple[int, dict[str, float]]]]
) -> Result:
    shown = [name for name in SHOWN if name in found["plain wall"][0][1]]
    lines = [["points of", "room", "points", *(SHOWN[name] for name in shown)]]
    for which, rooms in found.items():
        mean = sum(points for points, _ in rooms), mean_accuracy([marks for _, marks in rooms])
        for seed, (points, marks) in [*enumerate(rooms, 1), ("mean", mean)]:
            name = seed if seed == "mean" else f"seed {seed}"
            lines.append([which, name, str(points), *(f"{marks[each]:.1f}" for each in shown)])
    width, height = options.size
    title = f"Rooms, {options.repeats} of {frames} frames of {width}x{height}, in %"
    return Result([Table(title, lines)], {"frames": frames, "scores": found})


def _wall(
    random: np.random.Generator, width: int, height: int, photos: Sequence[NDArray[np.uint8]]
) -> tuple[_Picture, NDArray[np.bool_]]:
    """A wall [h, w, 3] whose paint changes slowly, and where its posters are."""
    across, down = round(CANVAS * width), round(CANVAS * height)
    few = random.uniform(60, 200, (3, 4, 3)).astype(np.float32)
    paint = cv2.resize(few, (across, down), interpolation=cv2.INTER_CUBIC)
    wall = (paint.mean() + 0.35 * (paint - paint.mean())).clip(0, 255).astype(np.float32)
    posters = np.zeros((down, across), bool)
    for k in range(4):
        w, h = random.integers(round(0.18 * height), round(0.31 * height), 2)
        photo = photos[k % 2]
        size = min(photo.shape[:2]) // 2
        top, left = (random.integers(0, side - size) for side in photo.shape[:2])
        piece = cv2.resize(
            photo[top : top + size, left : left + size], (int(w), int(h)),
            interpolation=cv2.INTER_AREA,
        )  # fmt: skip
        x = round(across / 2 + width * ((k % 2 - 0.5) * 0.5 + random.uniform(-0.06, 0.06)) - w / 2)
        y = round(down / 2 + height * ((k // 2 - 0.5) * 0.5 + random.uniform(-0.06, 0.06)) - h / 2)
        wall[y : y + h, x : x + w] = piece
        posters[y : y + h, x : x + w] = True
    return wall, posters


def _sway(
    random: np.random.Generator, wall: _Picture, width: int, height: int, length: int
) -> _Maps:
    """The wall as a swaying camera sees it: 5 % of the picture to each side, 3°, 5 % nearer."""
    phase = random.uniform(0, 2 * math.pi)
    maps = []
    for t in range(length):
        side = math.sin(2 * math.pi * t / PERIOD + phase)
        near = math.cos(2 * math.pi * t / (0.78 * PERIOD) + phase)
        down, across = wall.shape[:2]
        turned = cv2.getRotationMatrix2D((across / 2, down / 2), 3 * side, 1 + 0.05 * near)
        turned[:, 2] += [
            (width - across) / 2 + 0.05 * width * side,
            (height - down) / 2 + 0.04 * height * near,
        ]
        maps.append(np.vstack([turned, [0, 0, 1]]))
    return np.stack(maps)


def _passing(
    random: np.random.Generator,
    photo: NDArray[np.uint8],
    width: int,
    height: int,
    length: int,
    to_the_right: bool,
) -> _Layer:
    """A photograph that crosses the picture, turning a little."""
    w, h = (round(random.uniform(0.29, 0.43) * height) for _ in range(2))
    small = cv2.resize(photo, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    ends = [(-w, random.uniform(0.1, 0.5) * height), (width, random.uniform(0.1, 0.5) * height)]
    (x0, y0), (x1, y1) = ends if to_the_right else ends[::-1]
    turn = random.uniform(-17, 17)
    maps = []
    for u in np.linspace(0, 1, length):
        place = cv2.getRotationMatrix2D((w / 2, h / 2), turn * math.sin(2 * math.pi * u), 1)
        place[:, 2] += [x0 + (x1 - x0) * u, y0 + (y1 - y0) * u]
        maps.append(np.vstack([place, [0, 0, 1]]))
    return _Layer(small, np.stack(maps))


def _rendered(
    layers: Sequence[_Layer], t: int, width: int, height: int
) -> tuple[_Picture, NDArray[np.uint8]]:
    """A frame [H, W, 3], and which layer is seen where [H, W]."""
    wall = layers[0]
    picture: _Picture = cv2.warpPerspective(
        wall.picture, wall.maps[t], (width, height), borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    seen = np.zeros((height, width), np.uint8)
    for number, layer in enumerate(layers[1:], 1):
        front = cv2.warpPerspective(layer.picture, layer.maps[t], (width, height))
        whole = np.ones(layer.picture.shape[:2], np.float32)
        cover = cv2.warpPerspective(whole, layer.maps[t], (width, height))
        opaque = cover[..., None]
        picture = (picture * (1 - opaque) + front * opaque).astype(np.float32)
        seen[cover > 0.5] = number
    return picture, seen


def _followed(
    random: np.random.Generator, layers: Sequence[_Layer], shown: NDArray[np.uint8]
) -> tuple[GroundTruth, NDArray[np.bool_]]:
    """Points asked for in the first frame and after one and two thirds; which are on the wall."""
    length, height, width = shown.shape
    times = np.resize(sorted({0, length // 3, 2 * length // 3}), POINTS)
    start = random.uniform((5, 5), (width - 6, height - 6), (POINTS, 2))
    column, row = start.round().astype(int).T
    layer = shown[times, row, column]
    maps = np.stack([each.maps for each in layers])[layer]  # [N, T, 3, 3]
    asked = np.arange(POINTS)
    home = project(np.linalg.inv(maps[asked, times]), start)
    points = project(maps, home[:, None])
    x, y = points.round().astype(int).transpose(2, 0, 1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    there = shown[np.arange(length), y.clip(0, height - 1), x.clip(0, width - 1)]
    occluded = ~inside | (there != layer[:, None])
    occluded[asked, times] = False
    queries = np.column_stack([times, start]).astype(np.float32)
    everywhere = np.ones_like(occluded)
    truth = GroundTruth(
        queries, points.astype(np.float32), occluded, everywhere, True, width, height
    )
    return truth, layer == 0
