"""How the report writes numbers."""

from __future__ import annotations

import math

from dino_tracker_ros.evaluation.report.markup import Markup, element, joined
from dino_tracker_ros.evaluation.scores import Metric, Score

DASH = "–"
"""Where there is no number."""


def metric_title(metric: Metric) -> Markup:
    """The title, what follows an underscore set low."""
    name, _, low = metric.title.partition("_")
    return joined([name, element("sub", low)]) if low else joined(name)


def value_text(metric: Metric, value: float) -> str:
    """A score in its metric's unit: shares in percent with one decimal, others with two."""
    return number_text(100 * value, 1) if metric.unit == "%" else number_text(value, 2)


def interval_text(metric: Metric, score: Score) -> str:
    """The 95 % interval in the metric's unit."""
    return f"{value_text(metric, score.low)}–{value_text(metric, score.high)}"


def number_text(value: float, digits: int) -> str:
    """With so many decimals; a dash for what is no number."""
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def measure_text(value: float) -> str:
    """Whole numbers without decimals, others with two."""
    return f"{value:.0f}" if float(value).is_integer() else number_text(value, 2)


def many(count: int, what: str) -> str:
    """1 clip, 2 clips."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
