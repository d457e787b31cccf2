"""Tracks for others: as CSV, and in TAP-Vid's form."""

from __future__ import annotations

import csv
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import atomic_output

_log = logging.getLogger(__name__)


class ExportError(TrackerError):
    """Tracks cannot be written in another form."""


def save_csv(
    path: Path, tracks: Tracks, ids: NDArray[np.uint32], overwrite: bool = False
) -> None:
    """One line for each track in each frame: track, stamp (ns), x, y (px), occluded, confidence.

    Frames in which a point was not tracked have no line. `truths.csv_file` reads it.

    Args:
        path: the file, which appears whole or not at all.
        tracks: N tracks over T frames.
        ids: uint32 [N].
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    with atomic_output(path, overwrite) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["track", "stamp", "x", "y", "occluded", "confidence"])
        for row, column in np.argwhere(np.isfinite(tracks.points).all(axis=-1)):
            x, y = tracks.points[row, column]
            writer.writerow([
                ids[row], tracks.stamps[column], f"{x:.9g}", f"{y:.9g}",
                int(tracks.occluded[row, column]), f"{tracks.confidence[row, column]:.9g}",
            ])  # fmt: skip


def save_tap_vid(
    path: Path, name: str, frames: Sequence[Frame], tracks: Tracks, overwrite: bool = False
) -> None:
    """A pickle as TAP-Vid's (Doersch et al. 2022): {name: {video, points, occluded}}.

    `video` is uint8 [T, H, W, 3]; `points` float32 [N, T, 2], (x, y), 0..1 from the picture's left
    or upper edge to the other; `occluded` bool [N, T]. The form does not know of frames in which
    a point was not tracked: there it is written as occluded, and a warning counts them. Nor does it
    know where a point was asked for.

    Args:
        path: the file, which appears whole or not at all.
        name: of the clip.
        frames: with an image for each stamp of the tracks.
        tracks: N tracks over T frames.
        overwrite: replace a file that is there.

    Raises:
        ExportError: a frame of the tracks is not there, or of another size.
        OutputError: the file exists or cannot be written.
    """
    with atomic_output(path, overwrite) as temporary, temporary.open("wb") as stream:
        known = np.asarray(np.isfinite(tracks.points).all(axis=-1))
        size = np.array([tracks.width, tracks.height], np.float64)
        points = np.where(known[..., None], (tracks.points + 0.5) / size, 0.0).astype(np.float32)
        if not known.all():
            _log.warning(
                "%d of %d positions are unknown; TAP-Vid's form has no word for it, they are "
                "written as occluded", np.sum(~known), known.size,
            )  # fmt: skip
        clip = {
            "video": _video(frames, tracks),
            "points": points,
            "occluded": tracks.occluded | ~known,
        }
        pickle.dump({name: clip}, stream, protocol=4)


def _video(frames: Sequence[Frame], tracks: Tracks) -> NDArray[np.uint8]:
    wanted = {stamp: index for index, stamp in enumerate(tracks.stamps.tolist())}
    video = np.empty((len(wanted), tracks.height, tracks.width, 3), np.uint8)
    found = set()
    for frame in frames:
        if frame.stamp not in wanted:
            continue
        if frame.image.shape != video.shape[1:]:
            raise ExportError(
                f"images are {frame.image.shape[1]}x{frame.image.shape[0]} px, the tracks are for "
                f"{tracks.width}x{tracks.height}: give the images they were made from"
            )
        video[wanted[frame.stamp]] = frame.image
        found.add(frame.stamp)
    if len(found) < len(wanted):
        raise ExportError(
            f"{len(wanted) - len(found)} of the tracks' {len(wanted)} frames are not among the "
            f"{len(frames)} images: give the images they were made from"
        )
    return video
