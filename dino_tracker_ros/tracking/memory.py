"""Giving memory back to the machine."""

from __future__ import annotations

import gc

import torch


def release_memory() -> None:
    """Returns what PyTorch holds in reserve; call it when a tracker is gone or memory ran out."""
    gc.collect()
    return_reserve()


def return_reserve() -> None:
    """Gives a GPU what PyTorch holds and nobody uses."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
