"""Clips with exactly known tracks and occlusions, made from real photographs.

Two planar layers move under smooth random homographies: a photograph that fills the picture, and
an ellipse of another one that crosses it, so that points vanish behind it and return. Brightness
drifts, the sensor is noisy. Positions and occlusions follow from the homographies, not from the
rendered pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError

# Photographs that scikit-image's wheel carries: NASA, public domain; Stefan van der Walt, CC0.
BACKGROUND = "astronaut"
FOREGROUND = "chelsea"

_MARGIN = 1.5  # side of the background photograph / side of the picture
_EDGE = 1.5  # px over which the object fades into the background, to each side of its outline
_QUERY_MARGIN = 6  # px between a query and the object's outline or the picture's border


class SyntheticError(TrackerError):
    """The clip cannot be made as asked."""


@dataclass(frozen=True)
class SyntheticClip:
    """A made clip of T frames.

    Attributes:
        frames: T frames.
        truth: N exactly known tracks.
        background: float64 [T, 3, 3], homographies from the photograph to each frame, px.
        foreground: float64 [T, 3, 3], the same of the object, whose own coordinates have their
            origin in its centre.
        semi_axes: the object's half width and half height in its own coordinates, px.
        on_object: bool [N], whether the point sits on the object.
    """

    frames: list[Frame]
    truth: GroundTruth
    background: NDArray[np.float64]
    foreground: NDArray[np.float64]
    semi_axes: tuple[float, float]
    on_object: NDArray[np.bool_]


def make_clip(
    width: int = 512,
    height: int = 384,
    length: int = 48,
    seed: int = 0,
    rate: float = 10.0,
    tracks: int = 120,
    photos: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticClip:
    """Makes a clip; the same arguments make the same clip.

    Args:
        width, height: picture size, px.
        length: T, frames.
        seed: of motion, noise and choice of points.
        rate: frames per second.
        tracks: about how many points; they are queried in the first frame and after one and two
            thirds of the clip, on places with texture.
        photos: background and foreground, uint8 [H, W, 3] RGB; None takes scikit-image's.
        progress: called with (frames done, T).

    Raises:
        SyntheticError: too small, too short, or scikit-image is missing.
    """
    if min(width, height) < 64 or length < 2:
        raise SyntheticError(
            f"{length} frames of {width}x{height} px: make at least 2 frames of 64x64 px"
        )
    random = np.random.default_rng(seed)
    front_photo, back_photo = reversed(photos if photos is not None else packaged_photos())
    canvas = _cover(back_photo, round(width * _MARGIN), round(height * _MARGIN))
    semi_axes = (0.27 * min(width, height), 0.33 * min(width, height))
    sticker = _cover(front_photo, 2 * round(semi_axes[0]) + 8, 2 * round(semi_axes[1]) + 8)
    background = _camera_motion(random, width, height, length, canvas.shape)
    foreground = _object_motion(random, width, height, length)
    to_sticker = _translation((sticker.shape[1] - 1) / 2, (sticker.shape[0] - 1) / 2)

    frames = []
    for t in range(length):
        scene = _render(
            canvas, background[t], sticker, foreground[t] @ np.linalg.inv(to_sticker),
            _coverage(_pixels(width, height), foreground[t], semi_axes), width, height,
        )  # fmt: skip
        frames.append(Frame(_light(scene, t / length, random), round(t * 1_000_000_000 / rate)))
        if progress is not None:
            progress(t + 1, length)

    queries, on_object = _choose_queries(
        frames, foreground, semi_axes, sorted({0, length // 3, 2 * length // 3}), tracks, random
    )
    truth = _follow(queries, on_object, background, foreground, semi_axes, width, height)
    return SyntheticClip(frames, truth, background, foreground, semi_axes, on_object)


def packaged_photos() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Background and foreground photograph out of scikit-image's wheel, uint8 [H, W, 3] RGB."""
    try:
        from skimage import data
    except ImportError:
        raise SyntheticError(
            "the made clip takes its photographs from scikit-image: pip install scikit-image"
        ) from None
    return getattr(data, BACKGROUND)(), getattr(data, FOREGROUND)()


