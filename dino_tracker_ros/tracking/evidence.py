"""What features say of a query: where it may be in a frame, and what speaks against a place.

Two maps look at every frame. The refined tokens of a deep block find the point: they confuse few
parts of a thing. Frozen tokens of a larger picture, a deep and a middle block side by side, place
it: they are sharper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.affine import distances
from dino_tracker_ros.tracking.cosine_map import (
    Places,
    best_cosines,
    cosines_at,
    neighbour_products,
    places_at,
)
from dino_tracker_ros.tracking.feature_frames import FeatureFrames
from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates
from dino_tracker_ros.tracking.matching import sample_tokens, unit_length
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

FINDING_SHARE = 0.75
"""Of the finding map in what a place is like; the rest is the placing map's."""
PEAK_TEMPERATURE = 0.05
"""Of the softmax over the 3x3 tokens around a peak that gives its position."""
ELSEWHERE = 12 / 256
"""Of the picture's width: matches farther away than this are of something else."""
BACK_TOKENS = 2048
"""About how many tokens of the query's frame are asked whether they fit a match better."""


@dataclass(frozen=True)
class FeatureMap:
    """Unit features of S frames.

    Attributes:
        units: [S, C, rows * cols].
        grid: where they lie.
        products: of neighbouring tokens, [S, rows * cols, 16], see `neighbour_products`.
        precision: in which a place is compared with all of another frame.
    """

    units: Tensor
    grid: TokenGrid
    products: Tensor
    precision: torch.dtype

    def at(self, frames: Tensor, points: Tensor) -> Tensor:
        """Unit features [B, C] at points [B, 2] px of frames int64 [B]."""
        return unit_length(sample_tokens(self.units, frames, points, self.grid), dim=1)


def feature_map(
    units: Tensor, grid: TokenGrid, precision: torch.dtype = torch.float32
) -> FeatureMap:
    """The map of unit features [S, C, rows * cols]."""
    # A token's channels lie together in memory: places are read token by token.
    units = units.transpose(1, 2).contiguous().transpose(1, 2)
    return FeatureMap(units, grid, neighbour_products(units, grid), precision)


@dataclass(frozen=True)
class _Look:
    """One frame as N queries see it.

    Attributes:
        finding, placing: cosines of the queries with the tokens of both maps, [N, n], [N, n'].
        best: [N], the likeness of the best match: a point behind something has none to lose.
    """

    finding: Tensor
    placing: Tensor
    best: Tensor


