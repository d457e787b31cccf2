"""dino-tracker bag: what is in a bag, clips to bags, recorded tracks to files."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.visualization.progress import ProgressBars

if TYPE_CHECKING:
    from dino_tracker_ros.evaluation.bag_conversion import Source

_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `bag` to the command dino-tracker."""
    command = commands.add_parser(
        "bag",
        help="look into bags, make bags of clips, take tracks out of bags",
        description="Reads and writes ROS 2 bags (MCAP, sqlite3) and ROS 1 bags, without ROS.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_info(actions)
    _add_write(actions)
    _add_tracks(actions)


# info ----------------------------------------------------------------------------------------


def _add_info(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "info",
        help="list the topics of a bag",
        description="Lists the topics of a bag: their types and how many messages they have.",
    )
    action.add_argument("bag", type=Path, metavar="BAG", help="folder, .mcap, .db3 or .bag file")
    action.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.bags.reader import BagReader
    from dino_tracker_ros.evaluation.table import aligned

    with BagReader(options.bag) as reader:
        topics, (first, last) = reader.topics, reader.span
        kind = "ROS 1" if reader.is_ros1 else "ROS 2"
    count = sum(topic.count for topic in topics)
    print(f"{options.bag}: {kind}, {count} messages", end="")
    if count:
        print(f" in {(last - first) * 1e-9:.3f} s from {_date(first)}", end="")
    print()
    lines = [[topic.name, topic.type, str(topic.count)] for topic in topics]
    print(aligned([["topic", "type", "messages"], *lines], left_columns=2))


def _date(time: int) -> str:
    date = datetime.fromtimestamp(time * 1e-9, timezone.utc)
    return date.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


# write ---------------------------------------------------------------------------------------


def _add_write(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "write",
        help="make a bag of a video, pictures, or a clip with known tracks",
        description="Makes a bag of a video, a folder of pictures, a clip folder with gt.npz, "
        "a TAP-Vid file or BADJA's folder. What is known about tracks goes into the bag too, as "
        "TrackArray on /ground_truth/tracks.",
    )
    action.add_argument("source", type=Path, metavar="SOURCE", help="what the bag is made of")
    action.add_argument(
        "--out", type=Path, required=True, metavar="BAG",
        help="folder of a new ROS 2 bag; with the ending .bag a ROS 1 bag; a folder for one bag "
        "each where the source holds several clips",
    )  # fmt: skip
    action.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap",
        help="of a ROS 2 bag (default mcap)",
    )  # fmt: skip
    action.add_argument(
        "--format", choices=("raw", "png", "jpeg"), default="raw",
        help="of the images: raw (default), png, which loses nothing either, or jpeg",
    )  # fmt: skip
    action.add_argument(
        "--topic", default="/image_raw",
        help="of the images (default /image_raw); compressed ones go to TOPIC/compressed",
    )  # fmt: skip
    action.add_argument("--frame-id", default="camera", help="of the camera (default camera)")
    action.add_argument(
        "--rate", type=float, metavar="HZ", help="images per second, instead of the source's times"
    )
    action.add_argument(
        "--mode", choices=("strided", "first", "every"), default="strided",
        help="points of a TAP-Vid clip that are asked for: in every fifth frame (default), or "
        "where first visible; every asks for each track of any clip in all frames that show it",
    )  # fmt: skip
    action.add_argument("--overwrite", action="store_true", help="replace existing bags")
    action.set_defaults(run=_write)


