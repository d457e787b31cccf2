"""make demo: a clip replayed to the live node, what it publishes on /tracks, and how good that is.

Without input of the user's own it makes a clip whose tracks and occlusions are exactly known.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.assembly import join_clips, tracks_of_queries
from dino_tracker_ros.evaluation.bags.images import read_bag
from dino_tracker_ros.evaluation.live.session import (
    LiveResult,
    evaluation_parameters,
    parameter_texts,
    run_live,
)
from dino_tracker_ros.evaluation.scores import HEADLINES, count, scores
from dino_tracker_ros.evaluation.synthetic import make_clip, write_clip
from dino_tracker_ros.evaluation.table import score_text
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError, SettingError, TrackerError
from dino_tracker_ros.tracking.settings import PRESETS, Settings
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.pictures import write_overlay, write_sheet
from dino_tracker_ros.visualization.progress import ProgressBars
from dino_tracker_ros.visualization.video import open_frames

OWN_FRAMES = 96  # of the user's own input, unless --count says otherwise
MADE_FRAMES = 48
MADE_SIZE = (512, 384)
MADE_SEED = 1
SHOWN = ("pck", "delta_3px", "delta_average", "occlusion_accuracy", "average_jaccard")
STAGES = ("features", "flow", "trajectories", "best_buddies", "fit", "track")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns its exit code: 0, 2 for an expected error, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children end with it
    try:
        _run(options)
    except TrackerError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dino_tracker_ros.evaluation.demo",
        description="Replays a clip to the live node and shows the tracks it publishes.",
    )
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--video", type=Path, metavar="FILE", help="a video file")
    sources.add_argument("--frames", type=Path, metavar="FOLDER", help="a folder of pictures")
    sources.add_argument("--bag", type=Path, metavar="PATH", help="a ROS 1 or ROS 2 bag")
    parser.add_argument("--topic", default="", help="the bag's image topic")
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="of a folder's pictures (default 10)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="at most so many frames")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), metavar="FOLDER", help="for the results"
    )
    parser.add_argument(
        "--preset", choices=("auto", *PRESETS), default="auto", help="of the node's settings"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="values",
        help="change one of the node's tracking settings; may be repeated",
    )  # fmt: skip
    return parser


def _run(options: argparse.Namespace) -> None:
    values = _checked_values(options.values)
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="dino_tracker_demo_") as folder,
        ProgressBars(keep=True) as bars,
    ):
        truth = None
        if options.video is None and options.frames is None and options.bag is None:
            truth = _make_clip(Path(folder), options, bars)
        elif options.frames is not None and (options.frames / "gt.npz").is_file():
            truth = _labelled_clip(options)
        elif options.count is None:
            options.count = OWN_FRAMES
        frames = _open_source(options)
        if len(frames) < 2:
            raise ClipError(f"{len(frames)} frame: tracking needs at least two")
        stamps = np.array([frame.stamp for frame in frames], np.int64)
        queries = np.zeros((0, 3), np.float32) if truth is None else truth.queries
        parameters = {"preset": options.preset}
        if truth is None:
            parameters["queries.grid_spacing"] = str(Settings().queries.grid_spacing)
        # A machine without a GPU falls behind a camera; here every frame waits its turn.
        result = run_live(
            frames, queries, 1.0, evaluation_parameters(), {**parameters, **values},
            options.out / "node.log", bars,
        )  # fmt: skip
        if not result.clips:
            last = result.diagnostics.get("last_error", "")
            raise TrackerError(f"the node published no tracks: {last or 'no error either'}")
        joined, _ = join_clips(result.clips)
        tracks, found = joined, None
        if truth is not None:
            tracks, found = tracks_of_queries(joined, truth.queries, stamps)
        _write(options.out, _tracked(frames, stamps, tracks), tracks, _frame_rate(stamps), bars)
    print(_table(result, tracks, len(frames), truth, found, time.monotonic() - started))
    print(f"\nlook at {options.out / 'tracks.mp4'} and {options.out / 'tracks.png'}")


def _make_clip(folder: Path, options: argparse.Namespace, bars: ProgressBars) -> GroundTruth:
    length = options.count or MADE_FRAMES
    clip = make_clip(
        *MADE_SIZE, length=length, seed=MADE_SEED, rate=options.rate,
        progress=lambda done, total: bars("making a clip", done, total),
    )  # fmt: skip
    write_clip(clip, folder)
    options.frames = folder / "frames"
    return clip.truth


def _labelled_clip(options: argparse.Namespace) -> GroundTruth:
    """The known tracks of a clip folder, whose frames are replayed whole."""
    if options.count is not None:
        raise ClipError("--count cannot shorten a clip with known tracks: leave it out")
    truth = load_clip_folder(options.frames).truth
    if (options.frames / "frames").is_dir():
        options.frames = options.frames / "frames"
    return truth


def _checked_values(texts: Sequence[str]) -> dict[str, str]:
    """The settings given by the user, refused here rather than by the node."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--set {text}: write NAME=VALUE, such as optimizer.iterations=300")
        values[name] = value
    return parameter_texts(values)


