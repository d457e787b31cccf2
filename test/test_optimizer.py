"""The optimization: what it changes, when it ends, and what it adds up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from slow_sampling import slow_sample
from torch import Tensor, nn

from dino_tracker_ros.tracking import optimizer as optimizer_module
from dino_tracker_ros.tracking.best_buddies import BestBuddies
from dino_tracker_ros.tracking.clip_data import ClipData
from dino_tracker_ros.tracking.errors import OptimizationError, TrackerError
from dino_tracker_ros.tracking.matching import cosines, features_at, lengths, predict
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.optimizer import FitProgress, FitReport, optimize
from dino_tracker_ros.tracking.sampling import FlowSample, index_by_pair
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import Trajectories

CHANNELS = 8
BASE: dict[str, object] = {
    "delta_dino.width": 4,
    "delta_dino.kernel": 3,
    "delta_dino.downscale": 1,
    "head.initialization": "smooth",
    "loss.self_supervised_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.time_budget": 0.0,
    "optimizer.frames": 4,
    "optimizer.flow_points": 48,
    "optimizer.pair_points": 16,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(**values: object) -> Settings:
    changes = {name.replace("__", "."): value for name, value in values.items()}
    return with_values(Settings(), {**BASE, **changes})


def model_of(settings: Settings, channels: int = CHANNELS) -> TrackerModel:
    return TrackerModel(channels, settings, torch.float32).eval()


@pytest.fixture
def data() -> ClipData:
    """Four frames of noise in which nothing moves."""
    return still_clip(56, 70)


@pytest.fixture
def crowded() -> ClipData:
    """The same of a larger picture, with more to learn from."""
    return still_clip(140, 182, tracked=3000, matched=400)


def still_clip(height: int, width: int, tracked: int = 60, matched: int = 6) -> ClipData:
    """Four frames of noise with `tracked` trajectories, and `matched` best buddies a pair."""
    generator = torch.Generator().manual_seed(0)
    frames, grid = 4, TokenGrid(height, width)
    n = grid.rows * grid.cols
    images = torch.randint(0, 255, (1, 3, height, width), generator=generator, dtype=torch.uint8)
    images = images.expand(frames, -1, -1, -1).clone()
    features = torch.randn(frames, CHANNELS, grid.rows, grid.cols, generator=generator)
    edge = torch.tensor([width - 1.0, height - 1.0])
    points = torch.rand(tracked, 1, 2, generator=generator) * edge
    valid = torch.rand(tracked, frames, generator=generator) < 0.8
    points = points.expand(-1, frames, -1).clone()
    trajectories = Trajectories(points, valid, torch.zeros(tracked).long())
    pairs = [(i, j) for i in range(frames) for j in range(i + 1, frames)]
    of_pairs = torch.tensor(pairs).repeat_interleave(matched, dim=0)
    tokens = torch.randint(n, (len(of_pairs), 1), generator=generator).expand(-1, 2)
    buddies = BestBuddies(of_pairs, tokens, torch.ones(len(of_pairs)), torch.zeros(len(of_pairs)))
    foreground = torch.rand(frames, n, generator=generator) < 0.4
    return ClipData(
        pictures=pictures(images, settings_of()),
        features=features,
        grid=grid,
        trajectories=trajectories,
        trajectory_foreground=torch.arange(tracked) < 0.4 * tracked,
        buddies=index_by_pair(buddies, pairs, foreground),
        foreground=foreground,
    )


def pictures(images: Tensor, settings: Settings) -> Tensor:
    """What a model of these settings sees of uint8 images."""
    return model_of(settings).pictures(images)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- what it changes ----


def test_the_gradient_reaches_delta_dino_and_the_head_and_nothing_else(data: ClipData) -> None:
    settings = settings_of()
    model = model_of(settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    frozen = {
        "pictures": data.pictures.clone(),
        "features": data.features.clone(),
        "points": data.trajectories.points.clone(),
        "cosine": data.buddies.buddies.cosine.clone(),
    }
    optimize(model, data, settings, iterations=6)
    kinds = {name.partition(".")[0] for name in before}
    assert kinds == {"delta_dino", "head"}
    for name, parameter in model.named_parameters():
        # A convolution's bias before a normalisation has no effect, and the outermost bias of the
        # head is taken out by the softmax.
        free = name.endswith("weight")
        assert not free or not torch.equal(parameter, before[name]), f"{name} has learnt nothing"
        assert parameter.isfinite().all()
    for name, tensor in {
        "pictures": data.pictures,
        "features": data.features,
        "points": data.trajectories.points,
        "cosine": data.buddies.buddies.cosine,
    }.items():
        assert torch.equal(tensor, frozen[name]), f"{name} changed"
        assert not tensor.requires_grad and tensor.grad is None


LOSSES = ("flow", "cycle", "dino_best_buddies", "refined_best_buddies", "norm", "angle")


def only(loss: str, **values: object) -> Settings:
    weights: dict[str, object] = {f"loss__{name}": 0.0 for name in (*LOSSES, "flow_contrast")}
    return settings_of(**{**weights, f"loss__{loss}": 1.0, **values})


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_alone_is_the_only_one_reported(data: ClipData, loss: str) -> None:
    settings = only(loss)
    report = optimize(model_of(settings), data, settings, iterations=1)
    assert list(report.losses) == [loss]
    assert math.isfinite(report.losses[loss])


@pytest.mark.parametrize(
    ("loss", "head_learns"),
    [
        ("flow", True),
        ("cycle", True),
        ("dino_best_buddies", False),
        ("refined_best_buddies", False),
    ],
)
def test_where_each_loss_teaches(data: ClipData, loss: str, head_learns: bool) -> None:
    # Random features seldom come back to where they were: let the cycle loss learn from all.
    settings = only(loss, loss__cycle_error=1000.0, loss__cycle_decay=1.0)
    model = model_of(settings)
    before = state(model)
    optimize(model, data, settings, iterations=3)
    after = state(model)
    last = [name for name in before if name.startswith("delta_dino") and name.endswith("weight")]
    assert not all(torch.equal(before[name], after[name]) for name in last)
    head = [name for name in before if name.startswith("head")]
    assert all(torch.equal(before[name], after[name]) for name in head) != head_learns


@pytest.mark.parametrize("loss", LOSSES[:4])
def test_weights_multiply_losses(data: ClipData, loss: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        settings = only(loss, **{f"loss__{loss}": weight}, loss__cycle_error=1000.0)
        values.append(optimize(model_of(settings), data, settings, 1).losses[loss])
    assert values[0] > 0
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-5)


def test_no_loss_at_all_or_nothing_to_learn_from(data: ClipData) -> None:
    none = data.trajectories
    empty = dataclasses.replace(
        data,
        trajectories=Trajectories(none.points[:0], none.valid[:0], none.start[:0]),
        trajectory_foreground=data.trajectory_foreground[:0],
    )
    settings = settings_of()
    report = optimize(model_of(settings), empty, settings, iterations=2)
    assert "flow" not in report.losses and "norm" in report.losses


def test_flow_contrast_is_the_slow_loops(data: ClipData) -> None:
    settings = settings_of(loss__temperature=0.2)
    generator = torch.Generator().manual_seed(1)
    frames, grid = 3, data.grid
    tokens = torch.randn(frames, CHANNELS, grid.rows * grid.cols, generator=generator)
    edge = torch.tensor([69.0, 55.0])
    sample = FlowSample(
        source=torch.randint(frames, (frames, 5), generator=generator),
        points=torch.rand(frames, 5, 2, generator=generator) * edge,
        # Flow may lead a little beyond the picture.
        target=torch.rand(frames, 5, 2, generator=generator) * 1.4 * edge - 0.2 * edge,
        weight=torch.rand(frames, 5, generator=generator).round() * 0.5,
    )
    total = 0.0
    centres = grid.centres().reshape(-1, 2)
    for g in range(frames):
        for k in range(5):
            source = tokens[int(sample.source[g, k])].view(-1, grid.rows, grid.cols)
            query = slow_sample(source, *sample.points[g, k].tolist(), grid)
            alike = torch.cosine_similarity(query[:, None], tokens[g], dim=0) / 0.2
            positive = int((centres - sample.target[g, k]).norm(dim=1).argmin())
            total -= float(sample.weight[g, k] * alike.log_softmax(dim=0)[positive])
    expected = total / float(sample.weight.sum())
    queries = features_at(tokens, grid, sample.source, sample.points)
    cosine = cosines(queries, tokens, lengths(tokens))
    found = optimizer_module._flow_contrast(cosine, sample, grid, settings.loss.temperature)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    none = dataclasses.replace(sample, weight=torch.zeros(frames, 5))
    nothing = optimizer_module._flow_contrast(cosine, none, grid, settings.loss.temperature)
    assert float(nothing) == 0


def test_flow_contrast_pushes_a_distractor_far_from_the_disc_away() -> None:
    """Two tokens far apart look alike; the flow loss's disc never sees the other one."""
    grid = TokenGrid(28, 140)
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(1, CHANNELS, grid.rows * grid.cols, generator=generator)
    true, distractor = 2 * grid.cols // 2 + 1, 2 * grid.cols // 2 + 9
    still[0, :, distractor] = still[0, :, true] + 0.1
    tokens = still.repeat(2, 1, 1).requires_grad_()
    place = grid.centres().reshape(-1, 2)[true].expand(2, 1, 2)
    sample = FlowSample(torch.tensor([[1], [0]]), place, place, torch.ones(2, 1))

    def apart() -> float:
        both = tokens.detach()[[0, 1], :, [true, distractor]]
        return float(torch.cosine_similarity(*both, dim=0))

    before = apart()
    assert before > 0.9
    optimizer = torch.optim.SGD([tokens], lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        queries = features_at(tokens, grid, sample.source, sample.points)
        cosine = cosines(queries, tokens, lengths(tokens))
        optimizer_module._flow_contrast(cosine, sample, grid, 0.1).backward()
        optimizer.step()
    assert apart() < before - 0.3
    same = torch.cosine_similarity(*tokens.detach()[:, :, true], dim=0)
    assert float(same) > 0.95


def test_flow_contrast_comes_with_its_weight_and_teaches_the_features(data: ClipData) -> None:
    values = []
    for weight in (0.0, 1.0, 2.5):
        settings = only("flow", loss__flow_contrast=weight)
        losses = optimize(model_of(settings), data, settings, 1).losses
        assert ("flow_contrast" in losses) == (weight > 0)
        values.append(losses.get("flow_contrast", 0.0))
    assert values[1] > 0
    assert values[2] == pytest.approx(2.5 * values[1], rel=1e-5)


# ---- what an iteration adds up ----


def test_the_losses_of_one_iteration_by_hand() -> None:
    """Four tokens a frame, one best buddy, one trajectory: every draw gives the same."""
    grid = TokenGrid(8, 8)
    assert (grid.rows, grid.cols) == (2, 2)
    # Token 0 of both frames is e0; the others lean to it and differ from each other, so that
    # token 0 is everyone's nearest and the only mutual one.
    units = torch.zeros(2, CHANNELS, 4)
    units[:, 0, 0] = 1.0
    for t in range(2):
        for k in range(1, 4):
            units[t, 0, k], units[t, 3 * t + k, k] = 0.6, 0.8
    scale = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    features = (units * scale[:, None]).view(2, CHANNELS, 2, 2)
    buddies = BestBuddies(
        torch.tensor([[0, 1]]), torch.tensor([[2, 0]]), torch.tensor([0.6]), torch.tensor([0.8])
    )
    nowhere = torch.zeros(2, 4, dtype=torch.bool)
    points = torch.tensor([[[1.0, 2.0], [6.0, 3.0]]])
    data = ClipData(
        pictures=pictures(torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8), settings_of()),
        features=features,
        grid=grid,
        trajectories=Trajectories(points, torch.ones(1, 2).bool(), torch.zeros(1).long()),
        trajectory_foreground=torch.zeros(1).bool(),
        buddies=index_by_pair(buddies, [(0, 1)], nowhere),
        foreground=nowhere,
    )
    settings = settings_of(
        loss__flow=3.0,
        loss__dino_best_buddies=1.0,
        loss__refined_best_buddies=1.0,
        loss__cycle=0.0,
        loss__huber=1 / 32,
        loss__temperature=0.1,
    )
    model = model_of(settings)
    report = optimize(model_of(settings), data, settings, iterations=1)

    def contrast(cosines: list[float], positive: int) -> float:
        shares = [math.exp(c / 0.1) for c in cosines]
        return -math.log(shares[positive] / sum(shares))

    # Best buddy: token 2 of frame 0 sees 0.6, 0.36, 0.36, 0.36 in frame 1 and should see token 0;
    # back, token 0 of frame 1 sees 1, 0.6, 0.6, 0.6 in frame 0 and should see token 2.
    both = contrast([0.6, 0.36, 0.36, 0.36], 0) + contrast([1, 0.6, 0.6, 0.6], 2)
    sure = 1 / (1 + math.exp(-(27 * (1 - 0.8) - 5.7)))
    expected = 0.5 * both * sure * 2 * 0.6**3 / 700
    assert report.losses["dino_best_buddies"] == pytest.approx(expected, rel=1e-4)
    # Refined: token 0 and token 0, cosine 1, weight 2; sum over both ways / (2 * 900).
    both = 2 * contrast([1, 0.6, 0.6, 0.6], 0)
    assert report.losses["refined_best_buddies"] == pytest.approx(2 * both / 1800, rel=1e-4)
    # Flow: there and back along the one trajectory, in coordinates of 2/7 a pixel.
    tokens = features.flatten(2)
    with torch.no_grad():
        found = predict(
            tokens, lengths(tokens), grid, model.head,
            torch.tensor([[1], [0]]), points[0].flip(0)[:, None],
        )[:, 0]  # fmt: skip
    total = 0.0
    for reached, wanted in zip(found.tolist(), points[0].tolist()):
        for axis in range(2):
            error = abs(reached[axis] - wanted[axis]) * 2 / 7
            total += error**2 / 2 if error < 1 / 32 else (error - 1 / 64) / 32
    assert report.losses["flow"] == pytest.approx(3.0 * total / 4, rel=1e-4)
    # Nothing has been learnt yet: no distance from the prior.
    assert report.losses["norm"] == pytest.approx(0, abs=1e-9)
    assert report.losses["angle"] == pytest.approx(0, abs=1e-9)


