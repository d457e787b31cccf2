"""Known tracks from files of several kinds: of whole clips, or for pictures from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.reader import STORAGE_SUFFIXES
from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.npz_file import load_arrays
from dino_tracker_ros.evaluation.tracks_file import load_tracks
from dino_tracker_ros.evaluation.truths.badja import holds_badja, load_badja, load_badja_truth
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder, load_truth_npz
from dino_tracker_ros.evaluation.truths.csv_file import load_truth_csv
from dino_tracker_ros.evaluation.truths.ground_truth import (
    GroundTruth,
    GroundTruthError,
    LabelledClip,
)
from dino_tracker_ros.evaluation.truths.query_sampling import asked_everywhere
from dino_tracker_ros.evaluation.truths.recorded_tracks import load_truth_bag, truth_of_tracks
from dino_tracker_ros.evaluation.truths.tap_vid import (
    TAP_VID_SUFFIXES,
    holds_tap_vid,
    load_tap_vid,
    load_tap_vid_truth,
)


def load_clips(path: Path, mode: Mode = "strided") -> list[LabelledClip]:
    """The clips with known tracks at a path; their names differ and can name folders.

    Args:
        path: a folder with pictures and gt.npz; a TAP-Vid pickle, a zip with such, or a folder
            of either; BADJA's folder, or a file in its joint_annotations.
        mode: which points of a TAP-Vid clip are asked for; elsewhere the files say it, but for
            "every".

    Raises:
        GroundTruthError: none of these, or one that is damaged or contradicts itself.
        NpzError: a gt.npz that cannot be read.
        VideoError: a picture is missing or damaged.
    """
    if mode == "every":
        clips = load_clips(path, "first")
        return [replace(clip, truth=asked_everywhere(clip.truth)) for clip in clips]
    if not path.exists():
        raise GroundTruthError(f"there is no '{path}'")
    if (path / "gt.npz").is_file():
        return [load_clip_folder(path)]
    if holds_badja(path):
        return load_badja(path)
    if holds_tap_vid(path):
        return load_tap_vid(path, mode)
    raise GroundTruthError(
        f"'{path}' holds no clip with known tracks: give a folder with gt.npz, a TAP-Vid pickle, "
        "zip or folder of such, or BADJA's folder"
    )


def load_truth(
    path: Path, stamps: NDArray[np.int64], width: int, height: int, mode: Mode = "strided"
) -> GroundTruth:
    """Known tracks for pictures that come from elsewhere, such as a bag.

    Args:
        path: gt.npz, with masks/ beside it or not; CSV; BADJA's json; a TAP-Vid pickle with one
            clip; a bag with TrackArray messages, known ones or those of another run; or another
            run's tracks as .npz.
        stamps: int64 [T], ns, of the pictures. Tracks with stamps are matched by them exactly,
            others by the number of the frame.
        width, height: of the pictures, px.
        mode: which points of a TAP-Vid clip are asked for; elsewhere the files say it, but for
            "every".

    Raises:
        GroundTruthError: none of these, a damaged one, or one that does not fit the pictures.
        BagError: a bag that cannot be read or has no tracks.
        NpzError: an .npz that cannot be read.
        TracksFileError: tracks in an .npz whose arrays do not fit each other.
    """
    if mode == "every":
        return asked_everywhere(load_truth(path, stamps, width, height, "first"))
    if not path.exists():
        raise GroundTruthError(f"there is no '{path}' with known tracks")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in STORAGE_SUFFIXES:
        return load_truth_bag(path, stamps, width, height)
    if suffix == ".npz":
        if "confidence" in load_arrays(path):
            return truth_of_tracks(load_tracks(path), stamps, width, height, path)
        return load_truth_npz(path, len(stamps), width, height)
    if suffix == ".csv":
        return load_truth_csv(path, stamps, width, height)
    if suffix == ".json":
        return load_badja_truth(path, len(stamps), width, height)
    if suffix in TAP_VID_SUFFIXES:
        return load_tap_vid_truth(path, mode, len(stamps), width, height)
    raise GroundTruthError(
        f"'{path}' is of no kind that holds known tracks: give .npz, .csv, BADJA's .json, a "
        "TAP-Vid .pkl or .zip, or a bag with TrackArray messages"
    )
