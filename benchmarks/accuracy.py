"""Made clips of several seeds, sharp and blurred: points in sight from the first frame on, and
those that come later.

Whoever comes into view later mostly does so from behind something, beside its outline: the hardest
points that a robot asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.clips import (
    SHOWN,
    Clip,
    accuracy,
    blurred,
    grid_queries,
    made_clip,
    mean_accuracy,
    part,
)
from benchmarks.messages import say
from benchmarks.options import FRAMES, Options
from benchmarks.output import Result, Table
from benchmarks.runs import warm_up
from dino_tracker_ros.tracking.tracker import DinoTracker

QUICK_FRAMES = 12
FIRST, LATER = "first frame", "later"
_LEAD = 24
"""Frames made before those that are tracked: by then something hides part of the points."""


@dataclass(frozen=True)
class _Scored:
    """How many points were asked for, and percent of the scores."""

    points: int
    scores: dict[str, float]


def benchmark(options: Options) -> Result:
    """Fits and tracks a made clip for each repeat, once as it is and once blurred."""
    found: dict[str, dict[int, _Scored]] = {}
    frames = options.frames or (QUICK_FRAMES if options.quick else FRAMES)
    tracker = DinoTracker(options.settings)
    for seed in range(1, options.repeats + 1):
        clip = part(made_clip(*options.size, _LEAD + frames, seed), _LEAD, _LEAD + frames)
        if seed == 1:
            warm_up(tracker, clip.frames, grid_queries(*clip.size, 16))
        for pictures, seen in (("sharp", clip), ("blurred", blurred(clip, seed))):
            for when, scored in _tracked(tracker, seen).items():
                found.setdefault(f"{pictures}, {when}", {})[seed] = scored
            say(f"made clip of seed {seed}, {pictures}, is tracked")
    return _result(options, frames, found)


def _tracked(tracker: DinoTracker, clip: Clip) -> dict[str, _Scored]:
    """Scores of the points that are asked for in the first frame, and of those of later ones."""
    tracker.reset()
    for frame in clip.frames:
        tracker.observe(frame)
    tracker.fit()
    assert clip.truth is not None, "made clips have known tracks"
    tracks = tracker.track(clip.truth.queries)
    first = clip.truth.queries[:, 0] == 0
    return {
        when: _Scored(int(chosen.sum()), accuracy(tracks, clip.truth, chosen))
        for when, chosen in ((FIRST, first), (LATER, ~first))
        if chosen.any()
    }


def _result(options: Options, frames: int, found: dict[str, dict[int, _Scored]]) -> Result:
    shown = [name for name in SHOWN if name in found[f"sharp, {FIRST}"][1].scores]
    lines = [["pictures, asked for", "clip", "points", *(SHOWN[name] for name in shown)]]
    for when, clips in found.items():
        for seed, each in clips.items():
            marks = [f"{each.scores[name]:.1f}" for name in shown]
            lines.append([when, f"seed {seed}", str(each.points), *marks])
        if len(clips) > 1:
            mean = mean_accuracy([each.scores for each in clips.values()])
            points = str(sum(each.points for each in clips.values()))
            lines.append([when, "mean", points, *(f"{mean[name]:.1f}" for name in shown)])
    width, height = options.size
    title = f"Accuracy, {options.repeats} made clips of {frames} frames of {width}x{height}, in %"
    return Result([Table(title, lines)], {"frames": frames, "scores": found})
