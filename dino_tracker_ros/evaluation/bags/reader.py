"""A recorded bag and its messages: ROS 2 (sqlite3, MCAP) and ROS 1, read without ROS.

Whatever is wrong with a bag is a BagError; what else is in it, known types or not, does not matter.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dino_tracker_ros.evaluation.bags.message_types import typestore
from dino_tracker_ros.tracking.errors import TrackerError

STORAGE_SUFFIXES = (".mcap", ".db3", ".bag")
_REPAIR = {".mcap": "mcap recover", ".db3": "ros2 bag reindex", ".bag": "rosbag reindex"}


class BagError(TrackerError):
    """A bag cannot be read, or does not hold what is asked for."""


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: of the topic.
        type: of its messages, such as sensor_msgs/msg/Image, also for ROS 1.
        count: of its messages.
        digest: of the type's definition, as the bag gives it; may be empty.
    """

    name: str
    type: str
    count: int
    digest: str = ""


@dataclass(frozen=True)
class RecordedMessage:
    """A message as it lies in the bag.

    Attributes:
        time: of recording, ns.
        topic: its topic.
        data: serialized.
    """

    time: int
    topic: Topic
    data: bytes


class BagReader:
    """An open bag; it closes with the block it is used in, or when it is no longer used.

    Args:
        path: folder of a ROS 2 bag, an .mcap or .db3 file, or a ROS 1 .bag file.

    Raises:
        BagError: no such bag, or a damaged one; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_ros1 = path.suffix == ".bag" and not path.is_dir()
        _check_place(path)
        reader_type = _reader_type(self.is_ros1)
        with self._readable():
            self._reader = reader_type(path)
            self._reader.open()
        self._close = weakref.finalize(self, self._reader.close)
        self._topics = {
            connection.id: Topic(
                connection.topic, connection.msgtype, connection.msgcount, connection.digest
            )
            for connection in self._reader.connections
        }

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def topics(self) -> list[Topic]:
        """By name; several publishers of one type on one topic are one topic."""
        counts: Counter[Topic] = Counter()
        for topic in self._topics.values():
            counts[replace(topic, count=0)] += topic.count
        topics = [replace(topic, count=count) for topic, count in counts.items()]
        return sorted(topics, key=lambda topic: (topic.name, topic.type))

    @property
    def span(self) -> tuple[int, int]:
        """Times of recording of the first and the last message, ns; (0, 0) in an empty bag."""
        if not any(topic.count for topic in self._topics.values()):
            return 0, 0
        return int(self._reader.start_time), int(self._reader.end_time) - 1

    def choose_topic(self, name: str, types: Collection[str], what: str) -> str:
        """The topic of that name, or the only one of these types where the name is empty.

        Args:
            name: of a topic, or empty.
            types: message types that will do.
            what: the messages are, for a reader; such as "images".

        Raises:
            BagError: there is none, or there are several.
        """
        fitting = sorted({topic.name for topic in self.topics if topic.type in types})
        if not name and len(fitting) == 1:
            return fitting[0]
        if name in fitting:
            return name
        if not fitting:
            raise BagError(f"bag '{self.path}' has no topic with {what} ({' or '.join(types)})")
        others = [topic.type for topic in self.topics if topic.name == name]
        if others:
            wrong = f"topic '{name}' of bag '{self.path}' holds {others[0]}, not {what}"
        elif name:
            wrong = f"bag '{self.path}' has no topic '{name}' with {what}"
        else:
            wrong = f"bag '{self.path}' has {len(fitting)} topics with {what}"
        raise BagError(f"{wrong}: choose from {', '.join(fitting)}")

    def messages(
        self, topic: str, types: Collection[str], start: int | None = None
    ) -> Iterator[RecordedMessage]:
        """The messages of a topic in the order of recording.

        Args:
            topic: its name.
            types: only messages of these.
            start: only those recorded at this time, ns, or later.

        Raises:
            BagError: the bag is damaged or lacks messages it should have.
        """
        connections = [
            each
            for each in self._reader.connections
            if each.topic == topic and each.msgtype in types
        ]
        found = 0
        with self._readable():
            for connection, time, data in self._reader.messages(connections, start=start):
                found += 1
                yield RecordedMessage(time, self._topics[connection.id], data)
        listed = sum(each.msgcount for each in connections)
        if start is None and found < listed:
            raise BagError(
                f"bag '{self.path}' lists {listed} messages on {topic}, but its files hold "
                f"{found}: files are damaged or belong to another bag; 'ros2 bag reindex' lists "
                "what is there"
            )

    def deserialize(self, message: RecordedMessage) -> Any:
        """The message with its fields; arrays of numbers are NumPy's.

        Raises:
            BagError: the bytes are not such a message.
        """
        store = typestore(self.is_ros1)
        topic = message.topic
        try:
            if self.is_ros1:
                return store.deserialize_ros1(message.data, topic.type)
            return store.deserialize_cdr(message.data, topic.type)
        except Exception as error:  # rosbags raises whatever the damage leads to
            raise BagError(
                f"a message on {topic.name} in bag '{self.path}', recorded at {message.time} ns, "
                f"is damaged: its {len(message.data)} bytes are no {topic.type} ({_text(error)})"
            ) from error

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # rosbags raises whatever the damage leads to
            raise BagError(
                f"bag '{self.path}' cannot be read: {_text(error)}; if it is damaged or cut off, "
                f"'{_REPAIR[_storage_suffix(self.path)]}' may save it"
            ) from error


def _reader_type(ros1: bool) -> Any:
    try:
        if ros1:
            from rosbags.rosbag1 import Reader as Reader1

            return Reader1
        from rosbags.rosbag2 import Reader as Reader2
    except ImportError:
        raise BagError("reading bags needs the package rosbags: pip install rosbags") from None
    return Reader2


def _check_place(path: Path) -> None:
    if not path.exists():
        raise BagError(f"there is no bag '{path}'")
    if path.is_file():
        if path.suffix not in STORAGE_SUFFIXES:
            raise BagError(
                f"'{path}' is no bag: give a folder with metadata.yaml, or a file "
                f"{', '.join(STORAGE_SUFFIXES)}"
            )
        if not path.stat().st_size:
            raise BagError(f"bag '{path}' is an empty file: was it copied, or the disk full?")
    elif not (path / "metadata.yaml").is_file():
        files = [file for file in sorted(path.iterdir()) if file.suffix in STORAGE_SUFFIXES]
        if not files:
            raise BagError(f"folder '{path}' is no bag: it has no metadata.yaml")
        raise BagError(
            f"bag '{path}' has no metadata.yaml: make it with 'ros2 bag reindex', or give a file "
            f"in it, such as '{files[0]}'"
        )
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.suffix == ".db3":
            _check_database_length(file)


def _check_database_length(file: Path) -> None:
    """SQLite reads what was cut off the last page as zeros, and says nothing."""
    with file.open("rb") as stream:
        header = stream.read(100)
    page_size, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    expected = (65536 if page_size == 1 else page_size) * pages
    found = file.stat().st_size
    if found < expected and header[24:28] == header[92:96]:  # else `pages` is of an older version
        raise BagError(
            f"bag file '{file}' is cut off: it has {found} of {expected} bytes; copy it again"
        )


def _storage_suffix(path: Path) -> str:
    """.mcap, .db3 or .bag; a ROS 2 bag whose files cannot be told counts as .db3."""
    names = [path.name, *(file.name for file in path.iterdir())] if path.is_dir() else [path.name]
    return next((suffix for suffix in _REPAIR if any(suffix in name for name in names)), ".db3")


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
