"""Asks a running node for the points whose tracks are known, before a bag is played to it by hand.

python3 -m dino_tracker_ros.evaluation.live.ask my_bag --truth known.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dino_tracker_ros.evaluation.inputs import BagOptions, find_inputs, load_input
from dino_tracker_ros.evaluation.live.session import NODE, ask_points, listening
from dino_tracker_ros.tracking.errors import TrackerError

PATIENCE = 30.0  # s


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 2 for an expected error."""
    options = _parser().parse_args(arguments)
    try:
        _ask(options)
    except TrackerError as error:
        print(f"ask: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m dino_tracker_ros.evaluation.live.ask",
        description="Asks a running node for the points whose tracks are known. Then play the bag "
        "and record /tracks; 'dino-tracker evaluate BAG --tracks RECORDED' scores them.",
    )
    parser.add_argument("bag", type=Path, help="the bag that will be played")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="as in 'dino-tracker evaluate --truth'"
    )
    parser.add_argument("--topic", default="", help="the bag's image topic")
    parser.add_argument(
        "--mode", choices=("strided", "first", "every"), default="strided",
        help="which points are asked for, as in 'dino-tracker evaluate'",
    )  # fmt: skip
    parser.add_argument("--node", default=NODE, help=f"name of the node (default {NODE})")
    return parser


def _ask(options: argparse.Namespace) -> None:
    topics = (options.topic,) if options.topic else ()
    inputs, failures = find_inputs([options.bag], options.mode, BagOptions(options.truth, topics))
    if failures:
        raise TrackerError(failures[0].message)
    if len(inputs) != 1:
        raise TrackerError(f"'{options.bag}' holds {len(inputs)} clips: name one bag")
    clip = load_input(inputs[0], options.mode)
    queries = clip.truth.queries
    with listening(tracker=options.node.strip("/")) as listener:
        ask_points(listener, clip.frames, queries, PATIENCE)
    print(f"asked {options.node} for {len(queries)} points of '{clip.name}': now play it")


if __name__ == "__main__":
    sys.exit(main())
