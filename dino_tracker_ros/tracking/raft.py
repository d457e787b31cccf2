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
_GPU_BATCH = 4
"""Fills a GPU; a CPU core is full with one."""


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
        batch: frames encoded, or pairs compared, at once. The correlation volume of a pair takes
            (H/8 * W/8)^2 numbers and a third more for its pyramid.
    """

    def __init__(
        self,
        network: RAFT,
        updates: int,
        precision: torch.dtype,
        device: torch.device,
        batch: int = 1,
    ) -> None:
        self._network = network.eval().requires_grad_(False).to(device)
        self._network.to(memory_format=torch.channels_last)
        if precision != torch.float32:
            store_products_in(self._network, precision)
        self._updates = updates
        self._precision = precision
        self._device = device
        self._batch = batch

    @torch.no_grad()
    def encode(self, images: Tensor) -> list[RaftFrame]:
        """See FlowEstimator.encode."""
        height, width = images.shape[-2:]
        frames = []
        for part in images.split(self._batch):
            pictures = _pad(2 * unit_range(part, self._device) - 1)
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            with mixed(self._device, self._precision):
                features = self._network.feature_encoder(pictures).float()
                context = self._network.context_encoder(pictures).float()
            for found in zip(features, context, strict=True):
                frames.append(RaftFrame(*found, height, width))
        return frames

    @torch.no_grad()
    def flow(self, sources: Sequence[RaftFrame], targets: Sequence[RaftFrame]) -> Tensor:
        """See FlowEstimator.flow."""
        pairs = list(zip(sources, targets, strict=True))
        starts = range(0, len(pairs), self._batch)
        return torch.cat([self._flow(pairs[at : at + self._batch]) for at in starts])

    def _flow(self, pairs: Sequence[tuple[RaftFrame, RaftFrame]]) -> Tensor:
        network = self._network
        features = torch.stack([source.features for source, _ in pairs])
        network.corr_block.build_pyramid(
            features, torch.stack([target.features for _, target in pairs])
        )
        both = torch.stack([source.context for source, _ in pairs])
        hidden_size = network.update_block.hidden_state_size
        hidden, context = both[:, :hidden_size].tanh(), both[:, hidden_size:].relu()
        start = _cell_positions(features)
        where = start
        for _ in range(self._updates):
            correlation = network.corr_block.index_pyramid(centroids_coords=where)
            with mixed(self._device, self._precision):
                hidden, step = network.update_block(hidden, context, correlation, where - start)
            where = where + step.float()
        # Only the last update is upsampled; training needs them all, tracking does not.
        flow = self._upsample(where - start, hidden)
        height, width = pairs[0][0].height, pairs[0][0].width
        top, left = _margins(height)[0], _margins(width)[0]
        return flow[..., top : top + height, left : left + width]

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """[B, 2, h, w] in cells to [B, 2, 8h, 8w] in px."""
        pairs, _, height, width = flow.shape
        if self._network.mask_predictor is None:
            size = (_CELL * height, _CELL * width)
            return _CELL * F.interpolate(flow, size, mode="bilinear", align_corners=True)
        with mixed(self._device, self._precision):
            mask = self._network.mask_predictor(hidden).float()
        # Each pixel is a convex combination of the nine cells around it (paper, sec. 3.3).
        shares = mask.view(pairs, 9, _CELL, _CELL, height, width).softmax(dim=1)
        cells = F.unfold(_CELL * flow, kernel_size=3, padding=1).view(pairs, 2, 9, height, width)
        pixels = torch.einsum("pkabhw,pckhw->pchawb", shares, cells)
        return pixels.reshape(pairs, 2, _CELL * height, _CELL * width)


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
    batch = _GPU_BATCH if device.type == "cuda" else 1
    return Raft(network, updates, precision, device, batch)


def _margins(side: int) -> tuple[int, int]:
    """Pixels added before and after a side so that it is whole cells and large enough."""
    padded = max(_SMALLEST_SIDE, -(-side // _CELL) * _CELL)
    before = (padded - side) // 2
    return before, padded - side - before


def _pad(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.pad(images, (*_margins(width), *_margins(height)), mode="replicate")


def _cell_positions(features: Tensor) -> Tensor:
    """(x, y) of every cell of [B, C, h, w], in cells, float32 [B, 2, h, w]."""
    height, width = features.shape[-2:]
    rows = torch.arange(height, dtype=torch.float32, device=features.device)
    cols = torch.arange(width, dtype=torch.float32, device=features.device)
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    return torch.stack([x, y]).expand(len(features), -1, -1, -1)