def test_every_pair_is_looked_at_before_one_comes_again(
    data: ClipData, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of()
    seen: list[tuple[int, ...]] = []
    real = optimizer_module.sample_flow

    def watched(trajectories: Trajectories, foreground: Tensor, frames: Tensor, *rest: Any) -> Any:
        seen.extend(tuple(pair) for pair in frames.view(-1, 2).tolist())
        return real(trajectories, foreground, frames, *rest)

    monkeypatch.setattr(optimizer_module, "sample_flow", watched)
    optimize(model_of(settings), data, settings, iterations=6)
    every = sorted(tuple(pair) for pair in data.buddies.pairs.tolist())
    assert len(every) == 6  # two an iteration
    assert sorted(seen[:6]) == sorted(seen[6:]) == every
    assert seen[:6] != seen[6:]


def test_what_is_left_of_a_round_is_not_looked_at_alone() -> None:
    """Five pairs by two: the fifth waits for the next round, so no batch is smaller."""
    settings = settings_of()
    generator = torch.Generator().manual_seed(0)
    batches = optimizer_module._pair_batches(5, settings, generator)
    drawn = [next(batches) for _ in range(40)]
    assert {len(batch) for batch in drawn} == {2}
    assert set(torch.cat(drawn).tolist()) == set(range(5))
    assert len(next(optimizer_module._pair_batches(1, settings, generator))) == 1


def test_self_supervision_joins_at_its_share(data: ClipData) -> None:
    settings = settings_of(loss__self_supervised_start=0.5, loss__flow_contrast=0.1)
    told: list[FitProgress] = []
    optimize(model_of(settings), data, settings, 20, told.append)
    joining = {"cycle", "refined_best_buddies"}
    assert [progress.iteration for progress in told] == [10, 20]
    assert joining.isdisjoint(told[0].losses)
    assert joining <= told[1].losses.keys()
    assert told[0].losses.keys() == {*LOSSES, "flow_contrast"} - joining


class RecordingAdam(torch.optim.Adam):
    """Adam that keeps the learning rates it was given."""

    rates: list[tuple[float, ...]]

    def step(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        type(self).rates.append(tuple(group["lr"] for group in self.param_groups))
        super().step(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    RecordingAdam.rates = []
    monkeypatch.setattr(torch.optim, "Adam", RecordingAdam)
    return RecordingAdam.rates


def test_the_published_learning_rates(data: ClipData, rates: list[tuple[float, ...]]) -> None:
    settings = only("norm", optimizer__schedule="published", optimizer__learning_rate=0.01)
    optimize(model_of(settings), data, settings, iterations=82)
    delta_dino, head = zip(*rates)
    assert set(head) == {0.01}
    assert list(delta_dino[:40]) == pytest.approx([0.01] * 40)
    assert list(delta_dino[40:80]) == pytest.approx([0.01 * 0.999] * 40)
    assert list(delta_dino[80:]) == pytest.approx([0.01 * 0.999**2] * 2)


def test_the_cosine_rises_and_falls_to_little(
    data: ClipData, rates: list[tuple[float, ...]]
) -> None:
    settings = only("norm", optimizer__schedule="cosine", optimizer__learning_rate=0.01)
    optimize(model_of(settings), data, settings, iterations=40)
    for rate in zip(*rates):
        peak = rate.index(max(rate))
        assert 0 < peak <= 8
        assert 0.008 < rate[peak] <= 0.01
        assert list(rate[: peak + 1]) == sorted(rate[: peak + 1])
        assert list(rate[peak:]) == sorted(rate[peak:], reverse=True)
        assert rate[-1] < 0.0005


# ---- when it ends ----


def test_the_seed_repeats_a_fit_bit_for_bit(data: ClipData) -> None:
    def fitted(seed: int) -> tuple[FitReport, dict[str, Tensor]]:
        settings = settings_of(optimizer__seed=seed)
        model = model_of(settings)
        report = optimize(model, data, settings, iterations=8)
        return report, state(model)

    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    first_report, first = fitted(0)
    assert torch.equal(torch.rand(2), drawn), "a fit disturbs the caller's randomness"
    report, again = fitted(0)
    assert equal(first, again)
    assert report.losses == first_report.losses
    assert not equal(first, fitted(1)[1])


@pytest.fixture
def two_threads(one_thread: None) -> None:
    """In place of the one of the other tests, which is put back."""
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_threads")
def test_the_seed_repeats_a_fit_bit_for_bit_on_two_threads(crowded: ClipData) -> None:
    """Many points read the same tokens: their gradients meet there in whatever order."""
    settings = only("flow_contrast", optimizer__flow_points=8192)
    fits = []
    for _ in range(5):
        assert torch.get_num_threads() == 2
        model = model_of(settings)
        report = optimize(model, crowded, settings, iterations=2)
        fits.append((report.losses, state(model)))
    for losses, weights in fits[1:]:
        assert losses == fits[0][0]
        assert equal(weights, fits[0][1])


@pytest.fixture(params=[(False, False), (True, True), (True, False)])
def determinism(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """What the caller chose: deterministic, and whether that only warns."""
    before = chosen_determinism()
    torch.use_deterministic_algorithms(request.param[0], warn_only=request.param[1])
    yield request.param
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def chosen_determinism() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def test_a_fit_leaves_the_choice_of_algorithms_to_the_caller(
    data: ClipData, determinism: tuple[bool, bool]
) -> None:
    settings = settings_of()
    within = []
    optimize(
        model_of(settings), data, settings, 2, lambda _: within.append(chosen_determinism())
    )
    assert within and set(within) == {(True, True)}
    assert chosen_determinism() == determinism
    broken = dataclasses.replace(data, features=torch.full_like(data.features, math.nan))
    with pytest.raises(OptimizationError):
        optimize(model_of(settings), broken, settings, iterations=2)
    assert chosen_determinism() == determinism


def test_progress_is_told(data: ClipData) -> None:
    settings = settings_of()
    told: list[FitProgress] = []
    report = optimize(model_of(settings), data, settings, 25, told.append)
    assert told[-1].iteration == 25
    assert [progress.iteration for progress in told] == sorted({p.iteration for p in told})
    assert {progress.iterations for progress in told} == {25}
    assert [p.seconds for p in told] == sorted(p.seconds for p in told)
    assert 0 <= told[-1].seconds <= report.seconds
    assert report == FitReport(25, report.seconds, "iterations", told[-1].losses)


def test_a_cancelled_fit_keeps_what_it_has_learnt(data: ClipData) -> None:
    settings = settings_of()
    model = model_of(settings)
    before = state(model)
    answers = iter([False] * 5 + [True])
    report = optimize(model, data, settings, 1000, cancelled=lambda: next(answers))
    assert (report.stopped, report.iterations) == ("cancelled", 5)
    assert not equal(state(model), before)
    assert not model.training
    assert next(answers, None) is None, "it went on asking"


@pytest.mark.parametrize("budget", [0.0, 1e3])
def test_a_fit_cancelled_at_once_changes_nothing(data: ClipData, budget: float) -> None:
    settings = settings_of(optimizer__time_budget=budget)
    model = model_of(settings)
    before = state(model)
    report = optimize(model, data, settings, 1000, cancelled=lambda: True)
    assert (report.stopped, report.iterations, report.losses) == ("cancelled", 0, {})
    assert equal(state(model), before)


class Clock(SimpleNamespace):
    """A clock that goes on a second with every look at it."""

    def __init__(self) -> None:
        super().__init__(now=0.0, monotonic=self.look, perf_counter=self.look)

    def look(self) -> float:
        self.now += 1.0
        return self.now


def test_the_time_budget_ends_the_fit(
    data: ClipData, monkeypatch: pytest.MonkeyPatch, rates: list[tuple[float, ...]]
) -> None:
    monkeypatch.setattr(optimizer_module, "time", Clock())
    settings = settings_of(optimizer__time_budget=30.0)
    model = model_of(settings)
    before = state(model)
    report = optimize(model, data, settings, iterations=100_000)
    assert report.stopped == "time_budget"
    assert 5 <= report.iterations <= 30
    # All of it is used: an iteration is one or two looks at the clock.
    assert 27 <= report.seconds <= 30
    assert not equal(state(model), before)
    # The schedule follows the budget: it still ends at a small rate.
    assert rates[-1][0] < 0.1 * max(rate[0] for rate in rates)


def test_slow_first_iterations_do_not_end_the_fit_early(
    data: ClipData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one takes ten seconds, all others one: by the mean of all, 12 would be the last."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(optimizer_module, "time", clock)
    monkeypatch.setattr(optimizer_module, "_settling_seconds", lambda *_: 0.0)
    descend = optimizer_module._descend

    def slow(*args: Any) -> dict[str, Tensor]:
        clock.now += 1.0 if clock.now else 10.0
        return descend(*args)

    monkeypatch.setattr(optimizer_module, "_descend", slow)
    settings = settings_of(optimizer__time_budget=22.5)
    report = optimize(model_of(settings), data, settings, iterations=1000)
    assert (report.stopped, report.iterations, report.seconds) == ("time_budget", 13, 22.0)


@pytest.mark.parametrize(
    ("now", "budget", "used_up"),
    [
        (16.0, 20.0, False),
        (20.0, 20.0, True),
        (20.0, 21.5, True),  # nearer than 24
        (20.0, 22.5, False),
        (4.0, 7.0, True),  # 8 is nearer, but more than a tenth too long
        (4.0, 7.5, False),
    ],
)
def test_a_time_budget_is_kept_to_the_nearest_iteration(
    now: float, budget: float, used_up: bool
) -> None:
    """Iterations of four seconds."""
    assert optimizer_module._used_up(budget, budget, [now - 4.0, now]) == used_up


def test_without_a_budget_time_ends_nothing(
    data: ClipData, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.look = lambda: 1e9  # type: ignore[method-assign]
    monkeypatch.setattr(optimizer_module, "time", clock)
    settings = settings_of(optimizer__time_budget=0.0)
    report = optimize(model_of(settings), data, settings, iterations=3)
    assert (report.stopped, report.iterations) == ("iterations", 3)


def test_no_iterations_change_nothing(data: ClipData) -> None:
    settings = settings_of()
    model = model_of(settings)
    before = state(model)
    report = optimize(model, data, settings, iterations=0)
    assert (report.stopped, report.iterations) == ("iterations", 0)
    assert equal(state(model), before)


def test_a_fit_that_diverges_leaves_the_model_as_it_was(data: ClipData) -> None:
    settings = settings_of()
    model = model_of(settings)
    optimize(model, data, settings, iterations=3)
    before = state(model)
    broken = dataclasses.replace(data, features=torch.full_like(data.features, math.nan))
    with pytest.raises(OptimizationError, match=r"loss 'flow' is nan") as error:
        optimize(model, broken, settings, iterations=15)
    assert "optimizer.learning_rate" in str(error.value)
    assert isinstance(error.value, TrackerError)
    assert equal(state(model), before)
    assert not model.training
    # And it can be fitted again.
    assert optimize(model, data, settings, iterations=2).stopped == "iterations"


def test_a_callback_that_fails_leaves_the_model_as_it_was(data: ClipData) -> None:
    settings = settings_of()
    model = model_of(settings)
    before = state(model)

    def fail(progress: FitProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(model, data, settings, 10, fail)
    assert equal(state(model), before)
    assert not model.training


def test_a_fit_starts_from_what_the_model_has_learnt(data: ClipData) -> None:
    # Features are noise and the scene stands still: points can learn to stay where they are.
    settings = only("flow")
    model = model_of(settings)
    cold = optimize(model, data, settings, 1).losses["flow"]
    optimize(model, data, settings, 60)
    warm = optimize(model, data, settings, 1).losses["flow"]
    assert warm < 0.8 * cold


def test_a_fitted_model_sees_the_clip_as_it_did_while_learning(data: ClipData) -> None:
    """Batch statistics are those of the whole clip under the final weights."""
    settings = settings_of(optimizer__frames=4)
    model = model_of(settings)
    optimize(model, data, settings, iterations=20)
    with torch.no_grad():
        seen = model.refine(data.pictures, data.features, data.grid)
        model.train()
        learnt = model.refine(data.pictures, data.features, data.grid)
    change = (learnt - data.features.flatten(2)).norm()
    assert change > 0
    # Running variances divide by n - 1, a batch's by n.
    assert (seen - learnt).norm() < 0.05 * change
