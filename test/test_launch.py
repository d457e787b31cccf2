"""The launch file: its arguments, and a node started by it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="needs launch_ros, which is not on PyPI")
pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages (colcon build)")

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from ros_peer import PATIENCE, Peer

pytestmark = pytest.mark.ros
LAUNCH_FILE = Path(__file__).parent.parent / "launch" / "tracker.launch.py"
RUN = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch import LaunchDescription
file, *arguments = sys.argv[1:]
service = LaunchService()
include = IncludeLaunchDescription(
    file, launch_arguments=[tuple(each.split(":=")) for each in arguments]
)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tracker_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def description() -> LaunchDescription:
    return launch_file().generate_launch_description()


def nodes(**arguments: str) -> list[Any]:
    """What is started with these arguments."""
    context = LaunchContext()
    for argument in of_kind(DeclareLaunchArgument):
        argument.execute(context)
    context.launch_configurations.update(arguments)
    return launch_file()._nodes(context)


def of_kind(kind: type) -> list[Any]:
    return [entity for entity in description().entities if isinstance(entity, kind)]


def test_every_argument_is_described() -> None:
    arguments = {argument.name: argument for argument in of_kind(DeclareLaunchArgument)}
    assert set(arguments) == {
        "params_file",
        "namespace",
        "use_sim_time",
        "log_level",
        "autostart",
        "image_topic",
        "image_transport",
        "device",
        "preset",
        "rviz",
    }
    assert all(argument.description for argument in arguments.values())
    assert arguments["preset"].choices == ["", "auto", "paper", "robot", "cpu"]


def test_the_transport_is_left_to_the_user() -> None:
    assert not of_kind(SetEnvironmentVariable)


def test_rviz_is_started_only_where_it_is_asked_for() -> None:
    assert [node.node_package for node in nodes()] == ["dino_tracker_ros"]
    _, rviz = nodes(rviz="true", namespace="robot", use_sim_time="true")
    assert (rviz.node_package, rviz.node_executable) == ("rviz2", "rviz2")
    config = Path(rviz._Node__arguments[-1])
    assert config.name == "tracker.rviz"
    assert config.is_file()
    shown = {
        tuple("".join(each.text for each in side) for side in rule)
        for rule in rviz._Node__remappings
    }
    assert shown == {
        ("/dino_tracker/overlay", "/robot/dino_tracker/overlay"),
        ("/dino_tracker/markers", "/robot/dino_tracker/markers"),
    }


@pytest.mark.parametrize(
    ("images", "info"),
    [
        ("image_raw", "camera_info"),
        ("/front/image_rect", "/front/camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_camera_info_is_looked_for_beside_the_images(images: str, info: str) -> None:
    (tracker,) = nodes(image_topic=images)
    rules = {
        tuple("".join(each.text for each in side) for side in rule)
        for rule in tracker._Node__remappings
    }
    assert rules == {("image_raw", images), ("camera_info", info)}


def test_the_arguments_reach_the_node(peer: Peer, tmp_path: Path) -> None:
    params = tmp_path / "mine.yaml"
    params.write_text("/**:\n  ros__parameters:\n    clip:\n      length: 12\n      overlap: 3\n")
    arguments = [
        f"params_file:={params}",
        "namespace:=robot",
        "image_topic:=/front/image",
        "image_transport:=compressed",
        "preset:=cpu",
        "device:=cuda:99",
    ]
    log = tmp_path / "launch.log"
    peer.log = lambda: log.read_text(errors="replace")
    with log.open("wb") as output:
        launched = subprocess.Popen(
            [sys.executable, "-c", RUN, str(LAUNCH_FILE), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ROS_LOG_DIR": str(tmp_path)},
        )
    try:
        # A GPU that is not there ends the configuration before any weights are loaded.
        peer.wait(lambda: peer.level == 2, "for the node to say what is wrong")
        assert "device is 'cuda:99'" in peer.message
        names = peer.node.get_node_names_and_namespaces()
        assert ("dino_tracker", "/robot") in names
    finally:
        launched.send_signal(signal.SIGINT)
        launched.wait(PATIENCE)
