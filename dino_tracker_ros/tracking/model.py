"""What is optimized: Delta-DINO and the tracker head, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dino_tracker_ros.tracking.delta_dino import DeltaDino
from dino_tracker_ros.tracking.head import TrackerHead
from dino_tracker_ros.tracking.pixels import imagenet_normalized, unit_range
from dino_tracker_ros.tracking.precision import mixed
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.token_grid import TokenGrid


class TrackerModel(nn.Module):
    """Delta-DINO and the head.

    Args:
        channels: of the frozen features.
        settings: of the whole tracker; `optimizer.seed` makes the first weights repeatable.
        precision: arithmetic of Delta-DINO's convolutions, and of tracks' search for a best match.
    """

    def __init__(self, channels: int, settings: Settings, precision: torch.dtype) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.optimizer.seed)
            self.delta_dino = DeltaDino(channels, settings.delta_dino)
            self.head = TrackerHead(settings.head)
        self.delta_dino.to(memory_format=torch.channels_last)
        self.precision = precision

    def pictures(self, images: Tensor) -> Tensor:
        """What Delta-DINO sees of uint8 images [T, 3, H, W]: once a frame, not in every iteration.

        Returns:
            float32 [T, 3, ceil(H / downscale), ceil(W / downscale)], ImageNet-normalised.
        """
        seen = self.delta_dino.shrunk(imagenet_normalized(unit_range(images)))
        return seen.contiguous(memory_format=torch.channels_last)

    def refine(
        self, pictures: Tensor, raw: Tensor, grid: TokenGrid, share: float = 1.0
    ) -> Tensor:
        """Frozen features plus their learned residual.

        Args:
            pictures: of B frames, see `pictures`.
            raw: [B, C, rows, cols].
            share: of the residual that is added.

        Returns:
            float32 [B, C, rows * cols].
        """
        with mixed(pictures.device, self.precision):
            residual = self.delta_dino(pictures, grid)
        return torch.add(raw.float(), residual.float(), alpha=share).flatten(2)
