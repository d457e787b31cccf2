"""Starts the tracker on a camera.

ros2 launch dino_tracker_ros tracker.launch.py image_topic:=/camera/image_raw
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(get_package_share_directory("dino_tracker_ros")) / "config"
# An empty argument leaves the parameter to params_file and the preset.
PARAMETER_OF_ARGUMENT = {
    "autostart": "autostart",
    "image_transport": "image.transport",
    "device": "device",
    "preset": "preset",
}


def generate_launch_description() -> LaunchDescription:
    """The arguments, the node, and RViz where it is asked for.

    No transport is set: on Fast DDS's LARGE_DATA the node would not meet a camera driver, or a
    shell, that is not on it too (see docs/NODE.md, QoS).
    """
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(CONFIG / "tracker.yaml"),
                description="YAML with parameters",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of the node and its topics"
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="take the time from /clock; stamps always come from the images",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="least severity that is logged",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="",
                choices=["", "true", "false"],
                description="configure and activate the node when it starts (default: true)",
            ),
            DeclareLaunchArgument(
                "image_topic",
                default_value="image_raw",
                description="topic of the images, without /compressed",
            ),
            DeclareLaunchArgument(
                "image_transport",
                default_value="",
                choices=["", "raw", "compressed"],
                description="subscribe to image_topic or image_topic/compressed (default: raw)",
            ),
            DeclareLaunchArgument(
                "device",
                default_value="",
                description="where the model runs: auto, cpu, cuda or cuda:N (default: auto)",
            ),
            DeclareLaunchArgument(
                "preset",
                default_value="",
                choices=["", "auto", "paper", "robot", "cpu"],
                description="defaults of the tracker's settings (default: auto, by device)",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=["true", "false"],
                description="show overlay and markers in RViz (needs the package rviz2)",
            ),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context: LaunchContext) -> list[Node]:
    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given: dict[str, Any] = {"use_sim_time": argument("use_sim_time") == "true"}
    for name, parameter in PARAMETER_OF_ARGUMENT.items():
        value = argument(name)
        if value:
            given[parameter] = value == "true" if name == "autostart" else value
    image_topic = argument("image_topic")
    # As image_transport has it: camera_info lies beside the images.
    info_topic = "".join(image_topic.rpartition("/")[:2]) + "camera_info"
    tracker = Node(
        package="dino_tracker_ros",
        executable="tracker_node",
        name="dino_tracker",
        namespace=argument("namespace"),
        parameters=[argument("params_file"), given],
        remappings=[("image_raw", image_topic), ("camera_info", info_topic)],
        arguments=["--ros-args", "--log-level", argument("log_level")],
        output="screen",
        emulate_tty=True,
    )
    if argument("rviz") == "false":
        return [tracker]
    space = argument("namespace").strip("/")
    topics = [f"/dino_tracker/{name}" for name in ("overlay", "markers")]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=space,
        parameters=[{"use_sim_time": given["use_sim_time"]}],
        remappings=[(topic, f"/{space}{topic}") for topic in topics] if space else [],
        arguments=["-d", str(CONFIG / "tracker.rviz")],
    )
    return [tracker, rviz]
