"""Overlay video and contact sheet of tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import atomic_output
from dino_tracker_ros.visualization.overlay import draw_overlay, montage
from dino_tracker_ros.visualization.video import VideoError, write_video


def write_overlay(
    path: Path,
    frames: Sequence[Frame],
    tracks: Tracks,
    rate: float,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the frames with the tracks drawn in as an mp4.

    Args:
        path: the file.
        frames: T frames, at the tracks' size.
        tracks: N tracks over the same T frames.
        rate: frames per second.
        progress: called with (frames done, T).

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
        VideoError: a frame cannot be read or the video not be encoded.
    """

    def images() -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(frames):
            yield draw_overlay(frame.image, tracks, index)
            if progress is not None:
                progress(index + 1, len(frames))

    write_video(path, images(), rate, overwrite)


def write_sheet(
    path: Path,
    frames: Sequence[Frame],
    tracks: Tracks,
    *,
    columns: int = 3,
    rows: int = 3,
    overwrite: bool = False,
) -> None:
    """Writes a PNG of frames spread over the clip, with the tracks drawn in.

    Raises:
        OutputError: the file exists and `overwrite` is false, or cannot be written.
        VideoError: a frame cannot be read or the picture not be encoded.
    """
    count = min(len(frames), columns * rows)
    chosen = np.rint(np.linspace(0, len(frames) - 1, count)).astype(int)
    images = [draw_overlay(frames[int(index)].image, tracks, int(index)) for index in chosen]
    first = tracks.stamps[0]
    captions = [f"frame {index}   {(tracks.stamps[index] - first) / 1e9:.2f} s" for index in chosen]
    sheet = montage(images, captions, min(columns, count))
    with atomic_output(path, overwrite) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
            raise VideoError(f"'{path}' cannot be encoded as a picture")
