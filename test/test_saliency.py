"""What counts as foreground where nobody says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.saliency import salient_tokens

FRAMES, CHANNELS, ROWS, COLS = 3, 16, 12, 15


def object_mask() -> Tensor:
    """A rectangle that moves, away from the border."""
    mask = torch.zeros(FRAMES, ROWS, COLS, dtype=torch.bool)
    for t in range(FRAMES):
        mask[t, 3:8, 2 + 2 * t : 7 + 2 * t] = True
    return mask


def features_of(mask: Tensor, seed: int) -> Tensor:
    """Two kinds of tokens and noise, of unit length."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(2, CHANNELS, generator=generator)
    tokens = kinds[mask.long()] + 0.2 * torch.randn(*mask.shape, CHANNELS, generator=generator)
    return unit_length(tokens.permute(0, 3, 1, 2), dim=1)


@pytest.mark.parametrize("seed", range(6))
def test_the_object_is_found_whatever_the_components_sign(seed: int) -> None:
    mask = object_mask()
    features = features_of(mask, seed)
    assert torch.equal(salient_tokens(features), mask)
    # Negated features have the same components with the other sign.
    assert torch.equal(salient_tokens(-features), mask)


def test_an_object_that_fills_most_of_the_picture_is_still_the_object() -> None:
    mask = torch.zeros(FRAMES, ROWS, COLS, dtype=torch.bool)
    mask[:, 1:-1, 1:-1] = True
    assert mask.float().mean() > 0.7
    assert torch.equal(salient_tokens(features_of(mask, 0)), mask)


def test_the_component_is_the_first_and_the_split_has_the_least_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(2, 0.1, CHANNELS)[:, None, None]
    features = spread * torch.randn(FRAMES, CHANNELS, ROWS, COLS, generator=generator)
    features = unit_length(features, dim=1)
    tokens = features.permute(0, 2, 3, 1).reshape(-1, CHANNELS).double().numpy()
    _, _, components = np.linalg.svd(tokens - tokens.mean(axis=0), full_matrices=False)
    score = (tokens - tokens.mean(axis=0)) @ components[0]

    def variance(threshold: float) -> float:
        parts = [score[score > threshold], score[score <= threshold]]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts if len(part))

    found = salient_tokens(features).flatten().numpy()
    assert found.any() and not found.all()
    # The foreground is one side of one threshold on the first component …
    sides = (score[found], score[~found])
    low, high = sorted(sides, key=np.mean)
    assert low.max() <= high.min() + 1e-5
    # … and no other threshold, to one of 256 bins, splits better.
    ours = variance((low.max() + high.min()) / 2)
    best = min(variance(threshold) for threshold in np.sort(score)[:-1])
    assert ours <= 1.01 * best


def test_pictures_without_contrast_and_tiny_ones_give_some_answer() -> None:
    same = torch.ones(2, CHANNELS, 4, 5) / CHANNELS**0.5
    assert salient_tokens(same).shape == (2, 4, 5)
    for rows, cols in ((1, 1), (2, 2), (1, 5)):
        found = salient_tokens(unit_length(torch.rand(2, CHANNELS, rows, cols), dim=1))
        assert found.shape == (2, rows, cols)
        assert found.dtype == torch.bool


def test_half_precision_is_enough() -> None:
    mask = object_mask()
    assert torch.equal(salient_tokens(features_of(mask, 1).bfloat16()), mask)
