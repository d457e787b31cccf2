"""The tracker head: from cosines between a point and every token to a position.

Tumanyan et al. 2024, sec. 3.1. Exactly the published head, computed only where it matters: the
softmax's denominator cancels inside the disc, so the refiner runs on a window around the best
match instead of the whole map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dino_tracker_ros.tracking.settings import HeadSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

REACH = 2
"""How many tokens beyond the disc two 3x3 convolutions look."""


class CostRefiner(nn.Module):
    """Two 3x3 convolutions whose kernels are each divided by their own sum.

    Args:
        channels: hidden channels.
        initialization: `random`, as published, or `smooth`: every kernel starts as the same
            bump, so that the first position is already a sensible average.
    """

    def __init__(self, channels: int, initialization: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 1, 3, padding=1)
        if initialization == "smooth":
            bump = torch.tensor([[1.0, 4.0, 1.0], [4.0, 16.0, 4.0], [1.0, 4.0, 1.0]]) / 36
            for layer in (self.first, self.second):
                with torch.no_grad():
                    layer.weight.copy_(bump.expand_as(layer.weight))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            # Equal channels would stay equal for ever: part them a little.
            with torch.no_grad():
                self.first.weight.mul_(1 + 0.1 * torch.randn_like(self.first.weight))

    def forward(self, cost: Tensor, on_map: Tensor) -> Tensor:
        """[B, 1, k, k] to [B, 1, k, k]; `on_map` bool [B, 1, k, k] is false outside the map,
        where the convolutions read zeros as they do at the border of the whole map."""
        hidden = F.conv2d(cost * on_map, _normalized(self.first.weight), self.first.bias, padding=1)
        hidden = F.relu(hidden) * on_map
        return F.conv2d(hidden, _normalized(self.second.weight), self.second.bias, padding=1)


class TrackerHead(nn.Module):
    """Positions from cosines.

    Args:
        settings: disc and refiner.
    """

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.radius = settings.radius
        self.refiner = CostRefiner(settings.channels, settings.initialization)

    def forward(self, cosine: Tensor, grid: TokenGrid, best: Tensor | None = None) -> Tensor:
        """The expected position inside a disc around the best match.

        Args:
            cosine: [B, rows * cols], of each point with every token; below zero it counts as zero.
            grid: where the tokens lie.
            best: int64 [B], the token that each disc is around; None takes the best match.

        Returns:
            [B, 2], (x, y) working px.
        """
        best = cosine.detach().argmax(dim=1) if best is None else best
        rows, columns = best // grid.cols, best % grid.cols
        reach = math.floor(self.radius / grid.spacing) + REACH
        steps = torch.arange(-reach, reach + 1, device=cosine.device)
        y = rows[:, None, None] + steps[None, :, None]
        x = columns[:, None, None] + steps[None, None, :]
        row, column = y.clamp(0, grid.rows - 1), x.clamp(0, grid.cols - 1)
        on_map = (y == row) & (x == column)
        index = row * grid.cols + column
        window = F.relu(cosine.gather(1, index.flatten(1)).view(index.shape))

        refined = self.refiner(window[:, None], on_map[:, None])[:, 0]
        disc = (steps.square()[:, None] + steps.square()[None, :]) * grid.spacing**2
        within = on_map & (disc <= self.radius**2)
        weight = refined.masked_fill(~within, -torch.inf).flatten(1).softmax(dim=1)
        weight = weight.view(index.shape)
        offset_x = (weight.sum(dim=1) * steps).sum(dim=1)
        offset_y = (weight.sum(dim=2) * steps).sum(dim=1)
        nodes = torch.stack([columns + offset_x, rows + offset_y], dim=-1)
        return grid.to_pixels(nodes)


def _normalized(weight: Tensor) -> Tensor:
    total = weight.sum(dim=(2, 3), keepdim=True)
    return weight / total.abs().clamp(min=1e-8).copysign(total)
