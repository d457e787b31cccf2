"""The query's image patch found again to a fraction of a pixel.

Inverse compositional Lucas-Kanade (Baker and Matthews 2004) with an affine warp, brightness and
contrast taken out: the patch around the query is the template in every frame, so that nothing
drifts. A match is accepted only where the warped patch looks like the template: at full sharpness
or, where motion blur, noise or compression hides what is fine, on the next coarser level.
How precisely it is placed the fit itself tells: along an edge, or where little of the patch is
explained, hardly at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.pyramid import COARSEST, OCTAVES, Pyramid
from dino_tracker_ros.tracking.settings import RegistrationSettings
from dino_tracker_ros.tracking.templates import Template, usual_likeness
from dino_tracker_ros.tracking.warps import (
    moved_back,
    place_and_warp,
    reader_of,
    seen_in,
    standardized,
    view_of,
)

STEPS = (5, 5, 8)
"""Gauss-Newton steps from the coarsest level to the finest."""
AREA_LIMIT = 3.0
"""Largest change of the patch's area, either way, beside its whole octaves."""
BLURRED = 0.4
"""Likeness at full sharpness below which the next coarser level cannot make up for it."""
FLAT = 1.0
"""Standard deviation of the gray values, 0..255, below which a patch has nothing to hold on to."""


@dataclass(frozen=True)
class Patches:
    """Where the patches of B points were found.

    Attributes:
        rows: int64 [B], which points.
        frames: int64 [B], where each was looked for.
        points: float32 [B, 2], (x, y) px of the finest level; the start where nothing was found.
        affine: float32 [B, 2, 2], how the patch is deformed; the start where nothing was found.
        error: float32 [B], standard deviation of the place in its least certain direction, px of
            the finest level.
        found: bool [B].
    """

    rows: Tensor
    frames: Tensor
    points: Tensor
    affine: Tensor
    error: Tensor
    found: Tensor


@dataclass(frozen=True)
class Registration:
    """Where the patches of N points were found in T frames: `Patches` of every frame.

    Attributes:
        points: float32 [N, T, 2].
        affine: float32 [N, T, 2, 2].
        error: float32 [N, T].
        found: bool [N, T].
    """

    points: Tensor
    affine: Tensor
    error: Tensor
    found: Tensor

    def improve_(self, patches: Patches) -> None:
        """Takes over, in place, what was not found before, or is placed more surely now."""
        at = patches.rows, patches.frames
        better = patches.found & (~self.found[at] | (patches.error < self.error[at]))
        at = patches.rows[better], patches.frames[better]
        self.points[at] = patches.points[better]
        self.affine[at] = patches.affine[better]
        self.error[at] = patches.error[better]
        self.found[at] = True


def register(
    pyramid: Pyramid,
    templates: Sequence[Template],
    rows: Tensor,
    frames: Tensor,
    start: Tensor,
    affine: Tensor,
    coarsest: int,
    reach: float,
    settings: RegistrationSettings,
    vouched: float = 0.0,
) -> Patches:
    """Registers patches, each in a frame of its own.

    Args:
        pyramid: of all frames.
        templates: of N points, a level each.
        rows: int64 [B], whose patches to look for.
        frames: int64 [B], where to look; those of one frame side by side.
        start: [B, 2], where to begin, px of the finest level.
        affine: [B, 2, 2], how the patch is deformed there.
        coarsest: level to begin on: a coarse one catches a patch from farther off, but sees more
            of what is around it.
        reach: how far from its start a patch may be found, px of the finest level.
        settings: what is accepted.
        vouched: how much less alike a blurred patch has to be, because something else says that
            it is there.
    """
    octaves = (torch.linalg.det(affine).clamp(min=1e-3).log2() / 2).round().long()
    octaves = octaves.clamp(-OCTAVES, OCTAVES)
    result = Patches(
        rows, frames, start.clone(), affine.clone(),
        torch.zeros_like(start[:, 0]), torch.zeros_like(rows, dtype=torch.bool),
    )  # fmt: skip
    for octave in octaves.unique().tolist():
        part = torch.nonzero(octaves == octave)[:, 0]
        place, warp, error, found = _registered(
            pyramid, templates, rows[part], frames[part], start[part], affine[part],
            octave, coarsest, reach, settings, vouched,
        )  # fmt: skip
        result.error[part], result.found[part] = error, found
        result.points[part[found]], result.affine[part[found]] = place[found], warp[found]
    return result


