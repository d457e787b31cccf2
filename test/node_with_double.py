"""The real node around TrackerDouble, as a process of its own for test_node.py."""

import time

from tracker_double import TrackerDouble

from dino_tracker_ros.ros.tracker_node import main
from dino_tracker_ros.tracking.errors import DeviceError
from dino_tracker_ros.tracking.settings import Settings


def load(settings: Settings) -> TrackerDouble:
    if settings.device.startswith("cuda"):
        raise DeviceError(f"device is '{settings.device}', but there are 0 GPUs: set device to cpu")
    if settings.device == "slow":
        time.sleep(60)
    return TrackerDouble(settings)


main(load=load)
