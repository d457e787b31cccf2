"""TAP-Vid's files: pickles with videos and their point tracks (Doersch et al. 2022).

DAVIS and RoboTAP are a dict of name to clip, RGB-stacking a list of clips, Kinetics either, in
several shards. A clip holds `video`, uint8 [T, H, W, 3] or T encoded pictures; `points`
[N, T, 2], (x, y) in 0..1; `occluded` [N, T]. The zips they are distributed in are read in place,
without unpacking anything.

TAP-Vid's positions are raster coordinates divided by the picture's size: 0 is the left edge of
the leftmost pixel and 1 the right edge of the rightmost. Here pixel centres are at integers, so
x = width * x_file - 0.5, and the same for y.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.truths.ground_truth import (
    GroundTruth,
    GroundTruthError,
    LabelledClip,
    check_labels_in_picture,
    checked,
)
from dino_tracker_ros.evaluation.truths.query_sampling import queries_at, sample_queries
from dino_tracker_ros.evaluation.truths.safe_pickle import load_plain
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.visualization.video import NANOSECONDS, LazyFrames

RATE = 25.0  # frames per second, for stamps: that of Kinetics; the files do not say
PICKLES = (".pkl", ".pickle")
TAP_VID_SUFFIXES = (*PICKLES, ".zip")


def holds_tap_vid(path: Path) -> bool:
    """Whether `path` is a TAP-Vid file by its name, or a folder that holds one."""
    if path.is_dir():
        return any(holds_tap_vid(file) for file in path.iterdir() if file.is_file())
    return path.suffix.lower() in TAP_VID_SUFFIXES


def load_tap_vid(path: Path, mode: Mode) -> list[LabelledClip]:
    """All clips of a pickle, of a zip with pickles, or of a folder with either.

    Only the tracks are kept in memory. A video is read again from its file when a frame is asked
    for, and kept until one of another video is.

    Args:
        path: the file or folder.
        mode: how queries are chosen; see `sample_queries`.

    Raises:
        GroundTruthError: a file cannot be read, holds more than data, or is of another form.
    """
    clips: dict[str, LabelledClip] = {}
    for shard in _shards(path):
        for key, entry in _entries(shard).items():
            source = f"{shard}: {key}"
            video = _video_of(entry, source)
            height, width = _picture(video, 0, source).shape[:2]
            truth = _truth(entry, mode, len(video), width, height, source)
            name = _free_name(key, clips)
            clips[name] = LabelledClip(name, TapVidFrames(shard, key, len(video)), truth)
    if not clips:
        raise GroundTruthError(f"'{path}' holds no clip of TAP-Vid's form")
    return list(clips.values())


def load_tap_vid_truth(
    file: Path, mode: Mode, frame_count: int, width: int, height: int
) -> GroundTruth:
    """The tracks of a pickle with one clip, for the pictures of that clip in any size.

    Raises:
        GroundTruthError: as `load_tap_vid`, or the file holds several clips.
    """
    entries = {f"{s}: {key}": each for s in _shards(file) for key, each in _entries(s).items()}
    if len(entries) != 1:
        raise GroundTruthError(
            f"'{file}' holds {len(entries)} clips: give the tracks of the one clip to be scored"
        )
    source, entry = next(iter(entries.items()))
    return _truth(entry, mode, frame_count, width, height, source)


@dataclass(frozen=True)
class Shard:
    """One pickle: a file, or a member of a zip."""

    file: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else str(self.file)

    @property
    def stem(self) -> str:
        return Path(self.member or self.file).stem

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        if not self.member:
            with self.file.open("rb") as stream:
                yield stream
            return
        with zipfile.ZipFile(self.file) as archive, archive.open(self.member) as stream:
            yield stream


class TapVidFrames(LazyFrames):
    """The frames of one clip of a pickle."""

    def __init__(self, shard: Shard, key: str, count: int) -> None:
        self._shard, self._key = shard, key
        self.rate = RATE
        self.stamps = tuple(round(i * NANOSECONDS / RATE) for i in range(count))

    def _frame(self, index: int) -> Frame:
        video = _video(self._shard, self._key)
        return Frame(_picture(video, index, f"{self._shard}: {self._key}"), self.stamps[index])


@lru_cache(maxsize=1)  # whole pickles have gigabytes
def _video(shard: Shard, key: str) -> Any:
    return _video_of(_entries(shard)[key], f"{shard}: {key}")


def _shards(path: Path) -> list[Shard]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and holds_tap_vid(file))
        return [shard for file in files for shard in _shards(file)]
    if path.suffix.lower() != ".zip":
        return [Shard(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise GroundTruthError(f"'{path}' cannot be read as zip: {error}") from error
    return [Shard(path, name) for name in sorted(members) if name.lower().endswith(PICKLES)]


def _entries(shard: Shard) -> dict[str, Any]:
    """The clips of one pickle by name; those of a list are numbered."""
    try:
        with shard.open() as stream:
            content = load_plain(stream, shard)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise GroundTruthError(f"'{shard}' cannot be read: {error}") from error
    if isinstance(content, dict):
        return {str(key): entry for key, entry in content.items()}
    if isinstance(content, (list, tuple)):
        return {f"{shard.stem}_{index:03d}": entry for index, entry in enumerate(content)}
    raise GroundTruthError(
        f"'{shard}' holds a {type(content).__name__}: TAP-Vid's files are a dict or list of clips"
    )


def _free_name(key: str, taken: Mapping[str, LabelledClip]) -> str:
    """The key as the name of a folder, which results are written to, and not one taken."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", key).lstrip(".") or "clip"
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _field(entry: Any, name: str, source: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise GroundTruthError(
            f"'{source}' has no {name}: a TAP-Vid clip has video, points and occluded"
        )
    return entry[name]


def _video_of(entry: Any, source: str) -> Any:
    """uint8 [T, H, W, 3], or T pictures as JPEG."""
    video = _field(entry, "video", source)
    if isinstance(video, np.ndarray):
        pixels = video.ndim == 4 and video.shape[3] == 3 and video.dtype == np.uint8
        good = pixels or (video.ndim == 1 and video.dtype.kind == "S")
    else:
        good = isinstance(video, (list, tuple)) and all(isinstance(p, (bytes, str)) for p in video)
    if not good or not len(video) or 0 in np.shape(video[0]):
        shape = f"{video.dtype} {video.shape}" if isinstance(video, np.ndarray) else type(video)
        raise GroundTruthError(
            f"video of '{source}' is {shape}: TAP-Vid's are uint8 [T, H, W, 3] or T JPEG pictures"
        )
    return video


def _picture(video: Any, index: int, source: str) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB, of its own memory."""
    picture = video[index]
    if isinstance(picture, np.ndarray):
        return picture.copy()
    if isinstance(picture, str):  # bytes, to Python 2
        picture = picture.encode("latin-1")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), flags) if picture else None
    if decoded is None:
        raise GroundTruthError(f"frame {index} of '{source}' cannot be decoded")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8)


def _truth(
    entry: Any, mode: Mode, frame_count: int, width: int, height: int, source: str
) -> GroundTruth:
    points = _field(entry, "points", source)
    occluded = _field(entry, "occluded", source)
    numbers = all(isinstance(a, np.ndarray) and a.dtype.kind in "biuf" for a in (points, occluded))
    if (
        not numbers
        or points.ndim != 3
        or points.shape[1:] != (frame_count, 2)
        or occluded.shape != points.shape[:2]
    ):
        shapes = [getattr(each, "shape", type(each).__name__) for each in (points, occluded)]
        raise GroundTruthError(
            f"'{source}' has points {shapes[0]} and occluded {shapes[1]}: {frame_count} frames "
            f"need [N, {frame_count}, 2] and [N, {frame_count}]"
        )
    occluded = occluded != 0
    times, tracks = sample_queries(~occluded, mode)
    pixels = (points * np.array([width, height], np.float64) - 0.5).astype(np.float32)[tracks]
    truth = GroundTruth(
        queries=queries_at(pixels, times),
        points=pixels,
        occluded=occluded[tracks],
        evaluate=np.ones(pixels.shape[:2], bool),
        has_occlusion=True,
        width=width,
        height=height,
    )
    truth = checked(truth, frame_count, source)
    check_labels_in_picture(truth, source)
    return truth
