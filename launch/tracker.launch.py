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

# An empty argument leaves the parameter to params_file and the preset.
PARAMETER_OF_ARGUMENT = {
    "autostart": "autostart",
    "image_transport": "image.transport",
    "device": "device",
    "preset": "preset",
}


def generate_launch_description() -> LaunchDescription:
    """The arguments and the node.

    No transport is set: on Fast DDS's LARGE_DATA the node would not meet a camera driver, or a
    shell, that is not on it too (see docs/NODE.md, QoS).
    """
    params_file = Path(get_package_share_directory("dino_tracker_ros")) / "config" / "tracker.yaml"
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file", default_value=str(params_file), description="YAML with parameters"
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
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given: dict[str, Any] = {"use_sim_time": argument("use_sim_time") == "true"}
    for name, parameter in PARAMETER_OF_ARGUMENT.items():
        value = argument(name)
        if value:
            given[parameter] = value == "true" if name == "autostart" else value
    return [
        Node(
            package="dino_tracker_ros",
            executable="tracker_node",
            name="dino_tracker",
            namespace=argument("namespace"),
            parameters=[argument("params_file"), given],
            remappings=[("image_raw", argument("image_topic"))],
            arguments=["--ros-args", "--log-level", argument("log_level")],
            output="screen",
            emulate_tty=True,
        )
    ]
