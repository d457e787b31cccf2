"""One track out of many hypotheses: flow carries them on, features judge them, the best path wins.

Flow is precise but drifts, and loses a point behind an occluder; a feature match does not drift
but is coarse, and may sit on the wrong leg. So a point is followed along several paths at once
(Reid 1979, here as dynamic programming over time). In every frame a path goes on with the flow,
drawn to the feature match beside it by a Kalman filter, or jumps to another match at a price that
rises with the distance; its price grows where its features are unlike the query's and where flow
does not close its loop. The cheapest path is the track, smoothed backwards in time (Rauch, Tung,
Striebel 1965).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dino_tracker_ros.tracking.keyframes import Recalled
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.trajectories import FlowPair, inside, loop_step

RIM = 2.0
"""How far outside the pixel centres a point still counts as in the image, px: predictions of a
point on the border are no sharper."""
START = 0.1
"""Variance of a query point, px²."""
ENTRY = 4.0
"""Variance of where a point was known to be behind a gap, px²."""
LOST = 1e4
"""Variance of a point that flow says nothing about, px²."""
NEVER = 1e6
"""Price of what cannot be."""
MERGE = 0.4
"""Hypotheses nearer than this many tokens are one."""
JUMP_LENGTH = 2.0
"""From which distance on a jump costs for its length, tokens."""

Price = Callable[[int, Tensor, Tensor], Tensor]
"""(frame, rows int64 [B], points [B, 2]) to what features say against them being the points of
those rows, [B] >= 0."""


@dataclass(frozen=True)
class Candidates:
    """Where a point may be in one frame, whatever the frame before.

    Attributes:
        points: [N, K, 2], (x, y) px.
        variance: [N, K], px² an axis.
        price: [N, K], what speaks against each; NEVER where there is none.
        sure: bool [N, K], told by something else than features, such as registration: a path near
            it takes its price.
    """

    points: Tensor
    variance: Tensor
    price: Tensor
    sure: Tensor

    @staticmethod
    def none(count: int, device: torch.device) -> Candidates:
        """Of N points, where nothing tells any."""
        price = torch.full((count, 1), NEVER, device=device)
        nowhere = torch.zeros(count, 1, 2, device=device)
        return Candidates(nowhere, torch.ones_like(price), price, price < NEVER)

    def with_told(self, points: Tensor, variance: Tensor, price: Tensor) -> Candidates:
        """These and one more place for each point that something else than features tells.

        Args:
            points: [N, 2], (x, y) px.
            variance, price: [N]; NEVER for points that nothing tells.
        """
        return Candidates(
            torch.cat([self.points, points[:, None]], dim=1),
            torch.cat([self.variance, variance[:, None]], dim=1),
            torch.cat([self.price, price[:, None]], dim=1),
            torch.cat([self.sure, price[:, None] < NEVER], dim=1),
        )


@dataclass(frozen=True)
class _Paths:
    """M hypotheses of N points in one frame, and how each came to be.

    Attributes:
        points, variance: [N, M, 2] and [N, M], with all that is known so far.
        price: [N, M], of the whole path.
        before, spread: where it was expected, [N, M, 2], and with what variance, [N, M].
        parent: int64 [N, M], the hypothesis of the frame before.
        jumped: bool [N, M], whether it left flow for another match.
    """

    points: Tensor
    variance: Tensor
    price: Tensor
    before: Tensor
    spread: Tensor
    parent: Tensor
    jumped: Tensor

    def beside(self, other: _Paths) -> _Paths:
        """These hypotheses and the others'."""
        return _Paths(
            *(torch.cat(pair, dim=1) for pair in zip(self._values(), other._values(), strict=True))
        )

    def _values(self) -> tuple[Tensor, ...]:
        return (
            self.points, self.variance, self.price, self.before, self.spread, self.parent,
            self.jumped,
        )  # fmt: skip

    def take(self, index: Tensor) -> _Paths:
        """Those of `index` int64 [N, m], in its order."""
        wide = index[..., None].expand(-1, -1, 2)
        return _Paths(
            self.points.gather(1, wide),
            self.variance.gather(1, index),
            self.price.gather(1, index),
            self.before.gather(1, wide),
            self.spread.gather(1, index),
            self.parent.gather(1, index),
            self.jumped.gather(1, index),
        )


