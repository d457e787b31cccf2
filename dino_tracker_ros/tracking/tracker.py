"""DinoTracker: the one door to the tracker. Frames in, tracks out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_tracker_ros.tracking.backbone import load_backbone
from dino_tracker_ros.tracking.best_buddies import choose_pairs, find_best_buddies
from dino_tracker_ros.tracking.clip import Frame, WorkingSize, working_size
from dino_tracker_ros.tracking.device import find_device, find_precision
from dino_tracker_ros.tracking.dis import Dis
from dino_tracker_ros.tracking.errors import ClipError, FrameError, QueryError
from dino_tracker_ros.tracking.feature_frames import feature_frames
from dino_tracker_ros.tracking.flow import load_flow
from dino_tracker_ros.tracking.inference import RefinedClip, refine_clip, track
from dino_tracker_ros.tracking.keyframes import Recollection, no_flow
from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.memory import return_reserve
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.optimizer import (
    ClipData,
    FitProgress,
    FitReport,
    optimize,
    pairs_at_once,
)
from dino_tracker_ros.tracking.saliency import salient_tokens
from dino_tracker_ros.tracking.sampling import index_by_pair
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.steadied import steadied
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.trajectories import (
    FlowPair,
    Trajectories,
    chain,
    check_direct,
    log_offsets,
    of_frames,
)
from dino_tracker_ros.tracking.weights import WeightsCache

FLOW_THREADS = 4
"""Frames whose flow a CPU computes at once, where the networks run elsewhere."""


@dataclass(frozen=True)
class _Features:
    """What the backbone says of one frame."""

    finding: Tensor  # [C, rows, cols], refined
    placing: Tensor | None  # [C', rows', cols'], of unit length, frozen


@dataclass(frozen=True)
class _Observed:
    """One frame with all that is computed once about it."""

    stamp: int
    image: Tensor  # uint8 [3, H, W], working size
    large: Tensor | None  # uint8 [3, H', W'], of which features place points, until they are known
    picture: Tensor  # what Delta-DINO sees of it
    features: _Features | None  # None where the backbone has not looked yet
    encoded: Any  # what the flow estimator needs
    mask: Tensor | None  # bool [rows * cols]
    flow_from_previous: Future[FlowPair] | None


class DinoTracker:
    """Tracks points through the frames it has observed.

    Frames are observed one by one, the model is fitted to them, and any number of query points
    is tracked. `forget` slides the clip on; the fit is kept and refined by the next `fit`.

    Args:
        settings: the whole tree; see `settings.preset`.
        cache: where weights are kept; None takes the user's cache.

    Raises:
        DeviceError: the device is not there.
        WeightsError: weights cannot be had.
        SettingError: the model has no such block or stride.
    """

    def __init__(self, settings: Settings, cache: WeightsCache | None = None) -> None:
        self.settings = settings
        self.device = find_device(settings.device)
        precision = find_precision(settings.precision, self.device)
        # Gradients underflow in float16; the frozen networks do not mind.
        self._fit_precision = torch.float32 if precision == torch.float16 else precision
        cache = WeightsCache() if cache is None else cache
        self._backbone = load_backbone(
            settings.backbone.model,
            cache=cache,
            weights=settings.backbone.weights,
            blocks=_blocks(settings),
            stride=settings.backbone.stride,
            final_norm=settings.backbone.final_norm,
            precision=precision,
            device=self.device,
        )
        self._flow = load_flow(
            settings.flow.method,
            cache=cache,
            weights=settings.flow.weights,
            updates=settings.flow.updates,
            precision=precision,
            device=self.device,
        )
        # Beside a GPU the CPU is idle.
        beside = isinstance(self._flow, Dis) and self.device.type != "cpu"
        self._flow_threads = ThreadPoolExecutor(FLOW_THREADS) if beside else None
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.reset()

    def reset(self) -> None:
        """Drops all frames and what the model has learnt."""
        self._keyframes: list[_Observed] = []
        self._frames: list[_Observed] = []
        self._recollection = Recollection()
        self._size: WorkingSize | None = None
        self._observed = 0  # frames since then
        self._model = TrackerModel(self._backbone.channels, self.settings, self._fit_precision)
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
        return dict(self._seconds)

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
        resized = np.ascontiguousarray(size.resize(frame.image).transpose(2, 0, 1))
        image = torch.from_numpy(resized).to(self.device)
        looked_at = self._observed % self._every() == 0
        with self._stage("features"):
            large = self._large(frame, size)
            features = self._features(image, large) if looked_at else None
            picture = self._model.pictures(image[None])[0]
        with self._stage("flow"):
            (encoded,) = self._flow.encode(image[None])
            before = self._frames[-1] if self._frames else None
            flow = None if before is None else self._started_flow(before, encoded, image)
        self._frames.append(
            _Observed(
                stamp=frame.stamp,
                image=image,
                large=None if looked_at else large,
                picture=picture,
                features=features,
                encoded=encoded,
                mask=self._token_mask(frame, size),
                flow_from_previous=flow,
            )
        )
        self._size = size
        self._observed += 1
        self._refined = None

    def _large(self, frame: Frame, size: WorkingSize) -> Tensor | None:
        """The picture of whose features points are placed by, where that is another."""
        if not self.settings.hypotheses.enabled:
            return None
        height, width = self._placing_grid(size).picture_size
        if (height, width) == (size.height, size.width):
            return None
        resized = replace(size, width=width, height=height).resize(frame.image)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def _features(self, image: Tensor, large: Tensor | None) -> _Features:
        maps = self._backbone.features(image[None])
        if not self.settings.hypotheses.enabled:
            return _Features(maps[0][0], None)
        placing = maps if large is None else self._backbone.features(large[None].to(self.device))
        return _Features(maps[0][0], combined(placing)[0])

    def _every(self) -> int:
        """From one frame that the backbone looks at to the next."""
        settings = self.settings
        needs_all = not settings.hypotheses.enabled or settings.inference.occlusion == "anchors"
        return 1 if needs_all else settings.backbone.every

    def _look_at(self, wanted: Collection[int]) -> None:
        """Has the backbone look at frames, numbered as in `_held`, that it passed over."""
        before = len(self._keyframes)
        with self._stage("features"):
            for k in sorted(wanted):
                frames, index = (self._keyframes, k) if k < before else (self._frames, k - before)
                if frames[index].features is None:
                    found = self._features(frames[index].image, frames[index].large)
                    frames[index] = replace(frames[index], features=found, large=None)
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
            replace(gone[stamp], encoded=None, flow_from_previous=None)
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
        with self._stage("flow"):
            self._flows()  # which may still be under way
        data = self._clip_data(iterations)
        self._refined = None
        with self._stage("fit"):
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
        with self._stage("flow"):
            self._flows()
        before = len(self._keyframes)
        asked_on = {before + int(t) for t in queries[:, 0]}
        self._look_at(asked_on if self._every() > 1 else range(len(self._held())))
        working = queries.copy()
        working[:, 0] += before
        working[:, 1:] = size.to_working(queries[:, 1:])
        with self._stage("track"):
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
        )

    def _held(self) -> list[_Observed]:
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
                self._pictures(seen),
                torch.stack([each.finding for each in told]),
                self._grid(),
                [*[gap] * len(self._keyframes), *self._flows()],
                torch.stack(placing) if placing else None,
                self._placing_grid(size),
                self.settings,
            )
        return self._refined

    def _clip_data(self, iterations: int) -> ClipData:
        """What the losses of so many iterations learn from, in one piece."""
        settings, grid = self.settings, self._grid()
        known = [t for t, frame in enumerate(self._frames) if frame.features is not None]
        frames = [self._frames[t] for t in known]
        features = torch.stack([found.features.finding for found in frames if found.features])
        units = unit_length(features, dim=1)
        with self._stage("trajectories"):
            trajectories = of_frames(self._trajectories(), known)
        with self._stage("best_buddies"):
            # No more than the iterations get to see.
            wanted = max(1, iterations) * pairs_at_once(settings)
            most = min(wanted, settings.best_buddies.pairs or wanted)
            pairs = choose_pairs(len(features), most, settings.optimizer.seed)
            searched = pairs if settings.loss.dino_best_buddies > 0 else []
            buddies = find_best_buddies(units, grid, searched, trajectories, settings.best_buddies)
            foreground = self._foreground(frames, units)
        start = trajectories.points[
            torch.arange(len(trajectories.start), device=self.device), trajectories.start
        ]
        return ClipData(
            pictures=self._pictures(frames),
            features=features,
            grid=grid,
            trajectories=trajectories,
            trajectory_foreground=foreground[trajectories.start, grid.nearest(start)],
            buddies=index_by_pair(buddies, pairs, foreground),
            foreground=foreground,
        )

    def _trajectories(self) -> Trajectories:
        options = self.settings.trajectories
        found = chain(self._flows(), options.spacing, options.loop_error)
        count = len(self._frames)
        offsets = {
            "all": list(range(1, count)),
            "log": log_offsets(count),
            "none": [],
        }[options.direct_flow]
        encoded = [frame.encoded for frame in self._frames]
        return check_direct(
            found,
            lambda s, t: self._both_ways(encoded[s], encoded[t]),
            offsets,
            options.loop_error,
            options.direct_error,
        )

    def _flows(self) -> list[FlowPair]:
        """Flow between neighbouring frames, T-1 pairs."""
        pairs = [frame.flow_from_previous for frame in self._frames[1:]]
        return [pair.result() for pair in pairs if pair is not None]

    def _foreground(self, frames: Sequence[_Observed], units: Tensor) -> Tensor:
        """bool [T, rows * cols]: the user's masks where there are any, else saliency."""
        if self.settings.foreground.source == "none":
            return torch.ones(len(units), units[0, 0].numel(), dtype=torch.bool, device=self.device)
        salient = salient_tokens(units).flatten(1)
        rows = [
            found if frame.mask is None else frame.mask
            for frame, found in zip(frames, salient, strict=True)
        ]
        return torch.stack(rows)

    def _token_mask(self, frame: Frame, size: WorkingSize) -> Tensor | None:
        if frame.mask is None:
            return None
        mask = torch.from_numpy(size.resize_mask(frame.mask))
        centres = self._backbone.grid(size.height, size.width).centres().round().long()
        x = centres[..., 0].clamp(0, size.width - 1)
        y = centres[..., 1].clamp(0, size.height - 1)
        return mask[y, x].flatten().to(self.device)

    def _started_flow(self, before: _Observed, encoded: Any, image: Tensor) -> Future[FlowPair]:
        def compute() -> FlowPair:
            flow = self._both_ways(before.encoded, encoded)
            return steadied(before.image, image, flow) if self.settings.flow.steadied else flow

        if self._flow_threads is not None:
            return self._flow_threads.submit(compute)
        done: Future[FlowPair] = Future()
        done.set_result(compute())
        return done

    def _both_ways(self, first: Any, second: Any) -> FlowPair:
        there, back = self._flow.flow([first, second], [second, first])
        return there, back

    def _grid(self) -> TokenGrid:
        size = self._working_size()
        return self._backbone.grid(size.height, size.width)

    def _placing_grid(self, size: WorkingSize) -> TokenGrid:
        grid = self._backbone.grid(size.height, size.width)
        return replace(grid, scale=self.settings.backbone.placing_scale)

    def _working_size(self) -> WorkingSize:
        if self._size is None:
            raise ClipError("the clip is empty: observe frames first")
        return self._size

    def _pictures(self, frames: Sequence[_Observed]) -> Tensor:
        pictures = torch.stack([frame.picture for frame in frames])
        return pictures.contiguous(memory_format=torch.channels_last)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self._seconds[name] += time.perf_counter() - started

    def _wait(self) -> None:
        # A GPU works behind Python's back: without waiting, the next stage would be billed.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def combined(maps: Sequence[Tensor]) -> Tensor:
    """Tokens of several blocks side by side, so that a product of two is the mean cosine.

    Args:
        maps: each [T, C, rows, cols].

    Returns:
        [T, C * len(maps), rows, cols], of unit length.
    """
    return unit_length(torch.cat([unit_length(m, dim=1) for m in maps], dim=1), dim=1)


def _blocks(settings: Settings) -> tuple[int, ...]:
    chosen = settings.backbone
    if settings.hypotheses.enabled and chosen.placing_block:
        return (chosen.block, chosen.placing_block)
    return (chosen.block,)
