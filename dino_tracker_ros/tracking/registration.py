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

from dino_tracker_ros.tracking.pyramid import OCTAVES, Pyramid
from dino_tracker_ros.tracking.settings import RegistrationSettings
from dino_tracker_ros.tracking.templates import Template, usual_likeness
from dino_tracker_ros.tracking.warps import (
    Reader,
    Shown,
    homogeneous,
    moved_back,
    place_and_warp,
    reader_of,
    seen_in,
    standardized,
    view_of,
)

STEPS, FINEST_STEPS = 5, 8
"""Gauss-Newton steps on a level, and on a patch's finest."""
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
    if len(rows) == 0:
        nothing = torch.zeros_like(rows, dtype=torch.bool)
        return Patches(rows, frames, start, affine, start[:, 0], nothing)
    octaves = (torch.linalg.det(affine).clamp(min=1e-3).log2() / 2).round().long()
    octaves = octaves.clamp(-OCTAVES, OCTAVES)
    order = octaves.argsort(stable=True)
    asked = _Asked(
        rows[order], frames[order], start[order], affine[order], octaves[order], coarsest, reach
    )
    place, warp, error, found = _registered(pyramid, templates, asked, settings, vouched)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    kept = found[:, None]
    return Patches(
        rows,
        frames,
        torch.where(kept, place, asked.start)[back],
        torch.where(kept[..., None], warp, asked.affine)[back],
        error[back],
        found[back],
    )


@dataclass(frozen=True)
class _Asked:
    """What `register` was asked for, by octaves: by how many times the patches have doubled.

    Those that have grown are looked for in a picture as much coarser, of those that have shrunk a
    coarser template, so that both show the same detail.

    Attributes:
        octaves: int64 [B], ascending.
    """

    rows: Tensor
    frames: Tensor
    start: Tensor
    affine: Tensor
    octaves: Tensor
    coarsest: int
    reach: float


@dataclass(frozen=True)
class _Group:
    """Patches of one octave.

    Attributes:
        octave: of them.
        some: which of all.
    """

    octave: int
    some: slice

    @property
    def finest(self) -> int:
        """The finest level of their templates that is looked for."""
        return max(0, -self.octave)


def _groups(octaves: Tensor) -> list[_Group]:
    """Of ascending octaves int64 [B]."""
    found, counts = (part.tolist() for part in octaves.unique_consecutive(return_counts=True))
    groups, first = [], 0
    for octave, count in zip(found, counts, strict=True):
        groups.append(_Group(octave, slice(first, first + count)))
        first += count
    return groups


@dataclass(frozen=True)
class _Fit:
    """Where patches lie by the latest level, and how they look there; changed in place.

    Attributes:
        table: [B, 9], all of it side by side, so that it is copied at once.
    """

    table: Tensor

    @property
    def place(self) -> Tensor:
        """[B, 2], px of the pyramid's finest level."""
        return self.table[:, :2]

    @property
    def warp(self) -> Tensor:
        """[B, 2, 2], beside the octaves."""
        return self.table[:, 2:6].unflatten(1, (2, 2))

    @property
    def error(self) -> Tensor:
        """[B], see `Patches`."""
        return self.table[:, 6]

    @property
    def alike(self) -> Tensor:
        """[B], likeness to the template."""
        return self.table[:, 7]

    @property
    def usual(self) -> Tensor:
        """[B], the likeness that is usual."""
        return self.table[:, 8]


def _fit(place: Tensor, warp: Tensor, error: Tensor, alike: Tensor, usual: Tensor) -> _Fit:
    told = torch.stack([error, alike, usual], dim=1)
    return _Fit(torch.cat([place, warp.flatten(1), told], dim=1))


