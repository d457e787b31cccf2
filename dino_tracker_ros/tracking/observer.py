"""What is computed once about a frame: its features, and flow from and to the frame before."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dino_tracker_ros.tracking.backbone import Backbone
from dino_tracker_ros.tracking.clip import Frame, WorkingSize
from dino_tracker_ros.tracking.direct_motion import Picture
from dino_tracker_ros.tracking.dis import Dis
from dino_tracker_ros.tracking.flow import FlowEstimator
from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.steadied import (
    Compared,
    Dominant,
    Layer,
    compared,
    dominant,
    half_gray,
    steadied,
)
from dino_tracker_ros.tracking.stopwatch import Stopwatch
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import FlowPair

FLOW_THREADS = 4
"""Frames whose flow a CPU computes at once, where the networks run elsewhere."""


@dataclass(frozen=True)
class Features:
    """What the backbone says of one frame.

    Attributes:
        finding: [C, rows, cols], which find points; the optimization refines them.
        placing: [C', rows', cols'], of unit length, which place them; None where the same do.
    """

    finding: Tensor
    placing: Tensor | None


@dataclass(frozen=True)
class Observed:
    """One frame with all that is computed once about it.

    Attributes:
        stamp: ns.
        image: uint8 [3, H, W], working size.
        large: uint8 [3, H', W'], of whose features points are placed by, until these are known;
            None where it is the image.
        picture: what Delta-DINO sees of it.
        features: None where the backbone has not looked yet.
        encoded: what the flow estimator needs.
        gray: what tells plain places, see `steadied.half_gray`; None where nobody asks.
        mask: bool [rows * cols], the user's foreground; None where there is none.
        flow_from_previous: and back; None of a clip's first frame.
        layer: that most of both frames is of, if any; None of a clip's first frame.
    """

    stamp: int
    image: Tensor
    large: Tensor | None
    picture: Tensor
    features: Features | None
    encoded: Any
    gray: Picture | None
    mask: Tensor | None
    flow_from_previous: Future[FlowPair] | None
    layer: Future[Layer | None] | None


class Observer:
    """Looks at frames with the frozen networks.

    Args:
        backbone: of the blocks that find and place.
        flow: the estimator.
        settings: the whole tree.
        device: where results are put.
        stopwatch: counts the seconds of `features` and `flow`.
    """

    def __init__(
        self,
        backbone: Backbone,
        flow: FlowEstimator[Any],
        settings: Settings,
        device: torch.device,
        stopwatch: Stopwatch,
    ) -> None:
        self._backbone, self._flow, self._settings = backbone, flow, settings
        self._device, self._stopwatch = device, stopwatch
        # Beside a GPU the CPU is idle.
        beside = isinstance(flow, Dis) and device.type != "cpu"
        self._threads = ThreadPoolExecutor(FLOW_THREADS) if beside else None

    def observe(
        self,
        frame: Frame,
        size: WorkingSize,
        before: Observed | None,
        model: TrackerModel,
        looked_at: bool,
    ) -> Observed:
        """All that is computed once about a frame.

        Args:
            frame: of the input size that `size` tells.
            size: of the clip.
            before: the frame before; None of a clip's first.
            model: whose picture of it is kept.
            looked_at: whether the backbone looks now; see `look`.
        """
        resized = size.resize(frame.image)
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(self._device)
        with self._stopwatch.stage("features"):
            large = self._large(frame, size)
            features = self._features(image, large) if looked_at else None
            picture = model.pictures(image[None])[0]
        with self._stopwatch.stage("flow"):
            (encoded,) = self._flow.encode(image[None])
            gray = half_gray(resized) if self._settings.flow.steadied else None
            flow = layer = None
            if before is not None:
                flow, layer = self._started_flow(before, encoded, gray)
        return Observed(
            stamp=frame.stamp,
            image=image,
            large=None if looked_at else large,
            picture=picture,
            features=features,
            encoded=encoded,
            gray=gray,
            mask=self._token_mask(frame, size),
            flow_from_previous=flow,
            layer=layer,
        )

    def look(self, observed: Observed) -> Observed:
        """A frame that was passed over, with its features."""
        with self._stopwatch.stage("features"):
            features = self._features(observed.image, observed.large)
        return replace(observed, features=features, large=None)

    def flow_both_ways(self, first: Observed, second: Observed) -> FlowPair:
        """Flow straight from one frame of the clip to another, and back, as it is estimated."""
        return self._on_device(self._both_ways(first.encoded, second.encoded))

    def grid(self, size: WorkingSize) -> TokenGrid:
        """Where the tokens lie that find points."""
        return self._backbone.grid(size.height, size.width)

    def placing_grid(self, size: WorkingSize) -> TokenGrid:
        """Where the tokens lie that place points."""
        return replace(self.grid(size), scale=self._settings.backbone.placing_scale)

    def _large(self, frame: Frame, size: WorkingSize) -> Tensor | None:
        if not self._settings.hypotheses.enabled:
            return None
        height, width = self.placing_grid(size).picture_size
        if (height, width) == (size.height, size.width):
            return None
        resized = replace(size, width=width, height=height).resize(frame.image)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def _features(self, image: Tensor, large: Tensor | None) -> Features:
        maps = self._backbone.features(image[None])
        if not self._settings.hypotheses.enabled:
            return Features(maps[0][0], None)
        placing = maps if large is None else self._backbone.features(large[None].to(self._device))
        return Features(maps[0][0], combined(placing)[0])

    def _token_mask(self, frame: Frame, size: WorkingSize) -> Tensor | None:
        if frame.mask is None:
            return None
        mask = torch.from_numpy(size.resize_mask(frame.mask))
        centres = self.grid(size).centres().round().long()
        x = centres[..., 0].clamp(0, size.width - 1)
        y = centres[..., 1].clamp(0, size.height - 1)
        return mask[y, x].flatten().to(self._device)

    def _started_flow(
        self, before: Observed, encoded: Any, gray: Picture | None
    ) -> tuple[Future[FlowPair], Future[Layer | None]]:
        layer: Future[Layer | None] = Future()

        def moving() -> tuple[FlowPair, Compared | None, Dominant | None]:
            flow = self._both_ways(before.encoded, encoded)
            if before.gray is None or gray is None:
                return flow, None, None
            pair = compared(before.gray, gray, flow)
            # Only this waits for earlier frames. Threads begin with the oldest, so that none waits
            # for one not begun.
            known = None if before.layer is None else before.layer.result()
            return flow, pair, None if pair is None else dominant(pair, known)

        def compute() -> FlowPair:
            try:
                flow, pair, found = moving()
                layer.set_result(None if found is None else found.layer())
            except BaseException as error:
                layer.set_exception(error)  # the next frame waits for it
                raise
            if pair is not None and found is not None:
                flow = steadied(flow, pair, found)
            return self._on_device(flow)

        if self._threads is not None:
            return self._threads.submit(compute), layer
        done: Future[FlowPair] = Future()
        done.set_result(compute())
        return done, layer

    def _both_ways(self, first: Any, second: Any) -> FlowPair:
        there, back = self._flow.flow([first, second], [second, first])
        return there, back

    def _on_device(self, flow: FlowPair) -> FlowPair:
        return flow[0].to(self._device), flow[1].to(self._device)


def pictures_of(frames: Sequence[Observed]) -> Tensor:
    """What Delta-DINO sees of T frames, [T, 3, h, w]."""
    pictures = torch.stack([frame.picture for frame in frames])
    return pictures.contiguous(memory_format=torch.channels_last)


def combined(maps: Sequence[Tensor]) -> Tensor:
    """Tokens of several blocks side by side, so that a product of two is the mean cosine.

    Args:
        maps: each [T, C, rows, cols].

    Returns:
        [T, C * len(maps), rows, cols], of unit length.
    """
    return unit_length(torch.cat([unit_length(m, dim=1) for m in maps], dim=1), dim=1)
