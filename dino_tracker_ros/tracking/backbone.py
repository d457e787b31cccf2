"""Frozen DINOv2 features of frames, at any block, stride and image size.

Tumanyan et al. 2024, sec. 3.1: the tokens of one block, without the last norm and without the class
token, of a ViT whose patches overlap where the stride is smaller than the patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.attention import attend_in_blocks
from dino_tracker_ros.tracking.errors import SettingError, WeightsError
from dino_tracker_ros.tracking.pixels import imagenet_normalized, unit_range
from dino_tracker_ros.tracking.precision import has_tile_units, mixed, store_products_in
from dino_tracker_ros.tracking.recording import Recording, own_stream
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.weights import WeightsCache

_HEAD_CHANNELS = 64  # in every DINOv2
RECORDINGS = 4
"""Shapes of pictures that are kept recorded on a GPU; each takes the memory of one pass."""


@dataclass(frozen=True)
class VitShape:
    """The sizes that make one DINOv2 different from another."""

    channels: int
    depth: int
    registers: int = 0
    gated_mlp: bool = False
    patch: int = 14
    positions: int = 37
    """Side of the grid of learnt position embeddings."""

    @property
    def heads(self) -> int:
        return self.channels // _HEAD_CHANNELS


VIT_SHAPES: dict[str, VitShape] = {
    f"facebook/dinov2-{registers}{size}": VitShape(channels, depth, count, gated)
    for size, channels, depth, gated in (
        ("small", 384, 12, False),
        ("base", 768, 12, False),
        ("large", 1024, 24, False),
        ("giant", 1536, 40, True),
    )
    for registers, count in (("", 0), ("with-registers-", 4))
}


class Backbone:
    """A frozen DINOv2 that turns frames into feature maps.

    Args:
        network: transformers' Dinov2Model or Dinov2WithRegistersModel.
        blocks: whose outputs are wanted, counted from 1; computing stops at the last.
        stride: distance between tokens, px, 1..patch.
        final_norm: apply the network's last layer norm to each output.
        precision: of matrix products and attention; float32 elsewhere.
        device: where it runs.

    Raises:
        SettingError: a block or stride the network cannot have.
    """

    def __init__(
        self,
        network: Any,
        blocks: Sequence[int],
        stride: int,
        final_norm: bool,
        precision: torch.dtype,
        device: torch.device,
    ) -> None:
        config = network.config
        self.channels: int = config.hidden_size
        self.depth: int = config.num_hidden_layers
        self.patch: int = config.patch_size
        self.stride = stride
        self.blocks = tuple(blocks)
        self.device = device
        self._precision = precision
        self._final_norm = final_norm
        self._registers: int = getattr(config, "num_register_tokens", 0)
        for block in self.blocks:
            if not 1 <= block <= self.depth:
                raise SettingError(
                    f"backbone.block is {block}; this model has blocks 1..{self.depth}"
                )
        if not self.blocks:
            raise SettingError("no backbone block is asked for: name at least one")
        if not 1 <= stride <= self.patch:
            raise SettingError(
                f"backbone.stride is {stride} px; with this model give 1..{self.patch} px"
            )
        # Blocks after the last one used would only take memory.
        network.encoder.layer = network.encoder.layer[: max(self.blocks)]
        network.eval().requires_grad_(False).to(device)
        self._projection = network.embeddings.patch_embeddings.projection
        self._projection.stride = (stride, stride)
        self._projection.to(memory_format=torch.channels_last)
        self._position_table: Tensor = network.embeddings.position_embeddings
        if precision != torch.float32:
            store_products_in(network, precision)
            if device.type == "cpu" and not has_tile_units():
                attend_in_blocks(network)
        self._network = network
        self._positions: dict[TokenGrid, Tensor] = {}
        self._recordings: dict[tuple[object, ...], Recording[tuple[Tensor, ...]]] = {}

    def grid(self, height: int, width: int) -> TokenGrid:
        """Where the tokens of an image of this size lie."""
        return TokenGrid(height, width, self.patch, self.stride)

    @torch.no_grad()
    def features(
        self, images: Tensor, batch: int = 4, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """The feature maps of frames.

        Args:
            images: RGB [T, 3, H, W], uint8 in 0..255 or float in 0..1.
            batch: frames in one pass.
            dtype: of the result.

        Returns:
            One [T, channels, rows, cols] for each of `blocks`, in their order, on the device.

        Raises:
            FrameError: the images have another shape or type.
        """
        with own_stream(self.device):
            parts = [self._replayed(part, dtype) for part in images.split(batch)]
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(maps) for maps in zip(*parts, strict=True))

    def _replayed(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        images = images.to(self.device)
        kind = images.shape, images.dtype, dtype
        if kind not in self._recordings:
            if len(self._recordings) == RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[kind] = Recording(partial(self._features, dtype=dtype))
        recording = self._recordings[kind]
        maps = recording(images)
        return tuple(found.clone() for found in maps) if recording.recorded else maps

    def _features(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        grid = self.grid(*images.shape[-2:])
        pictures = grid.pad(imagenet_normalized(unit_range(images, self.device)))
        found: dict[int, Tensor] = {}
        with mixed(self.device, self._precision):
            tokens = self._embed(pictures, grid)
            for number, layer in enumerate(self._network.encoder.layer, start=1):
                output = layer(tokens)
                # Releases of transformers differ in whether a layer returns a tuple.
                tokens = output[0] if isinstance(output, tuple) else output
                if number in self.blocks:
                    found[number] = self._as_map(tokens, grid, dtype)
        return tuple(found[block] for block in self.blocks)

    def _embed(self, pictures: Tensor, grid: TokenGrid) -> Tensor:
        embeddings = self._network.embeddings
        weight = self._projection.weight
        patches = self._projection(
            pictures.to(weight.dtype, memory_format=torch.channels_last)
        ).float()
        patches = patches.flatten(2).transpose(1, 2) + self._grid_positions(grid)
        first = embeddings.cls_token + self._position_table[:, :1]
        if self._registers:
            first = torch.cat([first, embeddings.register_tokens], dim=1)
        return torch.cat([first.expand(len(patches), -1, -1), patches], dim=1)

    def _as_map(self, tokens: Tensor, grid: TokenGrid, dtype: torch.dtype) -> Tensor:
        if self._final_norm:
            tokens = self._network.layernorm(tokens)
        tokens = tokens[:, 1 + self._registers :].to(dtype)
        return tokens.transpose(1, 2).reshape(-1, self.channels, grid.rows, grid.cols)

    def _grid_positions(self, grid: TokenGrid) -> Tensor:
        if grid not in self._positions:
            side = math.isqrt(self._position_table.shape[1] - 1)
            table = self._position_table[0, 1:].float().T.reshape(1, -1, side, side)
            self._positions = {
                # The models with registers were trained with antialiased shrinking.
                grid: position_embeddings(table, grid, antialias=self._registers > 0)
            }
        return self._positions[grid]


def position_embeddings(table: Tensor, grid: TokenGrid, antialias: bool) -> Tensor:
    """Learnt position embeddings at the tokens of a grid.

    The table spans the padded image whatever its size, as in DINOv2, and each token reads it where
    its centre lies. With stride = patch this is DINOv2's bicubic resize; with a smaller stride the
    published code resizes to the larger grid, which displaces tokens near the border by up to a
    quarter of a patch.

    Args:
        table: float32 [1, C, side, side].
        antialias: low-pass the table where it shrinks.

    Returns:
        float32 [1, rows * cols, C].
    """
    height, width = grid.padded_size
    if antialias:
        size = (math.ceil(height / grid.patch), math.ceil(width / grid.patch))
        table = F.interpolate(table, size, mode="bicubic", antialias=True)
    centre = grid.patch / 2
    rows = torch.arange(grid.rows, device=table.device) * grid.stride + centre
    cols = torch.arange(grid.cols, device=table.device) * grid.stride + centre
    y, x = torch.meshgrid(2 * rows / height - 1, 2 * cols / width - 1, indexing="ij")
    where = torch.stack([x, y], dim=-1)[None].to(table.dtype)
    found = F.grid_sample(table, where, mode="bicubic", padding_mode="border", align_corners=False)
    return found.flatten(2).transpose(1, 2)


def random_network(shape: VitShape, seed: int = 0) -> Any:
    """A DINOv2 of this shape with random weights (transformers' model)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _model_class(shape)(_config(shape))


def load_backbone(
    model: str,
    *,
    cache: WeightsCache,
    weights: str = "",
    blocks: Sequence[int],
    stride: int,
    final_norm: bool,
    precision: torch.dtype,
    device: torch.device,
) -> Backbone:
    """A backbone with its pretrained weights.

    Args:
        model: a model id of the Hugging Face hub, or a folder with model.safetensors.
        cache: where the weights of a model id are kept.
        weights: a safetensors file to take instead.
        blocks, stride, final_norm, precision, device: see Backbone.

    Raises:
        WeightsError: the weights cannot be had or are not DINOv2's.
        SettingError: a block or stride the model cannot have.
    """
    folder = Path(model).expanduser()
    if not weights and folder.is_dir():
        weights = str(folder / "model.safetensors")
    path = cache.path(model, weights)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    network = _network_from(tensors, path)
    return Backbone(network, blocks, stride, final_norm, precision, device)


def shape_from_weights(tensors: Mapping[str, Tensor]) -> VitShape:
    """Read a DINOv2's shape off its tensors, in Hugging Face's names.

    Raises:
        KeyError: a tensor every DINOv2 has is missing.
    """
    layers = {int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer.")}
    registers = tensors.get("embeddings.register_tokens")
    return VitShape(
        channels=tensors["embeddings.cls_token"].shape[-1],
        depth=len(layers),
        registers=0 if registers is None else registers.shape[1],
        gated_mlp="encoder.layer.0.mlp.weights_in.weight" in tensors,
        patch=tensors["embeddings.patch_embeddings.projection.weight"].shape[-1],
        positions=math.isqrt(tensors["embeddings.position_embeddings"].shape[1] - 1),
    )


def _network_from(tensors: dict[str, Tensor], path: Path) -> Any:
    tensors = {name.removeprefix("dinov2."): tensor for name, tensor in tensors.items()}
    try:
        shape = shape_from_weights(tensors)
    except KeyError as error:
        raise WeightsError(f"{path} has no {error}: not the weights of a DINOv2") from error
    with _no_progress_bar():
        network, report = _model_class(shape).from_pretrained(
            None, config=_config(shape), state_dict=tensors, output_loading_info=True
        )
    missing = sorted(set(report["missing_keys"]) | {str(k) for k in report["mismatched_keys"]})
    if missing:
        raise WeightsError(f"{path} lacks {', '.join(missing[:3])}: not the weights of a DINOv2")
    return network


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _config(shape: VitShape) -> Any:
    from transformers import Dinov2Config, Dinov2WithRegistersConfig

    common: dict[str, Any] = {
        "hidden_size": shape.channels,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "use_swiglu_ffn": shape.gated_mlp,
        "patch_size": shape.patch,
        "image_size": shape.patch * shape.positions,
        "attn_implementation": "sdpa",
    }
    if shape.registers:
        return Dinov2WithRegistersConfig(num_register_tokens=shape.registers, **common)
    return Dinov2Config(**common)


def _model_class(shape: VitShape) -> Any:
    # transformers takes seconds to import: only where a backbone is built.
    from transformers import Dinov2Model, Dinov2WithRegistersModel

    return Dinov2WithRegistersModel if shape.registers else Dinov2Model
