"""ROS parameters: the tracker's settings and the node's own, declared from their descriptions."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter

from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.settings import (
    PRESETS,
    SettingGroup,
    SettingInfo,
    Settings,
    Value,
    describe,
    preset,
    setting,
    with_values,
)

AUTO_PRESET = "auto"


@dataclass(frozen=True)
class StartSettings(SettingGroup):
    """Read once, when the node starts."""

    autostart: bool = setting(True, "configure and activate the node when it starts")
    preset: str = setting(
        AUTO_PRESET, "defaults of the tracker's settings; auto takes robot with a GPU, else cpu",
        choices=(AUTO_PRESET, *PRESETS),
    )  # fmt: skip


@dataclass(frozen=True)
class ImageSettings(SettingGroup):
    transport: str = setting(
        "raw", "image topic's type: image_raw or image_raw/compressed",
        choices=("raw", "compressed"),
    )  # fmt: skip
    reliability: str = setting(
        "auto", "QoS of image and depth subscriptions; auto takes what the publishers offer",
        choices=("auto", "best_effort", "reliable"),
    )  # fmt: skip
    qos_depth: int = setting(
        20, "images that the middleware keeps until they are read",
        unit="images", minimum=1, maximum=1000,
    )  # fmt: skip
    timeout: float = setting(
        2.0, "time without an image after which diagnostics warn",
        unit="s", minimum=0.1, maximum=3600,
    )  # fmt: skip


@dataclass(frozen=True)
class StreamSettings(SettingGroup):
    """How frames become clips; shares the prefix `clip` with the tracker's ClipSettings."""

    queue: int = setting(
        60, "frames that wait while the tracker is busy", unit="frames", minimum=1, maximum=10_000
    )
    drop: str = setting(
        "oldest", "which frame goes when the queue is full", choices=("oldest", "newest")
    )
    max_rate: float = setting(
        0.0, "frames beyond this rate are left out; 0 takes all",
        unit="Hz", minimum=0, maximum=1000,
    )  # fmt: skip
    jump_back: float = setting(
        0.2, "a stamp further back than this begins a new stream; a nearer one is a late frame",
        unit="s", minimum=0, maximum=3600,
    )  # fmt: skip
    flush_after: float = setting(
        2.0, "time without an image after which an unfinished clip is tracked; 0 waits forever",
        unit="s", minimum=0, maximum=3600,
    )  # fmt: skip
    minimum_frames: int = setting(
        4, "new frames that an unfinished clip needs to be tracked",
        unit="frames", minimum=1, maximum=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class DepthSettings(SettingGroup):
    enabled: bool = setting(
        False, "synchronise depth/image_raw and camera_info with the image (needs message_filters)"
    )
    max_delay: float = setting(
        0.02, "largest difference in time between an image and its depth",
        unit="s", minimum=0, maximum=10,
    )  # fmt: skip


@dataclass(frozen=True)
class MaskSettings(SettingGroup):
    """Queries from a mask; shares the prefix `queries` with the tracker's QuerySettings."""

    mask_spacing: int = setting(
        16, "distance between the points tracked inside a query mask",
        unit="px", minimum=1, maximum=4096,
    )  # fmt: skip


@dataclass(frozen=True)
class NodeSettings(SettingGroup):
    """What only the node has; the rest are the tracker's `Settings`."""

    image: ImageSettings = field(default_factory=ImageSettings)
    clip: StreamSettings = field(default_factory=StreamSettings)
    queries: MaskSettings = field(default_factory=MaskSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)


class NodeParameters:
    """Declares every setting on a node and gives them back as typed trees.

    A value given at start that is not allowed does not stop the node: it is kept in `problems`,
    and `tracker` and `node` raise it until the parameter is set to something allowed.

    Args:
        node: an rclpy node.
        automatic_preset: asked for the preset that `auto` means on this machine.
    """

    def __init__(self, node: Any, automatic_preset: Callable[[], str]) -> None:
        self._node = node
        self._in_use = False
        self._problems: dict[str, str] = {}
        self._declare(StartSettings(), read_only=True)
        self.start = with_values(StartSettings(), self._values(StartSettings()))
        chosen = automatic_preset() if self.start.preset == AUTO_PRESET else self.start.preset
        self._tracker_defaults = preset(chosen)
        self.preset = chosen
        self._declare(self._tracker_defaults)
        self._declare(NodeSettings())
        self._names = {
            info.name
            for tree in (self._tracker_defaults, NodeSettings())
            for info in describe(tree)
        }
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def problems(self) -> tuple[str, ...]:
        """Values given at start that were refused, each with its reason."""
        return tuple(self._problems.values())

    def misspelt(self) -> list[str]:
        """One line for every parameter given at start that nobody declared but that resembles one.

        Others are left in peace: a parameter file is often shared by many nodes.
        """
        given = getattr(self._node, "_parameter_overrides", {})  # rclpy has no public way
        lines = []
        for name in given:
            close = difflib.get_close_matches(name, self._names, n=1, cutoff=0.8)
            if close and not self._node.has_parameter(name):
                lines.append(f"there is no parameter '{name}': did you mean '{close[0]}'?")
        return lines

    def tracker(self) -> Settings:
        """The tracker's settings.

        Raises:
            SettingError: values contradict each other, or one given at start was refused.
        """
        self._raise_problems()
        return with_values(self._tracker_defaults, self._values(self._tracker_defaults))

    def node(self) -> NodeSettings:
        """The node's own settings. Raises as `tracker` does."""
        self._raise_problems()
        return with_values(NodeSettings(), self._values(NodeSettings()))

    def lock(self, in_use: bool) -> None:
        """Refuses changes while the settings are in use, with the way out as the reason."""
        self._in_use = in_use

    def _declare(self, tree: object, read_only: bool = False) -> None:
        for info in describe(tree):
            descriptor = descriptor_of(info, read_only)
            try:
                given = self._node.declare_parameter(info.name, info.value, descriptor).value
                _check_alone(tree, info.name, given)
            except (ParameterException, SettingError) as error:
                self._problems[info.name] = f"parameter {info.name}: {error}"
                if not self._node.has_parameter(info.name):
                    self._node.declare_parameter(
                        info.name, info.value, descriptor, ignore_override=True
                    )

    def _values(self, tree: object) -> dict[str, Value]:
        """The values of a tree's parameters; the default stands in for one that was refused."""
        return {
            info.name: info.value
            if info.name in self._problems
            else self._node.get_parameter(info.name).value
            for info in describe(tree)
        }

    def _raise_problems(self) -> None:
        if self._problems:
            raise SettingError("; ".join(self.problems))

    def _on_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        changed = {p.name: p.value for p in parameters if p.name in self._names}
        if changed and self._in_use:
            return SetParametersResult(
                successful=False,
                reason=f"{', '.join(sorted(changed))} cannot change while the node is configured: "
                "deactivate and clean it up first, then set, configure and activate",
            )
        try:
            for tree in (self._tracker_defaults, NodeSettings()):
                values = self._values(tree)
                with_values(tree, {name: changed.get(name, values[name]) for name in values})
        except SettingError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for name in changed:
            self._problems.pop(name, None)
        return SetParametersResult(successful=True)


def descriptor_of(info: SettingInfo, read_only: bool = False) -> ParameterDescriptor:
    """The ROS description of a setting: text with unit, range, choices.

    Floats are typed dynamically so that `5` is taken for `5.0`; the type is checked here.
    """
    unit = f" [{info.unit}]" if info.unit else ""
    descriptor = ParameterDescriptor(
        name=info.name,
        description=info.description + unit,
        additional_constraints=f"one of {info.allowed}" if info.choices else "",
        read_only=read_only,
        dynamic_typing=info.type is float,
    )
    if info.type is int:
        low, high = _bounds(info, float(-(2**63)), float(2**63 - 1025))
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    elif info.type is float:
        low, high = _bounds(info, -sys.float_info.max, sys.float_info.max)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def _bounds(info: SettingInfo, low: float, high: float) -> tuple[float, float]:
    return (
        low if info.minimum is None else float(info.minimum),
        high if info.maximum is None else float(info.maximum),
    )


def _check_alone(tree: object, name: str, value: object) -> None:
    """Checks one value without its neighbours: what contradicts them may still change."""
    *path, leaf = name.split(".")
    for step in path:
        tree = getattr(tree, step)
    with_values(tree, {leaf: value})
