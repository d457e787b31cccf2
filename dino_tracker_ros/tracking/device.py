"""The device and the arithmetic that settings ask for."""

from __future__ import annotations

import torch

from dino_tracker_ros.tracking.errors import DeviceError
from dino_tracker_ros.tracking.precision import fastest_precision


def find_device(name: str) -> torch.device:
    """The device of a setting: auto, cpu, cuda or cuda:N.

    Raises:
        DeviceError: there is no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise DeviceError(f"device is '{name}': give auto, cpu, cuda or cuda:N")
    index = int(number or 0)
    if index >= count:
        raise DeviceError(
            f"device is '{name}', but PyTorch sees {count} GPUs: set device to cpu or auto, or "
            "install a PyTorch built for this machine's GPU"
        )
    return torch.device("cuda", index)


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of a setting: auto, float32 or bfloat16."""
    if name == "auto":
        return fastest_precision(device)
    return torch.float32 if name == "float32" else torch.bfloat16
