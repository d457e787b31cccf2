"""What is looked for: the patches around points, and what to make of how they are seen.

Inverse compositional Lucas-Kanade (Baker and Matthews 2004) takes its steps by the slopes of the
template, so that what solves for them is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant
from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.pyramid import COARSEST, Pyramid
from dino_tracker_ros.tracking.warps import (
    Shown,
    homogeneous,
    reader_of,
    seen_in,
    standardized,
    view_of,
)

SHEAR_PRIOR = 0.02
"""How strongly a step is kept from deforming the patch, of the mean curvature."""
NOISIEST = 0.65
"""Likeness that is expected of a patch at the least, however noisy: other things are as alike."""
ONE_SAMPLE = 16.0
"""Area within which what a fit leaves over is as good as one sample, px²."""

Support = Callable[[int, Tensor], Tensor]
"""(level of the pyramid, offsets [side², 2] from N points, working px, row by row of a square) to
how surely what is there belongs to the points' surface, [N, side²] in 0..1."""


@dataclass(frozen=True)
class Template:
    """Patches of N points on one level of the pyramid, K samples each.

    Attributes:
        offsets: [K, 2], from the centre, px of the level.
        weight: [N, K], of the samples; they sum to one.
        values: [N, K], of mean zero.
        contrast: [N, 1], standard deviation.
        signal: [N], what of it is not noise.
        solver: [N, 6, K], from the error of the samples to the step, what it adds to the rows of
            the identity (a, b, x) and (c, d, y); contrast and brightness are solved for as well and
            not needed.
        looseness: [N], standard deviation of the place where nothing of what is seen there is
            explained, px of the level.
    """

    offsets: Tensor
    weight: Tensor
    values: Tensor
    contrast: Tensor
    signal: Tensor
    solver: Tensor
    looseness: Tensor


def build_templates(
    pyramid: Pyramid,
    frames: Tensor,
    points: Tensor,
    radius: int,
    support: Support | None = None,
) -> list[Template]:
    """The patches around points [N, 2] of frames int64 [N] on every level.

    Args:
        points: px of the finest level.
        radius: half the side of a patch, px of its level.
        support: what of a patch belongs to the point's own surface; None takes it whole.
    """
    templates = []
    for number, level in enumerate(pyramid.levels[: COARSEST + 1]):
        offsets = square(radius, 1.0, level)
        weight = _bell(offsets, radius).expand(len(points), -1)
        if support is not None:
            around = square(radius + 1, 1.0, level) * 2**number / pyramid.scale
            weight = weight * _eroded(support(number, around))
            weight = weight / weight.sum(dim=1, keepdim=True)
        noise = pyramid.noise[number, frames]
        templates.append(
            _template(level, frames, points / 2**number, radius, offsets, weight, noise)
        )
    return templates


def usual_likeness(template: Template, rows: Tensor, noise: Tensor) -> Tensor:
    """Likeness [B] of patches to themselves in frames of some noise [B]."""
    signal = template.signal[rows]
    shown = (signal.square() + noise.square()).sqrt()
    clear = signal / template.contrast[rows, 0] * signal / shown.clamp(min=1e-3)
    return clear.clamp(min=NOISIEST)


def _eroded(support: Tensor) -> Tensor:
    """Of a square [N, (2 radius + 3)²] what is supported with all its neighbours, [N, K]: the
    derivative of a pixel on the rim would be that of the outline."""
    side = round(support.shape[1] ** 0.5)
    square = support.view(-1, 1, side, side)
    return -F.max_pool2d(-square, 3, stride=1).flatten(1)


def _bell(offsets: Tensor, radius: int) -> Tensor:
    """Weights [K] that fall from the centre and sum to one."""
    weight = torch.exp(-offsets.square().sum(dim=-1) / (2 * (radius / 1.5) ** 2))
    return weight / weight.sum()


def _template(
    picture: Tensor,
    frames: Tensor,
    points: Tensor,
    radius: int,
    offsets: Tensor,
    weight: Tensor,
    noise: Tensor,
) -> Template:
    # One pixel more on every side: derivatives are differences of neighbours.
    side = 2 * radius + 3
    wide = square(radius + 1, 1.0, picture)
    seen = picture.new_zeros(len(points), side, side)
    order = frames.argsort(stable=True)
    upright = torch.eye(2, device=picture.device).expand(len(points), 2, 2)
    shown = Shown([picture], [len(points)], frames[order])
    view = view_of(points[order], upright, shown)
    found = seen_in(reader_of(shown), view, homogeneous(wide))
    seen[order] = found.view(-1, side, side)
    right_left = ((seen[:, 1:-1, 2:] - seen[:, 1:-1, :-2]) / 2).flatten(1)
    down_up = ((seen[:, 2:, 1:-1] - seen[:, :-2, 1:-1]) / 2).flatten(1)
    inner = seen[:, 1:-1, 1:-1].flatten(1)
    centred, contrast = standardized(inner, weight, weight.sqrt())
    across, along = offsets[:, 0] / radius, offsets[:, 1] / radius
    # Of what is added to a motion's rows (a, b, x) and (c, d, y), of contrast and of brightness.
    slopes = torch.stack(
        [
            right_left * across,
            right_left * along,
            right_left,
            down_up * across,
            down_up * along,
            down_up,
            centred,
            torch.ones_like(centred),
        ],
        dim=1,
    )
    weighted = slopes * weight[:, None]
    squares = weighted @ slopes.transpose(1, 2)
    scale = torch.diagonal(squares, dim1=1, dim2=2).mean(dim=1)[:, None]
    prior = constant((1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0), squares) * SHEAR_PRIOR
    damped = squares + torch.diag_embed(prior * scale + 1e-5 * scale + 1e-3)
    solver = torch.linalg.solve(damped, weighted)[:, :6].unflatten(1, (2, 3))
    solver[:, :, :2] /= radius  # from samples of a square of half side 1 to px
    looseness = contrast[:, 0] * _worst_deviation(squares, scale, weight)
    signal = (contrast[:, 0].square() - noise.square()).clamp(min=0).sqrt()
    return Template(offsets, weight, centred, contrast, signal, solver.flatten(1, 2), looseness)


def _worst_deviation(squares: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Standard deviation [N] of places in their least certain direction, px for a gray value of
    noise: what a least-squares fit tells of itself.

    Args:
        squares: [N, 8, 8], of the slopes; those of the shift are the third and the sixth.
        scale: [N, 1], of their size.
        weight: [N, K], of the samples; they sum to one.
    """
    held = squares + torch.diag_embed((1e-6 * scale + 1e-6).expand(-1, squares.shape[1]))
    across, _, covaried, down = torch.linalg.inv(held)[:, 2:6:3, 2:6:3].flatten(1).unbind(dim=1)
    worst = (across + down) / 2 + torch.hypot((across - down) / 2, covaried)
    return (ONE_SAMPLE * weight.square().sum(dim=1) * worst.clamp(min=0)).sqrt()
