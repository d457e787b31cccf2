"""Every loss against numbers worked out by plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import losses
from dino_tracker_ros.tracking.matching import cosines, lengths


def test_position_loss_by_hand() -> None:
    # 101 x 51 px: one pixel is 2/100 of the width and 2/50 of the height in loss coordinates.
    target = torch.tensor([[50.0, 25.0], [50.0, 25.0]])
    predicted = torch.tensor([[51.0, 25.5], [60.0, 25.0]])
    # First point: errors 0.02 and 0.02, both below delta 0.05: 0.02²/2 each.
    first = 0.5 * 0.02**2
    # Second: 0.2 is above delta, 0.05 * (0.2 - 0.025); its y is right.
    second = 0.5 * (0.05 * (0.2 - 0.05 / 2) + 0.0)
    for weight, expected in (
        ((1.0, 1.0), (first + second) / 2),
        ((1.0, 0.0), first),
        ((3.0, 1.0), (3 * first + second) / 4),
    ):
        found = losses.position_loss(predicted, target, torch.tensor(weight), (51, 101), delta=0.05)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_position_loss_without_points_is_zero_and_flat() -> None:
    predicted = torch.rand(3, 4, 2, requires_grad=True)
    found = losses.position_loss(predicted, torch.rand(3, 4, 2), torch.zeros(3, 4), (10, 10), 0.1)
    found.backward()
    assert found.item() == 0
    assert (predicted.grad == 0).all()


def test_position_loss_on_a_picture_of_one_pixel() -> None:
    found = losses.position_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1), (1, 1), 1 / 32)
    assert found.isfinite()


def test_contrastive_loss_by_hand() -> None:
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    tokens = torch.tensor([[[2.0, 0.0, 0.6], [0.0, 3.0, 0.8]]])  # three as columns
    cosine = cosines(queries, tokens, lengths(tokens))
    positives = torch.tensor([[0, 2]])
    # Cosines of the first query are 1, 0, 0.6; of the second 0, 1, 0.8. Temperature 0.5.
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(1.2)))
    second = -math.log(math.exp(1.6) / (math.exp(0) + math.exp(2) + math.exp(1.6)))
    for weight, expected in (
        ((1.0, 1.0), first + second),
        ((0.25, 0.0), 0.25 * first),
        ((0.0, 0.0), 0.0),
    ):
        found = losses.contrastive_loss(
            cosine, positives, torch.tensor([weight]), temperature=0.5
        )
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_contrastive_loss_adds_up_over_pairs() -> None:
    queries = torch.nn.functional.normalize(torch.rand(3, 5, 7), dim=2)
    targets = torch.nn.functional.normalize(torch.rand(3, 7, 11), dim=1)
    positives, weight = torch.randint(11, (3, 5)), torch.rand(3, 5)
    whole = losses.contrastive_loss(queries @ targets, positives, weight, 0.1)
    total = 0.0
    for g in range(3):
        for k in range(5):
            cosines = [float((queries[g, k] * targets[g, :, n]).sum()) for n in range(11)]
            share = math.exp(cosines[positives[g, k]] / 0.1) / sum(
                math.exp(c / 0.1) for c in cosines
            )
            total -= float(weight[g, k]) * math.log(share)
    assert float(whole) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("cosine", "weight"), [(1.0, 2.0), (0.5, 0.25), (0.0, 0.0), (-0.5, 0.0), (0.9, 1.458)]
)
def test_similarity_weight(cosine: float, weight: float) -> None:
    assert float(losses.similarity_weight(torch.tensor(cosine))) == pytest.approx(weight)


@pytest.mark.parametrize("ambiguity", [0.0, 0.5, 0.79, 0.9, 1.0])
def test_ambiguity_weight(ambiguity: float) -> None:
    expected = 1 / (1 + math.exp(-(27 * (1 - ambiguity) - 5.7)))
    found = float(losses.ambiguity_weight(torch.tensor(ambiguity)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_ambiguous_best_buddy_counts_for_nothing() -> None:
    weights = losses.ambiguity_weight(torch.tensor([0.3, 1.0])).tolist()
    assert weights[0] > 0.999
    assert weights[1] < 0.004  # sigmoid(-5.7) is 0.0033


def test_cycle_weight_by_hand() -> None:
    found = losses.cycle_weight(torch.tensor([0.0, 1.0, 2.5, 4.0, 4.001, 90.0]), 4.0, 0.8)
    expected = [1.0, 0.8, 0.8**2.5, 0.8**4, 0.0, 0.0]
    assert found.tolist() == pytest.approx(expected)


def norm_prior(refined: Tensor, raw: Tensor) -> Tensor:
    return losses.norm_prior(lengths(refined), lengths(raw))


def angle_prior(refined: Tensor, raw: Tensor) -> Tensor:
    return losses.angle_prior(refined, lengths(refined), raw, lengths(raw))


def test_priors_by_hand() -> None:
    # Two tokens of one frame as columns: (3, 4) and (0, 2).
    raw = torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])
    refined = torch.tensor([[[6.0, 3.0], [8.0, 0.0]]])
    # Norms 10/5 and 3/2: off by 1 and 0.5. Angles: none, and a right one.
    assert float(norm_prior(refined, raw)) == pytest.approx((1.0 + 0.5) / 2)
    assert float(angle_prior(refined, raw)) == pytest.approx((0.0 + 1.0) / 2)
    # Shorter counts as much as longer; opposite directions are 2 apart.
    assert float(norm_prior(0.25 * raw, raw)) == pytest.approx(0.75)
    assert float(angle_prior(-raw, raw)) == pytest.approx(2.0)


def test_priors_of_unchanged_features_are_zero() -> None:
    raw = torch.randn(2, 6, 9)
    assert float(norm_prior(raw, raw)) == 0
    assert float(angle_prior(raw, raw)) == pytest.approx(0, abs=1e-6)


def test_priors_survive_tokens_of_zeros() -> None:
    raw = torch.zeros(1, 4, 3)
    refined = torch.zeros(1, 4, 3, requires_grad=True)
    total = norm_prior(refined, raw) + angle_prior(refined, raw)
    total.backward()
    assert total.isfinite()
    assert refined.grad.isfinite().all()


def test_lengths_and_their_gradients_are_those_of_the_norm() -> None:
    values = torch.randn(2, 6, 9)
    found, expected = values.clone().requires_grad_(), values.clone().requires_grad_()
    assert lengths(found).shape == (2, 1, 9)
    torch.testing.assert_close(lengths(found)[:, 0], expected.norm(dim=1))
    lengths(found).sum().backward()
    expected.norm(dim=1).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
    assert (lengths(torch.zeros(1, 3, 2)) > 0).all()


def test_the_published_divisors() -> None:
    assert (losses.DINO_DIVISOR, losses.REFINED_DIVISOR) == (700, 900)
