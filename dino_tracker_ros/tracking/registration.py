"""The query's image patch found again to a fraction of a pixel.

Inverse compositional Lucas-Kanade (Baker and Matthews 2004) with an affine warp, brightness and
contrast taken out: the patch around the query is the template in every frame, so that nothing
drifts. A match is accepted only where the warped patch looks like the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.pixels import gray
from dino_tracker_ros.tracking.settings import RegistrationSettings

COARSEST = 2
"""Pyramid levels above the full picture: each doubles how far a patch is caught."""
STEPS = (5, 5, 8)
"""Gauss-Newton steps from the coarsest level to the finest."""
SHEAR_PRIOR = 0.02
"""How strongly a step is kept from deforming the patch, of the mean curvature."""
AREA_LIMIT = 3.0
"""Largest change of the patch's area, either way."""
FLAT = 2.0
"""Standard deviation of the gray values, 0..255, below which a patch has nothing to hold on to."""
BATCH = 4096
"""Patches registered at once."""


@dataclass(frozen=True)
class Registration:
    """Where the patches of N points were found in T frames.

    Attributes:
        points: float32 [N, T, 2], (x, y) px of the finest level; the start where nothing was
            found.
        affine: float32 [N, T, 2, 2], how the patch is deformed; the start where nothing was found.
        likeness: float32 [N, T], normalised cross-correlation with the template, -1..1.
        found: bool [N, T].
    """

    points: Tensor
    affine: Tensor
    likeness: Tensor
    found: Tensor

    def merged(self, other: Registration) -> Registration:
        """Of both the one that found the patch, or found it more alike."""
        better = other.found & (~self.found | (other.likeness > self.likeness))
        return Registration(
            torch.where(better[..., None], other.points, self.points),
            torch.where(better[..., None, None], other.affine, self.affine),
            torch.where(better, other.likeness, self.likeness),
            self.found | other.found,
        )


@dataclass(frozen=True)
class Template:
    """Patches of N points on one level of the pyramid, K samples each.

    Attributes:
        offsets: [K, 2], from the centre, px of the level.
        weight: [K], of the samples.
        values: [N, K], of mean zero.
        contrast: [N, 1], standard deviation.
        slopes: [N, K, 8], derivatives by shift, affine part, contrast and brightness.
        inverse: [N, 8, 8], of the weighted squares of the slopes.
    """

    offsets: Tensor
    weight: Tensor
    values: Tensor
    contrast: Tensor
    slopes: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class Pyramid:
    """Gray pictures of T frames.

    Attributes:
        levels: [T, h, w] each, finest first; pixel k of a level lies on pixel 2k of the one before.
        scale: [2], (x, y) px of the finest level for a working px.
    """

    levels: list[Tensor]
    scale: Tensor

    def to_picture(self, points: Tensor) -> Tensor:
        """(x, y) [..., 2] from working px to px of the finest level."""
        return (points + 0.5) * self.scale - 0.5

    def to_working(self, points: Tensor) -> Tensor:
        """(x, y) [..., 2] from px of the finest level to working px."""
        return (points + 0.5) / self.scale - 0.5


