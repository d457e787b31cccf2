"""make bench: how long the tracker takes, what it needs, how both grow, and how right it is."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import accuracy, budget, growth, rooms, soak, stages, stream, warm
from benchmarks.messages import say
from benchmarks.options import FRAMES, SIZE, Options
from benchmarks.output import JSON_NAME, PLOT_NAME, Result, table_text, write_results
from dino_tracker_ros.evaluation.report.run_information import run_information
from dino_tracker_ros.setting_options import add_setting_options, chosen_preset, chosen_settings
from dino_tracker_ros.tracking.device import find_device
from dino_tracker_ros.tracking.errors import SettingError, TrackerError
from dino_tracker_ros.tracking.settings import describe, with_values
from dino_tracker_ros.visualization.output import make_folder

BENCHMARKS: dict[str, Callable[[Options], Result]] = {
    "stages": stages.benchmark,
    "warm": warm.benchmark,
    "growth": growth.benchmark,
    "soak": soak.benchmark,
    "budget": budget.benchmark,
    "accuracy": accuracy.benchmark,
    "stream": stream.benchmark,
    "rooms": rooms.benchmark,
}
OWN_CLIPS = ("growth", "soak", "accuracy", "stream", "rooms")
"""Benchmarks that make the clips they measure, whatever --clip says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks and returns the exit code: 0, 2 for an expected error, 130 for Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        _run(parsed)
    except TrackerError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the tracker on this machine. docs/PERFORMANCE.md tells how to read "
        "the results.",
    )
    parser.add_argument(
        "benchmarks", nargs="*", metavar="BENCHMARK",
        help=f"of {', '.join(BENCHMARKS)}, or all (default: stages)",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: the preset's)")
    add_setting_options(parser)
    parser.add_argument(
        "--clip", type=Path, metavar="FOLDER",
        help="pictures, scored where a gt.npz lies beside them (default: a made clip)",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N",
        help=f"of the clip (default: {FRAMES} made ones, all of a folder)",
    )
    parser.add_argument(
        "--size", type=_size, default=SIZE, metavar="WxH",
        help=f"of made pictures, px (default {SIZE[0]}x{SIZE[1]})",
    )
    parser.add_argument(
        "--points", type=int, default=1024, metavar="N", help="points to track (default 1024)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N",
        help="of each measurement; of accuracy, stream and rooms, made clips (default 3)",
    )
    parser.add_argument(
        "--curves", nargs="+", choices=[curve.name for curve in growth.CURVES], default=(),
        help="of growth (default all)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="shorter lists: to see that all works"
    )
    parser.add_argument(
        "--baseline", choices=("paper",), help="runs beside stages, in pieces, and extrapolated"
    )
    parser.add_argument(
        "--baseline-set", action="append", default=[], metavar="NAME=VALUE",
        help="change a setting of the baseline; may be repeated",
    )
    parser.add_argument(
        "--baseline-iterations", type=int, default=100, metavar="N",
        help="timed of each of its two phases (default 100)",
    )
    parser.add_argument(
        "--baseline-frames", type=int, default=4, metavar="N",
        help="that its other stages are timed on (default 4)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), metavar="FOLDER",
        help=f"for {JSON_NAME} and {PLOT_NAME} (default out/bench)",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    width, times, height = text.partition("x")
    if not (times and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is no size: write it as 854x480")
    return int(width), int(height)


def _run(parsed: argparse.Namespace) -> None:
    chosen = _chosen(parsed.benchmarks)
    options = _options(parsed)
    make_folder(parsed.out)
    about = {
        "preset": chosen_preset(parsed),
        "settings": {info.name: info.value for info in describe(options.settings)},
        "quick": options.quick,
        **run_information(options.settings),
    }
    heading = f"preset {about['preset']}, device {options.settings.device}; {about['CPU']}"
    print(f"{heading}; GPU: {about['GPU']}\n")
    if options.quick:
        print("--quick: shorter lists and fewer iterations; not to be quoted\n")
    results: dict[str, Result] = {}
    for name in chosen:
        if options.folder is not None and name in OWN_CLIPS:
            say(f"{name} makes its own clips: --clip has no part in it")
        results[name] = BENCHMARKS[name](options)
        for table in results[name].tables:
            print(table_text(table) + "\n", flush=True)
        write_results(parsed.out, about, results)
    print(f"{parsed.out / JSON_NAME}\n{parsed.out / PLOT_NAME}")


def _chosen(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in (*BENCHMARKS, "all")]
    if unknown:
        raise SettingError(
            f"there is no benchmark '{unknown[0]}': choose of {', '.join(BENCHMARKS)}, or all"
        )
    if "all" in names:
        return list(BENCHMARKS)
    return list(dict.fromkeys(names)) or ["stages"]


def _options(parsed: argparse.Namespace) -> Options:
    settings = chosen_settings(parsed)
    if parsed.device:
        settings = with_values(settings, {"device": parsed.device})
    baseline_values = {}
    for text in parsed.baseline_set:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--baseline-set {text}: write NAME=VALUE")
        baseline_values[name.strip()] = value
    find_device(settings.device)
    options = Options(
        settings=settings,
        folder=parsed.clip,
        frames=parsed.frames,
        size=parsed.size,
        points=parsed.points,
        repeats=parsed.repeats,
        quick=parsed.quick,
        curves=tuple(parsed.curves),
        baseline=parsed.baseline is not None,
        baseline_values=baseline_values,
        baseline_iterations=parsed.baseline_iterations,
        baseline_frames=parsed.baseline_frames,
    )
    if options.quick:
        few = {"optimizer.iterations": 10, "optimizer.warm_iterations": 4}
        options = replace(options, settings=with_values(settings, few))
    return options


if __name__ == "__main__":
    sys.exit(main())
