"""Dense inverse search flow (Kroeger et al. 2016) through OpenCV: fast, and without weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_tracker_ros.tracking.pixels import byte_range

DIS_PRESETS: dict[str, int] = {
    "dis_ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "dis_fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "dis_medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

# Below this OpenCV finds no scale to work at.
_SMALLEST_SIDE = 64


@dataclass(frozen=True)
class GrayFrame:
    """A frame as DIS sees it.

    Attributes:
        gray: uint8, continued to the right and below where the frame is too small.
        height, width: of the frame, px.
    """

    gray: NDArray[np.uint8]
    height: int
    width: int


class Dis:
    """Flow by dense inverse search on the CPU, in any number of threads; see FlowEstimator.

    Args:
        preset: a key of DIS_PRESETS.
    """

    def __init__(self, preset: str) -> None:
        self._preset = DIS_PRESETS[preset]
        self._of_thread = threading.local()

    def encode(self, images: Tensor) -> list[GrayFrame]:
        """See FlowEstimator.encode."""
        pictures = byte_range(images).cpu().permute(0, 2, 3, 1).numpy()
        return [self._encode(np.ascontiguousarray(picture)) for picture in pictures]

    def flow(self, sources: Sequence[GrayFrame], targets: Sequence[GrayFrame]) -> Tensor:
        """See FlowEstimator.flow."""
        if not hasattr(self._of_thread, "dis"):  # it computes one flow at a time
            self._of_thread.dis = cv2.DISOpticalFlow.create(self._preset)
        flows = []
        for source, target in zip(sources, targets, strict=True):
            found = self._of_thread.dis.calc(source.gray, target.gray, None)
            flow = torch.from_numpy(found[: source.height, : source.width])
            flows.append(flow.permute(2, 0, 1))
        return torch.stack(flows)

    def _encode(self, picture: NDArray[np.uint8]) -> GrayFrame:
        height, width = picture.shape[:2]
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        below, right = max(0, _SMALLEST_SIDE - height), max(0, _SMALLEST_SIDE - width)
        gray = cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return GrayFrame(gray, height, width)  # type: ignore[arg-type]
