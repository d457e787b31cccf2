"""Images of a recorded bag: ROS 2 (sqlite3, MCAP) and ROS 1, read without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dino_tracker_ros.ros.image_decoding import ImageError, decode, decode_compressed
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class BagError(TrackerError):
    """A bag cannot be read, or has no such image topic."""


def read_bag(path: Path, topic: str = "", count: int | None = None) -> list[Frame]:
    """The images of one topic, in the order they were recorded.

    Args:
        path: folder of a ROS 2 bag, an .mcap or .db3 file, or a ROS 1 .bag file.
        topic: of sensor_msgs/Image or CompressedImage; empty takes the only one there is.
        count: how many images at most.

    Returns:
        Frames with strictly increasing stamps, those of the headers. An image that is not later
        than the one before is left out.

    Raises:
        BagError: no such bag or topic, several topics to choose from, or an image that cannot be
            decoded.
    """
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.rosbag1 import ReaderError as Rosbag1Error
        from rosbags.rosbag2 import ReaderError as Rosbag2Error
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise BagError("reading bags needs the package rosbags: pip install rosbags") from None
    if not path.exists():
        raise BagError(f"there is no bag '{path}'")
    frames: list[Frame] = []
    try:
        # Older bags do not carry their messages' definitions.
        types = get_typestore(Stores.ROS2_HUMBLE)
        with AnyReader([path], default_typestore=types) as reader:
            chosen = _choose(reader.connections, topic, path)
            for connection, recorded, data in reader.messages(connections=chosen):
                message = reader.deserialize(data, connection.msgtype)
                frame = _frame(message, connection.msgtype, recorded)
                if not frames or frame.stamp > frames[-1].stamp:
                    frames.append(frame)
                if count is not None and len(frames) >= count:
                    break
    except (AnyReaderError, Rosbag1Error, Rosbag2Error, OSError) as error:
        raise BagError(f"bag '{path}' cannot be read: {error}") from error
    except ImageError as error:
        raise BagError(f"image {len(frames)} of '{path}' cannot be decoded: {error}") from error
    if not frames:
        raise BagError(f"'{path}' has no message on {chosen[0].topic}")
    return frames


def _choose(connections: list[Any], topic: str, path: Path) -> list[Any]:
    images = [each for each in connections if each.msgtype in (RAW, COMPRESSED)]
    topics = sorted({each.topic for each in images})
    if not topics:
        raise BagError(f"'{path}' has no topic of type {RAW} or {COMPRESSED}")
    if not topic and len(topics) == 1:
        topic = topics[0]
    if topic not in topics:
        wrong = f"no image topic '{topic}'" if topic else f"{len(topics)} image topics"
        raise BagError(f"'{path}' has {wrong}: choose one of {', '.join(topics)}")
    return [each for each in images if each.topic == topic]


def _frame(message: Any, kind: str, recorded: int) -> Frame:
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    if kind == COMPRESSED:
        image = decode_compressed(message.data, message.format)
    else:
        image = decode(
            message.height, message.width, message.encoding, message.step,
            bool(message.is_bigendian), message.data,
        )  # fmt: skip
    return Frame(image, stamp or recorded)  # some recorders leave the header empty
