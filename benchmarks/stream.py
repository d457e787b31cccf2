"""Long made clips, in one piece and in the node's overlapping clips, with keyframes and without.

What a robot's camera sends has no end: points must outlast the clips that it is cut into.
"""

from __future__ import annotations

from benchmarks.clips import SHOWN, Clip, accuracy, grid_queries, made_clip
from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Result, Table
from benchmarks.runs import warm_up
from dino_tracker_ros.evaluation.offline import track_frames
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker

STREAM_FRAMES = 200
QUICK_FRAMES = 16


def benchmark(options: Options) -> Result:
    """Tracks a made clip for each repeat, whole and in clips; points are asked for all over it."""
    frames = options.frames or (QUICK_FRAMES if options.quick else STREAM_FRAMES)
    scored: dict[str, dict[int, dict[str, float]]] = {}
    for seed in range(1, options.repeats + 1):
        clip = made_clip(*options.size, frames, seed)
        for way, settings in _ways(options.settings, frames).items():
            tracker = DinoTracker(settings)
            if seed == 1:
                warm_up(tracker, clip.frames[:2], grid_queries(*clip.size, 16))
            scored.setdefault(way, {})[seed] = _scores(clip, settings, tracker)
            say(f"made clip of seed {seed} is tracked {way}")
    return _result(options, frames, scored)


def _ways(settings: Settings, frames: int) -> dict[str, Settings]:
    length = settings.clip.length
    return {
        "in one piece": with_values(settings, {"clip.length": max(frames, 2)}),
        f"in clips of {length}, {settings.clip.keyframes} keyframes": settings,
        f"in clips of {length}, none": with_values(settings, {"clip.keyframes": 0}),
    }


def _scores(clip: Clip, settings: Settings, tracker: DinoTracker) -> dict[str, float]:
    assert clip.truth is not None, "made clips have known tracks"
    tracks = track_frames(clip.frames, clip.truth.queries, settings, tracker=tracker)
    return accuracy(tracks, clip.truth)


def _result(
    options: Options, frames: int, scored: dict[str, dict[int, dict[str, float]]]
) -> Result:
    shown = [name for name in SHOWN if name in next(iter(scored.values()))[1]]
    lines = [["tracked", "clip", *(SHOWN[name] for name in shown)]]
    for way, clips in scored.items():
        for seed, scores in clips.items():
            lines.append([way, f"seed {seed}", *(f"{scores[name]:.1f}" for name in shown)])
    width, height = options.size
    title = f"Streams, {options.repeats} made clips of {frames} frames of {width}x{height}, in %"
    return Result([Table(title, lines)], {"frames": frames, "scores": scored})
