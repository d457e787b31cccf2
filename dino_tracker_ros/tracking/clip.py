"""Frames with stamps, the size the tracker works at, and the map back to input pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.errors import FrameError


@dataclass(frozen=True)
class Frame:
    """One picture of the clip.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        stamp: when it was taken, nanoseconds; strictly increasing within a clip.
        mask: bool [H, W], true on the foreground; None where unknown.

    Raises:
        FrameError: the image or the mask has another type or shape.
    """

    image: NDArray[np.uint8]
    stamp: int
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shape = getattr(self.image, "shape", None)
        dtype = getattr(self.image, "dtype", None)
        if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3:
            raise FrameError(f"image is {dtype} {shape}: give uint8 [height, width, 3] in RGB")
        if min(shape[:2]) < 1:
            raise FrameError(f"image has size {shape[1]}x{shape[0]}: give at least one pixel")
        if self.mask is not None and (
            self.mask.dtype != np.bool_ or self.mask.shape != shape[:2]
        ):
            raise FrameError(
                f"mask is {self.mask.dtype} {self.mask.shape}: give bool {tuple(shape[:2])}"
            )


@dataclass(frozen=True)
class WorkingSize:
    """The size the tracker works at and its affine map to the input, both with pixel centres
    at integers. The aspect is kept to the nearest pixel (the published code stretches)."""

    input_width: int
    input_height: int
    width: int
    height: int

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H, W, 3] of the input size to [height, width, 3]."""
        if (self.width, self.height) == (self.input_width, self.input_height):
            return image
        shrinks = self.width < self.input_width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (self.width, self.height), interpolation=how)  # type: ignore[return-value]

    def resize_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [H, W] of the input size to bool [height, width], nearest pixel."""
        size = (self.width, self.height)
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0

    def to_working(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(x, y) [..., 2] from input pixels to working pixels."""
        return ((points + 0.5) * self._scale - 0.5).astype(np.float32)

    def to_input(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(x, y) [..., 2] from working pixels to input pixels."""
        return ((points + 0.5) / self._scale - 0.5).astype(np.float32)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.width / self.input_width, self.height / self.input_height])


def working_size(width: int, height: int, longest_side: int) -> WorkingSize:
    """The working size of an input of width x height pixels.

    Args:
        width, height: input size, px.
        longest_side: a longer input is shrunk to it, px, a smaller one is never enlarged; 0 keeps
            the input size.
    """
    scale = min(1.0, longest_side / max(width, height)) if longest_side else 1.0
    return WorkingSize(
        input_width=width,
        input_height=height,
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
    )
