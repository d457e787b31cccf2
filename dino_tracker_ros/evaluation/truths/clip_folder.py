"""Known tracks as gt.npz, and the folder of a clip that it belongs to.

gt.npz holds, in TAP-Vid's order of axes: queries [N, 3] (t, y, x); points [N, T, 2] (x, y) in
pixels of the frames; occluded [N, T]; evaluate [N, T], true where a score may look. An optional
has_occlusion says whether `occluded` was labelled. Beside it lie frames/ (or the pictures
themselves) and sometimes masks/, one for each frame.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.npz_file import load_arrays
from dino_tracker_ros.evaluation.truths.ground_truth import (
    GroundTruth,
    GroundTruthError,
    LabelledClip,
    check_labels_in_picture,
    checked,
)
from dino_tracker_ros.visualization.video import FolderFrames, image_files

_REQUIRED = ("queries", "points", "occluded", "evaluate")


def load_clip_folder(folder: Path) -> LabelledClip:
    """A folder with pictures and gt.npz.

    Raises:
        NpzError: gt.npz cannot be read.
        GroundTruthError: it or one of its arrays is missing or does not fit the pictures.
        VideoError: there are no pictures, or the first cannot be decoded.
    """
    file = folder / "gt.npz"
    if not file.is_file():
        raise GroundTruthError(f"'{folder}' has no gt.npz: give a clip folder with known tracks")
    frames = FolderFrames(folder / "frames" if (folder / "frames").is_dir() else folder)
    height, width = frames[0].image.shape[:2]
    truth = load_truth_npz(file, len(frames), width, height)
    return LabelledClip(folder.resolve().name, frames, truth)


def load_truth_npz(file: Path, frame_count: int, width: int, height: int) -> GroundTruth:
    """The tracks of a gt.npz and the masks beside it, for `frame_count` pictures of width x height.

    Of a file with another name the masks are not looked for: they might be another clip's.

    Raises:
        NpzError: the file cannot be read.
        GroundTruthError: its arrays or masks do not fit the pictures.
    """
    arrays = load_arrays(file)
    missing = [name for name in _REQUIRED if name not in arrays]
    if missing:
        raise GroundTruthError(f"'{file}' has no {', '.join(missing)}: it needs {_REQUIRED}")
    for name in _REQUIRED:
        if arrays[name].dtype.kind not in "biuf":
            raise GroundTruthError(f"{name} in '{file}' is {arrays[name].dtype}, not numbers")
    queries = arrays["queries"].astype(np.float32)
    if queries.ndim != 2 or queries.shape[1] != 3:
        raise GroundTruthError(f"queries in '{file}' is {queries.shape}: give rows of (t, y, x)")
    occluded, evaluate = arrays["occluded"].astype(bool), arrays["evaluate"].astype(bool)
    labelled = arrays.get("has_occlusion")
    if labelled is None and occluded.shape == evaluate.shape:
        # Where occlusion was not labelled, files mark every point without a label as occluded
        # and leave it out of the scores.
        labelled = (evaluate & occluded).any()
    truth = GroundTruth(
        queries=queries[:, [0, 2, 1]],  # (t, y, x) on file
        points=arrays["points"].astype(np.float32),
        occluded=occluded,
        evaluate=evaluate,
        has_occlusion=bool(labelled),
        width=width,
        height=height,
        mask_areas=_mask_areas(file, width * height),
    )
    truth = checked(truth, frame_count, file)
    check_labels_in_picture(truth, file)
    return truth


def mask_area(file: Path, pixels: int) -> int:
    """Pixels of a mask that are not black, in a picture of so many `pixels`.

    Raises:
        GroundTruthError: the mask cannot be decoded.
    """
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise GroundTruthError(f"mask '{file}' cannot be decoded")
    return round(np.count_nonzero(mask) * pixels / mask.size)


def _mask_areas(file: Path, pixels: int) -> NDArray[np.int64] | None:
    masks = file.parent / "masks"
    if file.name != "gt.npz" or not masks.is_dir():
        return None
    return np.array([mask_area(mask, pixels) for mask in image_files(masks)], np.int64)
