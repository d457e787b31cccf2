"""Attention in blocks against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking import attention as module
from dino_tracker_ros.tracking import backbone
from dino_tracker_ros.tracking.attention import attention
from dino_tracker_ros.tracking.backbone import Backbone, VitShape, random_network

CPU = torch.device("cpu")


def heads(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, count, 64).to(dtype)
    return query, key, value


@pytest.mark.parametrize("count", [1, 7, module.BLOCK_ROWS, module.BLOCK_ROWS + 5])
def test_equals_pytorchs(count: int) -> None:
    query, key, value = heads(count)
    found = attention(query, key, value, 0.125)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.125)
    assert found.shape == (2, count, 3, 64)
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=2e-6, rtol=1e-5)


def test_what_all_keys_share_costs_no_precision_in_bfloat16() -> None:
    query, key, value = heads(300)
    key = key + 30  # as biases of a trained network do
    rounded = [part.bfloat16() for part in (query, key, value)]
    exact = F.scaled_dot_product_attention(*(part.float() for part in rounded), scale=0.125)
    found = attention(*rounded, 0.125)
    assert found.dtype == torch.bfloat16
    error = (found.float() - exact.transpose(1, 2)).norm() / exact.norm()
    assert error < 0.02


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
def test_a_backbone_in_bfloat16_attends_in_blocks_on_a_cpu_without_tile_units(
    registers: int, tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    real = module.attention

    def watched(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        asked.append((*query.shape, key.shape[2]))
        assert scale == 0.125
        return real(query, key, value, scale)

    monkeypatch.setattr(module, "attention", watched)
    monkeypatch.setattr(backbone, "has_tile_units", lambda: tiles)
    shape = VitShape(channels=128, depth=2, registers=registers)
    images = torch.randint(0, 255, (1, 3, 42, 56), dtype=torch.uint8)
    exact, rough = (
        Backbone(random_network(shape), (2,), 14, False, precision, CPU)
        for precision in (torch.float32, torch.bfloat16)
    )
    (expected,), (found,) = exact.features(images), rough.features(images)
    tokens = found.shape[2] * found.shape[3] + 1 + registers
    assert asked == ([] if tiles else [(1, 2, tokens, 64, tokens)] * 2)
    assert torch.cosine_similarity(expected, found, dim=1).min() > 0.999
