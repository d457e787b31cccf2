"""Bytes of image messages to pixels and metres: every encoding, every way to be wrong."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dino_tracker_ros.ros.depth import decode_depth, depth_at
from dino_tracker_ros.ros.image_decoding import ENCODINGS, ImageError, decode, decode_compressed

HEIGHT, WIDTH = 6, 8


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def padded(samples: np.ndarray, padding: int) -> tuple[bytes, int]:
    """Rows with `padding` bytes of rubbish behind each, and their step."""
    rows = np.ascontiguousarray(samples).reshape(samples.shape[0], -1).view(np.uint8)
    rubbish = np.full((len(rows), padding), 0xA5, np.uint8)
    return np.hstack([rows, rubbish]).tobytes(), rows.shape[1] + padding


def in_colour_order(rgb: np.ndarray, order: str) -> np.ndarray:
    alpha = np.full(rgb.shape[:2], 77, np.uint8)
    planes = {"r": rgb[..., 0], "g": rgb[..., 1], "b": rgb[..., 2], "a": alpha}
    return np.stack([planes[name] for name in order], axis=-1)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_8_bit_colours(rgb: np.ndarray, order: str, padding: int) -> None:
    data, step = padded(in_colour_order(rgb, order), padding)
    decoded = decode(HEIGHT, WIDTH, f"{order}8", step, False, data)
    np.testing.assert_array_equal(decoded, rgb)
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_16_bit_colours_keep_the_upper_byte(rgb: np.ndarray, order: str, big: bool) -> None:
    wide = in_colour_order(rgb, order).astype(np.uint16) * 256 + 129
    data, step = padded(wide.astype(">u2" if big else "<u2"), 6)
    decoded = decode(HEIGHT, WIDTH, f"{order}16", step, big, data)
    np.testing.assert_array_equal(decoded, rgb)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(rgb: np.ndarray, encoding: str) -> None:
    grey = rgb[..., 0]
    data, step = padded(grey, 3)
    decoded = decode(HEIGHT, WIDTH, encoding, step, False, data)
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_16_bit_grey(rgb: np.ndarray, encoding: str, big: bool) -> None:
    grey = rgb[..., 0]
    data, step = padded((grey.astype(np.uint16) << 8 | 0x31).astype(">u2" if big else "<u2"), 4)
    decoded = decode(HEIGHT, WIDTH, encoding, step, big, data)
    np.testing.assert_array_equal(decoded[..., 1], grey)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("colour", [(200, 100, 50), (255, 0, 0), (0, 0, 255)])
def test_bayer(pattern: str, bits: int, colour: tuple[int, int, int]) -> None:
    plane = {"r": colour[0], "g": colour[1], "b": colour[2]}
    tile = np.array(
        [[plane[pattern[0]], plane[pattern[1]]], [plane[pattern[2]], plane[pattern[3]]]]
    )
    mosaic = np.tile(tile, (4, 5)).astype(np.uint8)
    samples = mosaic if bits == 8 else (mosaic.astype(np.uint16) << 8).astype(">u2")
    data, step = padded(samples, 2)
    decoded = decode(8, 10, f"bayer_{pattern}{bits}", step, bits == 16, data)
    np.testing.assert_array_equal(decoded, np.broadcast_to(colour, (8, 10, 3)))


def yuv(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """ITU-R BT.601, video range."""
    r, g, b = (value / 255 for value in colour)
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    u = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    v = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    return round(y), round(u), round(v)


def yuv_bytes(encoding: str, colour: tuple[int, int, int]) -> tuple[bytes, int]:
    y, u, v = yuv(colour)
    if encoding in ("yuv422", "uyvy"):
        row = np.tile([u, y, v, y], WIDTH // 2)
        return padded(np.tile(row, (HEIGHT, 1)).astype(np.uint8), 4)
    if encoding in ("yuv422_yuy2", "yuyv"):
        row = np.tile([y, u, y, v], WIDTH // 2)
        return padded(np.tile(row, (HEIGHT, 1)).astype(np.uint8), 4)
    first, second = (v, u) if encoding == "nv21" else (u, v)
    rows = HEIGHT // 2 if encoding in ("nv12", "nv21") else HEIGHT * 2
    luma = np.full((HEIGHT, WIDTH), y, np.uint8)
    chroma = np.tile([first, second], rows * WIDTH // 2).astype(np.uint8).reshape(rows, WIDTH)
    return padded(np.vstack([luma, chroma]), 0 if encoding == "nv24" else 4)


@pytest.mark.parametrize("colour", [(255, 0, 0), (10, 200, 30), (90, 90, 90), (0, 0, 255)])
@pytest.mark.parametrize(
    "encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24"]
)
def test_yuv(encoding: str, colour: tuple[int, int, int]) -> None:
    data, step = yuv_bytes(encoding, colour)
    decoded = decode(HEIGHT, WIDTH, encoding, step, False, data)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to(colour, decoded.shape), atol=3)


def test_rgb8_is_not_copied(rgb: np.ndarray) -> None:
    data = bytearray(rgb.tobytes())
    decoded = decode(HEIGHT, WIDTH, "rgb8", WIDTH * 3, False, data)
    data[0] ^= 0xFF
    assert decoded[0, 0, 0] == data[0]


def test_the_padding_of_the_last_row_may_be_missing(rgb: np.ndarray) -> None:
    data, step = padded(rgb, 7)
    np.testing.assert_array_equal(decode(HEIGHT, WIDTH, "rgb8", step, False, data[:-7]), rgb)


def test_every_encoding_is_tested_for_too_little_data() -> None:
    for encoding in ENCODINGS:
        with pytest.raises(ImageError, match="bytes of data: it needs"):
            decode(HEIGHT, WIDTH, encoding, WIDTH * 8, False, bytes(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "rgb9"}, r"encoding is 'rgb9': use one of rgb8"),
        ({"encoding": ""}, r"encoding is ''"),
        ({"step": WIDTH * 3 - 1}, r"step 23: a row of 8 pixels takes 24 bytes"),
        ({"step": 0}, r"step 0"),
        ({"height": 0}, r"size 8x0"),
        ({"width": 0}, r"size 0x6"),
        ({"height": HEIGHT + 1}, r"has 144 bytes of data: it needs 168"),
        ({"data": b""}, r"has 0 bytes"),
        ({"encoding": "nv12", "height": 5, "step": 8}, r"height is 5 px: nv12 needs an even"),
        ({"encoding": "yuyv", "width": 7}, r"width is 7 px: yuyv needs an even"),
        ({"encoding": "bayer_rggb8", "width": 7}, r"width is 7 px"),
    ],
)
def test_malformed_images(rgb: np.ndarray, change: dict[str, object], message: str) -> None:
    fields = {
        "height": HEIGHT,
        "width": WIDTH,
        "encoding": "rgb8",
        "step": WIDTH * 3,
        "is_bigendian": False,
        "data": rgb.tobytes(),
    }
    with pytest.raises(ImageError, match=message):
        decode(**(fields | change))  # type: ignore[arg-type]


def test_compressed() -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, 24:] = (250, 10, 10)  # RGB
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    png = cv2.imencode(".png", bgr)[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(png, "png"), picture)
    jpeg = cv2.imencode(".jpg", bgr)[1].tobytes()
    np.testing.assert_allclose(decode_compressed(jpeg, "jpeg")[:, 32:], picture[:, 32:], atol=12)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"not a picture at all", "cannot be decoded"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG without its end"),
        (b"\xff\xd8\xff\xe0" + bytes(100) + b"\xff\xd9", "cannot be decoded"),
    ],
)
def test_undecodable_compressed_images(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_compressed(data, "rgb8; jpeg compressed bgr8")


def test_cut_off_jpeg_is_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    with pytest.raises(ImageError, match="cut it off"):
        decode_compressed(jpeg[: len(jpeg) // 2], "jpeg")


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_millimetres_and_metres(big: bool) -> None:
    order = ">" if big else "<"
    millimetres = np.array([[1500, 0], [65535, 1]], f"{order}u2")
    data, step = padded(millimetres, 2)
    depth = decode_depth(2, 2, "16UC1", step, big, data)
    np.testing.assert_allclose(depth, [[1.5, np.nan], [65.535, 0.001]], rtol=1e-6)
    metres = np.array([[1.5, np.nan], [np.inf, -1]], f"{order}f4")
    data, step = padded(metres, 4)
    depth = decode_depth(2, 2, "32FC1", step, big, data)
    np.testing.assert_array_equal(depth, np.array([[1.5, np.nan], [np.nan, np.nan]], np.float32))


@pytest.mark.parametrize(
    ("encoding", "values", "message"),
    [
        ("32FC1", np.full((2, 2), np.nan, np.float32), "holds no measurement"),
        ("16UC1", np.zeros((2, 2), np.uint16), "holds no measurement"),
        ("64FC1", np.ones((2, 2)), "depth encoding is '64FC1'"),
        ("32FC1", np.ones((1, 2), np.float32), "bytes of data"),
    ],
)
def test_bad_depth(encoding: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_depth(2, 2, encoding, 8 if encoding != "16UC1" else 4, False, values.tobytes())


def test_depth_at_takes_the_nearest_measurement() -> None:
    depth = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    points = np.array([[0, 0], [2.4, 1.4], [2.6, 0], [-0.6, 0], [np.nan, 0]], np.float32)
    np.testing.assert_array_equal(
        depth_at(depth, points, 3, 2), np.array([1, 6, np.nan, np.nan, np.nan], np.float32)
    )


def test_depth_at_another_resolution() -> None:
    depth = np.array([[1, 2], [3, 4]], np.float32)
    points = np.array([[0, 0], [4, 0], [9, 9], [5, 4]], np.float32)
    np.testing.assert_array_equal(depth_at(depth, points, 10, 10), [1, 1, 4, 2])
