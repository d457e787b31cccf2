"""Publishes recorded pictures as a camera would: sensor_msgs/Image, in real time.

Run as a process of its own: python -m dino_tracker_ros.evaluation.replay --help
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dino_tracker_ros.evaluation.bags import read_bag
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.visualization.video import open_frames

FRAME_ID = "camera"


class ReplayError(TrackerError):
    """Nobody receives the images."""


def add_source_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Options that name where frames come from; `open_source` reads them."""
    sources = parser.add_mutually_exclusive_group(required=required)
    sources.add_argument("--video", type=Path, metavar="FILE", help="a video file")
    sources.add_argument("--frames", type=Path, metavar="FOLDER", help="a folder of pictures")
    sources.add_argument("--bag", type=Path, metavar="PATH", help="a ROS 1 or ROS 2 bag")
    parser.add_argument("--topic", default="", help="the bag's image topic")
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="of a folder's pictures (default 10)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="at most so many frames")


def open_source(options: argparse.Namespace) -> Sequence[Frame]:
    """The frames that the options name.

    Raises:
        VideoError, BagError: they cannot be read.
    """
    if options.bag is not None:
        return read_bag(options.bag, options.topic, options.count)
    if options.video is not None:
        return open_frames(options.video, count=options.count)
    return open_frames(options.frames, rate=options.rate, count=options.count)


def replay(
    frames: Sequence[Frame],
    topic: str,
    first_stamp: int,
    patience: float,
    progress: Callable[[int], None],
) -> None:
    """Publishes the frames at the pace of their stamps.

    Args:
        frames: T frames.
        topic: of sensor_msgs/Image, published reliably.
        first_stamp: stamp of the first message, ns; the others follow as far behind as recorded.
        patience: seconds to wait for a subscriber, and for the last images to be received.
        progress: told how many frames are published.

    Raises:
        ReplayError: no subscriber came, or the images were not received.
    """
    import rclpy
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    from dino_tracker_ros.ros.messages import image_message

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("replay")
    try:
        quality = QoSProfile(depth=len(frames), reliability=ReliabilityPolicy.RELIABLE)
        publisher = node.create_publisher(Image, topic, quality)
        give_up = time.monotonic() + patience
        while not publisher.get_subscription_count():
            if time.monotonic() > give_up:
                raise ReplayError(f"nobody subscribes to {topic} after {patience:.0f} s")
            time.sleep(0.05)
        begin, first = time.monotonic(), frames[0].stamp
        for number, frame in enumerate(frames, start=1):
            behind = frame.stamp - first
            time.sleep(max(0.0, begin + behind * 1e-9 - time.monotonic()))
            publisher.publish(image_message(frame.image, first_stamp + behind, FRAME_ID))
            progress(number)
        if not publisher.wait_for_all_acked(Duration(seconds=patience)):
            raise ReplayError(f"images on {topic} were not received within {patience:.0f} s")
    finally:
        node.destroy_node()
        rclpy.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the process; says on stdout how many frames are published."""
    parser = argparse.ArgumentParser(description="Publishes pictures as a camera would.")
    add_source_options(parser, required=True)
    parser.add_argument("--image-topic", default="image_raw", help="where to publish")
    parser.add_argument(
        "--first-stamp", type=int, metavar="NS", help="of the first image (default now)"
    )
    parser.add_argument(
        "--patience", type=float, default=30.0, metavar="S", help="how long to wait for a reader"
    )
    options = parser.parse_args(arguments)
    try:
        replay(
            open_source(options),
            options.image_topic,
            time.time_ns() if options.first_stamp is None else options.first_stamp,
            options.patience,
            lambda number: print(number, flush=True),
        )
    except TrackerError as error:
        print(f"replay: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
