"""What is done with every input, and which inputs it has been done with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dino_tracker_ros.evaluation.inputs import Input, files_fingerprint, fingerprint
from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.report.results import load_results
from dino_tracker_ros.tracking.errors import SettingError, TrackerError
from dino_tracker_ros.tracking.settings import Settings, describe

INPUT, PLAN = "input fingerprint", "plan fingerprint"  # in a result's run information


@dataclass(frozen=True)
class Plan:
    """How every input is evaluated.

    Attributes:
        preset: that the settings started from.
        settings: of the tracker.
        mode: which frames count.
        seeds: the tracker runs once with each; empty takes the settings' own.
        flows: methods of optical flow to chain as baselines; empty runs no baselines.
        rate: of a replay to the node, times the recorded pace; None replays nothing. It needs
            `folder`.
        params_file: the node's parameters for the replay, in ROS's YAML; None loses no image.
        tracks: recorded tracks to be scored in place of the tracker's; None runs it.
        folder: for what a replay records, and pictures are made for it; None keeps neither.
    """

    preset: str
    settings: Settings
    mode: Mode = "strided"
    seeds: tuple[int, ...] = ()
    flows: tuple[str, ...] = ()
    rate: float | None = None
    params_file: Path | None = None
    tracks: Path | None = None
    folder: Path | None = None

    @property
    def computes(self) -> bool:
        """Whether the settings have a part in the results."""
        return self.tracks is None or bool(self.flows)

    @property
    def fingerprint(self) -> str:
        """Changes where results could."""
        about = {
            "settings": self.computes and values_of(self.settings),
            "mode": self.mode,
            "seeds": self.seeds,
            "flows": self.flows,
            "rate": self.rate,
            "params_file": self.params_file and files_fingerprint([self.params_file]),
            "tracks": self.tracks and files_fingerprint([self.tracks]),
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def remaining(folder: Path, inputs: Sequence[Input], plan: Plan, overwrite: bool) -> list[Input]:
    """The inputs that have no result in the folder yet; all of them where `overwrite` is true.

    Raises:
        SettingError: the folder holds results of another plan, or of an input that has changed.
    """
    results, _ = load_results(folder)
    earlier = {result.name: result for result in results}
    names = {each.name for each in inputs}
    for result in results:
        if result.run.get(PLAN) != plan.fingerprint and not (overwrite and result.name in names):
            raise SettingError(
                f"'{folder}' holds results with other options or settings, such as that of "
                f"'{result.name}': choose another folder"
                + (", or --overwrite" if result.name in names else "")
            )
    if overwrite:
        return list(inputs)
    todo = []
    for each in inputs:
        if each.name not in earlier:
            todo.append(each)
        elif earlier[each.name].run.get(INPUT) != input_fingerprint(each):
            raise SettingError(
                f"'{folder}' holds a result of '{each.name}' from other or older files: choose "
                "another folder, or --overwrite"
            )
    return todo


def input_fingerprint(each: Input) -> str:
    """Of an input's files; empty where they cannot be found, which its evaluation will tell."""
    try:
        return fingerprint(each)
    except (TrackerError, OSError):
        return ""


def values_of(settings: Settings) -> dict[str, object]:
    """By dotted name."""
    return {info.name: info.value for info in describe(settings)}