def _registered(
    pyramid: Pyramid,
    templates: Sequence[Template],
    rows: Tensor,
    frames: Tensor,
    start: Tensor,
    affine: Tensor,
    octave: int,
    coarsest: int,
    reach: float,
    settings: RegistrationSettings,
    vouched: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places, warps, errors and whether it was found, of patches of one octave: those that have
    grown are looked for in a picture as much coarser, of those that have shrunk a coarser
    template, so that both show the same detail."""
    finest = max(0, -octave)
    coarsest = max(coarsest, finest)
    place, warp = start, affine / 2**octave
    near = templates[finest].contrast[rows, 0] > FLAT
    nothing = start.new_full((len(start),), torch.inf)
    softer = place, warp, nothing, -nothing, nothing
    for level in range(coarsest, finest - 1, -1):
        shown = level + octave
        at, warp, alike = _refined(
            templates[level], rows, pyramid.levels[shown], frames,
            place / 2**shown, warp, STEPS[COARSEST - level + finest],
        )  # fmt: skip
        place = at * 2**shown
        unlike = (1 - alike.square()).clamp(min=0).sqrt()
        error = templates[level].looseness[rows] * unlike * 2**shown
        near = near & ((place - start).norm(dim=-1) < reach)
        usual = usual_likeness(templates[level], rows, pyramid.noise[shown, frames])
        if level == finest + 1:
            softer = place, warp, error, alike, usual
    soft_place, soft_warp, soft_error, soft_alike, soft_usual = softer
    sharp = alike > settings.likeness * usual
    blurred = soft_alike > settings.likeness * soft_usual - vouched
    soft = ~sharp & (alike > BLURRED * usual) & blurred
    # What is blurred leads the finest level astray.
    place = torch.where(soft[:, None], soft_place, place)
    warp = torch.where(soft[:, None, None], soft_warp, warp)
    error = torch.where(soft, soft_error, error)
    area = torch.linalg.det(warp)
    found = near & (sharp | soft) & (area > 1 / AREA_LIMIT) & (area < AREA_LIMIT)
    return place, warp * 2**octave, error.nan_to_num(torch.inf, posinf=torch.inf), found


def _refined(
    template: Template,
    rows: Tensor,
    pictures: Tensor,
    frames: Tensor,
    place: Tensor,
    warp: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Places [B, 2], warps [B, 2, 2] and likeness [B] after some Gauss-Newton steps.

    Args:
        template: of N points.
        rows: int64 [B], whose patches.
        pictures: [T, h, w].
        frames: int64 [B], of the pictures; those of one frame side by side.
        place, warp: [B, 2] px and [B, 2, 2], where to begin.
        steps: to take.
    """
    offsets, weight = template.offsets, template.weight[rows]
    values, contrast = template.values[rows], template.contrast[rows]
    solver = template.solver[rows].transpose(1, 2)
    reader = reader_of(pictures, frames)
    view = view_of(place, warp, pictures)
    wanted = -values
    for _ in range(steps):
        seen, spread = standardized(seen_in(reader, view, offsets), weight)
        error = torch.addcmul(wanted, seen, contrast / spread)
        # As a row, on a CPU: by a column the product takes fifteen times as long.
        step = torch.bmm(error[:, None], solver)[:, 0]
        view = moved_back(view, step)
    seen, spread = standardized(seen_in(reader, view, offsets), weight)
    alike = (seen * values * weight).sum(dim=1) / (spread * contrast)[:, 0]
    return *place_and_warp(view, pictures), alike
