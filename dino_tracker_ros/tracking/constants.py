"""Small tensors that never change, made once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """A vector [len(values)] of the type of `like` and where it is, not to be written to.

    Made anew at every use, a GPU would wait for it each time, and no recording could hold it.
    """
    return _made(values, like.device, like.dtype)


@lru_cache(maxsize=256)
def _made(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)