def _open_source(options: argparse.Namespace) -> Sequence[Frame]:
    if options.bag is not None:
        return read_bag(options.bag, options.topic, options.count)
    if options.video is not None:
        return open_frames(options.video, count=options.count)
    return open_frames(options.frames, rate=options.rate, count=options.count)


def _tracked(frames: Sequence[Frame], stamps: NDArray[np.int64], tracks: Tracks) -> Sequence[Frame]:
    """The frames that the tracks are about."""
    if len(tracks.stamps) == len(stamps):
        return frames
    return [frames[int(index)] for index in np.searchsorted(stamps, tracks.stamps)]


def _frame_rate(stamps: NDArray[np.int64]) -> float:
    return 1e9 / float(np.median(np.diff(stamps))) if len(stamps) > 1 else 10.0


def _write(
    folder: Path, frames: Sequence[Frame], tracks: Tracks, rate: float, bars: ProgressBars
) -> None:
    write_overlay(
        folder / "tracks.mp4", frames, tracks, rate, overwrite=True,
        progress=lambda done, total: bars("drawing", done, total),
    )  # fmt: skip
    write_sheet(folder / "tracks.png", frames, tracks, overwrite=True)


def _table(
    result: LiveResult,
    tracks: Tracks,
    frame_count: int,
    truth: GroundTruth | None,
    found: NDArray[np.bool_] | None,
    seconds: float,
) -> str:
    diagnostics = result.diagnostics
    lines = [
        ("frames in", f"{frame_count}"),
        ("frames dropped", diagnostics.get("frames_dropped", "?")),
        ("clips", f"{len(result.clips)}"),
        ("tracks", f"{len(tracks.points) if found is None else int(found.sum())}"),
    ]
    stages = [key.partition(".")[2] for key in diagnostics if key.startswith("seconds.")]
    for stage in sorted(stages, key=_stage_order):
        lines.append((f"seconds: {stage.replace('_', ' ')}", diagnostics[f"seconds.{stage}"]))
    lines.append(("seconds: first image to last tracks", f"{result.seconds:.1f}"))
    lines.append(("seconds: whole demo", f"{seconds:.1f}"))
    if truth is not None:
        found_scores = scores([count(tracks, truth)], resamples=0)
        lines += [
            (metric.title, f"{score_text(metric, found_scores[metric.name])} %")
            for metric in HEADLINES
            if metric.name in SHOWN and metric.name in found_scores
        ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {_short(value):>9}" for name, value in lines)


def _stage_order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else -1


def _short(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return value if math.isfinite(number) and number.is_integer() else f"{number:.1f}"


if __name__ == "__main__":
    sys.exit(main())
