"""Test-time optimization: the model is fitted to the clip at hand.

Tumanyan et al. 2024, sec. 3.3 and supplement: Adam on five losses and a cycle loss.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import deterministic

from dino_tracker_ros.tracking import losses
from dino_tracker_ros.tracking.clip_data import ClipData
from dino_tracker_ros.tracking.errors import OptimizationError
from dino_tracker_ros.tracking.matching import (
    cosines,
    features_at,
    lengths,
    positions,
    predict,
    unit_length,
)
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.recording import Recording, own_stream
from dino_tracker_ros.tracking.sampling import (
    FlowSample,
    draw_shares,
    sample_buddies,
    sample_flow,
    sample_points,
)
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.token_grid import TokenGrid

REPORT_EVERY = 10
"""Iterations between two looks at the losses: each look waits for the device."""
PACE = 5
"""Latest iterations whose median tells how long the next one takes: the first ones take longer."""
BEYOND = 0.1
"""Share of a time budget by which its last iteration may pass it."""
SETTLING_FRAMES = 16
"""Frames, spread over the clip, that batch statistics are taken from in the end."""


@dataclass(frozen=True)
class FitProgress:
    """How far the optimization is."""

    iteration: int
    iterations: int
    seconds: float
    losses: dict[str, float]


@dataclass(frozen=True)
class FitReport:
    """How the optimization ended: `stopped` is iterations, time_budget or cancelled."""

    iterations: int
    seconds: float
    stopped: str
    losses: dict[str, float]


@contextmanager
def _repeatable() -> Iterator[None]:
    """Equal seeds give equal bits: gradients that meet in one place are added in one order."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = deterministic  # has attributes that type checkers do not see
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Writing NaN into all new memory finds reads of it, and takes time.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
        memory.fill_uninitialized_memory = filled


