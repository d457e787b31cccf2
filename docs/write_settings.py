#!/usr/bin/env python3
"""Writes docs/SETTINGS.md, the table of every tracking setting, from the code.

python docs/write_settings.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dino_tracker_ros.tracking.settings import PRESETS, SettingInfo, describe, preset

TARGET = Path(__file__).with_name("SETTINGS.md")
HEAD = """\
# Every setting of the tracker

<!-- Written by docs/write_settings.py. Change dino_tracker_ros/tracking/settings.py instead. -->

One tree serves everything. The same dotted name works as a ROS parameter (`-p NAME:=VALUE`, or in
[config/tracker.yaml](../config/tracker.yaml)), on the command line (`--set NAME=VALUE`) and in
Python (`with_values(settings, {NAME: VALUE})`). The node has a few parameters of its own as well;
they are in the [README](../README.md#parameters-of-the-node). What the settings do is told in
[METHOD.md](METHOD.md).
"""


def text() -> str:
    """The whole page, Markdown."""
    presets = {name: describe(preset(name)) for name in PRESETS}
    groups: dict[str, list[str]] = {}
    for rows in zip(*presets.values(), strict=True):
        group = rows[0].name.rpartition(".")[0]
        groups.setdefault(group, []).append(_row(rows))
    parts = [HEAD]
    for group, lines in groups.items():
        title = f"`{group}`" if group else "For everything"
        columns = ["setting", *presets, "unit", "allowed", "meaning"]
        parts.append(f"\n## {title}\n\n{_line(columns)}\n{_line(['---'] * len(columns))}\n")
        parts.append("".join(f"{line}\n" for line in lines))
    return "".join(parts)


def allowed(info: SettingInfo) -> str:
    """The allowed values without the bars that would end a table's cell."""
    return info.allowed.replace(" | ", ", ")


def value_text(info: SettingInfo) -> str:
    """A setting's value as it is written in YAML and on the command line."""
    if isinstance(info.value, bool):
        return str(info.value).lower()
    if isinstance(info.value, float):
        return f"{info.value:g}"
    return str(info.value)


def _row(rows: Sequence[SettingInfo]) -> str:
    info = rows[0]
    values = [value_text(each) for each in rows]
    return _line([f"`{info.name}`", *values, info.unit, allowed(info), info.description])


def _line(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}")
