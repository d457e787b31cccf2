"""Which floating-point type runs a frozen network fastest on a device."""

from __future__ import annotations

import functools
import re
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_UNITS = re.compile(
    r"^(?:flags|Features)\s*:.*\b(?:amx_bf16|avx512_bf16|bf16)\b", re.MULTILINE
)
# Less is not worth the digits.
_WORTHWHILE_SPEEDUP = 1.3


def fastest_precision(device: torch.device) -> torch.dtype:
    """The type that frozen networks run fastest in, without a measurable loss.

    On a CPU with bfloat16 units this is measured (a tenth of a second, once a process): tile units
    are several times faster than float32, vector units alone are slower on some processors. Name a
    precision yourself where two runs must be the same to the last digit.

    Args:
        device: where the network runs.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if not has_bfloat16_units(_CPU_INFO) or _cpu_bfloat16_speedup() < _WORTHWHILE_SPEEDUP:
        return torch.float32
    return torch.bfloat16


def has_bfloat16_units(cpu_info: Path) -> bool:
    """Whether the kernel's description of the CPU names bfloat16 instructions."""
    try:
        return _BFLOAT16_UNITS.search(cpu_info.read_text()) is not None
    except OSError:
        return False


@functools.cache
def _cpu_bfloat16_speedup() -> float:
    """How much faster a ViT-S-sized product is in bfloat16 than in float32, on this CPU."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs, weights = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        runs = []
        for _ in range(5):
            begin = time.perf_counter()
            nn.functional.linear(inputs, weights)
            runs.append(time.perf_counter() - begin)
        # The fastest of several: other processes only ever add time.
        seconds[dtype] = min(runs)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def mixed(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Context in which matrix products run in `precision` and delicate sums in float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


def store_products_in(network: nn.Module, precision: torch.dtype) -> None:
    """Keep the weights of linear and convolution layers in `precision`, in place.

    Autocast would convert them at every call. Norms and scales stay as they are.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(precision)
