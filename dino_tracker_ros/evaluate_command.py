"""dino-tracker evaluate: scores the tracker on clips with known tracks."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dino_tracker_ros.setting_options import add_setting_options, chosen_settings, settings_help
from dino_tracker_ros.tracking.settings import Settings, describe, with_values
from dino_tracker_ros.visualization.progress import ProgressBars

if TYPE_CHECKING:
    from dino_tracker_ros.evaluation.ground_truth import LabelledClip
    from dino_tracker_ros.evaluation.table import Row
    from dino_tracker_ros.tracking.tracks import Tracks


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `evaluate` to the command dino-tracker."""
    command = commands.add_parser(
        "evaluate",
        help="score the tracker on clips with known tracks",
        description="Scores the tracker on clips with known tracks: folders with frames/, gt.npz "
        "and sometimes masks/.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=settings_help(),
    )
    command.add_argument("clips", type=Path, nargs="+", metavar="CLIP", help="clip folder")
    command.add_argument(
        "--baselines", action="store_true",
        help="also score no motion, Lucas-Kanade, chained flow and raw DINOv2 matching",
    )  # fmt: skip
    command.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="optimize once with each of these seeds"
    )
    command.add_argument(
        "--mode", choices=("strided", "first"), default="strided",
        help="frames that count: all but the query's (strided), or those after it",
    )  # fmt: skip
    command.add_argument("--json", type=Path, metavar="FILE.json", help="write the scores here too")
    command.add_argument("--overwrite", action="store_true", help="replace an existing --json file")
    add_setting_options(command)
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.ground_truth import load_clip
    from dino_tracker_ros.evaluation.scores import scores
    from dino_tracker_ros.evaluation.table import format_table, mean_rows
    from dino_tracker_ros.visualization.output import atomic_output, check_output

    settings = chosen_settings(options)
    if options.json is not None:
        check_output(options.json, options.overwrite)
    clips = [load_clip(folder) for folder in options.clips]
    rows: list[Row] = []
    with ProgressBars() as bars:
        for clip in clips:
            rows += _clip_rows(clip, settings, options, bars)
    if len(clips) > 1:
        rows += mean_rows(rows)
    print(format_table(rows))
    if options.json is not None:
        values = {info.name: info.value for info in describe(settings)}
        lines = [
            {
                "clip": row.clip,
                "method": row.method,
                "scores": {name: asdict(score) for name, score in scores(row.counts).items()},
                "seconds": row.seconds,
            }
            for row in rows
        ]
        text = json.dumps({"settings": values, "rows": lines}, indent=1)
        with atomic_output(options.json, options.overwrite) as temporary:
            temporary.write_text(text + "\n")


def _clip_rows(
    clip: LabelledClip, settings: Settings, options: argparse.Namespace, bars: ProgressBars
) -> list[Row]:
    from dino_tracker_ros.evaluation import baselines
    from dino_tracker_ros.evaluation.offline import track_frames
    from dino_tracker_ros.evaluation.scores import count
    from dino_tracker_ros.evaluation.table import Row

    frames, queries = clip.frames, clip.truth.queries
    methods: list[tuple[str, Callable[[], Tracks]]] = []

    def frames_done(done: int, total: int) -> None:
        bars("frames", done, total)

    if options.baselines:
        methods = [
            ("no motion", lambda: baselines.track_static(frames, queries)),
            ("Lucas-Kanade", lambda: baselines.track_lucas_kanade(frames, queries)),
            (
                f"chained {settings.flow.method}",
                lambda: baselines.track_chained_flow(frames, queries, settings, frames_done),
            ),
        ]
        for block in filter(None, (settings.backbone.block, settings.backbone.placing_block)):
            methods.append(
                (
                    f"raw DINOv2, block {block}",
                    partial(
                        baselines.track_raw_dino, frames, queries, settings, frames_done, block
                    ),
                )
            )
    for seed in options.seeds or [settings.optimizer.seed]:
        seeded = with_values(settings, {"optimizer.seed": seed})
        name = f"DINO-Tracker, seed {seed}" if options.seeds else "DINO-Tracker"

        def run(seeded: Settings = seeded) -> Tracks:
            return track_frames(frames, queries, seeded, bars)

        methods.append((name, run))
    rows = []
    for name, method in methods:
        bars.title = f"{clip.name}, {name}"
        started = time.monotonic()
        tracks = method()
        seconds = time.monotonic() - started
        counts = count(tracks, clip.truth, options.mode)
        rows.append(Row(clip.name, name, (counts,), seconds))
    return rows
