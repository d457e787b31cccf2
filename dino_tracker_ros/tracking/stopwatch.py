"""Where the seconds go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Counts the seconds of what is done on a device, by the name of the stage."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to a stage's."""
        self._wait()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[name] += time.perf_counter() - started

    def _wait(self) -> None:
        # A GPU works behind Python's back: without waiting, the next stage would be billed.
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
