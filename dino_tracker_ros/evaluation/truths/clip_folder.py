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
        GroundTruthError: gt.npz or one of its arrays is missing or does not fit the pictures.
        VideoError: there are no pictures, or the first cannot be decoded.
    """
    file = folder / "gt.npz"
    if not file.is_file():
        raise GroundTruthError(f"'{folder}' has no gt.npz: give a clip folder with known tracks")
    frames = FolderFrames(folder / "frames" if (folder / "frames").is_dir() else folder)
    height, width = frames[0].image.shape[:2]
    masks = image_files(folder / "masks") if (folder / "masks").is_dir() else None
    areas = None if masks is None else np.array([mask_area(mask) for mask in masks], np.int64)
    truth = load_truth_npz(file, len(frames), width, height, areas)
    return LabelledClip(folder.resolve().name, frames, truth)


def load_truth_npz(
    file: Path,
    frame_count: int,
    width: int,
    height: int,
    mask_areas: NDArray[np.int64] | None = None,
) -> GroundTruth:
    """The tracks of a gt.npz, for `frame_count` pictures of width x height px.

    Raises:
        GroundTruthError: the file cannot be read, or its arrays do not fit the pictures.
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
        mask_areas=mask_areas,
    )
    truth = checked(truth, frame_count, file)
    check_labels_in_picture(truth, file)
    return truth


def load_arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of an .npz file, by name, without pickle.

    Raises:
        GroundTruthError: the file is missing, damaged, or holds Python objects.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive may trip over anything
        raise GroundTruthError(f"'{file}' cannot be read as .npz: {error}") from error


def mask_area(file: Path) -> int:
    """How many pixels of a mask are not black.

    Raises:
        GroundTruthError: the picture cannot be decoded.
    """
    return int(np.count_nonzero(read_mask(file)))


def read_mask(file: Path) -> NDArray[np.uint8]:
    """A mask as gray picture, uint8 [H, W], where all but the background is above 0.

    Raises:
        GroundTruthError: the picture cannot be decoded.
    """
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise GroundTruthError(f"mask '{file}' cannot be decoded")
    return mask.astype(np.uint8)
