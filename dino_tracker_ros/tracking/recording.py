"""Work that repeats, recorded once on a GPU and replayed: Python takes longer to name its hundreds
of small steps than the GPU to do them (CUDA graphs)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)

WARM_UP = 2
"""Calls before the recording: libraries choose their kernels, constants are made."""

Work = Callable[[Tensor], dict[str, Tensor]]


class Recording:
    """Calls a function that computes gradients; on a GPU from the third call on as a recording.

    A GPU must be in `own_stream` then.

    Args:
        work: from a tensor to named values, leaving gradients. Whatever the tensor holds, it has
            to launch the same: shapes are fixed, and nothing waits for a value.
        parameters: that have the gradients. They are cleared before every call.
        generator: that the work draws from, on its device.
    """

    def __init__(
        self, work: Work, parameters: Iterable[nn.Parameter], generator: torch.Generator
    ) -> None:
        self._work = work
        self._parameters = list(parameters)
        self._generator = generator
        self._graph: torch.cuda.CUDAGraph | None = None
        # Before PyTorch 2.4 a recording would repeat its random numbers.
        able = hasattr(torch.cuda.CUDAGraph, "register_generator_state")
        self._calls_left = WARM_UP if generator.device.type == "cuda" and able else -1

    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """The values, which the next call overwrites."""
        if self._graph is None and self._calls_left == 0:
            self._record(given)
        if self._graph is None:
            self._calls_left -= 1
            self._clear()
            return self._work(given)
        self._given.copy_(given)
        self._graph.replay()
        return self._values

    def _record(self, given: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self._given = given.clone()
        self._clear()
        stream = torch.cuda.current_stream(given.device)
        try:
            # Other threads of a node may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._values = self._work(self._given)
        except RuntimeError as error:
            _LOG.warning("the optimization runs unrecorded, and slower: %s", error)
            self._calls_left = -1
            return
        self._graph = graph

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream of its own, which a recording needs; what came before is waited for, and
    what comes after waits."""
    if device.type != "cuda":
        yield
        return
    outer, inner = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    inner.wait_stream(outer)
    try:
        with torch.cuda.stream(inner):
            yield
    finally:
        outer.wait_stream(inner)