def write_clip(clip: SyntheticClip, folder: Path) -> None:
    """Writes frames/NNNNN.png and gt.npz, as `truths.clip_folder` reads them."""
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(clip.frames):
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "frames" / f"{index:05d}.png"), picture)
    np.savez_compressed(
        folder / "gt.npz",
        queries=clip.truth.queries[:, [0, 2, 1]],
        points=clip.truth.points,
        occluded=clip.truth.occluded,
        evaluate=clip.truth.evaluate,
        has_occlusion=np.array(True),
    )
    about = {"background": BACKGROUND, "foreground": FOREGROUND, "from": "scikit-image"}
    (folder / "about.json").write_text(json.dumps(about) + "\n")


def project(
    homographies: NDArray[np.floating], points: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Points (x, y) [..., 2] through homographies [..., 3, 3], broadcast against each other."""
    mapped = np.einsum("...ij,...j->...i", homographies[..., :2], points) + homographies[..., 2]
    return np.asarray(mapped[..., :2] / mapped[..., 2:], np.float64)


def _cover(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """The middle of the photograph in the asked aspect, scaled to the asked size."""
    scale = max(width / photo.shape[1], height / photo.shape[0])
    size = (max(width, round(photo.shape[1] * scale)), max(height, round(photo.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(photo, size, interpolation=how)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return scaled[top : top + height, left : left + width].astype(np.float32)


def _camera_motion(
    random: np.random.Generator,
    width: int,
    height: int,
    length: int,
    canvas_shape: tuple[int, ...],
) -> NDArray[np.float64]:
    side = min(width, height)
    waves = {
        "x": 0.14 * width * _wave(random, length),
        "y": 0.14 * height * _wave(random, length),
        "angle": np.radians(9) * _wave(random, length),
        "scale": 0.10 * _wave(random, length),
        "tilt_x": 0.12 / side * _wave(random, length),
        "tilt_y": 0.12 / side * _wave(random, length),
    }
    middle = _translation((canvas_shape[1] - 1) / 2, (canvas_shape[0] - 1) / 2)
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    # The motion is calmed until no frame looks past the photograph's border.
    for calm in 0.9 ** np.arange(60):
        motion = np.stack(
            [
                _translation(
                    (width - 1) / 2 + calm * waves["x"][t], (height - 1) / 2 + calm * waves["y"][t]
                )
                @ _tilt(calm * waves["tilt_x"][t], calm * waves["tilt_y"][t])
                @ _rotation(calm * waves["angle"][t], 1 + calm * waves["scale"][t])
                @ np.linalg.inv(middle)
                for t in range(length)
            ]
        )
        seen = project(np.linalg.inv(motion)[:, None], corners[None])
        if (seen >= 0).all() and (seen <= np.array(canvas_shape[1::-1]) - 1).all():
            break
    return motion


def _object_motion(
    random: np.random.Generator, width: int, height: int, length: int
) -> NDArray[np.float64]:
    """Across the picture and most of the way back, so that much of it is hidden and returns."""
    phase = np.linspace(0, 1, length)
    direction = random.choice([-1.0, 1.0])
    x = width * (0.5 - direction * 0.38 * np.cos(1.6 * np.pi * phase))
    y = height * (0.5 + 0.20 * _wave(random, length))
    angle = np.radians(25) * _wave(random, length)
    scale = 1 + 0.15 * _wave(random, length)
    tilt = 0.10 / min(width, height) * _wave(random, length)
    return np.stack(
        [
            _translation(x[t], y[t]) @ _tilt(tilt[t], -tilt[t]) @ _rotation(angle[t], scale[t])
            for t in range(length)
        ]
    )


def _wave(random: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Smooth, within -1..1: three slow sines of random phase."""
    time = np.linspace(0, 2 * np.pi, length)
    amplitudes = np.array([0.6, 0.3, 0.1]) * random.uniform(0.7, 1.0, 3)
    periods = np.array([0.7, 1.5, 3.0]) * random.uniform(0.8, 1.2, 3)
    phases = random.uniform(0, 2 * np.pi, 3)
    waves = amplitudes[:, None] * np.sin(periods[:, None] * time + phases[:, None])
    return np.asarray(waves.sum(axis=0), np.float64)


def _render(
    canvas: NDArray[np.float32],
    canvas_to_picture: NDArray[np.float64],
    sticker: NDArray[np.float32],
    sticker_to_picture: NDArray[np.float64],
    coverage: NDArray[np.float64],
    width: int,
    height: int,
) -> NDArray[np.float32]:
    back = cv2.warpPerspective(
        canvas, canvas_to_picture, (width, height), borderMode=cv2.BORDER_REPLICATE
    )
    front = cv2.warpPerspective(
        sticker, sticker_to_picture, (width, height), borderMode=cv2.BORDER_REPLICATE
    )
    share = coverage[..., None].astype(np.float32)
    return back * (1 - share) + front * share


def _light(
    image: NDArray[np.float32], time: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """A light that drifts across the scene, and sensor noise."""
    height, width = image.shape[:2]
    gain = 1 + 0.2 * np.sin(2 * np.pi * time)
    slope = 0.12 * np.cos(2 * np.pi * time)
    across = 1 + slope * (np.linspace(-1, 1, width)[None, :, None])
    noise = random.normal(0, 2.0, (height, width, 3))
    lit = np.rint(image * gain * across + noise)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def _coverage(
    points: NDArray[np.float64], homography: NDArray[np.float64], semi_axes: tuple[float, float]
) -> NDArray[np.float64]:
    """How much of the object is in front of points (x, y) [..., 2] of the picture, 0..1."""
    return np.clip(0.5 - _outside(points, homography, semi_axes) / (2 * _EDGE), 0, 1)


def _outside(
    points: NDArray[np.float64], homography: NDArray[np.float64], semi_axes: tuple[float, float]
) -> NDArray[np.float64]:
    """About how many px of the object a point is outside its outline; negative inside."""
    unit = project(np.linalg.inv(homography), points) / np.array(semi_axes)
    radius = np.hypot(unit[..., 0], unit[..., 1])
    return np.asarray((radius - 1) * min(semi_axes), np.float64)


def _choose_queries(
    frames: list[Frame],
    foreground: NDArray[np.float64],
    semi_axes: tuple[float, float],
    times: list[int],
    count: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Textured places well on the object (a third of them) or well off it."""
    queries, on_object = [], []
    for t in times:
        grey = cv2.cvtColor(frames[t].image, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        corners = cv2.goodFeaturesToTrack(
            grey, maxCorners=2000, qualityLevel=0.01, minDistance=min(width, height) / 48
        )
        if corners is None:
            raise SyntheticError(f"frame {t} has no texture to track: take other photographs")
        found = corners.reshape(-1, 2).astype(np.float64)
        inner = np.all(
            (found >= _QUERY_MARGIN) & (found <= np.array([width, height]) - 1 - _QUERY_MARGIN),
            axis=1,
        )
        outside = _outside(found, foreground[t], semi_axes)
        for chosen, share in ((outside < -_QUERY_MARGIN, 1 / 3), (outside > _QUERY_MARGIN, 2 / 3)):
            places = found[inner & chosen]
            wanted = min(len(places), round(count * share / len(times)))
            for place in random.permutation(places)[:wanted]:
                queries.append((t, place[0], place[1]))
                on_object.append(share < 0.5)
    return np.array(queries, np.float32).reshape(-1, 3), np.array(on_object, bool)


def _follow(
    queries: NDArray[np.float32],
    on_object: NDArray[np.bool_],
    background: NDArray[np.float64],
    foreground: NDArray[np.float64],
    semi_axes: tuple[float, float],
    width: int,
    height: int,
) -> GroundTruth:
    times = queries[:, 0].astype(int)
    own = np.where(on_object[:, None, None, None], foreground[None], background[None])
    start = project(np.linalg.inv(own[np.arange(len(times)), times]), queries[:, 1:])
    points = project(own, start[:, None])
    covered = np.stack(
        [_coverage(points[:, t], foreground[t], semi_axes) for t in range(len(foreground))], axis=1
    )
    covered = np.where(on_object[:, None], 0.0, covered)
    beyond = np.any((points < -0.5) | (points > np.array([width, height]) - 0.5), axis=-1)
    return GroundTruth(
        queries=queries,
        points=points.astype(np.float32),
        occluded=(covered > 0.5) | beyond,
        evaluate=(covered == 0) | (covered == 1) | beyond,  # not on the soft edge
        has_occlusion=True,
        width=width,
        height=height,
    )


def _pixels(width: int, height: int) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)


def _translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _rotation(angle: float, scale: float) -> NDArray[np.float64]:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def _tilt(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, 0], [0, 1, 0], [x, y, 1.0]])
