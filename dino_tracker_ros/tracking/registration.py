"""The query's image patch found again to a fraction of a pixel.

Inverse compositional Lucas-Kanade (Baker and Matthews 2004) with an affine warp, brightness and
contrast taken out: the patch around the query is the template in every frame, so that nothing
drifts. A match is accepted only where the warped patch looks like the template: at full sharpness
or, where motion blur, noise or compression hides what is fine, on the next coarser level.
How precisely it is placed the fit itself tells: along an edge, or where little of the patch is
explained, hardly at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant
from dino_tracker_ros.tracking.lattice import square
from dino_tracker_ros.tracking.pixels import gray
from dino_tracker_ros.tracking.settings import RegistrationSettings

COARSEST = 2
"""Pyramid levels above the full picture: each doubles how far a patch is caught."""
STEPS = (5, 5, 8)
"""Gauss-Newton steps from the coarsest level to the finest."""
SHEAR_PRIOR = 0.02
"""How strongly a step is kept from deforming the patch, of the mean curvature."""
OCTAVES = 2
"""How many times the patch may be doubled or halved in size."""
AREA_LIMIT = 3.0
"""Largest change of the patch's area, either way, beside its whole octaves."""
BLURRED = 0.4
"""Likeness at full sharpness below which the next coarser level cannot make up for it."""
NOISIEST = 0.65
"""Likeness that is expected of a patch at the least, however noisy: other things are as alike."""
ONE_SAMPLE = 16.0
"""Area within which what a fit leaves over is as good as one sample, px²."""
FLAT = 1.0
"""Standard deviation of the gray values, 0..255, below which a patch has nothing to hold on to."""


Support = Callable[[int, Tensor], Tensor]
"""(level of the pyramid, offsets [side², 2] from N points, working px, row by row of a square) to
how surely what is there belongs to the points' surface, [N, side²] in 0..1."""


Reader = Callable[[Tensor], Tensor]
"""Places [B, K, 2] of B patches, (x, y) in -1..1 over the picture of each, to the values there,
[B, K]: bilinear, the border repeated."""


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


@dataclass(frozen=True)
class Pyramid:
    """Gray pictures of T frames.

    Attributes:
        levels: [T, h, w] each, finest first; pixel k of a level lies on pixel 2k of the one before.
        scale: [2], (x, y) px of the finest level for a working px.
        noise: [L, T], standard deviation of the noise on each level, gray values; 0 where nothing
            is known of it, see `with_noise`.
    """

    levels: list[Tensor]
    scale: Tensor
    noise: Tensor

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
    levels = [picture[:, 0]]
    for _ in range(COARSEST + OCTAVES):
        levels.append(_halved(levels[-1]))
    scale = picture.new_tensor([size[1] / width, size[0] / height])
    return Pyramid(levels, scale, picture.new_zeros(len(levels), len(picture)))


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
        usual = _usual_likeness(templates[level], rows, pyramid.noise[shown, frames])
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


def _usual_likeness(template: Template, rows: Tensor, noise: Tensor) -> Tensor:
    """Likeness [B] of patches to themselves in frames of some noise [B]."""
    signal = template.signal[rows]
    shown = (signal.square() + noise.square()).sqrt()
    clear = signal / template.contrast[rows, 0] * signal / shown.clamp(min=1e-3)
    return clear.clamp(min=NOISIEST)


