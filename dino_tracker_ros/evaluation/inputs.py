"""What to evaluate: the clips in the files and folders that a user names.

They are found at once, so that a wrong path is told before any work; most are read where they are
evaluated, which may be another process or machine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dino_tracker_ros.evaluation.bags.images import IMAGE_TYPES, read_bag
from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY
from dino_tracker_ros.evaluation.bags.reader import STORAGE_SUFFIXES, BagError, BagReader
from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.report.results import Failure
from dino_tracker_ros.evaluation.truths.badja import holds_badja
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError, LabelledClip
from dino_tracker_ros.evaluation.truths.loading import load_clips, load_truth
from dino_tracker_ros.evaluation.truths.tap_vid import TAP_VID_SUFFIXES
from dino_tracker_ros.tracking.errors import SettingError, TrackerError

TRUTH_SUFFIXES = (".npz", ".csv", ".json", *TAP_VID_SUFFIXES)


@dataclass(frozen=True)
class BagOptions:
    """What is to be known about bags beside their paths.

    Attributes:
        truth: file or bag with the known tracks, or a folder of files with the bags' names; None
            looks beside each bag, and into it.
        topics: of images; each is a clip of its own. Empty takes the only one there is.
        start, end: the part of each bag, s after its first image.
    """

    truth: Path | None = None
    topics: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Input:
    """One clip to be evaluated.

    Attributes:
        name: unique within an evaluation.
        source: file or folder, absolute.
        clip: its name in a source that holds several; empty where it is the only one.
        bag: how to read a bag, with at most one topic; None for other sources.
    """

    name: str
    source: Path
    clip: str = ""
    bag: BagOptions | None = None


def find_inputs(
    paths: Sequence[Path], mode: Mode, bag: BagOptions
) -> tuple[list[Input], list[Failure]]:
    """The clips at these paths, and the files that were to hold several and cannot be read.

    A path is a clip folder, a file of TAP-Vid, BADJA's folder or a file of labels in it (see
    `truths.loading`), a bag, or a folder that holds such things.

    Raises:
        GroundTruthError: there is nothing to evaluate at a path.
        SettingError: bag options where there is no bag, or one file of known tracks for several.
    """
    found: list[Input] = []
    failures = []
    sources = [source.resolve() for path in paths for source in _sources(path)]
    for source in dict.fromkeys(sources):
        try:
            found += _inputs(source, mode, bag)
        except TrackerError as error:
            failures.append(Failure(source.name, str(source), str(error)))
    bags = {each.source for each in found if each.bag is not None}
    if bag != BagOptions() and not bags:
        raise SettingError("--truth, --topic, --start and --end are for bags: give one")
    if bag.truth is not None and len(bags) > 1 and not _is_truth_folder(bag.truth):
        raise SettingError(
            f"--truth '{bag.truth}' cannot be true of {len(bags)} bags: give a folder of files "
            "with their names, or put each beside its bag"
        )
    return _named_apart(found), failures


def load_input(each: Input, mode: Mode) -> LabelledClip:
    """Reads an input; pictures are decoded when they are asked for.

    Raises:
        TrackerError: whatever is wrong with it.
    """
    if each.bag is None:
        clips = load_clips(each.source, mode)
        clip = next(clip for clip in clips if each.clip in ("", clip.name))
        return replace(clip, name=each.name)
    topic = each.bag.topics[0] if each.bag.topics else ""
    frames = read_bag(each.source, topic, start=each.bag.start, end=each.bag.end)
    stamps = np.array(frames.stamps, np.int64)
    truth = load_truth(
        find_truth(each.source, each.bag.truth), stamps, frames.width, frames.height, mode
    )
    return LabelledClip(each.name, frames, truth)


def find_truth(bag: Path, given: Path | None) -> Path:
    """Where the known tracks of a bag are.

    Raises:
        GroundTruthError: nowhere.
    """
    if given is not None and not _is_truth_folder(given):
        return given
    folder = bag.parent if given is None else given
    stem = _bag_name(bag)
    for suffix in TRUTH_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    if given is None:
        with BagReader(bag) as reader:
            if any(topic.type == TRACK_ARRAY for topic in reader.topics):
                return bag
    raise GroundTruthError(
        f"bag '{bag}' has no known tracks: put {stem}.npz, .csv, .json or .pkl into '{folder}', "
        "or give --truth"
    )


def fingerprint(each: Input) -> str:
    """Changes where the input's files do: their names, sizes and times of modification."""
    paths = [each.source]
    if each.bag is not None:
        paths.append(find_truth(each.source, each.bag.truth))
    return files_fingerprint(paths, f"{each.clip}\n{each.bag}")


