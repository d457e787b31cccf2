"""Delta-DINO: the small network that learns what frozen features lack for this very video.

Tumanyan et al. 2024, sec. 3.1. A CNN on the RGB picture whose output, zero at the start, is
added to DINO's features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dino_tracker_ros.tracking.settings import DeltaDinoSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

FINAL_GAMMA = 0.05
"""First scale of the last batch normalisation, as published: the residual grows slowly."""


class _Replicated(torch.autograd.Function):
    """Replication padding whose gradient is summed in one order: PyTorch's own way to that on a
    GPU sorts all pixels, which takes a third of an iteration."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        ctx.padding = padding
        return torch.ops.aten.replication_pad2d(x, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        left, right, top, bottom = ctx.padding
        return _folded(_folded(gradient, top, bottom, 2), left, right, 3), None


def _folded(gradient: Tensor, before: int, after: int, dim: int) -> Tensor:
    """The gradient of what was repeated along `dim` added to its source."""
    size = gradient.shape[dim] - before - after
    inner = gradient.narrow(dim, before, size).clone(memory_format=torch.preserve_format)
    inner.narrow(dim, 0, 1).add_(gradient.narrow(dim, 0, before).sum(dim, keepdim=True))
    inner.narrow(dim, size - 1, 1).add_(
        gradient.narrow(dim, before + size, after).sum(dim, keepdim=True)
    )
    return inner


def _replicated(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """[B, C, H, W] with its border repeated: left, right, top, bottom px."""
    return _Replicated.apply(x, padding)


class BlurPool(nn.Module):
    """Halves a feature map behind a [1, 3, 3, 1]/8 low-pass, so that it does not alias.

    Output k lies on input coordinate 2k + 0.5: the even kernel has no centre pixel.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = (taps[:, None] * taps[None, :]).expand(channels, 1, 4, 4).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, ceil(H/2), ceil(W/2)]."""
        height, width = x.shape[-2:]
        right, bottom = 1 + width % 2, 1 + height % 2
        padded = _replicated(x, (1, right, 1, bottom))
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu":
                # Its way back in half precision takes a CPU four times as long.
                padded = padded.float()
            kernel = self.kernel.to(padded.dtype)
            return F.conv2d(padded, kernel, stride=2, groups=x.shape[1])


class ReflectedConv2d(nn.Conv2d):
    """A convolution that keeps the size behind a reflected border, at any size."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        border = self.dilation[0] * (self.kernel_size[0] // 2)
        # A reflection needs more pixels than it mirrors; tiny pictures have fewer.
        mode = "reflect" if min(x.shape[-2:]) > border else "replicate"
        padded = F.pad(x, (border,) * 4, mode=mode)
        return F.conv2d(padded, self.weight, self.bias, dilation=self.dilation)


class DeltaDino(nn.Module):
    """The residual network.

    Args:
        channels: of the features it is added to.
        settings: width, kernel and downscale; the published network is 64, 5 and 1.
    """

    STRIDE = 8
    OFFSET = 3.5
    """Where output 0 lies in the picture it sees, px: three blurs shift 0.5, 1 and 2 px."""

    def __init__(self, channels: int, settings: DeltaDinoSettings) -> None:
        super().__init__()
        self.downscale = settings.downscale
        width, kernel = settings.width, settings.kernel
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (width, 2 * width, 4 * width):
            layers += [
                ReflectedConv2d(inputs, outputs, kernel),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                BlurPool(outputs),
            ]
            inputs = outputs
        last = ReflectedConv2d(inputs, channels, kernel, dilation=2)
        normalization = nn.BatchNorm2d(channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        nn.init.constant_(normalization.weight, FINAL_GAMMA)
        self.layers = nn.Sequential(*layers, last, normalization)

    def shrunk(self, images: Tensor) -> Tensor:
        """Float images [B, 3, H, W] at the size the network works at."""
        if self.downscale == 1:
            return images
        height, width = images.shape[-2:]
        size = (-(-height // self.downscale), -(-width // self.downscale))
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def forward(self, pictures: Tensor, grid: TokenGrid) -> Tensor:
        """The residual at every token.

        Args:
            pictures: float [B, 3, H', W'], ImageNet-normalised, not padded, see `shrunk`.
            grid: where the tokens lie, in px of the images before they were shrunk.

        Returns:
            [B, channels, grid.rows, grid.cols].
        """
        return _resample(self.layers(pictures), pictures.shape[-2:], grid)


def _resample(maps: Tensor, seen: torch.Size, grid: TokenGrid) -> Tensor:
    """Bilinear values of the CNN's maps [B, C, h, w] at the token centres, float32."""
    down, across = (
        _interpolation(positions, cells)
        for positions, cells in zip(_positions(maps, seen, grid), maps.shape[-2:], strict=True)
    )
    with torch.autocast(maps.device.type, enabled=False):
        # Channels last, as the CNN has them. Two products are many times faster than sampling,
        # and their gradients are summed in one order on every device.
        values = across @ maps.float().permute(0, 2, 3, 1)  # [B, h, cols, C]
        values = (down @ values.flatten(2)).unflatten(2, (grid.cols, -1))
    return values.permute(0, 3, 1, 2)


def _positions(maps: Tensor, seen: torch.Size, grid: TokenGrid) -> Iterator[Tensor]:
    """The rows [grid.rows] and columns [grid.cols] of the CNN's maps that tokens lie on."""
    for count, seen_side, side in zip(
        (grid.rows, grid.cols), seen, (grid.height, grid.width), strict=True
    ):
        nodes = torch.arange(count, device=maps.device, dtype=torch.float32)
        pixels = grid.to_pixels(torch.stack([nodes, nodes], dim=-1))[:, 0]
        pixels = (pixels + 0.5) * (seen_side / side) - 0.5
        yield (pixels - DeltaDino.OFFSET) / DeltaDino.STRIDE


def _interpolation(positions: Tensor, cells: int) -> Tensor:
    """Weights [n, cells] that read `cells` values at positions [n], linear between them, the
    border's beyond."""
    nodes = torch.arange(cells, device=positions.device, dtype=positions.dtype)
    apart = positions.clamp(0, cells - 1)[:, None] - nodes
    return (1 - apart.abs()).clamp(min=0)
