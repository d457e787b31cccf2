"""Every method on every input: here, in several processes, or on a Ray cluster."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

import cv2
import torch

from dino_tracker_ros.evaluation.inputs import Input, load_input
from dino_tracker_ros.evaluation.methods import TimedTracker, methods_of
from dino_tracker_ros.evaluation.offline import Progress
from dino_tracker_ros.evaluation.parallel import CORES, Lost, run_in_processes
from dino_tracker_ros.evaluation.plan import PLAN, Plan, values_of
from dino_tracker_ros.evaluation.ray_pool import run_on_ray
from dino_tracker_ros.evaluation.report.results import ClipResult, Failure, MethodResult
from dino_tracker_ros.evaluation.report.run_information import run_information
from dino_tracker_ros.evaluation.report.strips import clip_pictures
from dino_tracker_ros.evaluation.scores import count
from dino_tracker_ros.evaluation.truths.ground_truth import LabelledClip
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracker import DinoTracker


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
    for name, method in methods_of(clip, plan, make_tracker):

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
        settings=values_of(plan.settings) if plan.computes else {},
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


def _silent(stage: str, done: int, total: int) -> None:
    pass