def _write(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.bag_conversion import find_sources
    from dino_tracker_ros.evaluation.bags.writer import check_new_bag

    if options.rate is not None and not options.rate > 0:
        raise SettingError(f"--rate is {options.rate}: give images per second above 0")
    topic = _image_topic(options.topic, options.format)
    sources = find_sources(options.source, options.mode)
    several = len(sources) > 1
    if several and options.out.suffix == ".bag":
        raise SettingError(
            f"'{options.source}' holds {len(sources)} clips, '{options.out}' is one ROS 1 bag: "
            "give --out a folder, without .bag"
        )
    bags = [options.out / source.name if several else options.out for source in sources]
    for bag in bags:
        check_new_bag(bag, options.overwrite)
    with ProgressBars() as bars:
        for bag, source in zip(bags, sources):
            bars.title = source.name
            _write_one(bag, source, topic, options, bars)


def _write_one(
    bag: Path, source: Source, topic: str, options: argparse.Namespace, bars: ProgressBars
) -> None:
    from dino_tracker_ros.evaluation.bag_conversion import TRUTH_TOPIC, write_clip

    write_clip(
        bag, source, topic, options.frame_id, options.format, options.rate, options.storage,
        options.overwrite, lambda done, total: bars("writing", done, total),
    )  # fmt: skip
    known = "" if source.truth is None else (
        f", {len(source.truth.queries)} known tracks on {TRUTH_TOPIC}"
    )  # fmt: skip
    print(f"wrote {bag}: {len(source.frames)} images on {topic}{known}")


def _image_topic(name: str, form: str) -> str:
    topic = name if name.startswith("/") else f"/{name}"
    if not _TOPIC.fullmatch(topic):
        raise SettingError(
            f"--topic '{name}' is no topic: give names of letters, digits and underscores, with "
            "slashes between them, such as /camera/image_raw"
        )
    compressed = form != "raw" and not topic.endswith("/compressed")
    return f"{topic}/compressed" if compressed else topic  # as image_transport has it


# tracks --------------------------------------------------------------------------------------


def _add_tracks(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "tracks",
        help="take recorded tracks out of a bag",
        description="Joins the TrackArray messages of a bag and writes them as .npz (as "
        "dino-tracker track does), .csv, or as a TAP-Vid .pkl with the images.",
    )
    action.add_argument("bag", type=Path, metavar="BAG", help="folder, .mcap, .db3 or .bag file")
    action.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends in .npz, .csv or .pkl"
    )
    action.add_argument("--topic", default="", help="of the tracks (default the only one)")
    action.add_argument(
        "--images", type=Path, metavar="BAG",
        help="for .pkl: the bag with the images, if it is another one",
    )  # fmt: skip
    action.add_argument(
        "--image-topic", default="", metavar="TOPIC", help="for .pkl (default the only one)"
    )
    action.add_argument("--overwrite", action="store_true", help="replace an existing file")
    action.set_defaults(run=_tracks)


def _tracks(options: argparse.Namespace) -> None:
    from dino_tracker_ros.evaluation.bags.images import read_bag
    from dino_tracker_ros.evaluation.bags.reader import BagError
    from dino_tracker_ros.evaluation.bags.tracks import read_track_bag
    from dino_tracker_ros.evaluation.track_export import save_csv, save_tap_vid
    from dino_tracker_ros.evaluation.tracks_file import save_tracks
    from dino_tracker_ros.visualization.output import check_output

    ending = options.out.suffix.lower()
    if ending not in (".npz", ".csv", ".pkl"):
        raise SettingError(f"'{options.out}' does not end in .npz, .csv or .pkl: rename it")
    check_output(options.out, options.overwrite)
    tracks, ids = read_track_bag(options.bag, options.topic)
    if ending == ".npz":
        save_tracks(options.out, tracks, ids=ids, overwrite=options.overwrite)
    elif ending == ".csv":
        save_csv(options.out, tracks, ids, options.overwrite)
    else:
        try:
            frames = read_bag(options.images or options.bag, options.image_topic)
        except BagError as error:
            if options.images is not None:
                raise
            raise BagError(f"{error}; --images names the bag that has them") from error
        name = options.bag.resolve().stem
        save_tap_vid(options.out, name, frames, tracks, options.overwrite)
    print(f"wrote {options.out}: {len(ids)} tracks over {len(tracks.stamps)} frames")
