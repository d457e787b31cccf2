"""Where the backbone's tokens lie in the image, so that they reach every pixel of it.

Pixel centres are at integers. The image is padded until the first token's centre lies at or before
its first pixel and the last one's at or after its last pixel; the published code pads nothing and
loses the outer half patch (Tumanyan et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenGrid:
    """The geometry of one image size, patch and stride.

    Attributes:
        height, width: image size, px.
        patch: side of a token's patch, px.
        stride: distance between neighbouring tokens, px.
    """

    height: int
    width: int
    patch: int = 14
    stride: int = 14

    @property
    def rows(self) -> int:
        """Tokens from top to bottom, at least 2 where height > 1."""
        return self._count(self.height)

    @property
    def cols(self) -> int:
        """Tokens from left to right, at least 2 where width > 1."""
        return self._count(self.width)

    @property
    def offset(self) -> float:
        """x and y of the first token's centre, px: -0.5 for an even patch, 0 for an odd one."""
        return (self.patch - 1) / 2 - self.patch // 2

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) of the padded image, px."""
        return (
            (self.rows - 1) * self.stride + self.patch,
            (self.cols - 1) * self.stride + self.patch,
        )

    def pad(self, images: Tensor) -> Tensor:
        """Continue images past their border, mirrored where they are large enough.

        Args:
            images: float [T, C, height, width].

        Returns:
            float [T, C, *padded_size].
        """
        height, width = self.padded_size
        before = self.patch // 2
        images = _pad_axis(images, before, width - self.width - before, horizontal=True)
        return _pad_axis(images, before, height - self.height - before, horizontal=False)

    def to_grid(self, points: Tensor) -> Tensor:
        """Pixel positions (x, y) [..., 2] to grid positions (column, row) [..., 2]."""
        return (points - self.offset) / self.stride

    def to_pixels(self, nodes: Tensor) -> Tensor:
        """Grid positions (column, row) [..., 2] to pixel positions (x, y) [..., 2]."""
        return nodes * self.stride + self.offset

    def sample(self, features: Tensor, points: Tensor) -> Tensor:
        """Bilinear features at pixel positions; positions outside the grid take its border.

        Args:
            features: [T, C, rows, cols]; half precision is read as float32.
            points: (x, y) px, float32 [T, ..., 2]. A T of 1 on either side serves all.

        Returns:
            [T, ..., C], differentiable in both.
        """
        frames = max(len(features), len(points))
        between = points.shape[1:-1]
        # grid_sample wants one type; half precision cannot hold positions to a fraction of a pixel.
        features = features.to(points.dtype).expand(frames, -1, -1, -1)
        last = points.new_tensor([max(self.cols - 1, 1), max(self.rows - 1, 1)])
        where = 2 * self.to_grid(points) / last - 1
        where = where.reshape(len(points), 1, -1, 2).expand(frames, -1, -1, -1)
        found = F.grid_sample(features, where, padding_mode="border", align_corners=True)
        return found[:, :, 0].transpose(1, 2).reshape(frames, *between, -1)

    def centres(self, device: torch.device | str = "cpu") -> Tensor:
        """(x, y) px of every token's centre, float32 [rows, cols, 2]."""
        rows = torch.arange(self.rows, dtype=torch.float32, device=device)
        cols = torch.arange(self.cols, dtype=torch.float32, device=device)
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        return self.to_pixels(torch.stack([x, y], dim=-1))

    def _count(self, side: int) -> int:
        # The last centre, offset + (count - 1) * stride, must not lie before pixel side - 1.
        return 1 + max(0, -int((self.offset - (side - 1)) // self.stride))


def _pad_axis(images: Tensor, before: int, after: int, *, horizontal: bool) -> Tensor:
    size = images.shape[-1 if horizontal else -2]
    mode = "reflect" if max(before, after) < size else "replicate"
    padding = (before, after, 0, 0) if horizontal else (0, 0, before, after)
    return F.pad(images, padding, mode=mode)
