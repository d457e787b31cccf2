"""A GPU that is none: tensors that say they are on one and compute in main memory.

As on a real one, what is on it and what is in main memory cannot be mixed, and NumPy cannot see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
_MAIN = torch.device("cpu")
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose second argument, the indices, may be in main memory."""


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of the GPU and of main memory."""


class OnGpu(Tensor):
    """A tensor of the GPU; `held` is what it holds, in main memory."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=GPU, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the GPU to numpy: use Tensor.cpu() first")

    def new_tensor(self, data: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=GPU)

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} was called outside of `pretended`")


class _Gpu(TorchDispatchMode):
    """Does in main memory what the GPU is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        known = {id(t.held): t for t in tree_leaves((args, kwargs)) if isinstance(t, OnGpu)}
        goal = kwargs.get("device")
        made_here = goal is not None and torch.device(goal).type == "cuda"
        if not known and not made_here:
            return func(*args, **kwargs)
        self.calls[name] += 1
        copies = made_here or name == "copy_"

        def held(value: Any) -> Any:
            if isinstance(value, OnGpu):
                return value.held
            if isinstance(value, torch.device):
                return _MAIN
            if isinstance(value, Tensor) and value.dim() > 0 and not copies:
                raise MixedDevicesError(f"{name}: {tuple(value.shape)} is in main memory")
            return value

        def on_gpu(value: Any) -> Any:
            if isinstance(value, OnGpu) or not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else OnGpu(value)

        if name in _INDEXING and isinstance(args[0], OnGpu):
            args = (args[0], tree_map(on_gpu, args[1]), *args[2:])
        args, kwargs = tree_map(held, (args, kwargs))
        found = func(*args, **kwargs)
        brought_back = goal is not None and not made_here
        copied_back = name == "copy_" and id(found) not in known
        return found if brought_back or copied_back else tree_map(on_gpu, found)


@contextmanager
def pretended() -> Iterator[Counter[str]]:
    """Tensors can be moved to `GPU`; yields how often each operation ran there, views as well.

    PyTorch can work backwards through none of it: its engine looks for a real one.
    """
    torch._C._ensureCUDADeviceGuardSet()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as patches, _Gpu() as gpu:
            for name in _HOST:
                patches.enter_context(patch(f"torch.cuda.{name}", MagicMock()))
            patches.enter_context(patch("torch.tensor", _tensor))
            patches.enter_context(patch("torch.Generator", _Generator))
            patches.enter_context(patch.object(ThreadPoolExecutor, "submit", _done_here))
            patches.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield gpu.calls
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _done_here(_: Any, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Modes are a thread's own: another would find no GPU."""
    result: Future[Any] = Future()
    result.set_result(work(*args, **kwargs))
    return result


_HOST = ("_lazy_init", "synchronize", "current_stream", "Stream", "stream")
"""What the host says to a GPU beside operations."""


class _Generator(torch.Generator):
    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls)

    device = GPU


_made = torch.tensor


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    # PyTorch fills it where no mode can see that it is not there.
    return _made(data, **options).to(device)
