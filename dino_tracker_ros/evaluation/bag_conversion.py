"""Pictures, videos and clips with known tracks as bags that can be played and evaluated.

The known tracks travel in the bag, as a TrackArray on /ground_truth/tracks. A label that is not to
be scored is NaN and occluded there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.reader import BagError
from dino_tracker_ros.evaluation.bags.tracks import write_tracks
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.evaluation.truths.loading import load_clips
from dino_tracker_ros.evaluation.truths.recorded_tracks import TRUTH_TOPIC
from dino_tracker_ros.evaluation.truths.tap_vid import holds_tap_vid
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import IMAGE_SUFFIXES, NANOSECONDS, open_frames

_BEGIN = NANOSECONDS  # stamp of a clip's first image: 0 means "no stamp" to ROS


@dataclass(frozen=True)
class Source:
    """What becomes one bag.

    Attributes:
        name: of the clip.
        frames: its images.
        truth: known tracks, or None.
    """

    name: str
    frames: Sequence[Frame]
    truth: GroundTruth | None


def find_sources(path: Path, mode: Mode) -> list[Source]:
    """The clips at a path: a video, a folder of pictures, or whatever has known tracks.

    Args:
        path: see `truths.loading` for what has known tracks.
        mode: which points of a TAP-Vid clip are asked for.

    Raises:
        VideoError: a picture or video is missing or damaged.
        GroundTruthError: known tracks are damaged, or there is nothing of all this.
    """
    pictures = path / "frames" if (path / "frames").is_dir() else path
    if path.is_dir():
        plain = not (path / "gt.npz").is_file() and _holds_pictures(pictures)
    else:
        plain = not holds_tap_vid(path)
    if plain:
        return [Source(path.resolve().stem, open_frames(pictures), None)]
    return [Source(clip.name, clip.frames, clip.truth) for clip in load_clips(path, mode)]


def write_clip(
    path: Path,
    source: Source,
    topic: str,
    frame_id: str,
    form: str = "raw",
    rate: float | None = None,
    storage: str = "mcap",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes a bag with the images of a clip and what is known about its tracks.

    Args:
        path, storage, overwrite: see `bags.writer.new_bag`.
        source: the clip.
        topic: of the images, with a slash in front.
        frame_id: of the camera.
        form: of the images, one of `bags.writer.IMAGE_FORMS`.
        rate: images per second; None keeps the clip's own times.
        progress: told how many images of how many are written.

    Raises:
        OutputError: the bag exists or cannot be written.
        BagError: the images have several sizes.
        VideoError: an image cannot be decoded.
    """
    frames = source.frames
    stamps = np.zeros(len(frames), np.int64)
    with new_bag(path, storage, overwrite) as bag:
        for index, frame in enumerate(frames):
            if index == 0:
                first, size = frame.stamp, frame.image.shape
            elif frame.image.shape != size:
                raise BagError(
                    f"image {index} of '{source.name}' is {frame.image.shape[1]}x"
                    f"{frame.image.shape[0]} px, the first {size[1]}x{size[0]}: a camera's images "
                    "are of one size"
                )
            since = frame.stamp - first if rate is None else round(index * NANOSECONDS / rate)
            stamps[index] = _BEGIN + since
            bag.write_image(topic, Frame(frame.image, int(stamps[index])), frame_id, form)
            progress(index + 1, len(frames))
        if source.truth is not None:
            tracks = tracks_of_truth(source.truth, stamps)
            ids = np.arange(len(tracks.queries), dtype=np.uint32)
            write_tracks(bag, TRUTH_TOPIC, tracks, ids, frame_id)


def tracks_of_truth(truth: GroundTruth, stamps: NDArray[np.int64]) -> Tracks:
    """Known tracks as a tracker would give them, sure of what is labelled.

    A message has no place for "not to be scored" but NaN, and the query is a position of the track:
    it is there even where the label is not scored. No score looks at the query's own frame.

    Args:
        truth: N tracks over T frames.
        stamps: int64 [T], ns.
    """
    rows = np.arange(len(truth.queries))
    times = np.rint(truth.queries[:, 0]).astype(int)
    points = np.where(truth.evaluate[..., None], truth.points, np.float32(np.nan))
    # Where an occluded point is, nobody need know; that it is occluded is a label all the same.
    hidden = truth.evaluate & truth.occluded & np.isnan(points).any(axis=-1)
    points[hidden] = np.repeat(truth.queries[:, None, 1:], len(stamps), axis=1)[hidden]
    points[rows, times] = truth.queries[:, 1:]
    known = np.asarray(np.isfinite(points).all(axis=-1))
    return Tracks(
        queries=truth.queries,
        points=points.astype(np.float32),
        occluded=np.where(truth.evaluate, truth.occluded, ~known),
        confidence=known.astype(np.float32),
        stamps=stamps,
        width=truth.width,
        height=truth.height,
    )


def _holds_pictures(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
