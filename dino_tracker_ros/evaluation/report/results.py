"""What an evaluation found, kept in a folder: one folder for each clip, whole or not there.

    OUT/results/<clip>/result.json             name, source, settings, versions, seconds
                       truth.npz               the known tracks
                       tracks-<method>.npz     as tracks_file.load_tracks reads them
                       counts-<method>.npz     what the scores are made of
                       pictures/*.jpg

A clip that failed leaves result.json alone, with the message.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.npz_file import NpzError, load_arrays
from dino_tracker_ros.evaluation.scores import Counts, counts_from_arrays, counts_to_arrays
from dino_tracker_ros.evaluation.tracks_file import TracksFileError, load_tracks
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import OutputError

FORMAT = 1
"""Of the result folders; another number is another version's."""

_LONGEST_NAME = 80  # characters of a folder's name
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, NpzError, TracksFileError)


class ResultError(TrackerError):
    """A result folder is damaged, or another version's."""


@dataclass(frozen=True)
class MethodResult:
    """How one method did on one clip.

    Attributes:
        name: of the method.
        tracks: of the clip's queries.
        counts: what its scores are made of.
        seconds: from the first frame to the last track.
        stages: seconds of each stage; empty where there are none to tell apart.
        live: measures that only a replay has, by name; empty offline.
    """

    name: str
    tracks: Tracks
    counts: Counts
    seconds: float
    stages: Mapping[str, float]
    live: Mapping[str, float]


@dataclass(frozen=True)
class ClipResult:
    """How the methods did on one clip.

    Attributes:
        name: of the clip, unique within an evaluation.
        source: file or folder it came from.
        truth: the known tracks.
        mode: which frames count.
        settings: of the tracker, dotted names to values.
        run: versions, weights and hardware; see `run_information`.
        methods: the tracker's own first.
        pictures: file names to JPEGs, of the first method's tracks; see `strips.clip_pictures`.
    """

    name: str
    source: str
    truth: GroundTruth
    mode: Mode
    settings: Mapping[str, object]
    run: Mapping[str, str]
    methods: tuple[MethodResult, ...]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Failure:
    """A clip without a result, and why."""

    name: str
    source: str
    message: str


def result_folder(folder: Path, name: str) -> Path:
    """Where the result of a clip lies, or would lie, in an evaluation's folder.

    Letters, digits, dot, dash and underscore are kept. A name with anything else in it gets a hash
    of the whole name behind it, so that no two names share a folder.
    """
    return folder / "results" / _file_name(name)


def save_result(folder: Path, result: ClipResult | Failure) -> None:
    """Writes a clip's result in place of an earlier one; it appears whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    place = result_folder(folder, result.name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # The dot keeps what is being written out of sight of `load_results`.
        with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as temporary:
            whole = Path(temporary) / "result"
            whole.mkdir()
            if isinstance(result, ClipResult):
                _write_clip(whole, result)
            else:
                _write_json(whole, dataclasses.asdict(result))
            if place.exists():
                place.rename(Path(temporary) / "earlier")
            whole.rename(place)
    except OSError as error:
        raise OutputError(f"'{place}' cannot be written: {error.strerror or error}") from error


def load_result(place: Path) -> ClipResult | Failure:
    """Reads one clip's folder.

    Raises:
        ResultError: it is damaged or another version's.
    """
    try:
        about = json.loads((place / "result.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ResultError(
                f"'{place}' is in format {about['format']}, not {FORMAT}: another version wrote "
                "it; delete it and evaluate the clip again"
            )
        if "message" in about:
            return Failure(about["name"], about["source"], about["message"])
        return _read_clip(place, about)
    except _UNREADABLE as error:
        raise ResultError(
            f"'{place}' cannot be read ({type(error).__name__}: {error}): delete it and evaluate "
            "the clip again"
        ) from error


def load_results(folder: Path) -> tuple[list[ClipResult], list[Failure]]:
    """All results of an evaluation in the order of their names; what cannot be read is a failure.

    Pictures are read when they are asked for, so that a thousand clips fit into memory.
    """
    clips: list[ClipResult] = []
    failures: list[Failure] = []
    places = (folder / "results").glob("[!.]*")
    for place in sorted(place for place in places if place.is_dir()):
        try:
            result = load_result(place)
        except ResultError as error:
            result = Failure(place.name, str(place), str(error))
        if isinstance(result, Failure):
            failures.append(result)
        else:
            clips.append(result)
    return clips, failures


def _file_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_LONGEST_NAME].lstrip(".-")
    if name and plain == name:
        return name
    raw = name.encode(errors="surrogateescape")
    return f"{plain}-{hashlib.sha256(raw).hexdigest()[:8]}".lstrip("-")


def _write_clip(place: Path, result: ClipResult) -> None:
    _write_arrays(place / "truth.npz", _arrays(result.truth))
    methods = []
    for method in result.methods:
        _write_arrays(place / f"tracks-{_file_name(method.name)}.npz", _arrays(method.tracks))
        _write_arrays(
            place / f"counts-{_file_name(method.name)}.npz", counts_to_arrays(method.counts)
        )
        methods.append(
            {
                "name": method.name,
                "seconds": method.seconds,
                "stages": dict(method.stages),
                "live": dict(method.live),
            }
        )
    (place / "pictures").mkdir()
    for name, data in result.pictures.items():
        (place / "pictures" / name).write_bytes(data)
    about = {
        "name": result.name,
        "source": result.source,
        "mode": result.mode,
        "settings": dict(result.settings),
        "run": dict(result.run),
        "methods": methods,
    }
    _write_json(place, about)


def _read_clip(place: Path, about: dict[str, Any]) -> ClipResult:
    if not about["methods"]:
        raise ValueError("it holds no method")
    methods = tuple(
        MethodResult(
            name=each["name"],
            tracks=load_tracks(place / f"tracks-{_file_name(each['name'])}.npz"),
            counts=counts_from_arrays(
                load_arrays(place / f"counts-{_file_name(each['name'])}.npz")
            ),
            seconds=each["seconds"],
            stages=each["stages"],
            live=each["live"],
        )
        for each in about["methods"]
    )
    return ClipResult(
        name=about["name"],
        source=about["source"],
        truth=_read_truth(place / "truth.npz"),
        mode=about["mode"],
        settings=about["settings"],
        run=about["run"],
        methods=methods,
        pictures=_PictureFolder(place / "pictures"),
    )


def _read_truth(file: Path) -> GroundTruth:
    arrays = load_arrays(file)
    return GroundTruth(
        queries=arrays["queries"],
        points=arrays["points"],
        occluded=arrays["occluded"],
        evaluate=arrays["evaluate"],
        has_occlusion=bool(arrays["has_occlusion"]),
        width=int(arrays["width"]),
        height=int(arrays["height"]),
        mask_areas=arrays.get("mask_areas"),
    )


class _PictureFolder(Mapping[str, bytes]):
    """The pictures of a folder by file name, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(path.name for path in folder.glob("*.jpg"))

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return (self._folder / name).read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _arrays(record: Tracks | GroundTruth) -> dict[str, NDArray[Any]]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def _write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with file.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _write_json(place: Path, about: Mapping[str, object]) -> None:
    text = json.dumps({"format": FORMAT, **about}, indent=1)
    (place / "result.json").write_text(text + "\n", encoding="utf-8")