def follow(
    candidates: Sequence[Candidates],
    price: Price,
    flows: Sequence[FlowPair],
    query_frame: Tensor,
    query_point: Tensor,
    token: float,
    loop_error: float,
    settings: HypothesesSettings,
    recalled: Recalled | None = None,
) -> Tensor:
    """The cheapest path of every point through all frames, forward and backward from its query.

    Args:
        candidates: of T frames.
        price: what features say of a place.
        flows: T-1 pairs of flow between frames t and t+1.
        query_frame: int64 [N].
        query_point: [N, 2], (x, y) px.
        token: distance between tokens, px.
        loop_error: forward-backward error that flow usually has where it is right, px.
        recalled: where points were in frames behind a gap; None where there are no gaps.

    Returns:
        [N, T, 2] px.
    """
    frames = len(candidates)
    result = query_point[:, None].repeat(1, frames, 1)
    for order in (range(frames), range(frames - 1, -1, -1)):
        steps: list[tuple[int, _Paths]] = []
        paths = _started(query_point, settings.kept)
        for t in order:
            active = (query_frame < t) if order.step > 0 else (query_frame > t)
            if not bool(active.any()):
                continue
            before = t - order.step
            there, back = flows[min(t, before)]
            flow = (there, back) if order.step > 0 else (back, there)
            entry = None
            if recalled is not None and recalled.after_gap(t, order.step):
                entry = recalled.course.points[:, t]
            stepped = _stepped(
                paths, candidates[t], partial(price, t), flow, token, loop_error, settings, entry
            )
            paths = _where(active, stepped, paths)
            steps.append((t, paths))
        _backtrack(steps, query_frame, order.step, result)
    return result


def _started(query_point: Tensor, kept: int) -> _Paths:
    count, device = len(query_point), query_point.device
    points = query_point[:, None].repeat(1, kept, 1)
    variance = torch.full((count, kept), START, device=device)
    price = torch.full((count, kept), NEVER, device=device)
    price[:, 0] = 0.0
    parent = torch.arange(kept, device=device).repeat(count, 1)
    jumped = torch.zeros(count, kept, dtype=torch.bool, device=device)
    return _Paths(points, variance, price, points, variance, parent, jumped)


def _where(active: Tensor, new: _Paths, old: _Paths) -> _Paths:
    """`new` for the active points, bool [N], `old` for the others."""
    a, wide = active[:, None], active[:, None, None]
    stay = torch.arange(old.parent.shape[1], device=a.device).expand_as(old.parent)
    return _Paths(
        torch.where(wide, new.points, old.points),
        torch.where(a, new.variance, old.variance),
        torch.where(a, new.price, old.price),
        torch.where(wide, new.before, old.points),
        torch.where(a, new.spread, old.variance),
        torch.where(a, new.parent, stay),
        new.jumped & a,
    )


def _stepped(
    paths: _Paths,
    candidates: Candidates,
    price: Callable[[Tensor, Tensor], Tensor],
    flow: FlowPair,
    token: float,
    loop_error: float,
    settings: HypothesesSettings,
    entry: Tensor | None,
) -> _Paths:
    """The best hypotheses of the next frame."""
    gone_on = _with_flow(paths, candidates, price, flow, loop_error, settings, entry)
    jumped = _with_jump(paths, gone_on.before, candidates, token, settings)
    both = gone_on.beside(jumped)
    both = both.take(both.price.argsort(dim=1))
    worse_twin = _beside_a_better(both.points, MERGE * token)
    ranked = both.price.masked_fill(worse_twin, NEVER)
    kept = both.take(ranked.argsort(dim=1)[:, : settings.kept])
    # Prices are only compared: keep them small.
    return _Paths(
        kept.points,
        kept.variance,
        kept.price - kept.price[:, :1],
        kept.before,
        kept.spread,
        kept.parent,
        kept.jumped,
    )