def build_pyramid(images: Tensor, longest_side: int) -> Pyramid:
    """The pyramid of uint8 images [T, 3, H, W], shrunk to `longest_side` px where larger."""
    picture = gray(images)
    height, width = picture.shape[-2:]
    shrink = min(1.0, longest_side / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if size != (height, width):
        picture = F.interpolate(picture, size, mode="bilinear", antialias=True)
    levels = [picture]
    for _ in range(COARSEST):
        levels.append(_halved(levels[-1]))
    scale = picture.new_tensor([size[1] / width, size[0] / height])
    return Pyramid([level[:, 0] for level in levels], scale)


def build_templates(
    pyramid: Pyramid, frames: Tensor, points: Tensor, radius: int
) -> list[Template]:
    """The patches around points [N, 2] of frames int64 [N] on every level.

    Args:
        points: px of the finest level.
        radius: half the side of a patch, px of its level.
    """
    return [
        _template(level, frames, points / 2**number, radius)
        for number, level in enumerate(pyramid.levels)
    ]


def register(
    pyramid: Pyramid,
    templates: Sequence[Template],
    start: Tensor,
    affine: Tensor,
    wanted: Tensor,
    coarsest: int,
    reach: float,
    settings: RegistrationSettings,
) -> Registration:
    """Registers patches in all frames at once.

    Args:
        pyramid: of T frames.
        templates: of N points, a level each.
        start: [N, T, 2], where to begin, px of the finest level.
        affine: [N, T, 2, 2], how the patch is deformed there.
        wanted: bool [N, T], where to look at all.
        coarsest: level to begin on: a coarse one catches a patch from farther off, but sees more
            of what is around it.
        reach: how far from its start a patch may be found, px of the finest level.
        settings: what is accepted.
    """
    rows, frames = torch.nonzero(wanted, as_tuple=True)
    points, warps, found = start.clone(), affine.clone(), torch.zeros_like(wanted)
    likeness = start.new_zeros(wanted.shape)
    for row, frame in zip(rows.split(BATCH), frames.split(BATCH), strict=True):
        place, warp = start[row, frame], affine[row, frame]
        for level in range(coarsest, -1, -1):
            place, warp, alike = _refined(
                templates[level], row, pyramid.levels[level], frame, place / 2**level, warp,
                STEPS[COARSEST - level],
            )  # fmt: skip
            place = place * 2**level
        area = torch.linalg.det(warp)
        good = (
            (alike > settings.likeness)
            & ((place - start[row, frame]).norm(dim=-1) < reach)
            & (area > 1 / AREA_LIMIT)
            & (area < AREA_LIMIT)
            & (templates[0].contrast[row, 0] > FLAT)
        )
        points[row, frame] = torch.where(good[:, None], place, start[row, frame])
        warps[row, frame] = torch.where(good[:, None, None], warp, affine[row, frame])
        likeness[row, frame] = alike.nan_to_num(0.0)
        found[row, frame] = good
    return Registration(points, warps, likeness, found)


def _halved(picture: Tensor) -> Tensor:
    """[T, 1, H, W] behind a binomial low-pass; pixel k of the result lies on pixel 2k."""
    taps = picture.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    picture = F.pad(picture, (2, 2, 2, 2), mode="replicate")
    picture = F.conv2d(picture, taps.view(1, 1, 1, 5))
    return F.conv2d(picture, taps.view(1, 1, 5, 1))[..., ::2, ::2]


def _template(picture: Tensor, frames: Tensor, points: Tensor, radius: int) -> Template:
    steps = torch.arange(-radius, radius + 1, device=picture.device, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([x.flatten(), y.flatten()], dim=-1)
    weight = torch.exp(-offsets.square().sum(dim=-1) / (2 * (radius / 1.5) ** 2))
    weight = weight / weight.sum()

    def values(dx: float, dy: float) -> Tensor:
        shift = offsets + offsets.new_tensor([dx, dy])
        return _sampled(picture, frames, points[:, None] + shift)

    right_left = (values(1, 0) - values(-1, 0)) / 2
    down_up = (values(0, 1) - values(0, -1)) / 2
    centred, contrast = _standardized(values(0, 0), weight)
    across, along = offsets[:, 0] / radius, offsets[:, 1] / radius
    slopes = torch.stack(
        [
            right_left,
            down_up,
            right_left * across,
            right_left * along,
            down_up * across,
            down_up * along,
            centred,
            torch.ones_like(centred),
        ],
        dim=-1,
    )
    squares = torch.einsum("nki,k,nkj->nij", slopes, weight, slopes)
    scale = torch.diagonal(squares, dim1=1, dim2=2).mean(dim=1)[:, None]
    prior = squares.new_tensor([0, 0, 1, 1, 1, 1, 0, 0]) * SHEAR_PRIOR
    damped = squares + torch.diag_embed(prior * scale + 1e-5 * scale + 1e-3)
    return Template(offsets, weight, centred, contrast, slopes, torch.linalg.inv(damped))


def _refined(
    template: Template,
    rows: Tensor,
    picture: Tensor,
    frames: Tensor,
    place: Tensor,
    warp: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Places [B, 2], warps [B, 2, 2] and likeness [B] after some Gauss-Newton steps."""
    offsets, weight = template.offsets, template.weight
    radius = offsets.max()
    values, contrast = template.values[rows], template.contrast[rows]
    for _ in range(steps):
        seen, spread = _standardized(_warped(picture, frames, place, warp, offsets), weight)
        error = seen / spread * contrast - values
        slope = torch.einsum("bki,k,bk->bi", template.slopes[rows], weight, error)
        step = torch.einsum("bij,bj->bi", template.inverse[rows], slope)
        change = step[:, 2:6].view(-1, 2, 2) / radius
        change = change + torch.eye(2, device=change.device)
        # The step moves the template; the inverse of it moves the picture.
        undone = _inverse(change)
        place = place - (warp @ (undone @ step[:, :2, None]))[..., 0]
        warp = warp @ undone
    seen, spread = _standardized(_warped(picture, frames, place, warp, offsets), weight)
    alike = (seen * values * weight).sum(dim=1) / (spread * contrast)[:, 0]
    return place, warp, alike


def _warped(
    picture: Tensor, frames: Tensor, place: Tensor, warp: Tensor, offsets: Tensor
) -> Tensor:
    return _sampled(picture, frames, place[:, None] + offsets @ warp.transpose(1, 2))


def _standardized(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K] without their mean, and their standard deviation [B, 1], never zero."""
    centred = values - (values * weight).sum(dim=1, keepdim=True)
    spread = (centred.square() * weight).sum(dim=1, keepdim=True).sqrt()
    return centred, spread.clamp(min=1e-3)


def _inverse(matrix: Tensor) -> Tensor:
    """Of [B, 2, 2]; of a singular one something large, which acceptance refuses."""
    a, b, c, d = matrix.flatten(1).unbind(dim=1)
    det = a * d - b * c
    det = torch.where(det.abs() < 1e-6, torch.full_like(det, 1e-6), det)
    return torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / det[:, None, None]


def _sampled(picture: Tensor, frames: Tensor, points: Tensor) -> Tensor:
    """Bilinear values [B, K] of pictures [T, H, W] at (x, y) px [B, K, 2], the border repeated."""
    height, width = picture.shape[-2:]
    x = points[..., 0].nan_to_num(0.0).clamp(0, width - 1)
    y = points[..., 1].nan_to_num(0.0).clamp(0, height - 1)
    left, top = x.long().clamp(max=max(width - 2, 0)), y.long().clamp(max=max(height - 2, 0))
    part_x, part_y = x - left, y - top
    right, bottom = min(1, width - 1), min(1, height - 1) * width
    index = (frames[:, None] * height + top) * width + left
    flat = picture.reshape(-1)
    upper = flat[index] * (1 - part_x) + flat[index + right] * part_x
    index = index + bottom
    lower = flat[index] * (1 - part_x) + flat[index + right] * part_x
    return upper * (1 - part_y) + lower * part_y