@_repeatable()
def optimize(
    model: TrackerModel,
    data: ClipData,
    settings: Settings,
    iterations: int,
    progress: Callable[[FitProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> FitReport:
    """Fits the model to a clip, starting from the weights it has.

    The time budget counts from the call to the return. An iteration begins where, going by the
    latest, it ends nearer to the budget than now and at most `BEYOND` of it too late. The schedule
    follows whichever of iterations and budget runs out first, so that a short budget still ends at
    a small learning rate.

    Raises:
        OptimizationError: a loss is not finite; the model is as it was before the call.
    """
    before = copy.deepcopy(model.state_dict())
    device = data.features.device
    generator = torch.Generator(device=device).manual_seed(settings.optimizer.seed)
    optimizer = torch.optim.Adam(
        [
            {"params": list(model.delta_dino.parameters())},
            {"params": list(model.head.parameters())},
        ],
        lr=settings.optimizer.learning_rate,
    )
    started = time.monotonic()
    end = math.inf  # of the iterations, s from the start
    stopped = "iterations"
    values: dict[str, float] = {}
    done = 0
    recording: Recording[dict[str, Tensor]] | None = None
    recorded = False  # whether with the self-supervised losses
    model.train()
    try:
        with own_stream(device):
            if settings.optimizer.time_budget > 0:
                end = settings.optimizer.time_budget - _settling_seconds(model, data, settings)
            begun: deque[float] = deque(maxlen=PACE + 1)  # the latest iterations
            batches = _pair_batches(len(data.buddies.pairs), settings, generator)
            while done < iterations:
                if cancelled is not None and cancelled():
                    stopped = "cancelled"
                    break
                if math.isfinite(end):
                    _wait(device)  # what is only under way takes time, too
                elapsed = time.monotonic() - started
                begun.append(elapsed)
                if _used_up(end, settings.optimizer.time_budget, begun):
                    stopped = "time_budget"
                    break
                share = max(done / iterations, elapsed / end)
                _set_learning_rates(optimizer, settings, done, share)
                both = share >= settings.loss.self_supervised_start
                if recording is None or recorded != both:
                    _wait(device)
                    work = partial(_descend, model, data, settings, both, generator)
                    recording, recorded = Recording(work, model.parameters(), generator), both
                terms = recording(next(batches))
                optimizer.step()
                done += 1
                if done % REPORT_EVERY == 0 or done == iterations:
                    values = _finite(terms, done)
                    if progress is not None:
                        seconds = time.monotonic() - started
                        progress(FitProgress(done, iterations, seconds, values))
            if done:
                _settle_normalization(model, data, settings)
            else:
                model.load_state_dict(before)  # measuring has touched the batch statistics
            _wait(device)
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        model.eval()
    return FitReport(done, time.monotonic() - started, stopped, values)


def _used_up(end: float, budget: float, begun: Sequence[float]) -> bool:
    """Whether one more iteration would end farther from `end` than now, or too far beyond it.

    Args:
        end: when iterations should end, s from the start.
        budget: of the whole fit, s.
        begun: when the latest iterations began, and now, s from the start.
    """
    pace = median([later - earlier for earlier, later in pairwise(begun)] or [0.0])
    return begun[-1] + pace / 2 >= end or begun[-1] + pace > end + BEYOND * budget


def _wait(device: torch.device) -> None:
    """Until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pairs_at_once(settings: Settings) -> int:
    """Frame pairs that one iteration looks at."""
    return max(1, settings.optimizer.frames // 2)


def _pair_batches(pairs: int, settings: Settings, generator: torch.Generator) -> Iterator[Tensor]:
    """Pairs for one iteration after another, int64, without end: all in turn, in random order."""
    count = min(pairs_at_once(settings), pairs)
    while True:
        order = torch.randperm(pairs, generator=generator, device=generator.device)
        yield from order[: pairs - pairs % count].split(count)


def _descend(
    model: TrackerModel,
    data: ClipData,
    settings: Settings,
    self_supervised: bool,
    generator: torch.Generator,
    chosen: Tensor,
) -> dict[str, Tensor]:
    """The losses of one iteration, as in `_losses`, whose gradients are left in the parameters."""
    terms = _losses(model, data, chosen, settings, self_supervised, generator)
    torch.stack(list(terms.values())).sum().backward()
    return {name: term.detach() for name, term in terms.items()}


def _losses(
    model: TrackerModel,
    data: ClipData,
    chosen: Tensor,
    settings: Settings,
    self_supervised: bool,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Every loss of one iteration on the chosen frame pairs int64 [P], weighted, by name; cycle
    and refined best buddies only where `self_supervised`."""
    weights, options, grid = settings.loss, settings.optimizer, data.grid
    size = (grid.height, grid.width)
    table = data.buddies
    frames = table.pairs[chosen].reshape(-1)  # pair p is frames 2p and 2p + 1
    raw = data.features[frames]
    tokens = model.refine(data.pictures[frames], raw, grid)
    length = lengths(tokens)
    terms: dict[str, Tensor] = {}

    if max(weights.flow, weights.flow_contrast) > 0 and len(data.trajectories.start):
        sample = sample_flow(
            data.trajectories,
            data.trajectory_foreground,
            frames,
            options.flow_points,
            settings.foreground.flow_share,
            generator,
        )
        queries = features_at(tokens, grid, sample.source, sample.points)
        cosine = cosines(queries, tokens, length)
        if weights.flow > 0:
            terms["flow"] = weights.flow * losses.position_loss(
                positions(cosine, grid, model.head),
                sample.target,
                sample.weight,
                size,
                weights.huber,
            )
        if weights.flow_contrast > 0:
            terms["flow_contrast"] = weights.flow_contrast * _flow_contrast(
                cosine, sample, grid, weights.temperature
            )

    if weights.dino_best_buddies > 0:
        index, weight = sample_buddies(
            table, chosen, options.pair_points, settings.foreground.best_buddy_share, generator
        )
        buddies = table.buddies
        if len(buddies):
            weight = (
                weight
                * losses.ambiguity_weight(buddies.ambiguity[index])
                * losses.similarity_weight(buddies.cosine[index])
            )
            both = _both_ways(tokens, length, buddies.tokens[index], weight, weights.temperature)
            terms["dino_best_buddies"] = (
                weights.dino_best_buddies * 0.5 * both / losses.DINO_DIVISOR
            )

    if self_supervised and weights.refined_best_buddies > 0:
        with torch.no_grad():
            tokens_of, weight = _refined_buddies(
                tokens / length, data.foreground[frames[0::2]], settings, generator
            )
        both = _both_ways(tokens, length, tokens_of, weight, weights.temperature)
        terms["refined_best_buddies"] = (
            weights.refined_best_buddies * 0.5 * both / losses.REFINED_DIVISOR
        )

    if self_supervised and weights.cycle > 0:
        terms["cycle"] = weights.cycle * _cycle(
            model, data, frames, tokens, length, settings, generator
        )

    if max(weights.norm, weights.angle) > 0:
        raw = raw.float().flatten(2)
        raw_length = lengths(raw)
        if weights.norm > 0:
            terms["norm"] = weights.norm * losses.norm_prior(length, raw_length)
        if weights.angle > 0:
            terms["angle"] = weights.angle * losses.angle_prior(tokens, length, raw, raw_length)
    return terms


def _flow_contrast(
    cosine: Tensor, sample: FlowSample, grid: TokenGrid, temperature: float
) -> Tensor:
    """The token that flow leads to against all other tokens of its frame."""
    positive = grid.nearest(sample.target)
    total = losses.contrastive_loss(cosine, positive, sample.weight, temperature)
    return total / sample.weight.sum().clamp(min=1e-8)


def _both_ways(
    tokens: Tensor, length: Tensor, buddies: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """The contrastive loss of best buddies int64 [P, K, 2] in frames 2p and 2p + 1, there and
    back."""
    there, back = (
        losses.contrastive_loss(
            cosines(_columns(tokens[s::2], buddies[..., s]), tokens[t::2], length[t::2]),
            buddies[..., t],
            weight,
            temperature,
        )
        for s, t in ((0, 1), (1, 0))
    )
    return there + back


def _columns(tokens: Tensor, index: Tensor) -> Tensor:
    """Unit features [P, K, C] of some tokens, int64 [P, K], of [P, C, n]."""
    wide = index[:, None].expand(-1, tokens.shape[1], -1)
    return unit_length(tokens.gather(2, wide), dim=1).transpose(1, 2)


def _refined_buddies(
    units: Tensor,
    foreground: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mutual nearest neighbours of refined features of unit length in frames 2p and 2p + 1: tokens
    [P, K, 2], weights [P, K]."""
    sources, targets = units[0::2], units[1::2]
    similarity = sources.transpose(1, 2) @ targets
    best = similarity.max(dim=2)
    partner = best.indices
    back = similarity.max(dim=1).indices.gather(1, partner)
    mutual = back == torch.arange(sources.shape[2], device=sources.device)
    share = settings.foreground.best_buddy_share
    index, weight = draw_shares(
        mutual & foreground,
        mutual & ~foreground,
        settings.optimizer.pair_points,
        share,
        generator,
    )
    weight = weight * losses.similarity_weight(best.values.gather(1, index))
    return torch.stack([index, partner.gather(1, index)], dim=-1), weight


def _cycle(
    model: TrackerModel,
    data: ClipData,
    frames: Tensor,
    tokens: Tensor,
    length: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """Random points there and back. Only the way back teaches: what it should find, the point
    itself, is known, whereas the way there has nothing but its own output to compare with."""
    grid, weights = data.grid, settings.loss
    points = sample_points(
        data.foreground[frames],
        settings.optimizer.pair_points // 2,
        settings.foreground.best_buddy_share,
        grid,
        generator,
    )
    here = torch.arange(len(frames), device=points.device)
    there = here ^ 1  # the other frame of the pair
    rows = here[:, None].expand(points.shape[:2])
    with torch.no_grad():
        reached = predict(tokens, length, grid, model.head, rows, points, there)
    returned = predict(tokens, length, grid, model.head, rows ^ 1, reached)
    error = (returned.detach() - points).norm(dim=-1)
    weight = losses.cycle_weight(error, weights.cycle_error, weights.cycle_decay)
    size = (grid.height, grid.width)
    return losses.position_loss(returned, points, weight, size, weights.huber)


def _set_learning_rates(
    optimizer: torch.optim.Optimizer, settings: Settings, iteration: int, share: float
) -> None:
    delta_dino, head = optimizer.param_groups
    base = settings.optimizer.learning_rate
    if settings.optimizer.schedule == "published":
        delta_dino["lr"], head["lr"] = base * 0.999 ** (iteration // 40), base
    else:
        rise = min(1.0, (share + 0.01) / 0.1)
        rate = base * rise * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        delta_dino["lr"], head["lr"] = rate, rate


def _finite(terms: dict[str, Tensor], iteration: int) -> dict[str, float]:
    values = {name: float(term) for name, term in terms.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise OptimizationError(
            f"loss '{broken[0]}' is {values[broken[0]]} after {iteration} iterations: "
            "lower optimizer.learning_rate"
        )
    return values


def _settling_seconds(model: TrackerModel, data: ClipData, settings: Settings) -> float:
    """How long `_settle_normalization` is going to take, from its first batch."""
    batches = _settling_batches(data, settings)
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        started = time.monotonic()
        with torch.no_grad():
            tokens = model.refine(data.pictures[batches[0]], data.features[batches[0]], data.grid)
            tokens.sum().item()  # waits for the device
        seconds = time.monotonic() - started
    return seconds * len(batches)


def _settling_batches(data: ClipData, settings: Settings) -> tuple[Tensor, ...]:
    count = len(data.pictures)
    chosen = torch.linspace(0, count - 1, min(count, SETTLING_FRAMES)).round().long()
    return chosen.to(data.features.device).split(settings.optimizer.frames)


def _settle_normalization(model: TrackerModel, data: ClipData, settings: Settings) -> None:
    """Batch statistics of the clip as it is now: running ones lag behind weights that moved
    fast."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
    with torch.no_grad():
        for frames in _settling_batches(data, settings):
            model.refine(data.pictures[frames], data.features[frames], data.grid)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