def _with_flow(
    paths: _Paths,
    candidates: Candidates,
    price: Callable[[Tensor, Tensor], Tensor],
    flow: FlowPair,
    loop_error: float,
    settings: HypothesesSettings,
    entry: Tensor | None,
) -> _Paths:
    """Every path along the flow, drawn to the nearest candidate."""
    shape = paths.price.shape
    moved, error = loop_step(paths.points.reshape(-1, 2), flow)
    moved, error = moved.view(*shape, 2), error.view(shape)
    height, width = flow[0].shape[-2:]
    spread = paths.variance + settings.flow_error**2 + error.square()
    if entry is not None:
        entered = ~entry.isnan().any(dim=-1, keepdim=True)
        moved = torch.where(entered[..., None], entry[:, None], moved)
        error = error.masked_fill(entered, 0.0)
        spread = spread.masked_fill(entered, ENTRY)
    in_image = inside(moved, width, height, RIM)
    spread = torch.where(in_image, spread, LOST)
    lost = settings.lost_price
    strain = torch.where(in_image, (0.5 * (error / loop_error).square()).clamp(max=lost), lost)
    # Neither picture nor flow holds such a step: it is no better than a jump.
    strain += settings.jump_price * (~in_image & (error > loop_error))

    squared = _squared_distances(moved, candidates.points)
    gate = 2 * settings.gate**2 * (spread[:, :, None] + candidates.variance[:, None])
    far = (squared / gate).masked_fill(candidates.price[:, None] >= NEVER, NEVER)
    # What is sure beats any feature match within reach.
    rank = far - 2.0 * (candidates.sure[:, None] & (far < 1))
    nearest = rank.argmin(dim=2)
    near = far.gather(2, nearest[..., None])[..., 0] < 1
    target = candidates.points.gather(1, nearest[..., None].expand(-1, -1, 2))
    variance = candidates.variance.gather(1, nearest)
    gain = torch.where(near, spread / (spread + variance), 0.0)
    points = moved + gain[..., None] * (target - moved)
    sure = near & candidates.sure.gather(1, nearest)
    added = torch.where(
        sure, candidates.price.gather(1, nearest) + strain.clamp(max=1.0), strain
    )
    # Features are asked only of paths that may still win.
    rows, columns = torch.nonzero(~sure & (paths.price < NEVER / 2), as_tuple=True)
    added[rows, columns] += price(rows, points[rows, columns])
    return _Paths(
        points,
        (1 - gain) * spread,
        (paths.price + added).clamp(max=NEVER),
        moved,
        spread,
        torch.arange(shape[1], device=points.device).expand(shape),
        torch.zeros_like(near),
    )


def _with_jump(
    paths: _Paths,
    moved: Tensor,
    candidates: Candidates,
    token: float,
    settings: HypothesesSettings,
) -> _Paths:
    """To every candidate the path that gets there cheapest from where flow led it, [N, M, 2], or
    from where it was: flow may be wrong."""
    squared = torch.minimum(
        _squared_distances(moved, candidates.points),
        _squared_distances(paths.points, candidates.points),
    )
    # A heavy tail (Cauchy's): what was hidden may come back far away, what was seen rarely does.
    length = settings.jump_growth * torch.log1p(squared / (JUMP_LENGTH * token) ** 2)
    best = (paths.price[:, :, None] + length).min(dim=1)
    price = best.values + settings.jump_price + candidates.price
    return _Paths(
        candidates.points,
        candidates.variance,
        price.clamp(max=NEVER),
        candidates.points,
        torch.full_like(candidates.variance, NEVER),
        best.indices,
        torch.ones_like(candidates.sure),
    )


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Between points [N, M, 2] and others [N, K, 2] of the same row, [N, M, K]."""
    return (points[:, :, None] - others[:, None]).square().sum(dim=-1)


def _beside_a_better(points: Tensor, distance: float) -> Tensor:
    """bool [N, M]: which of points [N, M, 2], best first, lie beside a better one that is kept."""
    close = torch.cdist(points, points) < distance
    twin = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    for k in range(1, points.shape[1]):
        twin[:, k] = (close[:, k, :k] & ~twin[:, :k]).any(dim=1)
    return twin


def _backtrack(
    steps: Sequence[tuple[int, _Paths]], query_frame: Tensor, direction: int, result: Tensor
) -> None:
    """Writes the smoothed cheapest paths into `result` [N, T, 2]."""
    if not steps:
        return
    rows = torch.arange(len(query_frame), device=query_frame.device)
    chosen = steps[-1][1].price.argmin(dim=1)
    correction = torch.zeros_like(result[:, 0])
    for t, paths in reversed(steps):
        points, variance = paths.points[rows, chosen], paths.variance[rows, chosen]
        active = (query_frame < t) if direction > 0 else (query_frame > t)
        # `correction` is what later frames moved the prediction by, over its variance.
        smooth = points + variance[:, None] * correction
        result[:, t] = torch.where(active[:, None], smooth, result[:, t])
        spread, before = paths.spread[rows, chosen], paths.before[rows, chosen]
        moved = (smooth - before) / spread[:, None]
        broken = paths.jumped[rows, chosen] | ~active
        correction = torch.where(broken[:, None], 0.0, moved)
        chosen = paths.parent[rows, chosen]
