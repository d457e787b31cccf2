"""Rebuild the published DINOv2 ViT-S/14 safetensors file from an ONNX export of the same network.

The export folded the transposes of the linear layers and the class token's share of the position
embedding; both are undone exactly, so the result is bit-equal to the published file (its sha256 is
checked by the caller).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

# Field numbers of onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto), the only ones used.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_NAME = 1, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_FLOAT = 1

_PREFIX = "model."
_LINEAR = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
_POSITION_SHAPE = (1, 37 * 37, 384)


@dataclass(frozen=True)
class OnnxGraph:
    """The two parts of an ONNX graph that hold weights.

    Attributes:
        tensors: float32 initializers by name.
        inputs: the input names of each node, by node name.
    """

    tensors: dict[str, NDArray[np.float32]]
    inputs: dict[str, tuple[str, ...]]


def read_onnx(data: bytes) -> OnnxGraph:
    """Read the float32 initializers and node inputs out of an ONNX file.

    Args:
        data: the file's bytes (protobuf wire format).

    Raises:
        ValueError: the bytes are not such a file.
    """
    view = memoryview(data)
    tensors: dict[str, NDArray[np.float32]] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    try:
        graphs = _all(view, _MODEL_GRAPH)
        if len(graphs) != 1:
            raise ValueError(f"not a readable ONNX file: {len(graphs)} graphs in it")
        for field, value in _fields(graphs[0]):
            if field == _GRAPH_INITIALIZER:
                name, tensor = _read_tensor(value)
                tensors[name] = tensor
            elif field == _GRAPH_NODE:
                (name_bytes,) = _all(value, _NODE_NAME)
                inputs[_text(name_bytes)] = tuple(_text(v) for v in _all(value, _NODE_INPUT))
    except (IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a readable ONNX file: {error}") from error
    return OnnxGraph(tensors, inputs)


def dinov2_safetensors(onnx_file: bytes) -> bytes:
    """Turn the ONNX export of DINOv2 ViT-S/14 into the published safetensors file.

    Args:
        onnx_file: bytes of the export.

    Returns:
        Bytes of model.safetensors with Hugging Face's tensor names.

    Raises:
        ValueError: the export is not this network.
    """
    graph = read_onnx(onnx_file)
    try:
        weights = _torch_hub_weights(graph)
        tensors = _hugging_face_names(weights)
    except KeyError as error:
        raise ValueError(f"the ONNX file lacks {error}: not a DINOv2 ViT-S/14 export") from error
    return save(tensors, metadata={"format": "pt"})


def _torch_hub_weights(graph: OnnxGraph) -> dict[str, NDArray[np.float32]]:
    weights = {
        name[len(_PREFIX) :]: tensor
        for name, tensor in graph.tensors.items()
        if name.startswith(_PREFIX)
    }
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    for block in blocks:
        for layer in _LINEAR:
            # x @ W in the export is Linear(W^T); the second input of the product is W.
            matrix = graph.tensors[graph.inputs[f"/blocks.{block}/{layer}/MatMul"][1]]
            weights[f"blocks.{block}.{layer.replace('/', '.')}.weight"] = matrix.T
    positions = [t for t in graph.tensors.values() if t.shape == _POSITION_SHAPE]
    if len(positions) != 1:
        raise ValueError(f"{len(positions)} position embeddings of shape {_POSITION_SHAPE}, not 1")
    # The export lacks the class token's own position; in the published weights it equals cls_token.
    weights["pos_embed"] = np.concatenate([weights["cls_token"], positions[0]], axis=1)
    weights["mask_token"] = np.zeros((1, positions[0].shape[2]), np.float32)
    return weights


def _hugging_face_names(weights: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    tensors = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.mask_token": weights["mask_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"],
        "layernorm.bias": weights["norm.bias"],
    }
    for name, tensor in weights.items():
        if not name.startswith("blocks."):
            continue
        _, block, rest = name.split(".", 2)
        layer = f"encoder.layer.{block}."
        if rest.startswith("attn.qkv."):
            kind = rest.rsplit(".", 1)[1]
            for part, piece in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                tensors[f"{layer}attention.attention.{part}.{kind}"] = piece
        else:
            rest = rest.replace("attn.proj", "attention.output.dense")
            rest = rest.replace("ls1.gamma", "layer_scale1.lambda1")
            rest = rest.replace("ls2.gamma", "layer_scale2.lambda1")
            tensors[layer + rest] = tensor
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _read_tensor(message: int | memoryview) -> tuple[str, NDArray[np.float32]]:
    shape: list[int] = []
    name, raw, kind = "", memoryview(b""), 0
    for field, value in _fields(message):
        if field == _TENSOR_DIMS and isinstance(value, int):
            shape.append(value)
        elif field == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_RAW and isinstance(value, memoryview):
            raw = value
    if kind != _TENSOR_FLOAT:
        raise ValueError(f"initializer {name!r} has ONNX type {kind}, expected {_TENSOR_FLOAT}")
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def _text(value: int | memoryview) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else str(value)


def _all(message: int | memoryview, wanted: int) -> list[int | memoryview]:
    return [value for field, value in _fields(message) if field == wanted]


def _fields(message: int | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk one protobuf message: (field number, integer or bytes of the field)."""
    if isinstance(message, int):
        raise TypeError("a number where a message should be")
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield field, number
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not a readable ONNX file: wire type {wire}")
        if at + size > len(message):
            raise ValueError("not a readable ONNX file: it is cut off")
        yield field, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