def _registered(
    pyramid: Pyramid,
    templates: Sequence[Template],
    asked: _Asked,
    settings: RegistrationSettings,
    vouched: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places, warps, errors and whether it was found."""
    rows, frames, octaves, start = asked.rows, asked.frames, asked.octaves, asked.start
    grown = torch.exp2(octaves.to(start.dtype))
    nothing = torch.full_like(grown, torch.inf)
    now = _fit(start, asked.affine / grown[:, None, None], nothing, -nothing, nothing)
    before = _Fit(now.table.clone())  # on the level before a patch's finest
    near = torch.ones_like(rows, dtype=torch.bool)
    groups = _groups(octaves)
    deepest = max((group.finest for group in groups), default=0)
    for level in range(max(asked.coarsest, deepest), -1, -1):
        taken = [g for g in groups if g.finest <= level <= max(asked.coarsest, g.finest)]
        if not taken:
            continue
        ending = [group.some for group in taken if group.finest == level]
        some, counts = _joined([group.some for group in taken])
        last, _ = _joined(ending) if ending else (slice(some.start, some.start), [])
        before.table[last] = now.table[last]
        shown = Shown([pyramid.levels[level + g.octave] for g in taken], counts, frames[some])
        px = grown[some] * 2**level
        at, warp, alike = _refined(
            templates[level], rows[some], shown, now.place[some] / px[:, None], now.warp[some],
            len(ending),
        )  # fmt: skip
        unlike = (1 - alike.square()).clamp(min=0).sqrt()
        noise = pyramid.noise[octaves[some] + level, frames[some]]
        usual = usual_likeness(templates[level], rows[some], noise)
        error = templates[level].looseness[rows[some]] * unlike * px
        now.table[some] = _fit(at * px[:, None], warp, error, alike, usual).table
        near[some] &= (now.place[some] - start[some]).norm(dim=-1) < asked.reach
        near[last] &= templates[level].contrast[rows[last], 0] > FLAT
    sharp = now.alike > settings.likeness * now.usual
    blurred = before.alike > settings.likeness * before.usual - vouched
    soft = ~sharp & (now.alike > BLURRED * now.usual) & blurred
    # What is blurred leads the finest level astray.
    fit = _Fit(torch.where(soft[:, None], before.table, now.table))
    area = torch.linalg.det(fit.warp)
    found = near & (sharp | soft) & (area > 1 / AREA_LIMIT) & (area < AREA_LIMIT)
    error = fit.error.nan_to_num(torch.inf, posinf=torch.inf)
    return fit.place, fit.warp * grown[:, None, None], error, found


def _joined(parts: Sequence[slice]) -> tuple[slice, list[int]]:
    """Slices that lie side by side as one, and how long each is."""
    return slice(parts[0].start, parts[-1].stop), [part.stop - part.start for part in parts]


def _refined(
    template: Template,
    rows: Tensor,
    shown: Shown,
    place: Tensor,
    warp: Tensor,
    ending: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Places [B, 2], warps [B, 2, 2] and likeness [B] after some Gauss-Newton steps.

    Args:
        template: of N points.
        rows: int64 [B], whose patches.
        shown: the pictures they are looked for in.
        place, warp: [B, 2] px and [B, 2, 2], where to begin.
        ending: how many of the pictures show patches on their finest level: the first ones.
    """
    weight, values = template.weight[rows], template.values[rows]
    contrast, solver = template.contrast[rows], template.solver[rows].transpose(1, 2)
    root, offsets, wanted = weight.sqrt(), homogeneous(template.offsets), -values

    def stepped(view: Tensor, reader: Reader, steps: int) -> Tensor:
        some = slice(len(view))
        for _ in range(steps):
            values_there = seen_in(reader, view, offsets)
            seen, spread = standardized(values_there, weight[some], root[some])
            error = torch.addcmul(wanted[some], seen, contrast[some] / spread)
            # As a row, on a CPU: by a column the product takes fifteen times as long.
            view = moved_back(view, torch.bmm(error[:, None], solver[some])[:, 0])
        return view

    reader = reader_of(shown)
    every = ending == len(shown.counts)
    view = stepped(view_of(place, warp, shown), reader, FINEST_STEPS if every else STEPS)
    if ending and not every:
        count = sum(shown.counts[:ending])
        first = Shown(shown.pictures[:ending], shown.counts[:ending], shown.frames[:count])
        longer = stepped(view[:count], reader_of(first), FINEST_STEPS - STEPS)
        view = torch.cat([longer, view[count:]])
    seen, spread = standardized(seen_in(reader, view, offsets), weight, root)
    alike = (seen * values * weight).sum(dim=1) / (spread * contrast)[:, 0]
    return *place_and_warp(view, shown), alike
