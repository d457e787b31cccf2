"""One measured run of the whole tracker: from frames to tracks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import Clip, accuracy
from benchmarks.machine import Memory, current_memory, now, peak_memory, reset_peak
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.optimizer import FitReport
from dino_tracker_ros.tracking.tracker import DinoTracker

STAGES = ("features", "flow", "trajectories", "best_buddies", "fit", "track")
WHOLE = "whole"


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        seconds: of each stage, and of the whole, which is a little more than their sum.
        before: memory in use when the clip's first frame came, weights included.
        peak: the most in use until the tracks were there.
        fit: how the optimization ended.
        scores: percent; empty without known tracks.
    """

    seconds: dict[str, float]
    before: Memory
    peak: Memory
    fit: FitReport
    scores: dict[str, float]


def run(tracker: DinoTracker, clip: Clip, queries: NDArray[np.float32]) -> Run:
    """Tracks `queries` through a clip, from nothing; then, unmeasured, the known tracks."""
    tracker.reset()
    reset_peak(tracker.device)
    before, earlier = current_memory(tracker.device), tracker.stage_seconds
    started = now(tracker.device)
    for frame in clip.frames:
        tracker.observe(frame)
    report = tracker.fit()
    tracker.track(queries)
    whole = now(tracker.device) - started
    seconds = stages_since(tracker, earlier)
    peak = peak_memory(tracker.device)
    scores = {}
    if clip.truth is not None:
        scores = accuracy(tracker.track(clip.truth.queries), clip.truth)
    return Run({**seconds, WHOLE: whole}, before, peak, report, scores)


def stages_since(tracker: DinoTracker, earlier: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage since the tracker's `stage_seconds` were `earlier`."""
    later = tracker.stage_seconds
    return {stage: later.get(stage, 0.0) - earlier.get(stage, 0.0) for stage in STAGES}


def warm_up(tracker: DinoTracker, frames: Sequence[Frame], queries: NDArray[np.float32]) -> None:
    """Runs everything once, so that no measurement pays for what happens only once.

    A GPU chooses its kernels by the shapes it meets, so it sees the whole clip; on a CPU two
    frames and one iteration are enough.
    """
    on_gpu = tracker.device.type == "cuda"
    asked = itertools.count()
    for frame in frames if on_gpu else frames[:2]:
        tracker.observe(frame)
    tracker.fit(cancelled=lambda: next(asked) > 0 and not on_gpu)
    tracker.track(queries)
    tracker.reset()
