"""Gray pictures of a clip, each half as large as the one before."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.pixels import gray

COARSEST = 2
"""Pyramid levels above the full picture: each doubles how far a patch is caught."""
OCTAVES = 2
"""How many times the patch may be doubled or halved in size."""


@dataclass(frozen=True)
class Pyramid:
    """Gray pictures of T frames.

    Attributes:
        levels: [T, h, w] each, finest first; pixel k of a level lies on pixel 2k of the one before.
        scale: [2], (x, y) px of the finest level for a working px.
        noise: [L, T], standard deviation of the noise on each level, gray values; 0 where nothing
            is known of it, see `with_noise`.
    """

    levels: list[Tensor]
    scale: Tensor
    noise: Tensor

    def to_picture(self, points: Tensor) -> Tensor:
        """(x, y) [..., 2] from working px to px of the finest level."""
        return (points + 0.5) * self.scale - 0.5

    def to_working(self, points: Tensor) -> Tensor:
        """(x, y) [..., 2] from px of the finest level to working px."""
        return (points + 0.5) / self.scale - 0.5


def build_pyramid(images: Tensor, longest_side: int) -> Pyramid:
    """The pyramid of uint8 images [T, 3, H, W], shrunk to `longest_side` px where larger."""
    picture = gray(images)
    height, width = picture.shape[-2:]
    shrink = min(1.0, longest_side / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if size != (height, width):
        picture = F.interpolate(picture, size, mode="bilinear", antialias=True)
    levels = [picture[:, 0]]
    for _ in range(COARSEST + OCTAVES):
        levels.append(_halved(levels[-1]))
    scale = picture.new_tensor([size[1] / width, size[0] / height])
    return Pyramid(levels, scale, picture.new_zeros(len(levels), len(picture)))


def _halved(pictures: Tensor) -> Tensor:
    """[T, h, w] behind a binomial low-pass; pixel k of the result lies on pixel 2k."""
    # Sums of slices: on a CPU a convolution of one channel takes ten times as long.
    wide = F.pad(pictures[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    wide = _every_second(wide.transpose(1, 2)).transpose(1, 2)
    return _every_second(wide)


def _every_second(lines: Tensor) -> Tensor:
    """[T, n + 4, m], the weighted mean of every second one of n lines and two to each side."""
    first, second, middle, fourth, fifth = (
        lines[:, k : lines.shape[1] - 4 + k : 2] for k in range(5)
    )
    return (first + fifth) / 16 + (second + fourth) / 4 + middle * (3 / 8)
