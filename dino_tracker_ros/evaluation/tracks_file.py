"""Tracks as an .npz file that any NumPy reads, without pickle.

Keys: queries float32 [N, 3] (t, x, y); points float32 [N, T, 2] (x, y) px; occluded bool [N, T];
confidence float32 [N, T]; stamps int64 [T] ns; width, height int64. Those of the command `track`
also have settings, a JSON text of dotted names to values; those from a bag have ids, uint32 [N].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.npz_file import load_arrays
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings, describe
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import atomic_output

_KEYS = ("queries", "points", "occluded", "confidence", "stamps", "width", "height")


class TracksFileError(TrackerError):
    """A file does not hold tracks, or they contradict themselves."""


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
        NpzError: no such file, or no .npz.
        TracksFileError: an array is missing, of another shape, or has other values than it may.
    """
    arrays = load_arrays(path)
    missing = [name for name in _KEYS if name not in arrays]
    if missing:
        raise TracksFileError(f"'{path}' is not a tracks file: it has no {', '.join(missing)}")
    for name in _KEYS:
        if arrays[name].dtype.kind not in "biuf":
            raise TracksFileError(f"{name} in '{path}' is {arrays[name].dtype}, not numbers")
    count, length = arrays["queries"].size // 3, arrays["stamps"].size
    shapes = ((count, 3), (count, length, 2), (count, length), (count, length), (length,), (), ())
    for name, shape in zip(_KEYS, shapes):
        if arrays[name].shape != shape:
            raise TracksFileError(
                f"{name} in '{path}' is {arrays[name].shape}: {count} tracks over {length} frames "
                f"need {shape}"
            )
    times = arrays["queries"][:, 0]
    for index in np.flatnonzero(~((times >= 0) & (times <= length - 1)))[:1]:
        raise TracksFileError(
            f"query {index} in '{path}' is at frame {times[index]:g}: the frames are "
            f"0..{length - 1}"
        )
    if (np.diff(arrays["stamps"]) <= 0).any():
        raise TracksFileError(f"stamps in '{path}' do not increase")
    return Tracks(
        queries=arrays["queries"].astype(np.float32),
        points=arrays["points"].astype(np.float32),
        occluded=arrays["occluded"].astype(bool),
        confidence=arrays["confidence"].astype(np.float32),
        stamps=arrays["stamps"].astype(np.int64),
        width=int(arrays["width"]),
        height=int(arrays["height"]),
    )
