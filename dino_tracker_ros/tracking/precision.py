"""Which floating-point type runs a frozen network fastest on a device."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

CPU_INFO = Path("/proc/cpuinfo")
_TILE_UNITS = re.compile(r"^flags\s*:.*\bamx_bf16\b", re.MULTILINE)
# Several times faster than float32: x86's tile units, Arm's matrix units, and AMD's vector units.
# Intel's vector units alone (avx512_bf16 without amx_bf16) were measured at half of its speed.
_BFLOAT16_UNITS = (
    _TILE_UNITS,
    re.compile(r"^Features\s*:.*\bbf16\b", re.MULTILINE),
    re.compile(r"^vendor_id\s*:\s*AuthenticAMD\n(?:.+\n)*flags\s*:.*\bavx512_bf16\b", re.MULTILINE),
)


def fastest_precision(device: torch.device) -> torch.dtype:
    """The type that frozen networks run fastest in, without a measurable loss.

    It follows from the hardware alone, so that two runs on one machine compute the same.

    Args:
        device: where the network runs.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if has_bfloat16_units() else torch.float32


def has_bfloat16_units(cpu_info: Path = CPU_INFO) -> bool:
    """Whether the kernel's description of the CPU names fast bfloat16 instructions."""
    text = _read(cpu_info)
    return any(units.search(text) for units in _BFLOAT16_UNITS)


def has_tile_units(cpu_info: Path = CPU_INFO) -> bool:
    """Whether it names x86's tile units, which multiply whole blocks of bfloat16."""
    return bool(_TILE_UNITS.search(_read(cpu_info)))


def _read(cpu_info: Path) -> str:
    try:
        return cpu_info.read_text()
    except OSError:
        return ""


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
