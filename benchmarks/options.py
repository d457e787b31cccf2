"""What a user may ask of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.clips import Clip, folder_clip, made_clip
from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.settings import Settings, with_values

FRAMES = 48
SIZE = (854, 480)


@dataclass(frozen=True)
class Options:
    """All options, checked.

    Attributes:
        settings: of the tracker.
        folder: of a clip; None makes one.
        frames: of the clip; None takes FRAMES of a made one, and all of a folder.
        size: (width, height) of a made clip, px.
        points: tracked while the clock runs.
        repeats: of each measurement.
        quick: shorter lists and fewer iterations, to see that all works.
        curves: of growth, by name; empty takes all.
        baseline: whether the paper's pipeline runs beside ours.
        baseline_values: settings of it that are not the published ones.
        baseline_iterations: timed of each of its two phases.
        baseline_frames: that its other stages are timed on.
    """

    settings: Settings
    folder: Path | None = None
    frames: int | None = None
    size: tuple[int, int] = SIZE
    points: int = 1024
    repeats: int = 3
    quick: bool = False
    curves: tuple[str, ...] = ()
    baseline: bool = False
    baseline_values: dict[str, str] = field(default_factory=dict)
    baseline_iterations: int = 100
    baseline_frames: int = 4

    def __post_init__(self) -> None:
        least = {
            "frames": 2, "points": 1, "repeats": 1, "baseline_iterations": 1, "baseline_frames": 2
        }  # fmt: skip
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                option = "--" + name.replace("_", "-")
                raise SettingError(f"{option} is {value}: give at least {smallest}")
        if self.folder is not None and not self.folder.is_dir():
            raise SettingError(f"--clip '{self.folder}' is no folder: give one with pictures")
        with_values(self.settings, self.baseline_values)

    def clip(self) -> Clip:
        """The clip that is asked for."""
        if self.folder is not None:
            return folder_clip(self.folder, self.frames)
        return made_clip(*self.size, self.frames or FRAMES)

    def seeded(self, seed: int) -> Settings:
        """The settings with another seed."""
        return with_values(self.settings, {"optimizer.seed": seed})
