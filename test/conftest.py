"""What several tests share: real weights, photographs under a free licence, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dino_tracker_ros.tracking.weights import WeightsCache


@pytest.fixture(scope="session")
def weights_cache() -> WeightsCache:
    """The user's weights cache, holding the standard weights; skips where they are out of reach."""
    from dino_tracker_ros.tracking.errors import WeightsError
    from dino_tracker_ros.tracking.weights import WeightsCache

    cache = WeightsCache()
    try:
        cache.fetch()
    except WeightsError as error:
        pytest.skip(f"needs real weights: {error}")
    return cache


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """A photograph that scikit-image carries (NASA, public domain), uint8 [512, 512, 3] RGB."""
    data = pytest.importorskip("skimage.data", reason="the photograph comes with scikit-image")
    picture: NDArray[np.uint8] = data.astronaut()
    return picture


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and sums there need not repeat."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