class Evidence:
    """What the maps say of N queries in T frames; nothing of those without features.

    Args:
        finding: of the S frames that have some.
        placing: of the same frames.
        frames: which of the T frames those are.
        query_frame: int64 [N], of these.
        query_point: [N, 2], (x, y) px.
        settings: what a match is worth.
    """

    def __init__(
        self,
        finding: FeatureMap,
        placing: FeatureMap,
        frames: FeatureFrames,
        query_frame: Tensor,
        query_point: Tensor,
        settings: HypothesesSettings,
    ) -> None:
        self._finding, self._placing = finding, placing
        self._settings = settings
        self._home = frames.row[query_frame]
        self._row = frames.row.tolist()
        self._weight = frames.weights()
        find = finding.at(self._home, query_point)
        place = placing.at(self._home, query_point)
        self._nowhere = Candidates.none(len(query_point), query_point.device)
        self._looks: list[_Look] = []
        self._candidates: list[Candidates] = []
        for seen in range(len(finding.units)):
            self._look(seen, find, place)

    def candidates(self, frame: int) -> Candidates:
        """The places in a frame that are most like the queries, K each."""
        seen = self._row[frame]
        return self._nowhere if seen < 0 else self._candidates[seen]

    def price(self, frame: int, rows: Tensor, points: Tensor) -> Tensor:
        """What speaks against places of a frame: 0 for the best match there.

        A frame with features speaks for those beside it that have none: its word counts for as
        many times.

        Args:
            rows: int64 [B], which query each place is asked for.
            points: [B, 2], (x, y) px.

        Returns:
            [B].
        """
        seen = self._row[frame]
        if seen < 0:
            return torch.zeros_like(points[:, 0])
        return self._weight[seen] * self._against(seen, rows, points)

    def lead(self, points: Tensor, wanted: Tensor) -> Tensor:
        """How much more speaks against the best match elsewhere in a frame than against a track.

        Args:
            points: [N, T, 2], the tracks, (x, y) px.
            wanted: bool [N, T], who wants to know.

        Returns:
            [N, T], within the most that features cost of 0; 0 where nobody wants to know, and in
            frames without features.
        """
        apart, most = ELSEWHERE * self._placing.grid.width, self._settings.most_price
        lead = torch.zeros_like(points[..., 0])
        for frame, seen in enumerate(self._row):
            if seen < 0:
                continue
            matches = self._candidates[seen]
            rows = torch.nonzero(wanted[:, frame])[:, 0]
            here = points[rows, frame]
            near = distances(matches.points[rows], here[:, None]) <= apart
            rival = matches.price[rows].masked_fill(near, NEVER).amin(dim=1) / self._weight[seen]
            lead[rows, frame] = rival.clamp(max=most) - self._against(seen, rows, here)
        return lead

    def _against(self, seen: int, rows: Tensor, points: Tensor) -> Tensor:
        """What speaks against places of one of the S frames, see `price`."""
        look = self._looks[seen]
        places, found, likeness = self._likeness(look, seen, rows, points)
        return self._price(seen, rows, places, found, likeness, look.best)

    def _look(self, seen: int, find: Tensor, place: Tensor) -> None:
        settings, grid = self._settings, self._placing.grid
        finding = find @ self._finding.units[seen]
        placing = place @ self._placing.units[seen]
        best, peaks = _peaks(finding, self._finding.grid, settings.candidates)
        points = self._placed(placing, peaks)
        rows = torch.arange(len(find), device=find.device).repeat_interleave(peaks.shape[1])
        look = _Look(finding, placing, placing.new_zeros(len(find)))
        places, found, likeness = self._likeness(look, seen, rows, points.flatten(0, 1))
        look = replace(look, best=likeness.view(peaks.shape).amax(dim=1))
        self._looks.append(look)
        price = self._price(seen, rows, places, found, likeness, look.best).view(peaks.shape)
        self._candidates.append(
            Candidates(
                points,
                torch.full_like(price, (settings.match_error * grid.spacing) ** 2),
                (self._weight[seen] * price).masked_fill(best < -1, NEVER),
                torch.zeros_like(price, dtype=torch.bool),
            )
        )

    def _likeness(
        self, look: _Look, seen: int, rows: Tensor, points: Tensor
    ) -> tuple[Places, Tensor, Tensor]:
        """Points [B, 2] among the finding map's tokens, that map's cosine there, and its weighted
        mean with the other map's; [B] both."""
        finding, placing = self._finding, self._placing
        places = places_at(finding.products[seen], points, finding.grid)
        found = cosines_at(look.finding, rows, places)
        beside = places_at(placing.products[seen], points, placing.grid)
        placed = cosines_at(look.placing, rows, beside)
        return places, found, FINDING_SHARE * found + (1 - FINDING_SHARE) * placed

    def _price(
        self,
        seen: int,
        rows: Tensor,
        places: Places,
        found: Tensor,
        likeness: Tensor,
        best: Tensor,
    ) -> Tensor:
        settings = self._settings
        price = (best[rows] - likeness).clamp(min=0) / settings.temperature
        if settings.way_back > 0:
            # Most of the time goes into this: what costs the most already is not asked.
            cheap = torch.nonzero(price < settings.most_price)[:, 0]
            fit = self._best_fit(seen, rows[cheap], places[cheap])
            back = (fit - found[cheap]).clamp(min=0)
            price[cheap] += settings.way_back * back / settings.temperature
        return price.clamp(max=settings.most_price)

    def _best_fit(self, seen: int, rows: Tensor, places: Places) -> Tensor:
        """Cosine of the features at B places with the token of the query's frame that fits them
        best, [B]."""
        finding, grid = self._finding, self._finding.grid
        homes = self._home[rows]
        best = torch.empty_like(places.length)
        step = max(1, round((grid.rows * grid.cols / BACK_TOKENS) ** 0.5))
        for home in homes.unique().tolist():
            own = homes == home
            there = finding.units[home].view(-1, grid.rows, grid.cols)[:, ::step, ::step]
            best[own] = best_cosines(
                finding.units[seen], there.flatten(1), places[own], finding.precision
            )
        return best

    def _placed(self, similarity: Tensor, peaks: Tensor) -> Tensor:
        """Peaks of the finding map, tokens [N, K], as positions [N, K, 2] px of the highest of the
        placing map's cosines [N, n'] beside them."""
        find, grid = self._finding.grid, self._placing.grid
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


def _peaks(similarity: Tensor, grid: TokenGrid, count: int) -> tuple[Tensor, Tensor]:
    """The highest local maxima of maps [N, n]: values (below -1 for none) and tokens [N, count]."""
    maps = similarity.view(-1, grid.rows, grid.cols)
    # As channels of one picture, the last to vary: on a CPU ten times as fast as one by one.
    picture = maps[None].contiguous(memory_format=torch.channels_last)
    highest = F.max_pool2d(picture, 3, stride=1, padding=1)[0]
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
