"""Optical flow between two frames, behind one interface whatever the method.

Each frame is encoded once; flow is then computed between any two encoded frames, so that forward,
backward and long-range flow share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dino_tracker_ros.tracking.dis import DIS_PRESETS, Dis
from dino_tracker_ros.tracking.errors import SettingError
from dino_tracker_ros.tracking.raft import RAFT_METHODS, load_raft
from dino_tracker_ros.tracking.weights import WeightsCache

Encoded = TypeVar("Encoded")


class FlowEstimator(Protocol[Encoded]):
    """Computes where the pixels of one frame are in another."""

    def encode(self, images: Tensor) -> list[Encoded]:
        """What the estimator needs to know of each frame.

        Args:
            images: RGB [T, 3, H, W], uint8 in 0..255 or float in 0..1, all of one size.

        Returns:
            One for each frame.

        Raises:
            FrameError: the images have another shape or type.
        """
        ...

    def flow(self, sources: Sequence[Encoded], targets: Sequence[Encoded]) -> Tensor:
        """Flow from each source to the target beside it.

        Returns:
            float32 [B, 2, H, W], (x, y) px: pixel p of source b is at p + flow[b, :, p] in
            target b. RAFT's is on its device, DIS' in main memory.
        """
        ...


def load_flow(
    method: str,
    *,
    cache: WeightsCache,
    weights: str = "",
    updates: int = 12,
    precision: torch.dtype = torch.float32,
    device: torch.device,
) -> FlowEstimator[Any]:
    """The flow estimator of this name.

    Args:
        method: raft_large, raft_large_skht (the same network, trained on more data), raft_small or
            dis; dis may name its preset (dis_ultrafast, dis_fast,
            dis_medium; dis alone is dis_medium).
        cache: where RAFT's weights are kept.
        weights: a RAFT checkpoint to take instead, torchvision's or the original's.
        updates: RAFT's recurrent updates.
        precision: of RAFT's convolutions.
        device: where RAFT runs.

    Raises:
        SettingError: no such method.
        WeightsError: the weights cannot be had.
    """
    if method in RAFT_METHODS:
        return load_raft(
            method, cache.path(method, weights), updates=updates, precision=precision, device=device
        )
    if method == "dis":
        method = "dis_medium"
    if method in DIS_PRESETS:
        return Dis(method)
    known = ", ".join([*RAFT_METHODS, "dis", *DIS_PRESETS])
    raise SettingError(f"flow.method is {method!r}: give one of {known}")
