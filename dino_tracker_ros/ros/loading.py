"""The tracker, loaded when the node is configured and not before.

PyTorch is imported here only, inside functions: a robot without it gets one clear line.
"""

from __future__ import annotations

from dino_tracker_ros.ros.worker import PointTracker
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings


class MissingPackageError(TrackerError):
    """A package that a setting or the tracker needs is not installed."""


def load_tracker(settings: Settings) -> PointTracker:
    """The tracker with its weights; a download is possible and takes its time.

    Raises:
        MissingPackageError: PyTorch, torchvision or transformers cannot be imported.
        WeightsError, DeviceError: see DinoTracker.
    """
    try:
        from dino_tracker_ros.tracking.tracker import DinoTracker
    except ImportError as error:
        raise MissingPackageError(
            f"the tracker cannot be imported ({error}): install the packages of requirements.txt, "
            "for example with python3 -m pip install -r requirements.txt"
        ) from error
    return DinoTracker(settings)


def release_memory() -> None:
    """Gives the memory of a tracker that is gone back to the machine."""
    from dino_tracker_ros.tracking.memory import release_memory as release

    release()


def automatic_preset() -> str:
    """The preset for this machine: `robot` where PyTorch finds a GPU, else `cpu`."""
    try:
        from dino_tracker_ros.tracking.device import find_device
    except ImportError:
        return "cpu"
    return "cpu" if find_device("auto").type == "cpu" else "robot"