def _halved(pictures: Tensor) -> Tensor:
    """[T, h, w] behind a binomial low-pass; pixel k of the result lies on pixel 2k."""
    # Sums of slices: on a CPU a convolution of one channel takes ten times as long.
    wide = F.pad(pictures[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    wide = _every_second(wide.transpose(1, 2)).transpose(1, 2)
    return _every_second(wide)


def _every_second(lines: Tensor) -> Tensor:
    """[T, n + 4, m], the weighted mean of every second one of n lines and two to each side."""
    first, second, middle, fourth, fifth = (
        lines[:, k : lines.shape[1] - 4 + k : 2] for k in range(5)
    )
    return (first + fifth) / 16 + (second + fourth) / 4 + middle * (3 / 8)


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
    view = _view(points[order], upright, picture)
    found = _seen(_reader(picture, frames[order]), view, wide)
    seen[order] = found.view(-1, side, side)
    right_left = ((seen[:, 1:-1, 2:] - seen[:, 1:-1, :-2]) / 2).flatten(1)
    down_up = ((seen[:, 2:, 1:-1] - seen[:, :-2, 1:-1]) / 2).flatten(1)
    centred, contrast = _standardized(seen[:, 1:-1, 1:-1].flatten(1), weight)
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
    reader = _reader(pictures, frames)
    view = _view(place, warp, pictures)
    wanted = -values
    for _ in range(steps):
        seen, spread = _standardized(_seen(reader, view, offsets), weight)
        error = torch.addcmul(wanted, seen, contrast / spread)
        # As a row, on a CPU: by a column the product takes fifteen times as long.
        step = torch.bmm(error[:, None], solver)[:, 0]
        view = _moved_back(view, step)
    seen, spread = _standardized(_seen(reader, view, offsets), weight)
    alike = (seen * values * weight).sum(dim=1) / (spread * contrast)[:, 0]
    return *_place_and_warp(view, pictures), alike


def _view(place: Tensor, warp: Tensor, pictures: Tensor) -> Tensor:
    """How patches lie in pictures [T, h, w]: maps [B, 2, 3] from offsets (x, y, 1) px of a patch to
    (x, y) from -1 to 1 over the picture.

    Args:
        place, warp: centres [B, 2] px and deformations [B, 2, 2].
    """
    scale, _ = _units(pictures)
    centre = torch.addcmul(constant((-1.0, -1.0), place), place, scale)
    return torch.cat([warp * scale[:, None], centre[..., None]], dim=2)


def _place_and_warp(view: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `_view`."""
    _, px = _units(pictures)
    return (view[..., 2] + 1) * px, view[..., :2] * px[:, None]


def _units(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) [2]: how far a px is where pictures [T, h, w] reach from -1 to 1, and the inverse."""
    width, height = max(pictures.shape[-1] - 1, 1), max(pictures.shape[-2] - 1, 1)
    return (
        constant((2 / width, 2 / height), pictures),
        constant((width / 2, height / 2), pictures),
    )


def _seen(reader: Reader, view: Tensor, offsets: Tensor) -> Tensor:
    """Values [B, K] of the pictures at offsets [K, 2] of patches, see `_view`."""
    # One product for all patches is many times faster than one for each.
    spread = view.nan_to_num(0.0).flatten(0, 1) @ F.pad(offsets, (0, 1), value=1.0).T
    return reader(spread.view(len(view), 2, -1).transpose(1, 2))


def _moved_back(view: Tensor, step: Tensor) -> Tensor:
    """Views [B, 2, 3] after a step [B, 6] of the template, what it adds to the rows (a, b, x) and
    (c, d, y) of the identity: its inverse moves the picture. After a singular one they are large,
    which acceptance refuses."""
    motion = step.view(-1, 2, 3) + constant((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), step).view(2, 3)
    warp, shift = motion[..., :2], motion[..., 2:]
    # Cramer's rule: of (a, b; c, d) the inverse is (d, -b; -c, a) over the determinant.
    adjugate = warp.flip(1, 2).transpose(1, 2) * constant((1.0, -1.0, -1.0, 1.0), step).view(2, 2)
    det = (warp[:, :1] @ adjugate[..., :1]).clamp(min=1e-6)
    turned = view[..., :2] @ adjugate / det
    return torch.cat([turned, torch.baddbmm(view[..., 2:], turned, shift, alpha=-1)], dim=2)


def _reader(pictures: Tensor, frames: Tensor) -> Reader:
    """Reads pictures [T, h, w] at frames int64 [B], those of one frame side by side."""
    return _volume_reader(pictures, frames) if pictures.is_cuda else _run_reader(pictures, frames)


def _run_reader(pictures: Tensor, frames: Tensor) -> Reader:
    """Frame by frame, as a CPU is fastest."""
    seen, counts = (run.tolist() for run in frames.unique_consecutive(return_counts=True))
    # A picture a patch, all of them one: cores share the work by pictures.
    views = [
        pictures[frame].expand(count, 1, -1, -1)
        for frame, count in zip(seen, counts, strict=True)
    ]

    def read(places: Tensor) -> Tensor:
        values = [
            F.grid_sample(view, some[:, None], padding_mode="border", align_corners=True)
            for view, some in zip(views, places.split(counts), strict=True)
        ]
        return torch.cat(values)[:, 0, 0]

    return read


def _volume_reader(pictures: Tensor, frames: Tensor) -> Reader:
    """All at once, as one volume in which the frame is the depth: a GPU waits for every call."""
    volume = pictures[None, None].expand(len(frames), -1, -1, -1, -1)
    depth = 2 * frames.to(pictures.dtype) / max(len(pictures) - 1, 1) - 1

    def read(places: Tensor) -> Tensor:
        where = torch.cat([places, depth[:, None, None].expand(-1, places.shape[1], 1)], dim=-1)
        values = F.grid_sample(
            volume, where[:, None, None], padding_mode="border", align_corners=True
        )
        return values[:, 0, 0, 0]

    return read


def _standardized(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K] without their mean, and their standard deviation [B, 1], never zero."""
    centred = values - (values * weight).sum(dim=1, keepdim=True)
    spread = centred.square().mul_(weight).sum(dim=1, keepdim=True).sqrt()
    return centred, spread.clamp(min=1e-3)
