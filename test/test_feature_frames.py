"""Frames with features, and those between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.errors import ClipError
from dino_tracker_ros.tracking.feature_frames import FeatureFrames, feature_frames

SOME = [False, True, False, False, True, True, False]
"""Frames 1, 4 and 5 of 7."""


def told(known: list[bool]) -> FeatureFrames:
    return feature_frames(known, torch.device("cpu"))


def slow_fill(values: Tensor, known: list[bool]) -> Tensor:
    """Linear interpolation in time, one value at a time; flat beyond the ends."""
    numbers = [t for t, has in enumerate(known) if has]
    result = torch.empty_like(values)
    for t in range(len(known)):
        before = max((n for n in numbers if n <= t), default=numbers[0])
        after = min((n for n in numbers if n >= t), default=numbers[-1])
        if before == after:
            result[:, t] = values[:, before]
        else:
            share = (t - before) / (after - before)
            result[:, t] = (1 - share) * values[:, before] + share * values[:, after]
    return result


def test_rows_count_the_frames_that_have_features() -> None:
    frames = told(SOME)
    assert frames.row.tolist() == [-1, 0, -1, -1, 1, 2, -1]
    assert frames.numbers() == [1, 4, 5]


@pytest.mark.parametrize("known", [SOME, [True] * 4, [False, True], [True, False, False], [True]])
def test_what_lies_between_is_interpolated(known: list[bool]) -> None:
    values = torch.rand(3, len(known), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(told(known).filled(values), slow_fill(values, known))


@pytest.mark.parametrize("known", [SOME, [True] * 4, [False, True], [True, False, False], [True]])
def test_every_frame_is_spoken_for_once(known: list[bool]) -> None:
    weights = told(known).weights()
    assert len(weights) == sum(known) and sum(weights) == pytest.approx(len(known))


def test_the_nearest_speaks() -> None:
    assert told(SOME).weights() == [3.0, 2.0, 2.0]
    assert told([True] * 4).weights() == [1.0] * 4


def test_only_what_is_needed_is_asked_for() -> None:
    wanted = torch.zeros(3, len(SOME), dtype=torch.bool)
    wanted[0, 2] = wanted[1, 4] = wanted[2, 6] = True
    asked = told(SOME).asked(wanted)
    assert [torch.nonzero(row)[:, 0].tolist() for row in asked] == [[1, 4], [4], [5]]
    assert torch.equal(told([True] * 4).asked(wanted[:, :4]), wanted[:, :4])


def test_without_any_features_it_says_so() -> None:
    with pytest.raises(ClipError, match="no frame of the clip has features"):
        told([False, False])
