"""DinoTracker: the one door to the tracker. Frames in, tracks out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dino_tracker_ros.tracking.backbone import load_backbone
from dino_tracker_ros.tracking.clip import Frame, WorkingSize, working_size
from dino_tracker_ros.tracking.clip_data import clip_data
from dino_tracker_ros.tracking.device import find_device, find_precision
from dino_tracker_ros.tracking.errors import ClipError, FrameError, QueryError
from dino_tracker_ros.tracking.feature_frames import feature_frames
from dino_tracker_ros.tracking.flow import load_flow
from dino_tracker_ros.tracking.inference import RefinedClip, refine_clip, track
from dino_tracker_ros.tracking.keyframes import Recollection, deformation, no_flow
from dino_tracker_ros.tracking.memory import return_reserve
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.observer import Observed, Observer, pictures_of
from dino_tracker_ros.tracking.optimizer import (
    FitProgress,
    FitReport,
    optimize,
    pairs_at_once,
)
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.stopwatch import Stopwatch
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.trajectories import FlowPair
from dino_tracker_ros.tracking.weights import WeightsCache


class DinoTracker:
    """Tracks points through the frames it has observed.

    Frames are observed one by one, the model is fitted to them, and any number of query points
    is tracked. `forget` slides the clip on; the fit is kept and refined by the next `fit`.

    Args:
        settings: the whole tree; see `settings.preset`.
        cache: where weights are kept; None takes the user's cache.
        stopwatch: counts the seconds of its stages; None takes a new one.

    Raises:
        DeviceError: the device is not there.
        WeightsError: weights cannot be had.
        SettingError: the model has no such block or stride.
    """

    def __init__(
        self,
        settings: Settings,
        cache: WeightsCache | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.settings = settings
        self.device = find_device(settings.device)
        precision = find_precision(settings.precision, self.device)
        # Gradients underflow in float16; the frozen networks do not mind.
        self._fit_precision = torch.float32 if precision == torch.float16 else precision
        cache = WeightsCache() if cache is None else cache
        backbone = load_backbone(
            settings.backbone.model,
            cache=cache,
            weights=settings.backbone.weights,
            blocks=_blocks(settings),
            stride=settings.backbone.stride,
            final_norm=settings.backbone.final_norm,
            precision=precision,
            device=self.device,
        )
        flow = load_flow(
            settings.flow.method,
            cache=cache,
            weights=settings.flow.weights,
            updates=settings.flow.updates,
            precision=precision,
            device=self.device,
        )
        self._channels = backbone.channels
        self._stopwatch = Stopwatch(self.device) if stopwatch is None else stopwatch
        self._observer = Observer(backbone, flow, settings, self.device, self._stopwatch)
        self.reset()

    def reset(self) -> None:
        """Drops all frames and what the model has learnt."""
        self._keyframes: list[Observed] = []
        self._frames: list[Observed] = []
        self._recollection = Recollection()
        self._size: WorkingSize | None = None
        self._observed = 0  # frames since then
        self._model = TrackerModel(self._channels, self.settings, self._fit_precision)
        self._model.to(self.device).eval()
        self._fitted = False
        self._refined: RefinedClip | None = None

    @property
    def frame_count(self) -> int:
        """Frames the clip holds now."""
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input frames, px; None before the first."""
        return None if self._size is None else (self._size.input_height, self._size.input_width)

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage since the tracker was made."""
        return dict(self._stopwatch.seconds)

    def observe(self, frame: Frame) -> None:
        """Adds a frame to the clip: flow from and to the frame before, and its features, if the
        backbone looks at it (`backbone.every`).

        Raises:
            FrameError: its size differs from the clip's, or its stamp is not later than the last.
        """
        height, width = frame.image.shape[:2]
        size = self._size or working_size(width, height, self.settings.clip.longest_side)
        if (width, height) != (size.input_width, size.input_height):
            raise FrameError(
                f"frame is {width}x{height}, the clip is {size.input_width}x{size.input_height}: "
                "reset the tracker, or send frames of one size"
            )
        if self._frames and frame.stamp <= self._frames[-1].stamp:
            raise FrameError(
                f"frame's stamp is {frame.stamp} ns, the clip's last is "
                f"{self._frames[-1].stamp} ns: send frames in order, or reset the tracker"
            )
        before = self._frames[-1] if self._frames else None
        looked_at = self._observed % self._every() == 0
        self._frames.append(self._observer.observe(frame, size, before, self._model, looked_at))
        self._size = size
        self._observed += 1
        self._refined = None

    def _every(self) -> int:
        """From one frame that the backbone looks at to the next."""
        settings = self.settings
        needs_all = not settings.hypotheses.enabled or settings.inference.occlusion == "anchors"
        return 1 if needs_all else settings.backbone.every

    def _look_at(self, wanted: Collection[int]) -> None:
        """Has the backbone look at frames, numbered as in `_held`, that it passed over."""
        before = len(self._keyframes)
        for k in wanted:
            frames, index = (self._keyframes, k) if k < before else (self._frames, k - before)
            if frames[index].features is None:
                frames[index] = self._observer.look(frames[index])
                self._refined = None

    @property
    def keyframes(self) -> tuple[int, ...]:
        """Stamps of the frames that were kept, ns, oldest first: those of the queries' frames
        -K..-1."""
        return tuple(frame.stamp for frame in self._keyframes)

    def forget(self, frames: int, keep: Collection[int] = ()) -> None:
        """Drops the oldest frames; what the model has learnt is kept.

        Args:
            frames: how many.
            keep: stamps of those, and of keyframes, that stay as keyframes, ns: points may still
                be asked for on them. The other keyframes are dropped.

        Raises:
            ClipError: the clip holds fewer.
        """
        if not 0 <= frames <= len(self._frames):
            raise ClipError(f"cannot forget {frames} frames: the clip holds {len(self._frames)}")
        gone = {frame.stamp: frame for frame in (*self._keyframes, *self._frames[:frames])}
        self._keyframes = [
            replace(gone[stamp], encoded=None, gray=None, flow_from_previous=None, layer=None)
            for stamp in sorted(gone.keys() & set(keep))
        ]
        del self._frames[:frames]
        self._recollection.turn_over()
        self._refined = None

    def fit(
        self,
        progress: Callable[[FitProgress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> FitReport:
        """Optimizes the model on the clip, from the previous fit if there is one.

        Args:
            progress: told every few iterations.
            cancelled: asked before every iteration; true ends the fit, keeping what was learnt.

        Raises:
            ClipError: fewer than two frames.
            OptimizationError: it diverged; the model is as it was before.
        """
        if len(self._frames) < 2:
            raise ClipError(
                f"the clip holds {len(self._frames)} frames: observe at least 2 before fitting"
            )
        options = self.settings.optimizer
        iterations = options.warm_iterations if self._fitted else options.iterations
        if sum(frame.features is not None for frame in self._frames) < 2:
            self._look_at(range(len(self._keyframes), len(self._held())))
        with self._stopwatch.stage("flow"):
            flows = self._flows()  # which may still be under way
        data = clip_data(
            self._frames,
            self._observer.grid(self._working_size()),
            flows,
            self._observer.flow_both_ways,
            max(1, iterations) * pairs_at_once(self.settings),
            self.settings,
            self._stopwatch,
        )
        self._refined = None
        with self._stopwatch.stage("fit"):
            report = optimize(self._model, data, self.settings, iterations, progress, cancelled)
            return_reserve()  # a recording's memory is of no use to tracks
        self._fitted = True
        return report

    def track(self, queries: NDArray[np.float32]) -> Tracks:
        """Tracks query points through every frame of the clip, forward and backward.

        Args:
            queries: [N, 3], (t, x, y): frame index in the clip and position in input px.

        Raises:
            ClipError: the clip is empty.
            QueryError: a query's frame is not in the clip, or its point not in the image.
        """
        if self._size is None or not self._frames:
            raise ClipError("the clip is empty: observe frames before tracking")
        size = self._size
        queries = self._checked(queries, size)
        if len(queries) == 0:
            return self._no_tracks(queries, size)
        with self._stopwatch.stage("flow"):
            self._flows()
        before = len(self._keyframes)
        asked_on = {before + int(t) for t in queries[:, 0]}
        self._look_at(asked_on if self._every() > 1 else range(len(self._held())))
        working = queries.copy()
        working[:, 0] += before
        working[:, 1:] = size.to_working(queries[:, 1:])
        deformed = None
        with self._stopwatch.stage("track"):
            stamps = [frame.stamp for frame in self._held()]
            keys = [(stamps[int(t)], float(x), float(y)) for t, x, y in working]
            result = track(
                self._refined_clip(),
                torch.from_numpy(working).to(self.device),
                self.settings,
                self._recollection.recall(keys, stamps, before),
            )
            if result.remembered is not None:
                self._recollection.note(keys, stamps, result.remembered)
                deformed = deformation(result.remembered.course)[:, before:].cpu().numpy()
            points = size.to_input(result.points.cpu().numpy())
        points[np.arange(len(queries)), working[:, 0].astype(int)] = queries[:, 1:]
        return Tracks(
            queries=queries,
            points=points[:, before:],
            occluded=result.occluded[:, before:].cpu().numpy(),
            confidence=result.confidence[:, before:].cpu().numpy(),
            stamps=self._stamps(),
            width=size.input_width,
            height=size.input_height,
            deformed=deformed,
        )

    def _held(self) -> list[Observed]:
        """The keyframes and the clip's frames."""
        return [*self._keyframes, *self._frames]

    def _checked(self, queries: NDArray[np.float32], size: WorkingSize) -> NDArray[np.float32]:
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != 3:
            raise QueryError(f"queries have shape {queries.shape}: give [N, 3], (t, x, y)")
        t, x, y = queries.T
        first = -len(self._keyframes)
        in_clip = (t >= first) & (t < len(self._frames)) & (t == np.floor(t))
        in_image = (
            (x >= -0.5) & (x <= size.input_width - 0.5)
            & (y >= -0.5) & (y <= size.input_height - 0.5)
        )  # fmt: skip
        for n in np.flatnonzero(~(in_clip & in_image))[:1]:
            raise QueryError(
                f"query {n} is (t={t[n]:g}, x={x[n]:g}, y={y[n]:g}): give a frame in "
                f"{first}..{len(self._frames) - 1} and a point inside the "
                f"{size.input_width}x{size.input_height} image"
            )
        return queries

    def _no_tracks(self, queries: NDArray[np.float32], size: WorkingSize) -> Tracks:
        shape = (0, len(self._frames))
        return Tracks(
            queries=queries,
            points=np.zeros((*shape, 2), np.float32),
            occluded=np.zeros(shape, bool),
            confidence=np.zeros(shape, np.float32),
            stamps=self._stamps(),
            width=size.input_width,
            height=size.input_height,
        )

    def _stamps(self) -> NDArray[np.int64]:
        return np.array([frame.stamp for frame in self._frames], np.int64)

    def _refined_clip(self) -> RefinedClip:
        if self._refined is None:
            held, size = self._held(), self._working_size()
            gap = no_flow(size.height, size.width, self.device)
            seen = [frame for frame in held if frame.features is not None]
            told = [frame.features for frame in seen if frame.features is not None]
            placing = [each.placing for each in told if each.placing is not None]
            self._refined = refine_clip(
                self._model,
                torch.stack([frame.image for frame in held]),
                feature_frames([frame.features is not None for frame in held], self.device),
                pictures_of(seen),
                torch.stack([each.finding for each in told]),
                self._observer.grid(size),
                [*[gap] * len(self._keyframes), *self._flows()],
                torch.stack(placing) if placing else None,
                self._observer.placing_grid(size),
                self.settings,
            )
        return self._refined

    def _flows(self) -> list[FlowPair]:
        """Flow between neighbouring frames, T-1 pairs."""
        pairs = [frame.flow_from_previous for frame in self._frames[1:]]
        return [pair.result() for pair in pairs if pair is not None]

    def _working_size(self) -> WorkingSize:
        if self._size is None:
            raise ClipError("the clip is empty: observe frames first")
        return self._size


def _blocks(settings: Settings) -> tuple[int, ...]:
    chosen = settings.backbone
    if settings.hypotheses.enabled and chosen.placing_block:
        return (chosen.block, chosen.placing_block)
    return (chosen.block,)
