"""RAFT checkpoints of the original repository under torchvision's names.

Both hold the same network (Teed and Deng 2020); only the names of the layers differ. A checkpoint
that already has torchvision's names passes through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dino_tracker_ros.tracking.errors import WeightsError

_ORIGINAL_PREFIX = "module."

# Original name -> torchvision's, tried in this order, each at the beginning of the name.
_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # Encoders: a stem, three stages of two residual blocks, a last 1x1 convolution.
        (r"(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
        (r"(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
        (r"(\w+_encoder)\.conv2\.", r"\1.conv."),
        (r"(\w+_encoder\.layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
        (r"(\w+_encoder\.layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
        # Update block.
        (r"update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
        (r"update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
        (r"update_block\.encoder\.conv\.", r"update_block.motion_encoder.conv.0."),
        (
            r"update_block\.gru\.conv([zrq])(\d)\.",
            r"update_block.recurrent_block.convgru\2.conv\1.",
        ),
        (r"update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
        # Convex upsampling, in the large model only.
        (r"update_block\.mask\.0\.", r"mask_predictor.convrelu.0."),
        (r"update_block\.mask\.2\.", r"mask_predictor.conv."),
    )
)

# The norm of a block's shortcut is stored twice: in the shortcut, and by itself as the norm after
# the last one (norm3 in residual blocks; the small model's bottlenecks store no norms).
_SHORTCUT_NORM = re.compile(r"(\w+_encoder\.layer\d\.0)\.norm3\.(.+)")


def load_raft_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a RAFT checkpoint, of torchvision or of the original repository.

    Returns:
        Tensors under torchvision's names.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler stumbles over other files in many ways
        raise WeightsError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError(f"{path} holds no table of tensors: not a RAFT checkpoint")
    if not any(name.startswith(_ORIGINAL_PREFIX) for name in loaded):
        return loaded
    return with_torchvision_names(loaded)


def with_torchvision_names(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an original checkpoint.

    Args:
        original: names beginning with "module.", as its data-parallel training saved them.

    Raises:
        WeightsError: a tensor stored twice differs, so it is no such checkpoint.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in original.items():
        name = name.removeprefix(_ORIGINAL_PREFIX)
        name = re.sub(r"^fnet\.", "feature_encoder.", name)
        name = re.sub(r"^cnet\.", "context_encoder.", name)
        twin = _SHORTCUT_NORM.fullmatch(name)
        if twin:
            name = f"{twin[1]}.downsample.1.{twin[2]}"
        for pattern, replacement in _RENAMES:
            name, changed = pattern.subn(replacement, name, count=1)
            if changed:
                break
        if name in renamed and not torch.equal(renamed[name], tensor):
            raise WeightsError(f"two different tensors for {name}: not an original RAFT checkpoint")
        renamed[name] = tensor
    return renamed
