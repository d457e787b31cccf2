"""What each stage computes and moves, counted operation by operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.clips import Clip
from benchmarks.machine import Ceilings
from dino_tracker_ros.tracking.device import find_device
from dino_tracker_ros.tracking.recording import unrecorded
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.stopwatch import Stopwatch
from dino_tracker_ros.tracking.tracker import DinoTracker

ORIN = Ceilings(flops=42.5e12, bytes=204.8e9)
"""Jetson AGX Orin 64 GB at 60 W, published by NVIDIA: 170 sparse INT8 TOPS of its GPU are 85 dense
ones and 42.5 TFLOP/s in half precision; 204.8 GB/s of memory."""


@dataclass(frozen=True)
class Work:
    """Of one stage: floating-point operations of its products, convolutions and attention, and
    bytes that all its operations read and write, as if no cache kept anything between them.

    What OpenCV does is not seen.
    """

    flops: float
    bytes: float


def count_work(settings: Settings, clip: Clip, queries: NDArray[np.float32]) -> dict[str, Work]:
    """Runs everything once under PyTorch's eyes, which is slow, and returns each stage's work."""
    counter = _Counter(find_device(settings.device))
    tracker = DinoTracker(settings, stopwatch=counter)
    with unrecorded():
        for frame in clip.frames:
            tracker.observe(frame)
        tracker.fit()
        tracker.track(queries)
    return counter.work


def fractions(work: Work, seconds: float, ceilings: Ceilings) -> tuple[float, float]:
    """Shares of the ceilings of arithmetic and of memory that a stage reaches."""
    return work.flops / seconds / ceilings.flops, work.bytes / seconds / ceilings.bytes


def estimated_seconds(
    work: Work, seconds: float, here: Ceilings, there: Ceilings
) -> tuple[float, float]:
    """How long a stage may take on another machine, from what it does and took here.

    Returns:
        Seconds if it reached the other machine's ceilings, and if it reached only the share that
        it reaches here of the ceiling it is nearest to; the smaller first.
    """
    best = max(work.flops / there.flops, work.bytes / there.bytes)
    of_flops, of_bytes = fractions(work, seconds, here)
    slower = here.flops / there.flops if of_flops >= of_bytes else here.bytes / there.bytes
    low, high = sorted((best, seconds * slower))
    return low, high


@contextmanager
def counted() -> Iterator[list[Work]]:
    """Counts what PyTorch does in the block; afterwards the list holds it."""
    found: list[Work] = []
    # PyTorch has formulas for the attention of GPUs alone.
    of_a_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {of_a_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=formulas) as flops, _Traffic() as traffic:
        yield found
    found.append(Work(flops.get_total_flops(), traffic.bytes))


class _Counter(Stopwatch):
    """Counts what happens within stages, too."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.work: dict[str, Work] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with super().stage(name), counted() as found:
            yield
        before = self.work.get(name, Work(0, 0))
        self.work[name] = Work(before.flops + found[0].flops, before.bytes + found[0].bytes)


class _Traffic(TorchDispatchMode):
    """Sums the sizes of what operations take and give; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(_size(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        return result


def _is_view(func: Any) -> bool:
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _size(tensor: Tensor) -> int:
    # An expanded tensor has fewer bytes than elements.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
