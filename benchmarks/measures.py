"""What is said about repeated measurements: medians, spreads, growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, the smallest and the largest, and how many there were."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Summarises at least one measurement."""
    return Spread(float(np.median(values)), min(values), max(values), len(values))


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the law value = c * size^p that fits best (least squares of the logarithms).

    NaN with fewer than two sizes, or where a value is not positive: it was too small to measure.
    """
    if len(set(sizes)) < 2 or min(values) <= 0:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def slope(values: Sequence[float]) -> float:
    """How much the values grow from one to the next (least squares); 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])
