"""Tracks as an .npz file that any NumPy reads, without pickle.

Keys: queries float32 [N, 3] (t, x, y); points float32 [N, T, 2] (x, y) px; occluded bool [N, T];
confidence float32 [N, T]; stamps int64 [T] ns; width, height int64; settings, a JSON text of
dotted names to values.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings, describe
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import atomic_output


class TracksFileError(TrackerError):
    """A tracks file cannot be read."""


def save_tracks(path: Path, tracks: Tracks, settings: Settings, overwrite: bool = False) -> None:
    """Writes tracks and the settings they were made with; the file appears whole or not at all.

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
    """
    values = {info.name: info.value for info in describe(settings)}
    with atomic_output(path, overwrite) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            queries=tracks.queries,
            points=tracks.points,
            occluded=tracks.occluded,
            confidence=tracks.confidence,
            stamps=tracks.stamps,
            width=np.array(tracks.width, dtype=np.int64),
            height=np.array(tracks.height, dtype=np.int64),
            settings=np.array(json.dumps(values)),
        )


def load_tracks(path: Path) -> Tracks:
    """Reads what `save_tracks` wrote.

    Raises:
        TracksFileError: no such file, or not one with tracks.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Tracks(
                queries=archive["queries"],
                points=archive["points"],
                occluded=archive["occluded"],
                confidence=archive["confidence"],
                stamps=archive["stamps"],
                width=int(archive["width"]),
                height=int(archive["height"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TracksFileError(f"'{path}' is not a tracks file: {error}") from error
