"""What RViz and Foxglove are told to show, against what the node publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NODE = (ROOT / "dino_tracker_ros" / "ros" / "tracker_node.py").read_text(encoding="utf-8")
# Displays of the package rviz_default_plugins, and the type each takes.
DISPLAYS = {"Image": "Image", "MarkerArray": "MarkerArray", "TF": ""}


def is_published(topic: str, kind: str) -> bool:
    name = topic.replace("/dino_tracker/", "~/")
    return f'({kind}, "{name}"' in NODE


def test_rviz_shows_topics_that_the_node_publishes() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which every ROS 2 has")
    config = yaml.safe_load((ROOT / "config" / "tracker.rviz").read_text(encoding="utf-8"))
    manager = config["Visualization Manager"]
    shown = []
    for display in manager["Displays"]:
        package, kind = display["Class"].split("/")
        assert package == "rviz_default_plugins"
        assert display["Enabled"]
        if DISPLAYS[kind]:
            topic = display["Topic"]
            assert is_published(topic["Value"], DISPLAYS[kind])
            # What the node offers: reliable, volatile.
            assert topic["Reliability Policy"] in ("Reliable", "Best Effort")
            assert topic["Durability Policy"] == "Volatile"
            shown.append(topic["Value"])
    assert shown == ["/dino_tracker/overlay", "/dino_tracker/markers"]
    assert manager["Global Options"]["Fixed Frame"] == "camera"


def panels_of(place: Any) -> Iterator[str]:
    """Names of the panels in a Foxglove layout's tree."""
    if isinstance(place, str):
        yield place
    else:
        yield from (*panels_of(place["first"]), *panels_of(place["second"]))


def test_foxglove_shows_topics_that_the_node_publishes() -> None:
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))
    panels = layout["configById"]
    assert sorted(panels_of(layout["layout"])) == sorted(panels)
    assert is_published(panels["Image!overlay"]["imageMode"]["imageTopic"], "Image")
    (markers,) = panels["3D!tracks"]["topics"]
    assert is_published(markers, "MarkerArray")
    health = panels["DiagnosticStatusPanel!health"]
    assert is_published(health["topicToRender"], "DiagnosticArray")
    assert health["selectedName"] == "dino_tracker: tracker"
