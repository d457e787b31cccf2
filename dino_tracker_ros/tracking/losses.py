"""The losses of DINO-Tracker, one function each (Tumanyan et al. 2024, sec. 3.3, supplement).

Loss coordinates run from -1 to 1 over the image: u = 2x/(W-1) - 1, v = 2y/(H-1) - 1.
Every loss takes a weight per point, so that batches keep one shape however many points exist.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant

DINO_DIVISOR = 700.0
"""The published divisor of the summed DINO best-buddy loss."""
REFINED_DIVISOR = 900.0
"""The published divisor of the summed refined best-buddy loss."""


def position_loss(
    predicted: Tensor, target: Tensor, weight: Tensor, size: tuple[int, int], delta: float
) -> Tensor:
    """Huber loss between positions: L_flow against flow, L_cyc against where the point began.

    Args:
        predicted, target: [..., 2], (x, y) working px.
        weight: [...], 0 where there is no point.
        size: (height, width) of the working image, px.
        delta: where the loss turns linear, loss coordinates.

    Returns:
        The weighted mean, a scalar; 0 without points.
    """
    height, width = size
    scale = constant((2 / max(width - 1, 1), 2 / max(height - 1, 1)), predicted)
    error = F.huber_loss(predicted * scale, target * scale, reduction="none", delta=delta)
    return (error.mean(dim=-1) * weight).sum() / weight.sum().clamp(min=1e-8)


def contrastive_loss(
    cosine: Tensor, positives: Tensor, weight: Tensor, temperature: float
) -> Tensor:
    """-log softmax of the positive token among all tokens of the target frame, summed.

    Args:
        cosine: [G, K, n], of each query with every token.
        positives: int64 [G, K], token of each query's best buddy.
        weight: [G, K].
        temperature: of the softmax.
    """
    logits = cosine / temperature
    chosen = logits.gather(2, positives[..., None])[..., 0]
    return ((logits.logsumexp(dim=2) - chosen) * weight).sum()


def similarity_weight(cosine: Tensor) -> Tensor:
    """max(0, 2c³): what a best buddy's similarity is worth."""
    return (2 * cosine**3).clamp(min=0)


def ambiguity_weight(ambiguity: Tensor) -> Tensor:
    """sigmoid(27 (1 - r) - 5.7): near 1 for a single peak, near 0 for two equal ones."""
    return torch.sigmoid(27 * (1 - ambiguity) - 5.7)


def cycle_weight(error: Tensor, longest: float, decay: float) -> Tensor:
    """decay^e for round trips of e <= longest px, 0 for longer ones."""
    return decay**error * (error <= longest)


def norm_prior(length: Tensor, raw_length: Tensor) -> Tensor:
    """L_norm: mean | |refined|/|raw| - 1 |, of the features' lengths [F, 1, n]."""
    return (length / raw_length - 1).abs().mean()


def angle_prior(refined: Tensor, length: Tensor, raw: Tensor, raw_length: Tensor) -> Tensor:
    """L_angle: mean | cos(refined, raw) - 1 |, of features [F, C, n], lengths [F, 1, n]."""
    product = (refined * raw).sum(dim=1, keepdim=True)
    return (product / (length * raw_length) - 1).abs().mean()
