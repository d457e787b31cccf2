"""Work that repeats, recorded once on a GPU and replayed: Python takes longer to name its hundreds
of small steps than the GPU to do them (CUDA graphs)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)

WARM_UP = 2
"""Calls before the recording: libraries choose their kernels, constants are made."""

Values = TypeVar("Values")

_allowed = True


class Recording(Generic[Values]):
    """Calls a function of one tensor; on a GPU from the third call on as a recording.

    A GPU must be in `own_stream` for every call, and have done its work before this is dropped.

    Args:
        work: what to call. Whatever the tensor holds, it has to launch the same: shapes are fixed,
            nothing is fetched from main memory, and nothing waits for a value.
        parameters: whose gradients it leaves; they are cleared before every call.
        generator: that it draws from, if it does.
    """

    def __init__(
        self,
        work: Callable[[Tensor], Values],
        parameters: Iterable[nn.Parameter] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        self._work = work
        self._parameters = list(parameters)
        self._generator = generator
        self._calls = 0
        self._able = torch.__version__ >= "2.4"  # before, replays repeat their random numbers
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def recorded(self) -> bool:
        """Whether the next call overwrites what the last one returned."""
        return self._graph is not None

    def __call__(self, given: Tensor) -> Values:
        """What the work returns."""
        usable = _allowed and self._able and given.is_cuda
        if usable and self._graph is None and self._calls >= WARM_UP:
            self._record(given)
        if not usable or self._graph is None:
            self._calls += 1
            self._clear()
            return self._work(given)
        self._given.copy_(given)
        self._graph.replay()
        return self._values

    def _record(self, given: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None and torch.__version__ < "2.14":  # later it does so itself
            graph.register_generator_state(self._generator)
        self._given = given.clone()
        self._clear()
        stream = torch.cuda.current_stream(given.device)
        try:
            # Other threads of a node may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._values = self._work(self._given)
        except RuntimeError as error:
            _LOG.warning("the GPU runs unrecorded, and slower: %s", error)
            self._able = False
            return
        self._graph = graph

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


@contextmanager
def unrecorded() -> Iterator[None]:
    """No recording is made or replayed in the block, so that what runs can be looked at."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream beside the usual one, which a recording needs; what came before is waited
    for, and what comes after waits."""
    if device.type != "cuda":
        yield
        return
    outer, inner = torch.cuda.current_stream(device), _beside(device)
    inner.wait_stream(outer)
    try:
        with torch.cuda.stream(inner):
            yield
    finally:
        outer.wait_stream(inner)


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    # Always the same: memory of one stream is of no use to another.
    return torch.cuda.Stream(device)
