"""Tracks as an .npz file that any NumPy reads, without pickle.

Keys: queries float32 [N, 3] (t, x, y); points float32 [N, T, 2] (x, y) px; occluded bool [N, T];
confidence float32 [N, T]; stamps int64 [T] ns; width, height int64. Those of the command `track`
also have settings, a JSON text of dotted names to values; those from a bag have ids, uint32 [N].
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings, describe
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import atomic_output


class TracksFileError(TrackerError):
    """A tracks file cannot be read."""


def save_tracks(
    path: Path,
    tracks: Tracks,
    settings: Settings | None = None,
    ids: NDArray[np.uint32] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes tracks; the file appears whole or not at all.

    Args:
        path: the file.
        tracks: N tracks.
        settings: they were made with; None where unknown.
        ids: uint32 [N]; None where they have none.
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
    """
    arrays: dict[str, Any] = {
        "queries": tracks.queries,
        "points": tracks.points,
        "occluded": tracks.occluded,
        "confidence": tracks.confidence,
        "stamps": tracks.stamps,
        "width": np.int64(tracks.width),
        "height": np.int64(tracks.height),
    }
    if settings is not None:
        values = {info.name: info.value for info in describe(settings)}
        arrays["settings"] = np.array(json.dumps(values))
    if ids is not None:
        arrays["ids"] = ids
    with atomic_output(path, overwrite) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


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
