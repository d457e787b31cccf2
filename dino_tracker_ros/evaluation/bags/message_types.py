"""The message types of a bag that this package reads and writes, known without ROS.

The definitions that a bag carries are never used: rosbags makes Python code of a definition, and
a foreign file must not bring code. Images and headers are the same in every distribution; our own
messages are written down here once more, so that a machine without ROS knows them too. A test
compares them with msg/.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
TRACK = "dino_tracker_ros/msg/Track"
TRACK_ARRAY = "dino_tracker_ros/msg/TrackArray"

DEFINITIONS = {
    TRACK: """
uint8 VISIBLE=0
uint8 OCCLUDED=1
uint32 EARLIER=4294967295
uint32 id
uint32 query_index
float32[] x
float32[] y
uint8[] occluded
float32[] confidence
float32[] depth
""",
    TRACK_ARRAY: """
std_msgs/Header header
builtin_interfaces/Time[] stamps
uint32 width
uint32 height
uint64 clip_id
Track[] tracks
""",
}


@lru_cache(maxsize=2)
def typestore(ros1: bool) -> Any:
    """rosbags' store of message types for ROS 1 or ROS 2, with this package's messages."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name, definition in DEFINITIONS.items():
        types.update(get_types_from_msg(definition, name))
    store.register(types)
    return store
