"""What one iteration of the optimization looks at, drawn without leaving the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dino_tracker_ros.tracking.best_buddies import BestBuddies
from dino_tracker_ros.tracking.constants import constant
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import Trajectories

MOST_TRAJECTORIES = 65_536
"""Trajectories looked through in one iteration; more are thinned at random first."""


def draw(mask: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random true entries of each row of a mask, with replacement.

    Args:
        mask: bool [R, M].
        count: entries per row.

    Returns:
        Indices int64 [R, count], and how many entries each row has, int64 [R]. The indices of
        an empty row mean nothing.
    """
    ranks = mask.cumsum(dim=1)
    total = ranks[:, -1]
    uniform = torch.rand(len(mask), count, generator=generator, device=mask.device)
    # Rounding may lift a number just below 1 to the total itself.
    wanted = torch.minimum((uniform * total[:, None]).long() + 1, total[:, None])
    index = torch.searchsorted(ranks, wanted)
    return index.clamp(max=mask.shape[1] - 1), total


def draw_shares(
    foreground: Tensor, background: Tensor, count: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Entries of two masks in given shares; what one lacks the weights leave out.

    Args:
        foreground, background: bool [R, M].
        count: entries per row.
        share: of the foreground.

    Returns:
        Indices int64 [R, count] and weights float32 [R, count]: min(1, entries / drawn), so that
        a small set counts for no more than it holds.
    """
    first = round(count * share)
    indices, weights = [], []
    for mask, number in ((foreground, first), (background, count - first)):
        if number == 0:
            continue
        index, total = draw(mask, number, generator)
        indices.append(index)
        weights.append((total / number).clamp(max=1.0)[:, None].expand(-1, number))
    return torch.cat(indices, dim=1), torch.cat(weights, dim=1)


@dataclass(frozen=True)
class FlowSample:
    """Points on flow trajectories: group g holds K points that go to the g-th sampled frame.

    Attributes:
        source: int64 [F, K], which sampled frame each point comes from.
        points: float32 [F, K, 2], where it is there.
        target: float32 [F, K, 2], where flow says it goes.
        weight: float32 [F, K].
    """

    source: Tensor
    points: Tensor
    target: Tensor
    weight: Tensor


def sample_flow(
    trajectories: Trajectories,
    foreground: Tensor,
    frames: Tensor,
    count: int,
    share: float,
    generator: torch.Generator,
) -> FlowSample:
    """Draws points that flow follows between every two of the sampled frames.

    Args:
        foreground: bool [M], which trajectories are foreground.
        frames: int64 [F], the sampled frames.
        count: points in all.
        share: of the foreground.
    """
    device = trajectories.points.device
    F = len(frames)
    # The few frames first: thinning whole trajectories would move most of the table every time.
    seen, place = trajectories.valid[:, frames], trajectories.points[:, frames]
    if len(seen) > MOST_TRAJECTORIES:
        some = torch.randint(len(seen), (MOST_TRAJECTORIES,), generator=generator, device=device)
        seen, place, foreground = seen[some], place[some], foreground[some]
    seen, place = seen.T, place.transpose(0, 1)  # [F, M], [F, M, 2]
    source, target = _ordered_pairs(F, device)
    both = seen[source] & seen[target]
    per_pair = max(2, count // len(source))
    index, weight = draw_shares(both & foreground, both & ~foreground, per_pair, share, generator)
    rows = slice(None), None
    shape = (F, (F - 1) * per_pair)
    return FlowSample(
        source=source[rows].expand(-1, per_pair).reshape(shape),
        points=place[source[rows], index].reshape(*shape, 2),
        target=place[target[rows], index].reshape(*shape, 2),
        weight=weight.reshape(shape),
    )


@lru_cache(maxsize=16)
def _ordered_pairs(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every two different of some frames, int64 [count * (count - 1)] both, by the second."""
    here = torch.arange(count)
    source = here.expand(count, count)[~torch.eye(count, dtype=torch.bool)]
    return source.to(device), here.repeat_interleave(count - 1).to(device)


@dataclass(frozen=True)
class BuddyTable:
    """Best buddies with an index by frame pair, for drawing."""

    buddies: BestBuddies
    pairs: Tensor
    """int64 [P, 2], frame pairs that were searched."""
    first: Tensor
    """int64 [P], where each pair's best buddies begin."""
    count: Tensor
    """int64 [P]."""
    widest: int
    """The largest count."""
    foreground: Tensor
    """bool [B]."""


def index_by_pair(
    buddies: BestBuddies, pairs: list[tuple[int, int]], foreground_tokens: Tensor
) -> BuddyTable:
    """Indexes best buddies by the frame pairs that were searched.

    Args:
        pairs: in the order the best buddies are sorted in.
        foreground_tokens: bool [T, n].
    """
    device = buddies.frames.device
    table = torch.tensor(pairs, dtype=torch.long, device=device)
    frames = int(foreground_tokens.shape[0])
    key = buddies.frames[:, 0] * frames + buddies.frames[:, 1]
    wanted = table[:, 0] * frames + table[:, 1]
    first = torch.searchsorted(key, wanted)
    count = torch.searchsorted(key, wanted, right=True) - first
    foreground = foreground_tokens[buddies.frames[:, 0], buddies.tokens[:, 0]]
    widest = int(count.max()) if len(pairs) else 0
    return BuddyTable(buddies, table, first, count, widest, foreground)


def sample_buddies(
    table: BuddyTable, chosen: Tensor, count: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws best buddies of some pairs.

    Args:
        chosen: int64 [P'], rows of `table.pairs`.

    Returns:
        Indices into the best buddies int64 [P', count], weights [P', count].
    """
    if table.widest == 0:
        shape = (len(chosen), count)
        return (
            torch.zeros(shape, dtype=torch.long, device=chosen.device),
            torch.zeros(shape, device=chosen.device),
        )
    slots = torch.arange(table.widest, device=chosen.device)
    exists = slots < table.count[chosen][:, None]
    flat = (table.first[chosen][:, None] + slots).clamp(max=len(table.buddies) - 1)
    foreground = table.foreground[flat] & exists
    index, weight = draw_shares(foreground, exists & ~foreground, count, share, generator)
    return flat.gather(1, index), weight


def sample_points(
    foreground: Tensor, count: int, share: float, grid: TokenGrid, generator: torch.Generator
) -> Tensor:
    """Random positions, a share of them on foreground tokens.

    Args:
        foreground: bool [G, n].

    Returns:
        [G, count, 2], (x, y) working px, inside the image.
    """
    index, weight = draw_shares(foreground, ~foreground, count, share, generator)
    anywhere = torch.randint(
        foreground.shape[1], index.shape, generator=generator, device=index.device
    )
    index = torch.where(weight > 0, index, anywhere)
    nodes = torch.stack([index % grid.cols, index // grid.cols], dim=-1).float()
    jitter = torch.rand(nodes.shape, generator=generator, device=nodes.device) - 0.5
    points = grid.to_pixels(nodes + jitter)
    return torch.minimum(points.clamp(min=0), constant((grid.width - 1, grid.height - 1), points))