def files_fingerprint(paths: Sequence[Path], more: str = "") -> str:
    """The same of files, or of all that lies in folders."""
    digest = hashlib.sha256(more.encode())
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            about = file.stat()
            if file.is_file():
                digest.update(f"{file}\n{about.st_size}\n{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _sources(path: Path) -> Iterator[Path]:
    """The path itself if it can be evaluated, else what a folder holds that can be."""
    if not path.exists():
        raise GroundTruthError(f"there is no file or folder '{path}' to evaluate")
    if _is_bag(path) or _holds_clips(path):
        yield path
        return
    inside = sorted(path.iterdir()) if path.is_dir() else []
    found = [each for each in inside if _is_bag(each) or _holds_clips(each)]
    found = [each for each in found if not _has_tracks_alone(each)]
    bags = {_bag_name(each) for each in found if _is_bag(each)}
    # A TAP-Vid file with the name of a bag beside it has that bag's known tracks.
    found = [each for each in found if _is_bag(each) or each.is_dir() or each.stem not in bags]
    if not found:
        raise GroundTruthError(
            f"'{path}' has no gt.npz and is no bag, TAP-Vid file or BADJA folder, nor does it "
            "hold any: give a clip with known tracks"
        )
    yield from found


def _is_bag(path: Path) -> bool:
    if path.is_file():
        return path.suffix in STORAGE_SUFFIXES
    return (path / "metadata.yaml").is_file() or any(
        file.suffix in (".mcap", ".db3") for file in path.iterdir()
    )


def _bag_name(bag: Path) -> str:
    return bag.name if bag.is_dir() else bag.stem


def _has_tracks_alone(path: Path) -> bool:
    """Whether it is what a node published, recorded into a bag of its own."""
    if not _is_bag(path):
        return False
    try:
        with BagReader(path) as reader:
            types = {topic.type for topic in reader.topics}
    except BagError:
        return False  # which its evaluation will tell
    return TRACK_ARRAY in types and not types & set(IMAGE_TYPES)


def _holds_clips(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in TAP_VID_SUFFIXES or holds_badja(path)
    return (path / "gt.npz").is_file() or holds_badja(path)


def _is_truth_folder(path: Path) -> bool:
    return path.is_dir() and not _is_bag(path)


def _inputs(source: Path, mode: Mode, bag: BagOptions) -> list[Input]:
    if _is_bag(source):
        name = _bag_name(source)
        if len(bag.topics) < 2:
            return [Input(name, source, bag=bag)]
        return [
            Input(f"{name}, {topic}", source, bag=replace(bag, topics=(topic,)))
            for topic in bag.topics
        ]
    if (source / "gt.npz").is_file():
        return [Input(source.name, source)]
    return [Input(clip.name, source, clip.name) for clip in load_clips(source, mode)]


def _named_apart(found: Sequence[Input]) -> list[Input]:
    """Inputs of one name get that of the folder they are in, and a number where that is not enough.
    """
    names: Counter[str] = Counter()
    apart = []
    for each in found:
        name = each.name
        if sum(other.name == name for other in found) > 1:
            name = f"{each.source.parent.name}, {name}"
        names[name] += 1
        apart.append(replace(each, name=name if names[name] == 1 else f"{name} {names[name]}"))
    return apart
