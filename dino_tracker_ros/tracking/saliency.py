"""What is foreground, where nobody says: the first principal component of DINO's tokens.

Tumanyan et al. 2024, supplement. Used only to balance what the losses sample.
"""

from __future__ import annotations

import torch
from torch import Tensor


def salient_tokens(features: Tensor) -> Tensor:
    """Tokens that differ from the background along the strongest direction of the clip.

    The sign of a principal component is arbitrary: the side that fills less of the picture's
    border is taken as foreground. The split is Otsu's.

    Args:
        features: [T, C, rows, cols], of unit length.

    Returns:
        bool [T, rows, cols].
    """
    frames, channels, rows, cols = features.shape
    tokens = features.float().permute(0, 2, 3, 1).reshape(-1, channels)
    centred = tokens - tokens.mean(dim=0)
    covariance = centred.T @ centred
    direction = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    score = (centred @ direction).view(frames, rows, cols)
    above = score > _otsu(score.flatten())
    border = torch.zeros(rows, cols, dtype=torch.bool, device=features.device)
    border[0], border[-1] = True, True
    border[:, 0], border[:, -1] = True, True
    on_border = above[:, border].float().mean()
    within = above[:, ~border].float().mean() if (~border).any() else on_border
    return above if within >= on_border else ~above


def _otsu(values: Tensor, bins: int = 256) -> Tensor:
    """The threshold between two classes of least variance (Otsu 1979)."""
    low, high = values.min(), values.max()
    counts = torch.histc(values, bins=bins, min=float(low), max=float(high))
    edges = torch.linspace(float(low), float(high), bins + 1, device=values.device)
    centres = (edges[:-1] + edges[1:]) / 2
    share = counts.cumsum(0) / counts.sum()
    mean = (counts * centres).cumsum(0) / counts.sum()
    between = (mean[-1] * share - mean).square() / (share * (1 - share)).clamp(min=1e-12)
    return edges[1:][between.argmax()]
