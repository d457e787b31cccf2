"""Writes a bag that appears whole or not at all: ROS 2 (MCAP, sqlite3) or ROS 1, without ROS."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dino_tracker_ros.evaluation.bags.message_types import COMPRESSED_IMAGE, IMAGE, typestore
from dino_tracker_ros.evaluation.bags.reader import BagError
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.visualization.output import OutputError

STORAGES = ("mcap", "sqlite3")
IMAGE_FORMS = ("raw", "png", "jpeg")
JPEG_QUALITY = 95


class BagWriter:
    """An open new bag; `new_bag` makes it. Messages of a topic are of one type."""

    def __init__(self, writer: Any, is_ros1: bool) -> None:
        self._writer = writer
        self._is_ros1 = is_ros1
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, kind: str, time: int, message: Any) -> None:
        """Adds a message.

        Args:
            topic: with a slash in front.
            kind: message type, such as sensor_msgs/msg/Image.
            time: of recording, ns.
            message: made by `message`.
        """
        store = typestore(self._is_ros1)
        serialize = store.serialize_ros1 if self._is_ros1 else store.serialize_cdr
        self.write_serialized(topic, kind, time, serialize(message, kind))

    def write_serialized(self, topic: str, kind: str, time: int, data: bytes) -> None:
        """Adds a message as it came from the wire; see `write`."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=typestore(self._is_ros1)
            )
        self._writer.write(self._connections[topic], time, data)

    def message(self, kind: str, **fields: Any) -> Any:
        """A message of a type with all its fields; arrays of numbers are NumPy's."""
        return typestore(self._is_ros1).types[kind](**fields)

    def time(self, stamp: int) -> Any:
        """Nanoseconds as a builtin_interfaces/Time."""
        sec, nanosec = divmod(int(stamp), 10**9)
        return self.message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)

    def header(self, stamp: int, frame_id: str) -> Any:
        """A std_msgs/Header, stamp in ns."""
        sequence = {"seq": 0} if self._is_ros1 else {}
        return self.message(
            "std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame_id, **sequence
        )

    def write_image(self, topic: str, frame: Frame, frame_id: str, form: str = "raw") -> None:
        """Adds an image, recorded at its stamp: an Image, or a CompressedImage of PNG or JPEG.

        Args:
            topic: with a slash in front.
            frame: image and stamp.
            frame_id: of the camera.
            form: one of `IMAGE_FORMS`.
        """
        header = self.header(frame.stamp, frame_id)
        if form == "raw":
            kind = IMAGE
            height, width = frame.image.shape[:2]
            message = self.message(
                kind, header=header, height=height, width=width, encoding="rgb8", is_bigendian=0,
                step=3 * width, data=np.ascontiguousarray(frame.image).reshape(-1),
            )  # fmt: skip
        else:
            kind = COMPRESSED_IMAGE
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if form == "jpeg" else []
            bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            data = cv2.imencode(f".{form}", bgr, quality)[1].reshape(-1)
            message = self.message(kind, header=header, format=form, data=data)
        self.write(topic, kind, frame.stamp, message)


def check_new_bag(path: Path, overwrite: bool) -> None:
    """Refuses a path that must not or cannot become a bag, before the work that fills it.

    Raises:
        OutputError: something is there and `overwrite` is false, or it is no bag; the path has
            another ending than .bag; or its folder cannot be written.
    """
    if path.suffix in (".mcap", ".db3"):
        raise OutputError(
            f"'{path}': a ROS 2 bag is a folder with such a file in it: leave off {path.suffix}"
        )
    if path.exists():
        is_bag = path.is_file() if path.suffix == ".bag" else (path / "metadata.yaml").is_file()
        if not is_bag:
            raise OutputError(f"'{path}' exists and is no such bag: choose another name")
        if not overwrite:
            raise OutputError(f"'{path}' exists: choose another name or allow overwriting")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder '{path.parent}' cannot be made: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"folder '{path.parent}' cannot be written to")


@contextmanager
def new_bag(path: Path, storage: str = "mcap", overwrite: bool = False) -> Iterator[BagWriter]:
    """A bag that appears when the block ends well.

    Args:
        path: folder of a ROS 2 bag, or, with the ending .bag, a ROS 1 bag.
        storage: of a ROS 2 bag, one of `STORAGES`.
        overwrite: replace a bag that is there.

    Raises:
        OutputError: as `check_new_bag`, or the disk is full.
        BagError: the package rosbags is missing.
    """
    try:
        from rosbags.rosbag1 import Writer as Writer1
        from rosbags.rosbag2 import StoragePlugin
        from rosbags.rosbag2 import Writer as Writer2
    except ImportError:
        raise BagError("writing bags needs the package rosbags: pip install rosbags") from None
    check_new_bag(path, overwrite)
    is_ros1 = path.suffix == ".bag"
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    temporary = folder / path.name  # the files in a ROS 2 bag are named after it
    try:
        if is_ros1:
            writer: Any = Writer1(temporary)
        else:
            plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
            # Humble's tools cannot read the QoS profiles of version 9 of metadata.yaml.
            writer = Writer2(temporary, version=8, storage_plugin=plugin)
        with writer:
            yield BagWriter(writer, is_ros1)
        if path.exists():
            path.rename(folder / "replaced")
        temporary.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise OutputError(f"bag '{path}' cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
