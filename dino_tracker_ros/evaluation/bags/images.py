"""Images of a recorded bag: ROS 2 (sqlite3, MCAP) and ROS 1, raw and compressed."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.message_types import COMPRESSED_IMAGE, IMAGE
from dino_tracker_ros.evaluation.bags.reader import BagError, BagReader, RecordedMessage
from dino_tracker_ros.ros.image_decoding import ImageError, decode, decode_compressed
from dino_tracker_ros.ros.node_settings import StreamSettings
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.visualization.video import NANOSECONDS, LazyFrames

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
LATE = round(StreamSettings().jump_back * NANOSECONDS)
"""An image whose stamp is further behind than this, ns, is not late: time jumped back."""
_SKIP = 100  # messages that are read over rather than looked up

_log = logging.getLogger(__name__)


def read_bag(
    path: Path,
    topic: str = "",
    count: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> BagFrames:
    """The images of one topic, in the order they were recorded; see `BagFrames`.

    Args:
        path: folder of a ROS 2 bag, an .mcap or .db3 file, or a ROS 1 .bag file.
        topic: of sensor_msgs/Image or CompressedImage; empty takes the only one there is.
        count: how many images at most.
        start, end: images from `start` on and before `end`, s after the topic's first image.

    Raises:
        BagError: no such bag or topic, several topics to choose from, no image in that time, or
            one that is damaged, of another size, or from an earlier time than those before it.
    """
    begin, until = start or 0.0, math.inf if end is None else end
    if not 0 <= begin < until:
        raise BagError(
            f"from {begin:g} s to {until:g} s after the first image is no range of time: give a "
            "start of at least 0 and an end after it"
        )
    return BagFrames(path, topic, count, begin, until)


class BagFrames(LazyFrames):
    """The images of a bag, all of one size; `read_bag` makes it.

    They are the ones that the live node would track: an image that is a little older than the one
    before, or has its stamp, is left out, and a warning says how many were. Where the node would
    begin a new clip, after a jump back in time or with another size, it is an error.

    Making it reads all images once, so that a bad one is found before any work is done. After that
    each is decoded when it is asked for, cheaply in order. Make it in the process that reads it.

    Attributes:
        topic: name of the topic.
        frame_id: of the first image.
        width, height: of every image, px.
        stamps: of the headers, ns, strictly increasing; times of recording where the recorder left
            the headers empty.
    """

    def __init__(
        self, path: Path, topic: str, count: int | None, start: float, end: float
    ) -> None:
        self._reader = BagReader(path)
        self.topic = self._reader.choose_topic(topic, IMAGE_TYPES, "images")
        self._what = f"bag '{path}', topic {self.topic}"
        self._stream = self._messages()
        self._scan(count, start, end)
        self._stream_from = 0
        self._next = len(self._times)

    def _messages(self, start: int | None = None) -> Iterator[RecordedMessage]:
        return self._reader.messages(self.topic, IMAGE_TYPES, start)

    def _scan(self, count: int | None, start: float, end: float) -> None:
        """Finds the images that are used: their stamps, and which messages they are."""
        self._times: list[int] = []
        self._used: list[int] = []
        stamps: list[int] = []
        left_out: Counter[str] = Counter()
        first = last = None
        for number, stamp, message, kind in self._in_order(left_out):
            first = stamp if first is None else first
            if stamp - first >= end * NANOSECONDS:
                break
            last = stamp
            if stamp - first < round(start * NANOSECONDS):
                continue
            self._check(number, message, kind)
            self._used.append(number)
            stamps.append(stamp)
            if count is not None and len(stamps) >= count:
                break
        if first is None or last is None:
            raise BagError(f"{self._what}: there is no image on it")
        if not stamps:
            raise BagError(
                f"{self._what}: no image from {start:g} s to {end:g} s: its images are at 0 .. "
                f"{(last - first) / NANOSECONDS:.3f} s"
            )
        self.stamps = tuple(stamps)
        if left_out:
            _log.warning(
                "%s: %d of %d images are left out as the node would: %d with the stamp of the one "
                "before, %d older than it",
                self._what, left_out.total(), len(self._times), left_out["double"],
                left_out["late"],
            )  # fmt: skip

    def _in_order(self, left_out: Counter[str]) -> Iterator[tuple[int, int, Any, str]]:
        """Number, stamp, message and type of each image newer than the last; counts the others."""
        last = None
        unstamped = False
        for number, recorded in enumerate(self._stream):
            self._times.append(recorded.time)
            message = self._reader.deserialize(recorded)
            stamp = int(message.header.stamp.sec) * NANOSECONDS + int(message.header.stamp.nanosec)
            if number == 0 and stamp == 0:
                unstamped = True
                _log.warning("%s: no stamps, the times of recording are used", self._what)
            stamp = recorded.time if unstamped else stamp
            if last is None or stamp > last:
                last = stamp
                yield number, stamp, message, recorded.topic.type
            elif stamp < last - LATE:
                raise BagError(
                    f"{self._what}: time jumps back by {(last - stamp) / NANOSECONDS:.3f} s at "
                    f"image {number}: the bag holds several recordings or a loop; take at most "
                    f"{len(self._used)} images, or end the range of time before it"
                )
            else:
                left_out["double" if stamp == last else "late"] += 1

    def _check(self, number: int, message: Any, kind: str) -> None:
        try:
            height, width = _pixels(message, kind).shape[:2]
        except ImageError as error:
            raise BagError(
                f"{self._what}: image {number} cannot be decoded: {error}; a range of time may "
                "leave it out"
            ) from error
        if not self._used:
            self.frame_id = str(message.header.frame_id)
            self.width, self.height = width, height
        elif (width, height) != (self.width, self.height):
            raise BagError(
                f"{self._what}: image {number} is {width}x{height} px, those before it are "
                f"{self.width}x{self.height}: choose images of one size by a range of time"
            )

    def _frame(self, index: int) -> Frame:
        recorded = self._message(self._used[index])
        message = self._reader.deserialize(recorded)
        # Raw pixels are a view on the message, which cannot be written to.
        return Frame(_pixels(message, recorded.topic.type).copy(), self.stamps[index])

    def _message(self, number: int) -> RecordedMessage:
        """The message of that number in the order of reading, on the open stream if it can be."""
        time = self._times[number]
        if not 0 <= number - self._next <= _SKIP or time < self._stream_from:
            self._stream, self._stream_from, self._next = self._messages(time), time, 0
        skip = sum(each >= self._stream_from for each in self._times[self._next : number])
        message = next(islice(self._stream, skip, None), None)
        if message is None:
            raise BagError(f"{self._what}: image {number} is gone: was the bag changed meanwhile?")
        self._next = number + 1
        return message


def _pixels(message: Any, kind: str) -> NDArray[np.uint8]:
    if kind == COMPRESSED_IMAGE:
        return decode_compressed(message.data, message.format)
    return decode(
        message.height, message.width, message.encoding, message.step,
        bool(message.is_bigendian), message.data,
    )  # fmt: skip
