"""Frames, the working size, and the map to it and back."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from dino_tracker_ros.tracking.clip import Frame, WorkingSize, working_size
from dino_tracker_ros.tracking.errors import FrameError

SIZES = [(854, 480), (480, 854), (1920, 1080), (640, 480), (333, 77), (17, 16), (1, 1), (5, 900)]
LONGEST = [0, 14, 320, 640, 853]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("longest", LONGEST)
def test_working_size_keeps_the_aspect(width: int, height: int, longest: int) -> None:
    size = working_size(width, height, longest)
    assert (size.input_width, size.input_height) == (width, height)
    longer = max(width, height)  # a smaller picture is never enlarged
    assert max(size.width, size.height) == min(longest or longer, longer)
    scale = max(size.width, size.height) / max(width, height)
    for side, input_side in ((size.width, width), (size.height, height)):
        assert side >= 1
        assert abs(side - input_side * scale) <= 0.5 or side == 1


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("longest", LONGEST)
def test_points_go_to_the_working_size_and_back(width: int, height: int, longest: int) -> None:
    size = working_size(width, height, longest)
    points = np.random.default_rng(0).uniform(-0.5, [width - 0.5, height - 0.5], (40, 2))
    points = points.astype(np.float32)
    there = size.to_working(points)
    assert there.dtype == np.float32
    np.testing.assert_allclose(size.to_input(there), points, atol=1e-3)
    # The picture's edges, half a pixel outside the outermost centres, stay its edges.
    edges = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]], np.float32)
    expected = [[-0.5, -0.5], [size.width - 0.5, size.height - 0.5]]
    np.testing.assert_allclose(size.to_working(edges), expected, atol=1e-4)


def test_the_map_by_hand() -> None:
    size = WorkingSize(input_width=8, input_height=6, width=4, height=3)
    # Working pixel 0 is the mean of input pixels 0 and 1, whose middle is 0.5.
    corners = np.float32([[0, 0], [3, 2]])
    np.testing.assert_array_equal(size.to_input(corners), [[0.5, 0.5], [6.5, 4.5]])
    np.testing.assert_array_equal(size.to_working(np.float32([[0.5, 4.5]])), [[0, 2]])
    same = WorkingSize(8, 6, 8, 6)
    np.testing.assert_array_equal(same.to_working(np.float32([[3.25, 1]])), [[3.25, 1]])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 241), (101, 300)])
@pytest.mark.parametrize("longest", [160, 150, 640])
def test_pixels_go_where_points_go(width: int, height: int, longest: int) -> None:
    size = working_size(width, height, longest)
    centre = np.float32([0.37 * width, 0.61 * height])
    y, x = np.mgrid[:height, :width]
    spread = 0.07 * min(width, height)
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * spread**2))
    image = np.repeat(np.rint(255 * blob).astype(np.uint8)[..., None], 3, axis=2)
    small = size.resize(image)
    assert small.shape == (size.height, size.width, 3)
    assert small.dtype == np.uint8
    mass = small[..., 0].astype(float)
    y, x = np.mgrid[: size.height, : size.width]
    found = [(mass * x).sum() / mass.sum(), (mass * y).sum() / mass.sum()]
    np.testing.assert_allclose(found, size.to_working(centre), atol=0.05)


def test_nothing_is_resampled_at_the_inputs_own_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    np.testing.assert_array_equal(working_size(40, 30, 0).resize(image), image)
    np.testing.assert_array_equal(working_size(40, 30, 40).resize(image), image)


@pytest.mark.parametrize(("width", "height", "longest"), [(64, 48, 16), (50, 31, 13), (20, 30, 70)])
def test_a_mask_takes_the_nearest_input_pixel(width: int, height: int, longest: int) -> None:
    size = working_size(width, height, longest)
    mask = np.random.default_rng(1).random((height, width)) < 0.5
    small = size.resize_mask(mask)
    assert small.dtype == np.bool_
    assert small.shape == (size.height, size.width)
    for row in range(size.height):
        for column in range(size.width):
            x, y = size.to_input(np.float32([column, row]))
            near = {
                bool(mask[int(np.clip(v, 0, height - 1)), int(np.clip(u, 0, width - 1))])
                # A centre between two pixels may go to either.
                for v in {np.ceil(y - 0.5 - 1e-3), np.floor(y + 0.5 + 1e-3)}
                for u in {np.ceil(x - 0.5 - 1e-3), np.floor(x + 0.5 + 1e-3)}
            }
            assert bool(small[row, column]) in near, (row, column)


def picture(height: int = 4, width: int = 5) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((4, 5), np.uint8), "(4, 5)"),
        (np.zeros((4, 5, 4), np.uint8), "(4, 5, 4)"),
        (np.zeros((2, 4, 5, 3), np.uint8), "(2, 4, 5, 3)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((4, 5, 3), np.int8), "int8"),
        (np.zeros((0, 5, 3), np.uint8), "5x0"),
        (np.zeros((4, 0, 3), np.uint8), "0x4"),
        (None, "None"),
        ([[1, 2, 3]], "None"),
    ],
)
def test_a_frame_refuses_other_images(image: Any, named: str) -> None:
    with pytest.raises(FrameError, match="give") as error:
        Frame(image, 0)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (np.zeros((4, 5), np.uint8), "uint8"),
        (np.zeros((5, 4), bool), "(5, 4)"),
        (np.zeros((4, 5, 1), bool), "(4, 5, 1)"),
    ],
)
def test_a_frame_refuses_other_masks(mask: Any, named: str) -> None:
    with pytest.raises(FrameError, match=r"mask is .* give bool \(4, 5\)") as error:
        Frame(picture(), 0, mask)
    assert named in str(error.value)


def test_a_frame_keeps_what_it_is_given() -> None:
    image, mask = picture(), np.ones((4, 5), bool)
    frame = Frame(image, 7, mask)
    assert frame.image is image and frame.mask is mask and frame.stamp == 7
    assert Frame(picture(1, 1), 0).mask is None
    # OpenCV's own readers give what a frame takes.
    assert Frame(cv2.cvtColor(picture(), cv2.COLOR_BGR2RGB), 0).image.shape == (4, 5, 3)
