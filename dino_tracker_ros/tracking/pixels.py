"""Pixel values: as the networks want them, and gray."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.constants import constant
from dino_tracker_ros.tracking.errors import FrameError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_range(images: Tensor, device: torch.device | str | None = None) -> Tensor:
    """RGB images as float32 in 0..1.

    Args:
        images: [T, 3, H, W], uint8 in 0..255 or floating point already in 0..1.
        device: where the result is to be; None leaves it where the images are.

    Raises:
        FrameError: another shape or type.
    """
    _check(images)
    if images.dtype == torch.uint8:
        return images.to(device).float() / 255
    return images.to(device, torch.float32)


def byte_range(images: Tensor) -> Tensor:
    """RGB images as uint8 in 0..255; see `unit_range`."""
    _check(images)
    return images if images.dtype == torch.uint8 else (images * 255).round().byte()


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise FrameError(f"images have shape {tuple(images.shape)}: give [T, 3, height, width]")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise FrameError(f"images are {images.dtype}: give uint8, or floating point in 0..1")


def imagenet_normalized(images: Tensor) -> Tensor:
    """Float images in 0..1, [T, 3, H, W], with ImageNet's mean taken off and its spread made 1."""
    mean = constant(_IMAGENET_MEAN, images).view(3, 1, 1)
    std = constant(_IMAGENET_STD, images).view(3, 1, 1)
    return (images - mean) / std


def gray(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) of uint8 RGB images [T, 3, H, W], float32 [T, 1, H, W] in 0..255."""
    weight = images.new_tensor([0.299, 0.587, 0.114], dtype=torch.float32).view(3, 1, 1)
    return (images.float() * weight).sum(dim=1, keepdim=True)


def steepness(picture: Tensor) -> Tensor:
    """Squared slope of a gray picture [h, w], [h, w]."""
    padded = F.pad(picture[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    return across.square() + down.square()
