"""Clips with known tracks: a folder with frames/, gt.npz and sometimes masks/.

gt.npz holds, in TAP-Vid's order of axes: queries [N, 3] (t, y, x); points [N, T, 2] (x, y) in
pixels of the frames; occluded [N, T]; evaluate [N, T], true where a score may look. An optional
has_occlusion says whether `occluded` was labelled.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.visualization.video import FolderFrames, image_files

_REQUIRED = ("queries", "points", "occluded", "evaluate")


class GroundTruthError(TrackerError):
    """A clip folder or its gt.npz is missing something or contradicts itself."""


@dataclass(frozen=True)
class GroundTruth:
    """Known tracks of one clip of T frames.

    Attributes:
        queries: float32 [N, 3], (t, x, y).
        points: float32 [N, T, 2], (x, y) px; NaN where unknown.
        occluded: bool [N, T].
        evaluate: bool [N, T], true where a score may look.
        has_occlusion: whether `occluded` is a label; if not, only positions can be scored.
        width, height: size of the frames, px.
        mask_areas: int64 [T], px of the foreground in each frame; None without masks.
    """

    queries: NDArray[np.float32]
    points: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    evaluate: NDArray[np.bool_]
    has_occlusion: bool
    width: int
    height: int
    mask_areas: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class LabelledClip:
    """Frames with known tracks."""

    name: str
    frames: FolderFrames
    truth: GroundTruth


def load_clip(folder: Path) -> LabelledClip:
    """Reads a clip folder; its frames are read when they are asked for.

    Raises:
        GroundTruthError: frames, gt.npz or one of its arrays is missing or has another shape.
    """
    file = folder / "gt.npz"
    if not file.is_file():
        raise GroundTruthError(f"'{folder}' has no gt.npz: give a clip folder with known tracks")
    frames = FolderFrames(folder / "frames" if (folder / "frames").is_dir() else folder)
    height, width = frames[0].image.shape[:2]
    arrays = _load_arrays(file)
    truth = _checked_truth(file, arrays, len(frames), width, height, _mask_areas(folder))
    return LabelledClip(folder.resolve().name, frames, truth)


def _load_arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GroundTruthError(f"'{file}' cannot be read: {error}") from error
    missing = [name for name in _REQUIRED if name not in arrays]
    if missing:
        raise GroundTruthError(f"'{file}' has no {', '.join(missing)}: it needs {_REQUIRED}")
    return arrays


def _checked_truth(
    file: Path,
    arrays: dict[str, NDArray[np.generic]],
    frame_count: int,
    width: int,
    height: int,
    mask_areas: NDArray[np.int64] | None,
) -> GroundTruth:
    queries, points = arrays["queries"].astype(np.float32), arrays["points"].astype(np.float32)
    occluded, evaluate = arrays["occluded"].astype(bool), arrays["evaluate"].astype(bool)
    count = len(queries)
    shapes = {
        "queries": (queries.shape, (count, 3)),
        "points": (points.shape, (count, frame_count, 2)),
        "occluded": (occluded.shape, (count, frame_count)),
        "evaluate": (evaluate.shape, (count, frame_count)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise GroundTruthError(
                f"{name} in '{file}' is {shape}: {count} queries over {frame_count} frames "
                f"need {expected}"
            )
    if mask_areas is not None and len(mask_areas) != frame_count:
        raise GroundTruthError(
            f"'{file.parent}' has {len(mask_areas)} masks for {frame_count} frames"
        )
    if np.isnan(points[evaluate & ~occluded]).any():
        raise GroundTruthError(f"points in '{file}' are NaN where evaluate says to score them")
    labelled = arrays.get("has_occlusion")
    return GroundTruth(
        queries=queries[:, [0, 2, 1]],  # (t, y, x) on file
        points=points,
        occluded=occluded,
        evaluate=evaluate,
        # Where occlusion was not labelled, files mark every point without a label as occluded
        # and leave it out of the scores.
        has_occlusion=bool((evaluate & occluded).any() if labelled is None else labelled),
        width=width,
        height=height,
        mask_areas=mask_areas,
    )


def _mask_areas(folder: Path) -> NDArray[np.int64] | None:
    if not (folder / "masks").is_dir():
        return None
    areas = []
    for file in image_files(folder / "masks"):
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise GroundTruthError(f"mask '{file}' cannot be decoded")
        areas.append(np.count_nonzero(mask))
    return np.array(areas, dtype=np.int64)
