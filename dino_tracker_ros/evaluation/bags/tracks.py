"""Tracks in a bag: TrackArray messages, as the node publishes them on /tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.assembly import Clip, join_clips
from dino_tracker_ros.evaluation.bags.message_types import TRACK, TRACK_ARRAY, typestore
from dino_tracker_ros.evaluation.bags.reader import BagError, BagReader
from dino_tracker_ros.evaluation.bags.writer import BagWriter
from dino_tracker_ros.tracking.tracks import EARLIER, Tracks, told_queries

_ARRAYS = ("x", "y", "occluded", "confidence")


def read_track_bag(path: Path, topic: str = "") -> tuple[Tracks, NDArray[np.uint32]]:
    """The tracks of one topic, its overlapping clips joined, and their ids.

    Args:
        path: of a ROS 1 or ROS 2 bag.
        topic: of TrackArray; empty takes the only one there is.

    Raises:
        BagError: as `read_clips`.
    """
    return join_clips(read_clips(path, topic))


def read_clips(path: Path, topic: str = "") -> list[Clip]:
    """The tracks and ids of each message on one topic, in the order of publication.

    Args:
        path: of a ROS 1 or ROS 2 bag.
        topic: of TrackArray; empty takes the only one there is.

    Raises:
        BagError: no such bag or topic, several topics to choose from, no message, a damaged one,
            or messages of several runs or image sizes.
    """
    with BagReader(path) as reader:
        topic = reader.choose_topic(topic, [TRACK_ARRAY], "tracks")
        _check_version(reader, topic)
        clips: list[Clip] = []
        newest = -1
        for number, recorded in enumerate(reader.messages(topic, [TRACK_ARRAY])):
            what = f"message {number} on {topic} in bag '{path}'"
            message = reader.deserialize(recorded)
            if message.clip_id <= newest:
                raise BagError(
                    f"{what} has clip_id {message.clip_id} after {newest}: two nodes published, "
                    "or one was started anew, and the ids of their points do not go together; "
                    "record each run into a bag of its own"
                )
            newest = message.clip_id
            clip = _clip_of(message, what)
            size = (clip[0].width, clip[0].height)
            if clips and size != (clips[0][0].width, clips[0][0].height):
                first = clips[0][0]
                raise BagError(
                    f"{what} is for images of {size[0]}x{size[1]} px, those before it for "
                    f"{first.width}x{first.height}: record each size into a bag of its own"
                )
            clips.append(clip)
    if not clips:
        raise BagError(f"bag '{path}' has no message on {topic}: did the node finish a clip?")
    return clips


def write_tracks(
    bag: BagWriter,
    topic: str,
    tracks: Tracks,
    ids: NDArray[np.uint32],
    frame_id: str,
    clip_id: int = 0,
) -> None:
    """Adds a TrackArray to a bag, recorded at the newest stamp.

    Args:
        bag: open for writing.
        topic: with a slash in front.
        tracks: N tracks over T frames.
        ids: uint32 [N].
        frame_id: of the images.
        clip_id: number of the clip.
    """
    newest, asked = int(tracks.stamps[-1]), tracks.query_indices
    message = bag.message(
        TRACK_ARRAY,
        header=bag.header(newest, frame_id),
        stamps=[bag.time(stamp) for stamp in tracks.stamps],
        width=tracks.width,
        height=tracks.height,
        clip_id=clip_id,
        tracks=[
            bag.message(
                TRACK,
                id=int(ids[row]),
                query_index=int(asked[row]),
                x=np.ascontiguousarray(tracks.points[row, :, 0], np.float32),
                y=np.ascontiguousarray(tracks.points[row, :, 1], np.float32),
                occluded=tracks.occluded[row].astype(np.uint8),
                confidence=np.ascontiguousarray(tracks.confidence[row], np.float32),
                depth=np.empty(0, np.float32),
            )
            for row in range(len(ids))
        ],
    )
    bag.write(topic, TRACK_ARRAY, newest, message)


def _check_version(reader: BagReader, topic: str) -> None:
    """Another version's definition would be read as nonsense. Old recorders name none."""
    store = typestore(reader.is_ros1)
    ours = (
        store.generate_msgdef(TRACK_ARRAY)[1] if reader.is_ros1 else store.hash_rihs01(TRACK_ARRAY)
    )
    for each in reader.topics:
        if each.name == topic and each.type == TRACK_ARRAY and each.digest not in ("", ours):
            raise BagError(
                f"topic {topic} of bag '{reader.path}' holds another version of {TRACK_ARRAY}: "
                "read it with the version of dino_tracker_ros that recorded it"
            )


def _clip_of(message: Any, what: str) -> Clip:
    stamps = np.array([time.sec * 10**9 + time.nanosec for time in message.stamps], np.int64)
    count, length = len(message.tracks), len(stamps)
    if not length or np.any(np.diff(stamps) <= 0):
        raise BagError(f"{what} has {length} stamps that do not increase: it is damaged")
    points = np.empty((count, length, 2), np.float32)
    occluded = np.empty((count, length), bool)
    confidence = np.empty((count, length), np.float32)
    asked = np.empty(count, np.uint32)
    for row, track in enumerate(message.tracks):
        for name in _ARRAYS:
            if len(getattr(track, name)) != length:
                raise BagError(
                    f"{what}: track {track.id} has {len(getattr(track, name))} values in {name} "
                    f"for {length} stamps: it is damaged"
                )
        if length <= track.query_index != EARLIER:
            raise BagError(
                f"{what}: track {track.id} has query_index {track.query_index} for {length} "
                "stamps: it is damaged"
            )
        points[row, :, 0], points[row, :, 1] = track.x, track.y
        occluded[row] = track.occluded != track.VISIBLE
        confidence[row] = track.confidence
        asked[row] = track.query_index
    ids = np.array([track.id for track in message.tracks], np.uint32)
    if len(np.unique(ids)) < count:
        raise BagError(f"{what} has an id twice: it is damaged")
    tracks = Tracks(
        queries=told_queries(asked, points, occluded),
        points=points,
        occluded=occluded,
        confidence=confidence,
        stamps=stamps,
        width=int(message.width),
        height=int(message.height),
    )
    return tracks, ids
