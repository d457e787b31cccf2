"""ROS parameters: the tracker's settings and the node's own, declared from their descriptions."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.parameter import Parameter

from dino_tracker_ros.ros.node_settings import AUTO_PRESET, NodeSettings, StartSettings
from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.settings import (
    SettingInfo,
    Settings,
    Value,
    describe,
    preset,
    with_values,
)


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
