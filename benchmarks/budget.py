"""Time budgets: whether they are kept, and what more of it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.clips import SHOWN, Clip, accuracy, grid_queries, mean_accuracy
from benchmarks.measures import spread
from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Result, Table, seconds_text
from benchmarks.runs import warm_up
from dino_tracker_ros.evaluation.report.charts import Axis, Series, line_chart
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker

BUDGETS = (1.0, 2.0, 5.0, 10.0)  # s
QUICK_BUDGETS = (0.5, 1.0)
TOLERANCE = 0.1
"""By how much of it a budget may be missed."""
_ENDLESS = 1_000_000
"""Iterations that no budget reaches."""


@dataclass(frozen=True)
class _Spent:
    """Seconds of the stage `fit`, its iterations, and percent of the scores."""

    seconds: float
    iterations: int
    scores: dict[str, float]


def benchmark(options: Options) -> Result:
    """Fits with each budget and several seeds; only the budget ends the optimization."""
    clip = options.clip()
    budgets = QUICK_BUDGETS if options.quick else BUDGETS
    spent: dict[float, list[_Spent]] = {budget: [] for budget in budgets}
    for seed in range(options.repeats):
        for budget in budgets:
            values = {"optimizer.time_budget": budget, "optimizer.iterations": _ENDLESS}
            spent[budget].append(_fit(with_values(options.seeded(seed), values), clip))
            say(f"budget {budget:g} s, seed {seed}: {spent[budget][-1].seconds:.2f} s")
    return _result(clip, options.repeats, spent)


def _fit(settings: Settings, clip: Clip) -> _Spent:
    tracker = DinoTracker(settings)
    warm_up(tracker, clip.frames, grid_queries(*clip.size, 16))
    for frame in clip.frames:
        tracker.observe(frame)
    before = tracker.stage_seconds["fit"]
    report = tracker.fit()
    seconds = tracker.stage_seconds["fit"] - before
    if clip.truth is None:
        return _Spent(seconds, report.iterations, {})
    scores = accuracy(tracker.track(clip.truth.queries), clip.truth)
    return _Spent(seconds, report.iterations, scores)


def _result(clip: Clip, seeds: int, spent: dict[float, list[_Spent]]) -> Result:
    budgets = list(spent)
    shown = [name for name in SHOWN if name in spent[budgets[0]][0].scores]
    lines = [["budget, s", "taken, s", "off by", "iterations", *(SHOWN[name] for name in shown)]]
    kept = True
    means = {}
    for budget, runs in spent.items():
        worst = max((each.seconds / budget - 1 for each in runs), key=abs)
        kept = kept and abs(worst) <= TOLERANCE
        means[budget] = mean_accuracy([each.scores for each in runs])
        marks = [
            f"{means[budget][name]:.1f} ± {np.std([each.scores[name] for each in runs]):.1f}"
            for name in shown
        ]
        taken = seconds_text(spread([each.seconds for each in runs]))
        iterations = f"{np.median([each.iterations for each in runs]):.0f}"
        lines.append([f"{budget:g}", taken, f"{100 * worst:+.1f} %", iterations, *marks])
    every = "every budget" if kept else "NOT every budget"
    notes = [
        f"{every} is kept within {100 * TOLERANCE:.0f} %; 'off by' is the worst of "
        "the seeds, scores are their mean ± standard deviation in %"
    ]
    notes += [_worst_loss(name, spent) for name in shown]
    table = Table(f"Time budgets, {clip.name}; {seeds} seeds, median (min–max)", lines, notes)
    charts = []
    if shown:
        series = [
            Series(SHOWN[name], index, [
                (float(place), means[budget][name]) for place, budget in enumerate(budgets)
            ])
            for index, name in enumerate(shown)
        ]  # fmt: skip
        title = "Accuracy with each time budget"
        places = [(float(place), f"{budget:g}") for place, budget in enumerate(budgets)]
        x = Axis("budget, s", -0.1, len(budgets) - 0.9, places)
        y = Axis("%", 0.0, 100.0, [(tick, f"{tick:g}") for tick in (0.0, 25.0, 50.0, 75.0, 100.0)])
        charts.append((title, line_chart(title, series, x, y)))
    return Result([table], {"clip": clip.name, "kept": kept, "runs": spent}, charts)


def _worst_loss(name: str, spent: dict[float, list[_Spent]]) -> str:
    """The most that a budget loses against a smaller one, beside the seeds' noise."""
    values = {budget: [each.scores[name] for each in runs] for budget, runs in spent.items()}
    losses = [
        (float(np.mean(values[less]) - np.mean(values[more])), less, more)
        for less in values
        for more in values
        if less < more
    ]
    loss, less, more = max(losses)
    noise = max(float(np.std(each)) for each in values.values())
    return (
        f"{SHOWN[name]}: more budget costs at most {loss:+.2f} points ({less:g} to {more:g} s); "
        f"the seeds' largest standard deviation is {noise:.2f}"
    )
