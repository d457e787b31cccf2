"""BADJA's files: hand-labelled joints of animals in video (Biggs et al. 2018).

joint_annotations/NAME.json is a list with one entry for each labelled picture, some frames apart:
`image_path` and `segmentation_path` relative to BADJA's folder, `joints` as (row, column) pixels
of that picture, and `visibility`. Pictures and masks lie in DAVIS/ (from DAVIS itself) and
extra_videos/. Frames are all pictures of the labelled ones' folder.

DAVIS also comes at 480p. Where the full resolution is not there, those pictures are taken, and
the labels are scaled from 1920×1080, as column * width / 1920: without the half pixel that lies
between the two grids, as others scale them.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.truths.clip_folder import mask_area
from dino_tracker_ros.evaluation.truths.ground_truth import (
    GroundTruth,
    GroundTruthError,
    LabelledClip,
    check_labels_in_picture,
    checked,
)
from dino_tracker_ros.evaluation.truths.query_sampling import queries_at, sample_queries
from dino_tracker_ros.visualization.video import FolderFrames, image_files

FULL_RESOLUTION, SMALL = "Full-Resolution", "480p"
DAVIS_SIZE = (1920, 1080)  # px, (width, height), of BADJA's sequences at full resolution

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Labels:
    """L labelled pictures with J joints.

    Attributes:
        images, masks: L paths relative to BADJA's folder.
        joints: float64 [L, J, 2], (row, column) px.
        visible: bool [L, J].
    """

    images: tuple[PurePosixPath, ...]
    masks: tuple[PurePosixPath, ...]
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]


def holds_badja(path: Path) -> bool:
    """Whether `path` is BADJA's folder, or a file of labels in it."""
    return (path / "joint_annotations").is_dir() or (
        path.suffix.lower() == ".json" and path.parent.name == "joint_annotations"
    )


def load_badja(path: Path) -> list[LabelledClip]:
    """The clips of BADJA's folder, or the one of a file of labels in it.

    A sequence of the folder whose pictures are not there is left out, and a warning says so.

    Raises:
        GroundTruthError: no pictures of any sequence, or labels that do not fit them.
        VideoError: a picture cannot be decoded.
    """
    if not path.is_dir():
        return [_load_clip(path)]
    clips = []
    for file in sorted((path / "joint_annotations").glob("*.json")):
        if _picture_folder(file, _read_labels(file)) is None:
            _log.warning("'%s' is left out: its pictures are not there", file)
        else:
            clips.append(_load_clip(file))
    if not clips:
        raise GroundTruthError(
            f"'{path}' has no pictures for its labels: put DAVIS and extra_videos into it"
        )
    return clips


def load_badja_truth(file: Path, frame_count: int, width: int, height: int) -> GroundTruth:
    """The joints of a file of labels, for the pictures of its sequence in any size.

    If the labelled pictures lie where BADJA has them, their order says which frame is which.
    Otherwise the number in their names does, and they must be DAVIS's.

    Raises:
        GroundTruthError: the labels cannot be read, or do not fit that many frames.
    """
    labels = _read_labels(file)
    folder = _picture_folder(file, labels)
    return _truth(file, labels, folder, frame_count, width, height)


def _load_clip(file: Path) -> LabelledClip:
    labels = _read_labels(file)
    folder = _picture_folder(file, labels)
    if folder is None:
        wanted = _root(file) / labels.images[0].parent
        raise GroundTruthError(f"'{file}' has no pictures: put them into '{wanted}'")
    frames = FolderFrames(folder)
    height, width = frames[0].image.shape[:2]
    truth = _truth(file, labels, folder, len(frames), width, height)
    return LabelledClip(file.stem, frames, truth)


def _root(file: Path) -> Path:
    return file.resolve().parent.parent


def _picture_folder(file: Path, labels: _Labels) -> Path | None:
    return _existing(_root(file), labels.images[0].parent)


def _existing(root: Path, folder: PurePosixPath) -> Path | None:
    choices = (root / folder, root / str(folder).replace(FULL_RESOLUTION, SMALL))
    return next((choice for choice in choices if choice.is_dir()), None)


