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

from dino_tracker_ros.tracking.constants import constant


@dataclass(frozen=True)
class TokenGrid:
    """The geometry of one image size, patch and stride.

    Attributes:
        height, width: image size, px. All positions are px of this image.
        patch: side of a token's patch, px of the picture that the backbone saw.
        stride: distance between neighbouring tokens, px of that picture.
        scale: how many times larger than the image that picture was.
    """

    height: int
    width: int
    patch: int = 14
    stride: int = 14
    scale: float = 1.0

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the picture that the backbone saw, px."""
        return max(1, round(self.height * self.scale)), max(1, round(self.width * self.scale))

    @property
    def spacing(self) -> float:
        """Distance between neighbouring tokens, px of the image."""
        return self.stride / self.scale

    @property
    def rows(self) -> int:
        """Tokens from top to bottom, at least 2 where height > 1."""
        return self._count(self.picture_size[0])

    @property
    def cols(self) -> int:
        """Tokens from left to right, at least 2 where width > 1."""
        return self._count(self.picture_size[1])

    @property
    def offset(self) -> float:
        """x and y of the first token's centre in the picture, px: -0.5 for an even patch, 0 for an
        odd one."""
        return (self.patch - 1) / 2 - self.patch // 2

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) of the padded image, px."""
        return (
            (self.rows - 1) * self.stride + self.patch,
            (self.cols - 1) * self.stride + self.patch,
        )

    def pad(self, images: Tensor) -> Tensor:
        """Continue pictures past their border, mirrored where they are large enough.

        Args:
            images: float [T, C, *picture_size].

        Returns:
            float [T, C, *padded_size].
        """
        height, width = self.padded_size
        seen_height, seen_width = self.picture_size
        before = self.patch // 2
        images = _pad_axis(images, before, width - seen_width - before, horizontal=True)
        return _pad_axis(images, before, height - seen_height - before, horizontal=False)

    def to_grid(self, points: Tensor) -> Tensor:
        """Pixel positions (x, y) [..., 2] to grid positions (column, row) [..., 2]."""
        (x, y), (x0, y0) = self._steps, self._first_pixel
        return torch.addcmul(constant((x0, y0), points), points, constant((x, y), points))

    def to_pixels(self, nodes: Tensor) -> Tensor:
        """Grid positions (column, row) [..., 2] to pixel positions (x, y) [..., 2]."""
        (x, y), (x0, y0) = self._steps, self._first_pixel
        return torch.addcmul(
            constant((-x0 / x, -y0 / y), nodes), nodes, constant((1 / x, 1 / y), nodes)
        )

    @property
    def _steps(self) -> tuple[float, float]:
        """(x, y) steps of the grid in a px of the image: the scale is rounded to whole pictures."""
        height, width = self.picture_size
        return width / self.width / self.stride, height / self.height / self.stride

    @property
    def _first_pixel(self) -> tuple[float, float]:
        """Grid position (column, row) of pixel 0."""
        x, y = (0.5 * step - (0.5 + self.offset) / self.stride for step in self._steps)
        return x, y

    def nearest(self, points: Tensor) -> Tensor:
        """The token nearest to each pixel position (x, y) [..., 2], row * cols + column, int64."""
        node = self.to_grid(points).round().long()
        row, column = node[..., 1].clamp(0, self.rows - 1), node[..., 0].clamp(0, self.cols - 1)
        return row * self.cols + column

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
