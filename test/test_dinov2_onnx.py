"""Rebuilding DINOv2's weights from an ONNX export, on a small export written here byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from dino_tracker_ros.tracking.dinov2_onnx import dinov2_safetensors, read_onnx

CHANNELS = 384
Array = NDArray[np.float32]


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(field: int, body: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(body)) + body


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def initializer(name: str, array: Array, kind: int = 1) -> bytes:
    dims = b"".join(number(1, side) for side in array.shape)
    raw = message(9, array.astype("<f4").tobytes())
    return message(5, dims + number(2, kind) + message(8, name.encode()) + raw)


def node(name: str, *inputs: str) -> bytes:
    return message(1, b"".join(message(1, i.encode()) for i in inputs) + message(3, name.encode()))


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Array]:
    """A one-block DINOv2 under torch hub's names, the linear weights aside."""
    c = CHANNELS
    block = {
        "norm1.weight": random(c), "norm1.bias": random(c),
        "attn.qkv.bias": random(3 * c), "attn.proj.bias": random(c),
        "ls1.gamma": random(c), "norm2.weight": random(c), "norm2.bias": random(c),
        "mlp.fc1.bias": random(4 * c), "mlp.fc2.bias": random(c), "ls2.gamma": random(c),
    }  # fmt: skip
    return {
        "cls_token": random(1, 1, c),
        "patch_embed.proj.weight": random(c, 3, 14, 14),
        "patch_embed.proj.bias": random(c),
        "norm.weight": random(c),
        "norm.bias": random(c),
    } | {f"blocks.0.{name}": tensor for name, tensor in block.items()}


@pytest.fixture(scope="module")
def linears() -> dict[str, Array]:
    """The linear weights as torch has them, [out, in]."""
    c = CHANNELS
    return {
        "attn/qkv": random(3 * c, c), "attn/proj": random(c, c),
        "mlp/fc1": random(4 * c, c), "mlp/fc2": random(c, 4 * c),
    }  # fmt: skip


@pytest.fixture(scope="module")
def export(tensors: dict[str, Array], linears: dict[str, Array]) -> bytes:
    parts = [initializer(f"model.{name}", tensor) for name, tensor in tensors.items()]
    parts.append(initializer("onnx::Reshape_1", random(1, 37 * 37, CHANNELS)))
    for at, (layer, matrix) in enumerate(linears.items()):
        parts.append(initializer(f"onnx::MatMul_{at}", matrix.T))
        parts.append(node(f"/blocks.0/{layer}/MatMul", "x", f"onnx::MatMul_{at}"))
    # Fields of other kinds around the graph are stepped over.
    other = number(1, 300) + varint(2 << 3 | 5) + b"1234" + varint(3 << 3 | 1) + b"12345678"
    return other + message(7, b"".join(parts))


def test_every_tensor_comes_out_under_its_published_name(
    export: bytes, tensors: dict[str, Array], linears: dict[str, Array]
) -> None:
    rebuilt = load(dinov2_safetensors(export))
    assert len(rebuilt) == 3 + 2 + 2 + 10 + 4 + 4  # query, key, value count twice over
    layer = "encoder.layer.0."
    c = CHANNELS
    for part, name in enumerate(("query", "key", "value")):
        rows = slice(part * c, (part + 1) * c)
        weight = rebuilt[f"{layer}attention.attention.{name}.weight"]
        np.testing.assert_array_equal(weight, linears["attn/qkv"][rows])
        bias = rebuilt[f"{layer}attention.attention.{name}.bias"]
        np.testing.assert_array_equal(bias, tensors["blocks.0.attn.qkv.bias"][rows])
    expected = {
        f"{layer}attention.output.dense.weight": linears["attn/proj"],
        f"{layer}mlp.fc1.weight": linears["mlp/fc1"],
        f"{layer}mlp.fc2.weight": linears["mlp/fc2"],
        f"{layer}layer_scale2.lambda1": tensors["blocks.0.ls2.gamma"],
        f"{layer}norm1.weight": tensors["blocks.0.norm1.weight"],
        "layernorm.bias": tensors["norm.bias"],
        "embeddings.patch_embeddings.projection.weight": tensors["patch_embed.proj.weight"],
        "embeddings.mask_token": np.zeros((1, c), np.float32),
    }
    for name, tensor in expected.items():
        np.testing.assert_array_equal(rebuilt[name], tensor, err_msg=name)
    positions = rebuilt["embeddings.position_embeddings"]
    np.testing.assert_array_equal(positions[:, :1], tensors["cls_token"])
    np.testing.assert_array_equal(positions[:, 1:], random(1, 37 * 37, c))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "half precision", "no graph tensors"])
def test_other_files_are_refused(export: bytes, damage: str) -> None:
    damaged = {
        "cut": export[:-5],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1",
        "half precision": message(7, initializer("model.cls_token", random(1, 1, 4), kind=10)),
        "no graph tensors": message(7, node("/blocks.0/attn/qkv/MatMul", "x", "w")),
    }[damage]
    with pytest.raises(ValueError, match=r"ONNX|position embeddings"):
        dinov2_safetensors(damaged)


def test_reading_a_graph(export: bytes, linears: dict[str, Array]) -> None:
    graph = read_onnx(export)
    weight = graph.inputs["/blocks.0/mlp/fc1/MatMul"][1]
    np.testing.assert_array_equal(graph.tensors[weight], linears["mlp/fc1"].T)
