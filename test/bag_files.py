"""Bags for tests: pictures that are known, in every storage and form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.message_types import IMAGE
from dino_tracker_ros.evaluation.bags.tracks import write_tracks
from dino_tracker_ros.evaluation.bags.writer import BagWriter, new_bag
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks

HEIGHT, WIDTH = 24, 40
STORAGES = ("mcap", "sqlite3", "ros1")
STAMPS = tuple(2 * 10**9 + 50_000_000 * index for index in range(6))


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """uint8 [height, width, 3], another one for every index."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def bag_path(folder: Path, storage: str, name: str = "bag") -> Path:
    """Where a bag of that storage may be written."""
    return folder / (f"{name}.bag" if storage == "ros1" else name)


def open_bag(path: Path, storage: str) -> Any:
    """new_bag with ROS 1 as one more storage."""
    return new_bag(path, "mcap" if storage == "ros1" else storage)


def write_pictures(
    path: Path,
    storage: str = "mcap",
    topics: Sequence[str] = ("/image_raw",),
    stamps: Sequence[int] = STAMPS,
    form: str = "raw",
) -> Path:
    """A bag of `picture(0)`, `picture(1)`, ... on every topic."""
    with open_bag(path, storage) as bag:
        for index, stamp in enumerate(stamps):
            for topic in topics:
                bag.write_image(topic, Frame(picture(index), stamp), "camera", form)
    return path


def write_track_bag(
    path: Path, tracks: Tracks, ids: NDArray[np.uint32], topic: str = "/tracks"
) -> None:
    """A bag of one TrackArray."""
    with new_bag(path) as bag:
        write_tracks(bag, topic, tracks, ids, "camera")


def write_raw(bag: BagWriter, stamp: int, image: NDArray[np.uint8], **changes: Any) -> None:
    """One sensor_msgs/Image on /image_raw whose fields can be changed; `time` is its recording."""
    height, width = image.shape[:2]
    time = changes.pop("time", stamp)
    fields = {
        "header": bag.header(stamp, "camera"), "height": height, "width": width,
        "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width,
        "data": np.ascontiguousarray(image).reshape(-1),
    }  # fmt: skip
    bag.write("/image_raw", IMAGE, time, bag.message(IMAGE, **{**fields, **changes}))


def storage_file(path: Path) -> Path:
    """The file that holds the messages."""
    return path if path.is_file() else next(path.glob(f"{path.name}.*"))
