"""What features say of a query: where it may be in a frame, and what speaks against a place.

Two maps look at every frame. The refined tokens of a deep block find the point: they confuse few
parts of a thing. Frozen tokens of a larger picture, a deep and a middle block side by side, place
it: they are sharper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates
from dino_tracker_ros.tracking.matching import sample_tokens, unit_length
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

FINDING_SHARE = 0.75
"""Of the finding map in what a place is like; the rest is the placing map's."""
PEAK_TEMPERATURE = 0.05
"""Of the softmax over the 3x3 tokens around a peak that gives its position."""
BACK_TOKENS = 2048
"""About how many tokens of the query's frame are asked whether they fit a match better."""


@dataclass(frozen=True)
class FeatureMaps:
    """Unit features of T frames.

    Attributes:
        finding: [T, C, rows * cols] on `finding_grid`.
        placing: [T, C', rows' * cols'] on `placing_grid`.
    """

    finding: Tensor
    finding_grid: TokenGrid
    placing: Tensor
    placing_grid: TokenGrid


class Evidence:
    """What the maps say of N queries.

    Args:
        maps: of T frames.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) px.
        settings: what a match is worth.
    """

    def __init__(
        self,
        maps: FeatureMaps,
        query_frame: Tensor,
        query_point: Tensor,
        settings: HypothesesSettings,
    ) -> None:
        self._maps = maps
        self._settings = settings
        self._frame = query_frame
        self._find = unit_length(
            sample_tokens(maps.finding, query_frame, query_point, maps.finding_grid), dim=1
        )
        self._place = unit_length(
            sample_tokens(maps.placing, query_frame, query_point, maps.placing_grid), dim=1
        )
        frames, count = len(maps.finding), len(query_frame)
        # The likeness of the best match in each frame: a point behind something has none to lose.
        self._best = maps.finding.new_zeros(frames, count)
        self._candidates = [self._most_alike(frame) for frame in range(frames)]

    def candidates(self, frame: int) -> Candidates:
        """The places in a frame that are most like the queries, K each."""
        return self._candidates[frame]

    def _most_alike(self, frame: int) -> Candidates:
        maps, settings = self._maps, self._settings
        similarity = self._find @ maps.finding[frame]
        best, peaks = _peaks(similarity, maps.finding_grid, settings.candidates)
        points = self._placed(frame, peaks)
        finding = _at(maps.finding[frame], points, maps.finding_grid)
        likeness = self._likeness(frame, points, finding)
        self._best[frame] = likeness.max(dim=1).values
        error = settings.match_error * maps.placing_grid.spacing
        price = self._price(frame, likeness, finding)
        return Candidates(
            points,
            torch.full_like(price, error**2),
            price.masked_fill(best < -1, NEVER),
            torch.zeros_like(price, dtype=torch.bool),
        )

    def price(self, frame: int, points: Tensor) -> Tensor:
        """What speaks against points [N, M, 2] of a frame, [N, M]: 0 for the best match there."""
        finding = _at(self._maps.finding[frame], points, self._maps.finding_grid)
        return self._price(frame, self._likeness(frame, points, finding), finding)

    def _price(self, frame: int, likeness: Tensor, finding: Tensor) -> Tensor:
        """What speaks against places of this likeness [N, M] and finding features [N, M, C]."""
        settings = self._settings
        lost = (self._best[frame][:, None] - likeness).clamp(min=0)
        price = (lost + settings.way_back * self._way_back(finding)) / settings.temperature
        return price.clamp(max=settings.most_price)

    def _likeness(self, frame: int, points: Tensor, finding: Tensor) -> Tensor:
        """Weighted mean of both maps' cosines at points [N, M, 2], [N, M]."""
        placing = _at(self._maps.placing[frame], points, self._maps.placing_grid)
        found = (finding * self._find[:, None]).sum(dim=-1)
        placed = (placing * self._place[:, None]).sum(dim=-1)
        return FINDING_SHARE * found + (1 - FINDING_SHARE) * placed

    def _way_back(self, finding: Tensor) -> Tensor:
        """Cosine by which some token of the query's frame fits features [N, M, C] better than the
        query does, [N, M]."""
        maps, grid = self._maps, self._maps.finding_grid
        own = (finding * self._find[:, None]).sum(dim=-1)
        best = torch.full_like(own, -1.0)
        step = max(1, round((grid.rows * grid.cols / BACK_TOKENS) ** 0.5))
        for home in self._frame.unique().tolist():
            members = self._frame == home
            there = maps.finding[home].view(-1, grid.rows, grid.cols)
            there = there[:, ::step, ::step].flatten(1)
            best[members] = (finding[members] @ there).amax(dim=-1)
        return (best - own).clamp(min=0)

    def _placed(self, frame: int, peaks: Tensor) -> Tensor:
        """Peaks of the finding map, tokens [N, K], as positions on the placing map [N, K, 2]."""
        maps, grid = self._maps, self._maps.placing_grid
        similarity = self._place @ maps.placing[frame]
        find = maps.finding_grid
        nodes = torch.stack([peaks % find.cols, peaks // find.cols], dim=-1)
        start = grid.to_grid(find.to_pixels(nodes.float())).round().long()
        reach = max(1, round(find.spacing / grid.spacing))
        window, x, y = _window(similarity, start, reach, grid)
        best = window.argmax(dim=-1, keepdim=True)
        centre = torch.cat([x.gather(-1, best), y.gather(-1, best)], dim=-1)
        window, x, y = _window(similarity, centre, 1, grid)
        weight = (window / PEAK_TEMPERATURE).softmax(dim=-1)
        place = torch.stack([(weight * x).sum(dim=-1), (weight * y).sum(dim=-1)], dim=-1)
        return grid.to_pixels(place)


def _at(tokens: Tensor, points: Tensor, grid: TokenGrid) -> Tensor:
    """Unit features [N, M, C] of one frame's tokens [C, n] at points [N, M, 2]."""
    flat = points.reshape(-1, 2)
    frame = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    found = sample_tokens(tokens[None], frame, flat, grid)
    return unit_length(found, dim=1).view(*points.shape[:-1], -1)


def _peaks(similarity: Tensor, grid: TokenGrid, count: int) -> tuple[Tensor, Tensor]:
    """The highest local maxima of maps [N, n]: values (below -1 for none) and tokens [N, count]."""
    maps = similarity.view(-1, 1, grid.rows, grid.cols)
    highest = F.max_pool2d(maps, 3, stride=1, padding=1)
    peaks = torch.where(maps == highest, maps, -2.0).flatten(1)
    values, index = peaks.topk(min(count, peaks.shape[1]), dim=1)
    return values, index


def _window(
    similarity: Tensor, centre: Tensor, reach: int, grid: TokenGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and node positions around nodes (column, row) [N, K, 2], each [N, K, (2 reach + 1)²];
    beyond the border, values below any cosine."""
    steps = torch.arange(-reach, reach + 1, device=similarity.device)
    rows, cols = torch.meshgrid(steps, steps, indexing="ij")
    x, y = centre[..., :1] + cols.flatten(), centre[..., 1:] + rows.flatten()
    on_map = (x >= 0) & (x < grid.cols) & (y >= 0) & (y < grid.rows)
    index = y.clamp(0, grid.rows - 1) * grid.cols + x.clamp(0, grid.cols - 1)
    values = similarity.gather(1, index.flatten(1)).view(index.shape)
    return values.masked_fill(~on_map, -9.0), x, y
