"""Every method on every input: here, in several processes, or on a Ray cluster."""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dino_tracker_ros.evaluation import baselines
from dino_tracker_ros.evaluation.assembly import tracks_of_queries
from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY
from dino_tracker_ros.evaluation.bags.reader import BagReader
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag
from dino_tracker_ros.evaluation.inputs import Input, files_fingerprint, fingerprint, load_input
from dino_tracker_ros.evaluation.live.replay import replay_clip
from dino_tracker_ros.evaluation.metrics import Mode
from dino_tracker_ros.evaluation.offline import ClipTracker, Progress, track_frames
from dino_tracker_ros.evaluation.parallel import CORES, Lost, run_in_processes
from dino_tracker_ros.evaluation.ray_pool import run_on_ray
from dino_tracker_ros.evaluation.report.results import (
    ClipResult,
    Failure,
    MethodResult,
    load_results,
    result_folder,
)
from dino_tracker_ros.evaluation.report.run_information import run_information
from dino_tracker_ros.evaluation.report.strips import clip_pictures
from dino_tracker_ros.evaluation.scores import count
from dino_tracker_ros.evaluation.tracks_file import load_tracks
from dino_tracker_ros.evaluation.truths.ground_truth import LabelledClip
from dino_tracker_ros.evaluation.truths.recorded_tracks import TRUTH_TOPIC
from dino_tracker_ros.tracking.errors import SettingError, TrackerError
from dino_tracker_ros.tracking.settings import Settings, describe, preset, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import make_folder

FLOW_NAMES = {"dis": "DIS", "raft_large": "RAFT", "raft_small": "RAFT small"}
INPUT, PLAN = "input fingerprint", "plan fingerprint"  # in a result's run information


