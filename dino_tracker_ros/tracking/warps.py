"""Patches under affine warps, read from pictures, and the steps that move them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant

Reader = Callable[[Tensor], Tensor]
"""Places [B, K, 2] of B patches, (x, y) in -1..1 over the picture of each, to the values there,
[B, K]: bilinear, the border repeated."""


_STILL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0)
"""Rows (a, b, x) and (c, d, y) of the identity, and what `_TURNED` makes of them."""
_TURNED = (
    1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0,
    0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0,
    0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0,
    0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0,
    0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0,
)  # fmt: skip
"""[6, 10], from rows (a, b, x) and (c, d, y) to these and (d, -b, -c, a)."""


@dataclass(frozen=True)
class Shown:
    """The pictures that B patches are seen in.

    Attributes:
        pictures: [T, h, w] each, of any sizes.
        counts: how many patches are seen in each of these, side by side.
        frames: int64 [B], in which of the T; those of one frame side by side, too.
    """

    pictures: Sequence[Tensor]
    counts: Sequence[int]
    frames: Tensor


def view_of(place: Tensor, warp: Tensor, shown: Shown) -> Tensor:
    """How patches lie in pictures: maps [B, 2, 3] from offsets (x, y, 1) px of a patch to (x, y)
    from -1 to 1 over the picture.

    Args:
        place, warp: centres [B, 2] px and deformations [B, 2, 2].
    """
    scale = 1 / _half_sizes(shown)
    centre = torch.addcmul(constant((-1.0, -1.0), place), place, scale)
    return torch.cat([warp * scale[..., None], centre[..., None]], dim=2)


def place_and_warp(view: Tensor, shown: Shown) -> tuple[Tensor, Tensor]:
    """The inverse of `view_of`."""
    px = _half_sizes(shown)
    return (view[..., 2] + 1) * px, view[..., :2] * px[..., None]


def _half_sizes(shown: Shown) -> Tensor:
    """(x, y) [B, 2], px from the middle of a picture to its border."""
    sizes = [
        constant((max(each.shape[-1] - 1, 1) / 2, max(each.shape[-2] - 1, 1) / 2), each)
        for each in shown.pictures
    ]
    return torch.cat(
        [size.expand(count, 2) for size, count in zip(sizes, shown.counts, strict=True)]
    )


def homogeneous(offsets: Tensor) -> Tensor:
    """(x, y, 1) [3, K] of offsets [K, 2]."""
    return F.pad(offsets, (0, 1), value=1.0).T


def seen_in(reader: Reader, view: Tensor, offsets: Tensor) -> Tensor:
    """Values [B, K] of the pictures at offsets (x, y, 1) [3, K] of patches, see `view_of`."""
    # One product for all patches is many times faster than one for each.
    spread = view.nan_to_num(0.0).flatten(0, 1) @ offsets
    return reader(spread.view(len(view), 2, -1).transpose(1, 2))


def moved_back(view: Tensor, step: Tensor) -> Tensor:
    """Views [B, 2, 3] after a step [B, 6] of the template, what it adds to the rows (a, b, x) and
    (c, d, y) of the identity: its inverse moves the picture. After a singular one they are large,
    which acceptance refuses."""
    both = torch.addmm(constant(_STILL, step), step, constant(_TURNED, step).view(6, 10))
    motion = both[:, :6].unflatten(1, (2, 3))
    # Cramer's rule: of (a, b; c, d) the inverse is (d, -b; -c, a) over the determinant.
    adjugate = both[:, 6:].unflatten(1, (2, 2))
    det = (motion[:, :1, :2] @ adjugate[..., :1]).clamp_(min=1e-6)
    turned = (view[..., :2] @ adjugate).div_(det)
    shift = torch.baddbmm(view[..., 2:], turned, motion[..., 2:], alpha=-1)
    return torch.cat([turned, shift], dim=2)


def reader_of(shown: Shown) -> Reader:
    """Reads the pictures."""
    return _volume_reader(shown) if shown.frames.is_cuda else _run_reader(shown)


def _run_reader(shown: Shown) -> Reader:
    """Frame by frame, as a CPU is fastest."""
    views, counts = [], []
    parts = shown.frames.split(list(shown.counts))
    for pictures, frames in zip(shown.pictures, parts, strict=True):
        seen, runs = frames.unique_consecutive(return_counts=True)
        counts += runs.tolist()
        # A picture a patch, all of them one: cores share the work by pictures.
        views += [
            pictures[frame].expand(count, 1, -1, -1)
            for frame, count in zip(seen.tolist(), runs.tolist(), strict=True)
        ]

    def read(places: Tensor) -> Tensor:
        values = [
            F.grid_sample(view, some[:, None], padding_mode="border", align_corners=True)
            for view, some in zip(views, places.split(counts), strict=True)
        ]
        return torch.cat(values)[:, 0, 0]

    return read


def _volume_reader(shown: Shown) -> Reader:
    """All at once, as volumes in which the frame is the depth: a GPU waits for every call."""
    counts = list(shown.counts)
    volumes = [
        pictures[None, None].expand(count, -1, -1, -1, -1)
        for pictures, count in zip(shown.pictures, counts, strict=True)
    ]
    last = max(len(shown.pictures[0]) - 1, 1)
    depth = 2 * shown.frames.to(shown.pictures[0].dtype) / last - 1

    def read(places: Tensor) -> Tensor:
        where = torch.cat([places, depth[:, None, None].expand(-1, places.shape[1], 1)], dim=-1)
        values = [
            F.grid_sample(volume, some, padding_mode="border", align_corners=True)
            for volume, some in zip(volumes, where[:, None, None].split(counts), strict=True)
        ]
        return (values[0] if len(values) == 1 else torch.cat(values))[:, 0, 0, 0]

    return read


def standardized(values: Tensor, weight: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K] without their mean, and their standard deviation [B, 1], never zero.

    Args:
        weight: [B, K], which sum to one, …
        root: … and their square roots.
    """
    centred = values - (values * weight).sum(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centred * root, dim=1, keepdim=True)
    return centred, spread.clamp_(min=1e-3)