def _read_labels(file: Path) -> _Labels:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        labels = _Labels(
            images=tuple(PurePosixPath(entry["image_path"]) for entry in entries),
            masks=tuple(PurePosixPath(entry["segmentation_path"]) for entry in entries),
            joints=np.array([entry["joints"] for entry in entries], np.float64),
            visible=np.array([entry["visibility"] for entry in entries], bool),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GroundTruthError(
            f"'{file}' cannot be read as BADJA labels: {type(error).__name__} {error}"
        ) from error
    joints, visible = labels.joints, labels.visible
    if joints.ndim != 3 or joints.shape != (*visible.shape, 2) or not joints.size:
        raise GroundTruthError(
            f"'{file}' has joints {joints.shape} and visibility {visible.shape}: give [L, J, 2] "
            "and [L, J] for L pictures and J joints"
        )
    if len({image.parent for image in labels.images}) > 1:
        raise GroundTruthError(f"'{file}' labels pictures of several folders: give one sequence")
    return labels


def _truth(
    file: Path, labels: _Labels, folder: Path | None, frame_count: int, width: int, height: int
) -> GroundTruth:
    frames = _frame_numbers(file, labels, folder, frame_count)
    labelled_width, labelled_height = _labelled_size(file, labels, folder)
    # A joint that is visible once is its own query, and leaves nothing to score.
    scored = np.flatnonzero(labels.visible.sum(axis=0) > 1)
    visible = labels.visible[:, scored].T
    x = labels.joints[:, scored, 1].T * width / labelled_width
    y = labels.joints[:, scored, 0].T * height / labelled_height
    points = np.full((len(scored), frame_count, 2), np.nan, np.float32)
    points[:, frames] = np.where(visible[..., None], np.stack([x, y], axis=-1), np.nan)
    evaluate = np.zeros((len(scored), frame_count), bool)
    evaluate[:, frames] = visible
    first, _ = sample_queries(evaluate, "first")
    truth = GroundTruth(
        queries=queries_at(points, first),
        points=points,
        occluded=~evaluate,  # no label: occluded, out of the picture, or not looked at
        evaluate=evaluate,
        has_occlusion=False,
        width=width,
        height=height,
        mask_areas=_mask_areas(file, labels, frames, frame_count, width * height),
    )
    truth = checked(truth, frame_count, file)
    check_labels_in_picture(truth, file)
    return truth


def _frame_numbers(
    file: Path, labels: _Labels, folder: Path | None, frame_count: int
) -> NDArray[np.int64]:
    """Which frame each labelled picture is, int64 [L]."""
    names = [image.stem for image in labels.images]
    if folder is not None:
        order = {picture.stem: index for index, picture in enumerate(image_files(folder))}
    elif FULL_RESOLUTION in labels.images[0].parts:
        order = {name: int(name) for name in names if name.isdecimal()}
    else:
        raise GroundTruthError(
            f"'{file}' labels '{labels.images[0]}', which is not there, so that its size and "
            "number are unknown: put the file into the folder joint_annotations beside it"
        )
    for name in names:
        if order.get(name, frame_count) >= frame_count:
            raise GroundTruthError(
                f"picture {name}, labelled in '{file}', is not among the {frame_count} frames"
            )
    if len(set(names)) < len(names):
        raise GroundTruthError(f"'{file}' labels the same picture twice")
    return np.array([order[name] for name in names], np.int64)


def _labelled_size(file: Path, labels: _Labels, folder: Path | None) -> tuple[int, int]:
    """Size of the pictures that the labels are about, px, (width, height)."""
    full = FULL_RESOLUTION in labels.images[0].parts
    if folder is None or (full and FULL_RESOLUTION not in folder.parts):
        return DAVIS_SIZE
    height, width = FolderFrames(folder, count=1)[0].image.shape[:2]
    return width, height


def _mask_areas(
    file: Path, labels: _Labels, frames: NDArray[np.int64], frame_count: int, pixels: int
) -> NDArray[np.int64] | None:
    """Area of the animal at the size of the frames; 0 where there is no label."""
    folder = _existing(_root(file), labels.masks[0].parent)
    if folder is None:
        return None
    areas = np.zeros(frame_count, np.int64)
    for frame, path in zip(frames, labels.masks):
        areas[frame] = mask_area(folder / path.name, pixels)
    return areas


