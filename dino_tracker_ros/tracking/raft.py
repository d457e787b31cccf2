"""RAFT (Teed and Deng 2020) through torchvision, with each frame encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.optical_flow import RAFT, raft_large, raft_small

from dino_tracker_ros.tracking.errors import WeightsError
from dino_tracker_ros.tracking.pixels import unit_range
from dino_tracker_ros.tracking.precision import mixed, store_products_in
from dino_tracker_ros.tracking.raft_checkpoint import load_raft_checkpoint

RAFT_METHODS: dict[str, Callable[..., RAFT]] = {
    "raft_large": raft_large,
    "raft_large_skht": raft_large,
    "raft_small": raft_small,
}

_CELL = 8
"""RAFT works on cells of 8 x 8 px."""
_SMALLEST_SIDE = 128
"""Below this its correlation pyramid has an empty level, px."""


@dataclass(frozen=True)
class RaftFrame:
    """A frame as RAFT sees it: what is compared, and what the comparison starts from.

    Attributes:
        features: float32 [C, h, w] at an eighth of the padded size.
        context: float32 [C', h, w], hidden state and context together.
        height, width: of the frame, px.
    """

    features: Tensor
    context: Tensor
    height: int
    width: int


class Raft:
    """Flow by RAFT; see FlowEstimator.

    Args:
        network: torchvision's model.
        updates: recurrent updates.
        precision: of convolutions; correlation, positions and upsampling stay in float32.
        device: where it runs.
    """

    def __init__(
        self, network: RAFT, updates: int, precision: torch.dtype, device: torch.device
    ) -> None:
        self._network = network.eval().requires_grad_(False).to(device)
        self._network.to(memory_format=torch.channels_last)
        if precision != torch.float32:
            store_products_in(self._network, precision)
        self._updates = updates
        self._precision = precision
        self._device = device

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[RaftFrame]:
        """See FlowEstimator.encode."""
        height, width = images.shape[-2:]
        frames = []
        # One by one: the encoders' first layers at full size are what takes memory.
        for image in unit_range(images, self._device).split(1):
            picture = _pad(2 * image - 1).contiguous(memory_format=torch.channels_last)
            with mixed(self._device, self._precision):
                features = self._network.feature_encoder(picture).float()
                context = self._network.context_encoder(picture).float()
            frames.append(RaftFrame(features[0], context[0], height, width))
        return frames

    @torch.no_grad()
    def flow(self, sources: Sequence[RaftFrame], targets: Sequence[RaftFrame]) -> Tensor:
        """See FlowEstimator.flow."""
        pairs = zip(sources, targets, strict=True)
        # One by one: the correlation volume of a pair takes (H/8 * W/8)^2 numbers.
        return torch.cat([self._flow(source, target) for source, target in pairs])

    def _flow(self, source: RaftFrame, target: RaftFrame) -> Tensor:
        network = self._network
        network.corr_block.build_pyramid(source.features[None], target.features[None])
        hidden_size = network.update_block.hidden_state_size
        hidden, context = source.context[None].split(
            [hidden_size, len(source.context) - hidden_size], dim=1
        )
        hidden, context = hidden.tanh(), context.relu()
        start = _cell_positions(source.features)
        where = start
        for _ in range(self._updates):
            correlation = network.corr_block.index_pyramid(centroids_coords=where)
            with mixed(self._device, self._precision):
                hidden, step = network.update_block(hidden, context, correlation, where - start)
            where = where + step.float()
        # Only the last update is upsampled; training needs them all, tracking does not.
        flow = self._upsample(where - start, hidden)
        top, left = _margins(source.height)[0], _margins(source.width)[0]
        return flow[..., top : top + source.height, left : left + source.width]

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """[1, 2, h, w] in cells to [1, 2, 8h, 8w] in px."""
        height, width = flow.shape[-2:]
        if self._network.mask_predictor is None:
            size = (_CELL * height, _CELL * width)
            return _CELL * F.interpolate(flow, size, mode="bilinear", align_corners=True)
        with mixed(self._device, self._precision):
            mask = self._network.mask_predictor(hidden).float()
        # Each pixel is a convex combination of the nine cells around it (paper, sec. 3.3).
        shares = mask.view(9, _CELL, _CELL, height, width).softmax(dim=0)
        cells = F.unfold(_CELL * flow, kernel_size=3, padding=1).view(2, 9, height, width)
        pixels = torch.einsum("kabhw,ckhw->chawb", shares, cells)
        return pixels.reshape(1, 2, _CELL * height, _CELL * width)


def load_raft(
    method: str, weights: Path, *, updates: int, precision: torch.dtype, device: torch.device
) -> Raft:
    """RAFT with pretrained weights.

    Args:
        method: a key of RAFT_METHODS.
        weights: checkpoint, torchvision's or the original repository's.

    Raises:
        WeightsError: the checkpoint is not of this network.
    """
    network = RAFT_METHODS[method](weights=None)
    try:
        network.load_state_dict(load_raft_checkpoint(weights), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{weights} is not a checkpoint of {method}: {error}") from error
    return Raft(network, updates, precision, device)


def _margins(side: int) -> tuple[int, int]:
    """Pixels added before and after a side so that it is whole cells and large enough."""
    padded = max(_SMALLEST_SIDE, -(-side // _CELL) * _CELL)
    before = (padded - side) // 2
    return before, padded - side - before


def _pad(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.pad(images, (*_margins(width), *_margins(height)), mode="replicate")


def _cell_positions(features: Tensor) -> Tensor:
    """(x, y) of every cell of [C, h, w], in cells, float32 [1, 2, h, w]."""
    height, width = features.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=features.device)
    cols = torch.arange(width, dtype=torch.float32, device=features.device)
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    return torch.stack([x, y])[None]
