"""The paper's pipeline, timed in pieces and extrapolated: whole, it takes hours.

Tumanyan et al. 2024: direct flow between all frames, best buddies of all pairs, the full-size
Delta-DINO, 10,000 iterations. It is this package's preset `paper`, on the same frames; only the
backbone is the one that the other tracker has, unless it is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Table, number
from benchmarks.runs import stages_since, warm_up
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.optimizer import REPORT_EVERY, FitProgress
from dino_tracker_ros.tracking.settings import Settings, preset, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker


@dataclass(frozen=True)
class Piece:
    """A part of the pipeline whose time grows linearly with a number of units.

    Attributes:
        done: units that were timed.
        seconds: that they took.
        needed: units of the whole job.
    """

    name: str
    unit: str
    done: int
    seconds: float
    needed: int

    @property
    def extrapolated(self) -> float:
        """Seconds of the whole job."""
        return self.seconds / self.done * self.needed


def paper_seconds(pieces: Sequence[Piece]) -> float:
    """Seconds of the whole pipeline."""
    return sum(piece.extrapolated for piece in pieces)


def paper_settings(options: Options) -> Settings:
    """The published settings, with the device, seed and backbone of the tracker at hand."""
    ours = options.settings
    same = {
        "device": ours.device,
        "optimizer.seed": ours.optimizer.seed,
        "backbone.model": ours.backbone.model,
        "backbone.weights": ours.backbone.weights,
        "backbone.block": ours.backbone.block,
    }
    return with_values(preset("paper"), {**same, **options.baseline_values})


def time_paper(
    options: Options, frames: Sequence[Frame], queries: NDArray[np.float32]
) -> list[Piece]:
    """Times the pipeline on the clip's first frames and for some iterations of both phases.

    Flow is computed and dropped pair by pair, so memory does not grow with the pairs.

    Raises:
        SettingError: no iteration of the second phase would run.
    """
    published = paper_settings(options)
    some = frames[: options.baseline_frames]
    count, whole = len(some), len(frames)
    pairs, all_pairs = count * (count - 1) // 2, whole * (whole - 1) // 2
    # The first iterations warm up.
    timed = -(-options.baseline_iterations // REPORT_EVERY) * REPORT_EVERY
    half = timed + REPORT_EVERY
    start = published.loss.self_supervised_start
    if not 0 < start < 1:
        raise SettingError(
            f"loss.self_supervised_start is {start:g} in the baseline: both phases are timed, "
            "give a value between 0 and 1"
        )
    shortened = with_values(
        published, {"optimizer.iterations": 2 * half, "loss.self_supervised_start": 0.5}
    )
    say(f"the paper's pipeline: {count} frames, {2 * half} iterations")
    tracker = DinoTracker(shortened)
    warm_up(tracker, some, queries[:1])
    earlier = tracker.stage_seconds
    for frame in some:
        tracker.observe(frame)
    times = {0: 0.0}

    def progress(step: FitProgress) -> None:
        times[step.iteration] = step.seconds
        say(f"  iteration {step.iteration}: {number(step.seconds)} s")

    tracker.fit(progress)
    tracker.track(queries)
    seconds = stages_since(tracker, earlier)
    iterations = published.optimizer.iterations
    first = round(start * iterations)
    return [
        Piece("features", "frames", count, seconds["features"], whole),
        Piece("flow between neighbours", "pairs", count - 1, seconds["flow"], whole - 1),
        Piece("direct flow", "pairs", pairs, seconds["trajectories"], all_pairs),
        Piece("best buddies", "pairs", pairs, seconds["best_buddies"], all_pairs),
        Piece("fit, first phase", "iterations", timed, times[half] - times[REPORT_EVERY], first),
        Piece(
            "fit, second phase", "iterations", half, times[2 * half] - times[half],
            iterations - first,
        ),
        Piece("tracks", "frames", count, seconds["track"], whole),
    ]  # fmt: skip


def paper_table(settings: Settings, pieces: Sequence[Piece], ours: float) -> Table:
    """What was measured, what follows for the whole, and how much longer than ours that is."""
    lines = [["the paper's pipeline", "measured", "seconds", "needed", "extrapolated, s"]]
    for piece in pieces:
        done, needed = f"{piece.done} {piece.unit}", f"{piece.needed} {piece.unit}"
        lines.append(
            [piece.name, done, number(piece.seconds), needed, number(piece.extrapolated)]
        )
    whole = paper_seconds(pieces)
    lines.append(["whole", "", "", "", number(whole)])
    lines.append(["ours", "", "", "", number(ours)])
    lines.append(["ratio", "", "", "", number(whole / ours)])
    backbone = settings.backbone
    return Table(
        "", lines,
        [
            f"same frames and machine, in this run; backbone {backbone.model}, block "
            f"{backbone.block}, stride {backbone.stride} (published: ViT-L, block 16, stride 7); "
            f"longest side {settings.clip.longest_side} px; {settings.flow.method}, "
            f"{settings.flow.updates} updates; Delta-DINO {settings.delta_dino.width} channels, "
            f"kernel {settings.delta_dino.kernel}; {settings.precision}",
            "all but the measured columns is extrapolated linearly; an iteration and the occlusion "
            "anchors take longer with more frames, so that the true time is above this one",
        ],
    )  # fmt: skip