class TimedTracker(ClipTracker, Protocol):
    """What is used of DinoTracker."""

    @property
    def stage_seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Plan:
    """How every input is evaluated.

    Attributes:
        preset: that the settings started from.
        settings: of the tracker.
        mode: which frames count.
        seeds: the tracker runs once with each; empty takes the settings' own.
        flows: methods of optical flow to chain as baselines; empty runs no baselines.
        rate: of a replay to the node, times the recorded pace; None replays nothing. It needs
            `folder`.
        params_file: the node's parameters for the replay, in ROS's YAML; None loses no image.
        tracks: recorded tracks to be scored in place of the tracker's; None runs it.
        folder: for what a replay records, and pictures are made for it; None keeps neither.
    """

    preset: str
    settings: Settings
    mode: Mode = "strided"
    seeds: tuple[int, ...] = ()
    flows: tuple[str, ...] = ()
    rate: float | None = None
    params_file: Path | None = None
    tracks: Path | None = None
    folder: Path | None = None

    @property
    def computes(self) -> bool:
        """Whether the settings have a part in the results."""
        return self.tracks is None or bool(self.flows)

    @property
    def fingerprint(self) -> str:
        """Changes where results could."""
        about = {
            "settings": self.computes and _values(self.settings),
            "mode": self.mode,
            "seeds": self.seeds,
            "flows": self.flows,
            "rate": self.rate,
            "params_file": self.params_file and files_fingerprint([self.params_file]),
            "tracks": self.tracks and files_fingerprint([self.tracks]),
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Output:
    """What a method gives; see MethodResult."""

    tracks: Tracks
    seconds: float
    stages: Mapping[str, float]
    live: Mapping[str, float]


def remaining(folder: Path, inputs: Sequence[Input], plan: Plan, overwrite: bool) -> list[Input]:
    """The inputs that have no result in the folder yet; all of them where `overwrite` is true.

    Raises:
        SettingError: the folder holds results of another plan, or of an input that has changed.
    """
    results, _ = load_results(folder)
    earlier = {result.name: result for result in results}
    names = {each.name for each in inputs}
    for result in results:
        if result.run.get(PLAN) != plan.fingerprint and not (overwrite and result.name in names):
            raise SettingError(
                f"'{folder}' holds results with other options or settings, such as that of "
                f"'{result.name}': choose another folder"
                + (", or --overwrite" if result.name in names else "")
            )
    if overwrite:
        return list(inputs)
    todo = []
    for each in inputs:
        if each.name not in earlier:
            todo.append(each)
        elif earlier[each.name].run.get(INPUT) != input_fingerprint(each):
            raise SettingError(
                f"'{folder}' holds a result of '{each.name}' from other or older files: choose "
                "another folder, or --overwrite"
            )
    return todo


def input_fingerprint(each: Input) -> str:
    """Of an input's files; empty where they cannot be found, which its evaluation will tell."""
    try:
        return fingerprint(each)
    except (TrackerError, OSError):
        return ""


def default_jobs(plan: Plan) -> int:
    """One for each GPU, or for every few cores; one alone where latencies are measured."""
    if plan.rate is not None:
        return 1
    return _gpus(plan.settings) or max(1, torch.get_num_threads() // CORES)


def run_suite(
    inputs: Sequence[Input],
    plan: Plan,
    jobs: int = 1,
    address: str = "",
    progress: Progress | None = None,
    make_tracker: Callable[[Settings], TimedTracker] = DinoTracker,
) -> Generator[ClipResult | Failure, None, None]:
    """Evaluates the inputs and yields what comes of each as it is done.

    Args:
        inputs: see `find_inputs`.
        plan: for all of them.
        jobs: how many at once on this machine; one runs in this process.
        address: of a Ray cluster that does the work instead.
        progress: told about every stage of an only job.
        make_tracker: a function or class of a module.

    Raises:
        ClusterError: there is no Ray, or no cluster at the address.
    """
    work = partial(evaluate_input, plan=plan, make_tracker=make_tracker)
    if address:
        gpu = plan.settings.device != "cpu"
        outcomes = run_on_ray(work, inputs, address, gpu, use_threads)
    elif jobs > 1:
        threads = max(1, torch.get_num_threads() // jobs)
        prepare = partial(_use_share, threads=threads, gpus=_gpus(plan.settings))
        outcomes = run_in_processes(work, inputs, jobs, prepare)
    else:
        outcomes = ((each, work(each, progress=progress)) for each in inputs)
    with closing(outcomes):
        for each, outcome in outcomes:
            if isinstance(outcome, Lost):
                outcome = Failure(each.name, str(each.source), outcome.message)
            yield outcome


def evaluate_input(
    each: Input,
    plan: Plan,
    progress: Progress | None = None,
    make_tracker: Callable[[Settings], TimedTracker] = DinoTracker,
) -> ClipResult | Failure:
    """Every method on one input, repeatable bit for bit; whatever goes wrong becomes a Failure."""
    try:
        clip = load_input(each, plan.mode)
        return _evaluate(each, clip, plan, progress or _silent, make_tracker)
    except TrackerError as error:
        return Failure(each.name, str(each.source), str(error))
    except Exception as error:  # a fault of ours, to be seen; but it must not harm other inputs
        traceback.print_exc()
        return Failure(each.name, str(each.source), f"{type(error).__name__}: {error}")


def use_threads(count: int) -> None:
    """Lets PyTorch and OpenCV use so many cores in this process."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _evaluate(
    each: Input,
    clip: LabelledClip,
    plan: Plan,
    progress: Progress,
    make_tracker: Callable[[Settings], TimedTracker],
) -> ClipResult:
    results = []
    for name, method in _methods(clip, plan, make_tracker):

        def told(stage: str, done: int, total: int, name: str = name) -> None:
            progress(f"{each.name}, {name}: {stage}", done, total)

        output = method(told)
        counts = count(output.tracks, clip.truth, plan.mode)
        results.append(
            MethodResult(name, output.tracks, counts, output.seconds, output.stages, output.live)
        )
    pictures = {}
    if plan.folder is not None:
        pictures = clip_pictures(clip, results[0].tracks, plan.mode)
    return ClipResult(
        name=each.name,
        source=str(each.source),
        truth=clip.truth,
        mode=plan.mode,
        settings=_values(plan.settings) if plan.computes else {},
        run={**_run_information(plan), PLAN: plan.fingerprint},
        methods=tuple(results),
        pictures=pictures,
    )


def _run_information(plan: Plan) -> dict[str, str]:
    files = {"recorded tracks": plan.tracks, "node's parameters": plan.params_file}
    given = {name: str(file) for name, file in files.items() if file is not None}
    if not plan.computes:
        return given
    about = {**run_information(plan.settings, plan.flows), **given}
    if plan.seeds:
        about["seed"] = ", ".join(map(str, plan.seeds))
    return about


def _methods(
    clip: LabelledClip, plan: Plan, make_tracker: Callable[[Settings], TimedTracker]
) -> list[tuple[str, Callable[[Progress], _Output]]]:
    """Names of the methods, the tracker's own first, and what runs them."""
    methods: list[tuple[str, Callable[[Progress], _Output]]] = []
    if plan.tracks is not None:
        methods.append(("recorded tracks", partial(_recorded, clip, plan.tracks)))
    else:
        for seed in plan.seeds or (plan.settings.optimizer.seed,):
            name = f"DINO-Tracker, seed {seed}" if plan.seeds else "DINO-Tracker"
            seeded = with_values(plan.settings, {"optimizer.seed": seed})
            methods.append((name, partial(_offline, clip, seeded, make_tracker)))
        if plan.rate is not None:
            methods.append(("DINO-Tracker, replayed", partial(_replayed, clip, plan)))
    if not plan.flows:
        return methods
    frames, queries, settings = clip.frames, clip.truth.queries, plan.settings

    def baseline(name: str, method: Callable[[baselines.Progress], Tracks]) -> None:
        def run(progress: Progress) -> _Output:
            started = time.monotonic()
            tracks = method(lambda done, total: progress("frames", done, total))
            return _Output(tracks, time.monotonic() - started, {}, {})

        methods.append((name, run))

    baseline("no motion", lambda _: baselines.track_static(frames, queries))
    baseline("Lucas-Kanade", lambda _: baselines.track_lucas_kanade(frames, queries))
    for flow in plan.flows:
        baseline(
            f"chained {FLOW_NAMES[flow]}",
            partial(baselines.track_chained_flow, frames, queries, settings, method=flow),
        )
    for block in filter(None, (settings.backbone.block, settings.backbone.placing_block)):
        baseline(
            f"raw DINOv2, block {block}",
            partial(baselines.track_raw_dino, frames, queries, settings, block=block),
        )
    return methods


def _offline(
    clip: LabelledClip,
    settings: Settings,
    make_tracker: Callable[[Settings], TimedTracker],
    progress: Progress,
) -> _Output:
    tracker = make_tracker(settings)
    started = time.monotonic()
    tracks = track_frames(clip.frames, clip.truth.queries, settings, progress, tracker)
    return _Output(tracks, time.monotonic() - started, tracker.stage_seconds, {})


def _replayed(clip: LabelledClip, plan: Plan, progress: Progress) -> _Output:
    assert plan.rate is not None
    assert plan.folder is not None
    base = _values(preset(plan.preset))
    changed = {
        name: str(value) for name, value in _values(plan.settings).items() if value != base[name]
    }
    folder = plan.folder / "replays" / result_folder(plan.folder, clip.name).name
    make_folder(folder)
    run = replay_clip(
        clip.frames, clip.truth.queries, changed, plan.preset, plan.rate, folder / "tracks",
        folder / "node.log", progress, plan.params_file,
    )  # fmt: skip
    tracks, _ = tracks_of_queries(run.tracks, clip.truth.queries, _stamps(clip))
    return _Output(tracks, run.seconds, run.stages, run.measures)


def _recorded(clip: LabelledClip, path: Path, progress: Progress) -> _Output:
    tracks = load_tracks(path) if path.suffix == ".npz" else _tracks_in_bag(path)
    stamps = _stamps(clip)
    strange = ~np.isin(tracks.stamps, stamps)
    if strange.any():
        raise TrackerError(
            f"{strange.sum()} of {len(strange)} stamps in '{path}' are not of the frames in "
            f"'{clip.name}': give the tracks of this very recording"
        )
    tracks, found = tracks_of_queries(tracks, clip.truth.queries, stamps)
    if not found.any():
        raise TrackerError(
            f"no track in '{path}' was asked for where a known one of '{clip.name}' is: ask for "
            f"the {len(found)} known points"
        )
    return _Output(tracks, 0.0, {}, {"tracks_missing": float((~found).sum())})


def _tracks_in_bag(path: Path) -> Tracks:
    """What a node published; known tracks that were played to it may have been recorded too."""
    with BagReader(path) as reader:
        topics = [topic.name for topic in reader.topics if topic.type == TRACK_ARRAY]
    published = [topic for topic in topics if topic != TRUTH_TOPIC]
    return read_track_bag(path, published[0] if len(published) == 1 else "")[0]


def _stamps(clip: LabelledClip) -> NDArray[np.int64]:
    return np.array([frame.stamp for frame in clip.frames], np.int64)


def _use_share(slot: int, threads: int, gpus: int) -> None:
    """Gives a process its threads, and one of several GPUs."""
    use_threads(threads)
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]


def _gpus(settings: Settings) -> int:
    """GPUs among which jobs are divided."""
    if settings.device not in ("auto", "cuda"):
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _values(settings: Settings) -> dict[str, object]:
    return {info.name: info.value for info in describe(settings)}


def _silent(stage: str, done: int, total: int) -> None:
    pass
