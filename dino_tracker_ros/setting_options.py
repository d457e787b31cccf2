"""The options --preset and --set, shared by the commands that run the tracker."""

from __future__ import annotations

import argparse

from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.settings import (
    PRESETS,
    SettingInfo,
    Settings,
    describe,
    preset,
    with_values,
)


def add_setting_options(command: argparse.ArgumentParser) -> None:
    """Adds --preset and --set."""
    command.add_argument(
        "--preset", choices=tuple(PRESETS), help="default: robot with a GPU, else cpu"
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="values",
        help="change a setting of the preset; may be repeated",
    )  # fmt: skip


def chosen_settings(options: argparse.Namespace) -> Settings:
    """The settings that --preset and --set ask for.

    Raises:
        SettingError: a setting that does not exist, or a value it does not allow.
    """
    values = {}
    for text in options.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--set {text}: write NAME=VALUE, such as optimizer.iterations=300")
        values[name.strip()] = value
    return with_values(preset(chosen_preset(options)), values)


def chosen_preset(options: argparse.Namespace) -> str:
    """Its name; by default robot on a machine with a GPU, else cpu."""
    if options.preset:
        return str(options.preset)
    from dino_tracker_ros.tracking.device import find_device

    return "cpu" if find_device("auto").type == "cpu" else "robot"


def settings_help() -> str:
    """The settings of all presets, for --help."""
    lines = ["settings for --set (values of the presets: " + ", ".join(PRESETS) + "):"]
    for row in zip(*(describe(preset(name)) for name in PRESETS)):
        info = row[0]
        values = list(dict.fromkeys(value_text(each) for each in row))
        shown = values[0] if len(values) == 1 else ", ".join(value_text(each) for each in row)
        unit = f" {info.unit}" if info.unit else ""
        lines.append(f"  {info.name} = {shown}{unit}  [{info.allowed}]")
        lines.append(f"      {info.description}")
    return "\n".join(lines)


def value_text(info: SettingInfo) -> str:
    """A setting's value as one would type it."""
    if isinstance(info.value, bool):
        return str(info.value).lower()
    if isinstance(info.value, float):
        return f"{info.value:g}"
    return str(info.value) if info.value != "" else "''"
