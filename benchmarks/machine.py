"""The clock, the memory and the ceilings of the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_IO = Path("/proc/self/io")
_RESET_PEAK = "5"  # proc(5), clear_refs: the peak becomes what is resident now
_MEGA = 1e6


@dataclass(frozen=True)
class Memory:
    """MB (10^6 bytes): resident in main memory, and on the GPU, 0 without one.

    Attributes:
        host: of the whole process.
        device: in tensors.
        reserved: held by PyTorch's allocator.
    """

    host: float
    device: float
    reserved: float


@dataclass(frozen=True)
class Ceilings:
    """The most a device can do: floating-point operations and bytes per second."""

    flops: float
    bytes: float


def now(device: torch.device) -> float:
    """Seconds of a monotonic clock, once the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def current_memory(device: torch.device) -> Memory:
    """What is in use now."""
    if device.type != "cuda":
        return Memory(_status_megabytes("VmRSS"), 0.0, 0.0)
    return Memory(
        _status_megabytes("VmRSS"),
        torch.cuda.memory_allocated(device) / _MEGA,
        torch.cuda.memory_reserved(device) / _MEGA,
    )


def peak_memory(device: torch.device) -> Memory:
    """The most that was in use since `reset_peak`."""
    if device.type != "cuda":
        return Memory(_status_megabytes("VmHWM"), 0.0, 0.0)
    return Memory(
        _status_megabytes("VmHWM"),
        torch.cuda.max_memory_allocated(device) / _MEGA,
        torch.cuda.max_memory_reserved(device) / _MEGA,
    )


def reset_peak(device: torch.device) -> None:
    """Begins a new search for the peak."""
    with suppress(OSError):  # forbidden in some containers; the peak is then the whole process's
        _CLEAR.write_text(_RESET_PEAK)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def written_bytes() -> dict[str, int]:
    """What this process has handed to write calls (`wchar`) and sent to a disk (`write_bytes`)."""
    pairs = (line.split(":") for line in _IO.read_text().splitlines())
    return {name: int(value) for name, value in pairs if name in ("wchar", "write_bytes")}


def measured_ceilings(device: torch.device, precision: torch.dtype) -> Ceilings:
    """The best of a few large matrix products in this precision, and of a few large copies."""
    on_gpu = device.type == "cuda"
    side, megabytes = (8192, 2048) if on_gpu else (2048, 256)
    left = torch.randn(side, side, device=device).to(precision)
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(_seconds(device, lambda: left @ left) for _ in range(6))
    copy = min(_seconds(device, lambda: target.copy_(source)) for _ in range(6))
    return Ceilings(2 * side**3 / product, 2 * source.numel() / copy)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    started = now(device)
    work()
    return now(device) - started


def _status_megabytes(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / _MEGA
    raise OSError(f"{_STATUS} has no {name}: the benchmarks need Linux")
