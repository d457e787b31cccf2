"""The command dino-tracker: track a video, evaluate on known clips, weights, settings.

Everything a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros import bag_command, evaluate_command
from dino_tracker_ros.setting_options import (
    add_setting_options,
    chosen_settings,
    settings_help,
    value_text,
)
from dino_tracker_ros.tracking.errors import QueryError, SettingError, TrackerError
from dino_tracker_ros.tracking.settings import PRESETS, SettingInfo, describe, preset, with_values
from dino_tracker_ros.visualization.progress import ProgressBars

if TYPE_CHECKING:
    from dino_tracker_ros.tracking.tracks import Tracks
    from dino_tracker_ros.visualization.video import FolderFrames, VideoFrames

_NEEDED = {
    "torch": "torch torchvision",
    "torchvision": "torch torchvision",
    "transformers": "transformers",
    "cv2": "opencv-python-headless",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0; 1 where some of many inputs failed; 2 for an expected error; 130 for Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    # Decoders complain on their own about files that the errors below name.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s"
    )
    try:
        return options.run(options) or 0
    except TrackerError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        return _fail(f"{error.name} is not installed: pip install {_NEEDED[error.name]}")
    except KeyboardInterrupt:
        print("\ndino-tracker: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str) -> int:
    print(f"dino-tracker: error: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dino-tracker", description="Point tracks by optimizing DINO-Tracker on the video."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_track(commands)
    evaluate_command.add_command(commands)
    bag_command.add_command(commands)
    _add_weights(commands)
    _add_settings(commands)
    for command in commands.choices.values():
        command.add_argument("--verbose", action="store_true", help="say more on stderr")
    return parser


# track ---------------------------------------------------------------------------------------


def _add_track(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "track",
        help="track points through a video or a folder of pictures",
        description="Tracks points through a video or a folder of pictures.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=settings_help(),
    )
    command.add_argument("input", type=Path, metavar="VIDEO|FOLDER", help="what to track in")
    command.add_argument(
        "--out", type=Path, metavar="FILE.npz",
        help="tracks: queries (t, x, y), points, occluded, confidence, stamps, width, height, "
        "settings; read it with numpy.load",
    )  # fmt: skip
    command.add_argument(
        "--overlay", type=Path, metavar="FILE.mp4", help="video with the tracks drawn in"
    )
    command.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="contact sheet with the tracks drawn in"
    )
    points = command.add_mutually_exclusive_group()
    points.add_argument(
        "--queries", type=Path, metavar="FILE",
        help="points to track: lines of t,x,y (.csv) or an array queries [N, 3] (.npz); t counts "
        "frames from --start, x and y are pixels",
    )  # fmt: skip
    points.add_argument(
        "--grid-spacing", type=int, metavar="PX",
        help="track a grid on the first frame instead; stands for --set queries.grid_spacing=PX",
    )  # fmt: skip
    command.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame (default 0)"
    )
    command.add_argument(
        "--frames", type=int, metavar="N", help="how many frames at most (default all)"
    )
    command.add_argument(
        "--rate", type=float, default=30.0, metavar="HZ",
        help="frames per second of a folder's pictures (default 30)",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add_setting_options(command)
    command.set_defaults(run=_track)


def _track(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.offline import track_frames
    from dino_tracker_ros.evaluation.tracks_file import save_tracks
    from dino_tracker_ros.tracking.queries import grid_points
    from dino_tracker_ros.visualization.output import check_output
    from dino_tracker_ros.visualization.video import open_frames

    settings = chosen_settings(options)
    if options.grid_spacing is not None:
        settings = with_values(settings, {"queries.grid_spacing": options.grid_spacing})
    outputs = [path for path in (options.out, options.overlay, options.sheet) if path is not None]
    if not outputs:
        raise SettingError("nothing to write: give --out, --overlay or --sheet")
    for path, suffix in ((options.out, ".npz"), (options.overlay, ".mp4"), (options.sheet, ".png")):
        if path is not None:
            if path.suffix.lower() != suffix:
                raise SettingError(f"'{path}' does not end in {suffix}: rename it")
            check_output(path, options.overwrite)
    if options.frames is not None and options.frames < 2:
        raise SettingError(f"--frames is {options.frames}: tracking needs at least 2")
    if not options.rate > 0:
        raise SettingError(f"--rate is {options.rate}: give frames per second above 0")
    given = None if options.queries is None else _read_queries(options.queries)

    frames = open_frames(options.input, options.rate, options.start, options.frames)
    height, width = frames[0].image.shape[:2]
    if given is None:
        spacing = settings.queries.grid_spacing
        if spacing == 0:
            raise QueryError("queries.grid_spacing is 0: give --queries or a spacing")
        places = grid_points(width, height, spacing)
        given = np.insert(places, 0, 0, axis=1)
    if len(given) > settings.queries.maximum:
        raise QueryError(
            f"{len(given)} points, but queries.maximum is {settings.queries.maximum}: raise it, "
            "or widen the grid"
        )
    with ProgressBars() as bars:
        tracks = track_frames(frames, given, settings, bars)
        if options.out is not None:
            save_tracks(options.out, tracks, settings, overwrite=options.overwrite)
        if options.overlay is not None or options.sheet is not None:
            _write_pictures(options, frames, tracks, bars)
    visible = 100 * float(np.mean(~tracks.occluded)) if tracks.occluded.size else 0.0
    print(f"{len(given)} points through {len(frames)} frames, visible in {visible:.0f} %")
    for path in outputs:
        print(f"wrote {path}")


def _write_pictures(
    options: argparse.Namespace,
    frames: FolderFrames | VideoFrames,
    tracks: Tracks,
    bars: ProgressBars,
) -> None:
    from dino_tracker_ros.visualization.pictures import write_overlay, write_sheet

    if options.overlay is not None:
        write_overlay(
            options.overlay, frames, tracks, frames.rate, overwrite=options.overwrite,
            progress=lambda done, total: bars("drawing", done, total),
        )  # fmt: skip
    if options.sheet is not None:
        write_sheet(options.sheet, frames, tracks, overwrite=options.overwrite)


def _read_queries(path: Path) -> NDArray[np.float32]:
    """float32 [N, 3], (t, x, y), from a .csv or .npz file."""
    from dino_tracker_ros.evaluation.npz_file import load_arrays

    if not path.is_file():
        raise QueryError(f"there is no file '{path}' with query points")
    try:
        if path.suffix.lower() == ".npz":
            values = np.asarray(load_arrays(path)["queries"], np.float32)
        else:
            values = _read_csv(path)
    except (OSError, ValueError, KeyError) as error:
        raise QueryError(f"'{path}' cannot be read as query points t,x,y: {error}") from error
    if values.ndim != 2 or values.shape[1] != 3 or not len(values):
        raise QueryError(f"queries in '{path}' are {values.shape}: give N rows of t,x,y")
    return values


def _read_csv(path: Path) -> NDArray[np.float32]:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    if rows and [cell.strip() for cell in rows[0]] == ["t", "x", "y"]:
        rows = rows[1:]
    return np.array([[float(cell) for cell in row] for row in rows], np.float32)


# weights -------------------------------------------------------------------------------------


def _add_weights(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "weights",
        help="show which model weights are there, fetch the others",
        description="Shows which model weights are in the cache, verified by their sha256.",
    )
    command.add_argument(
        "--fetch", nargs="*", metavar="NAME",
        help="fetch these first (no name: all that presets need and that are missing)",
    )  # fmt: skip
    command.set_defaults(run=_weights)


def _weights(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.table import aligned
    from dino_tracker_ros.tracking.weights import WeightsCache

    cache = WeightsCache()
    if options.fetch is not None:
        logging.getLogger("dino_tracker_ros").setLevel(logging.INFO)
        cache.fetch(options.fetch)
    print(f"cache: {cache.folder}")
    lines = [["weights", "MB", "sha256", "from"]]
    for status in cache.status():
        state = f"{status.sha256[:12]}…" if status.present else status.problem or "missing"
        size = f"{status.size / 1e6:.1f}" if status.present else "-"
        lines.append([status.name, size, state, status.source])
    print(aligned(lines, left_columns=len(lines[0])))


# settings ------------------------------------------------------------------------------------


def _add_settings(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "settings",
        help="list every setting with its range and its value in each preset",
        description="Lists every setting with its unit, range and value in each preset.",
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_settings)


def _settings(options: argparse.Namespace) -> None:
    by_preset = {name: describe(preset(name)) for name in PRESETS}
    rows = list(zip(*by_preset.values()))
    if options.json:
        print(json.dumps([_setting_json(dict(zip(by_preset, row))) for row in rows], indent=1))
        return
    from dino_tracker_ros.evaluation.table import aligned

    lines = [["setting", *by_preset, "unit", "allowed", "description"]]
    for row in rows:
        info = row[0]
        values = [value_text(each) for each in row]
        lines.append([info.name, *values, info.unit, info.allowed, info.description])
    print(aligned(lines, left_columns=len(lines[0])))


def _setting_json(row: dict[str, SettingInfo]) -> dict[str, object]:
    info = next(iter(row.values()))
    return {
        "name": info.name,
        "type": info.type.__name__,
        "unit": info.unit,
        "minimum": info.minimum,
        "maximum": info.maximum,
        "choices": list(info.choices),
        "description": info.description,
        "presets": {name: each.value for name, each in row.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
