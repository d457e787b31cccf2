"""Patches under affine warps, read from pictures, and the steps that move them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant

Reader = Callable[[Tensor], Tensor]
"""Places [B, K, 2] of B patches, (x, y) in -1..1 over the picture of each, to the values there,
[B, K]: bilinear, the border repeated."""


def view_of(place: Tensor, warp: Tensor, pictures: Tensor) -> Tensor:
    """How patches lie in pictures [T, h, w]: maps [B, 2, 3] from offsets (x, y, 1) px of a patch to
    (x, y) from -1 to 1 over the picture.

    Args:
        place, warp: centres [B, 2] px and deformations [B, 2, 2].
    """
    scale, _ = _units(pictures)
    centre = torch.addcmul(constant((-1.0, -1.0), place), place, scale)
    return torch.cat([warp * scale[:, None], centre[..., None]], dim=2)


def place_and_warp(view: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `view_of`."""
    _, px = _units(pictures)
    return (view[..., 2] + 1) * px, view[..., :2] * px[:, None]


def _units(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) [2]: how far a px is where pictures [T, h, w] reach from -1 to 1, and the inverse."""
    width, height = max(pictures.shape[-1] - 1, 1), max(pictures.shape[-2] - 1, 1)
    return (
        constant((2 / width, 2 / height), pictures),
        constant((width / 2, height / 2), pictures),
    )


def seen_in(reader: Reader, view: Tensor, offsets: Tensor) -> Tensor:
    """Values [B, K] of the pictures at offsets [K, 2] of patches, see `view_of`."""
    # One product for all patches is many times faster than one for each.
    spread = view.nan_to_num(0.0).flatten(0, 1) @ F.pad(offsets, (0, 1), value=1.0).T
    return reader(spread.view(len(view), 2, -1).transpose(1, 2))


def moved_back(view: Tensor, step: Tensor) -> Tensor:
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


def reader_of(pictures: Tensor, frames: Tensor) -> Reader:
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


def standardized(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K] without their mean, and their standard deviation [B, 1], never zero."""
    centred = values - (values * weight).sum(dim=1, keepdim=True)
    spread = centred.square().mul_(weight).sum(dim=1, keepdim=True).sqrt()
    return centred, spread.clamp(min=1e-3)
