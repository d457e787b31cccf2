"""dino-tracker evaluate: scores the tracker on clips with known tracks."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dino_tracker_ros.setting_options import (
    add_setting_options,
    chosen_preset,
    chosen_settings,
    settings_help,
)
from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.visualization.progress import ProgressBars

if TYPE_CHECKING:
    from dino_tracker_ros.evaluation.inputs import Input
    from dino_tracker_ros.evaluation.plan import Plan
    from dino_tracker_ros.evaluation.report.results import ClipResult, Failure

_INPUTS = """\
an input is
  a folder with frames/ (pictures), gt.npz and sometimes masks/;
  a pickle or zip of TAP-Vid (DAVIS, Kinetics, RGB-stacking, RoboTAP), or BADJA's folder,
  or one of the files in its joint_annotations/;
  a bag (ROS 2 sqlite3 or MCAP, ROS 1) with its known tracks: --truth, or a file of its name beside
  it (run1/ and run1.npz, .csv, .json or .pkl), or a TrackArray topic in it;
  or a folder that holds such things.

With --ray, this package, its weights and the inputs must be on every machine, at the same paths;
with --replay too, so must be ROS 2, and --out a folder that all of them share.
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `evaluate` to the command dino-tracker."""
    command = commands.add_parser(
        "evaluate",
        help="score the tracker on clips with known tracks",
        description="Scores the tracker on clips with known tracks: prints a table and, with "
        "--out, writes a\nreport. A second run computes only what is not done. An input that fails "
        "is reported, the\nothers go on, and the exit code is 1.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{_INPUTS}\n{settings_help()}",
    )
    command.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="see below")
    bags = command.add_argument_group("bags")
    bags.add_argument(
        "--truth", type=Path, metavar="FILE",
        help="known tracks of the bag: .npz, .csv, BADJA's .json, a TAP-Vid pickle, a bag with a "
        "TrackArray topic; or a folder of files with the names of the bags",
    )  # fmt: skip
    bags.add_argument(
        "--topic", nargs="+", default=(), metavar="T",
        help="image topics, each a clip of its own (default the only one)",
    )  # fmt: skip
    bags.add_argument("--start", type=float, metavar="S", help="s after the first image")
    bags.add_argument("--end", type=float, metavar="S", help="s after the first image")
    methods = command.add_argument_group("methods")
    methods.add_argument(
        "--baselines", action="store_true",
        help="also score no motion, Lucas-Kanade, chained flow (DIS; RAFT where its weights are "
        "there) and raw DINOv2 matching",
    )  # fmt: skip
    methods.add_argument(
        "--seeds", type=int, nargs="+", default=(), metavar="N",
        help="optimize once with each of these seeds",
    )  # fmt: skip
    methods.add_argument(
        "--replay", action="store_true",
        help="also play each input to the node over ROS 2, and record and score its /tracks; "
        "needs --out",
    )  # fmt: skip
    methods.add_argument(
        "--rate", type=float, metavar="R", help="of the replay, times the recorded pace (default 1)"
    )
    methods.add_argument(
        "--params-file", type=Path, metavar="FILE",
        help="of the node that is replayed to, such as a robot's own YAML, so that its drops show; "
        "options here go before it (default: one that loses no image)",
    )  # fmt: skip
    methods.add_argument(
        "--tracks", type=Path, metavar="FILE",
        help="score these tracks instead of running the tracker: an .npz of 'dino-tracker track', "
        "or a bag with a TrackArray topic",
    )  # fmt: skip
    command.add_argument(
        "--mode", choices=("strided", "first", "every"), default="strided",
        help="frames that count: all but the query's (strided), or those after it (first); every "
        "is strided, with each track asked for in every frame that shows it",
    )  # fmt: skip
    command.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="write report.html, scores.json, scores.csv and results/ here",
    )  # fmt: skip
    command.add_argument("--json", type=Path, metavar="FILE.json", help="write the scores here too")
    command.add_argument(
        "--overwrite", action="store_true",
        help="replace an existing --json file, and compute anew what --out holds",
    )  # fmt: skip
    command.add_argument(
        "--jobs", type=int, metavar="N",
        help="inputs evaluated at once on this machine (default one for each GPU, or for every "
        "four cores; with --replay one)",
    )  # fmt: skip
    command.add_argument(
        "--ray", default="", metavar="ADDRESS",
        help="evaluate on a Ray cluster (host:port, auto, local) as many as it has room for",
    )  # fmt: skip
    add_setting_options(command)
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from dino_tracker_ros.evaluation.inputs import BagOptions, find_inputs
    from dino_tracker_ros.evaluation.report.page import write_report
    from dino_tracker_ros.evaluation.report.results import load_results, save_result
    from dino_tracker_ros.evaluation.report.summary import scores_json, summarize
    from dino_tracker_ros.visualization.output import atomic_output, check_output, make_folder

    _check(options)
    if options.json is not None:
        check_output(options.json, options.overwrite)
    plan = _plan(options)
    bag = BagOptions(
        options.truth and options.truth.resolve(), tuple(options.topic), options.start, options.end
    )
    inputs, unreadable = find_inputs(options.inputs, plan.mode, bag)
    if plan.tracks is not None and len(inputs) != 1:
        raise SettingError(f"--tracks is for one input, but there are {len(inputs)}: give its own")
    todo = _todo(inputs, plan, options.overwrite)
    if options.out is not None:
        make_folder(options.out)
        for failure in unreadable:
            save_result(options.out, failure)
    clips, failed = _run(todo, plan, options)
    failures = [*unreadable, *failed]
    if options.out is not None:
        write_report(options.out)
        clips = load_results(options.out)[0]
    if clips:
        print(_tables(clips))
    if options.json is not None:
        with atomic_output(options.json, options.overwrite) as temporary:
            temporary.write_text(scores_json(summarize(clips, failures)), encoding="utf-8")
    if options.out is not None:
        _say(f"look at {options.out / 'report.html'}")
    for failure in failures:
        _say(f"{failure.name}: {failure.message}")
    if failures:
        _say(f"{len(failures)} of {len(inputs) + len(unreadable)} inputs failed")
    return 1 if failures else 0


def _check(options: argparse.Namespace) -> None:
    """Refuses options that contradict each other."""
    if options.rate is not None and not options.replay:
        raise SettingError(f"--rate {options.rate:g} is the pace of --replay: give that too")
    if options.rate is not None and not options.rate > 0:
        raise SettingError(f"--rate is {options.rate:g}: give a number above 0")
    if options.params_file is not None and not options.replay:
        raise SettingError("--params-file is for the node of --replay: give that too")
    if options.params_file is not None and not options.params_file.is_file():
        raise SettingError(f"there is no file of parameters '{options.params_file}'")
    if options.replay and options.out is None:
        raise SettingError("--replay needs --out FOLDER for the tracks it records")
    if options.tracks is not None and (options.replay or options.seeds):
        raise SettingError("--tracks runs no tracker: leave out --replay and --seeds")
    if options.tracks is not None and not options.tracks.exists():
        raise SettingError(f"there are no tracks '{options.tracks}'")
    if options.jobs is not None and options.jobs < 1:
        raise SettingError(f"--jobs is {options.jobs}: give at least 1")
    if options.jobs is not None and options.ray:
        raise SettingError("--jobs is for this machine: a Ray cluster takes what it has room for")


def _plan(options: argparse.Namespace) -> Plan:
    from dino_tracker_ros.evaluation.baselines import flows_at_hand
    from dino_tracker_ros.evaluation.live.session import node_command
    from dino_tracker_ros.evaluation.plan import Plan
    from dino_tracker_ros.tracking.device import find_device

    settings = chosen_settings(options)
    if not options.ray:  # what every input would fail for, before any work
        find_device(settings.device)
        if options.replay:
            node_command()
    plan = Plan(
        preset=chosen_preset(options),
        settings=settings,
        mode=options.mode,
        seeds=tuple(options.seeds),
        rate=(options.rate or 1.0) if options.replay else None,
        params_file=options.params_file and options.params_file.resolve(),
        tracks=options.tracks and options.tracks.resolve(),
        folder=options.out and options.out.resolve(),
    )
    if options.baselines:
        plan = replace(plan, flows=flows_at_hand(settings))
        if plan.flows == ("dis",):
            _say("no RAFT among the baselines: 'dino-tracker weights --fetch raft_large' gets it")
    return plan


def _todo(inputs: Sequence[Input], plan: Plan, overwrite: bool) -> Sequence[Input]:
    """The inputs without a result from an earlier run."""
    from dino_tracker_ros.evaluation.plan import remaining

    if plan.folder is None:
        return inputs
    todo = remaining(plan.folder, inputs, plan, overwrite)
    if len(todo) < len(inputs):
        done = len(inputs) - len(todo)
        _say(f"{done} of {len(inputs)} inputs were done before; --overwrite computes them anew")
    return todo


def _run(
    todo: Sequence[Input], plan: Plan, options: argparse.Namespace
) -> tuple[list[ClipResult], list[Failure]]:
    """Evaluates inputs, and keeps each result as soon as it is there; in the inputs' order."""
    from dino_tracker_ros.evaluation.plan import INPUT, input_fingerprint
    from dino_tracker_ros.evaluation.report.results import ClipResult, save_result
    from dino_tracker_ros.evaluation.suite import default_jobs, run_suite

    fingerprints = {each.name: input_fingerprint(each) for each in todo}
    jobs = options.jobs or default_jobs(plan)
    clips: list[ClipResult] = []
    failures: list[Failure] = []
    with ProgressBars() as bars, closing(run_suite(todo, plan, jobs, options.ray, bars)) as results:
        for number, result in enumerate(results, start=1):
            if isinstance(result, ClipResult):
                run = {**result.run, INPUT: fingerprints[result.name]}
                result = replace(result, run=run)
                clips.append(result)
            else:
                failures.append(result)
            if plan.folder is not None:
                save_result(plan.folder, result)
            if len(todo) > 1:
                bars("inputs", number, len(todo))
    order = list(fingerprints)
    clips.sort(key=lambda clip: order.index(clip.name))
    failures.sort(key=lambda failure: order.index(failure.name))
    return clips, failures


def _tables(clips: Sequence[ClipResult]) -> str:
    """Scores of every method on every clip and on all of them, and what replays measured."""
    from dino_tracker_ros.evaluation.table import Row, aligned, format_table, mean_rows

    methods = [(clip.name, method) for clip in clips for method in clip.methods]
    rows = [Row(clip, each.name, (each.counts,), each.seconds) for clip, each in methods]
    text = format_table(rows + (mean_rows(rows) if len(clips) > 1 else []))
    measures = list(dict.fromkeys(name for _, method in methods for name in method.live))
    if measures:
        lines = [["clip", "method", *(name.replace("_", " ") for name in measures)]]
        for clip, method in methods:
            if method.live:
                values = [method.live.get(name, math.nan) for name in measures]
                cells = ["-" if math.isnan(value) else f"{value:.3g}" for value in values]
                lines.append([clip, method.name, *cells])
        text += f"\n\n{aligned(lines, left_columns=2)}"
    return text


def _say(message: str) -> None:
    print(f"dino-tracker: {message}", file=sys.stderr)
