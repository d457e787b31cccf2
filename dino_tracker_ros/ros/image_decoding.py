"""From the bytes of an image message to RGB pixels.

cv_bridge is not used. The pure-Python one on PyPI ignores `step` and `is_bigendian`, the compiled
one of a distribution breaks as soon as pip brings NumPy 2 (which PyTorch does), and what it adds
to NumPy and OpenCV is the table below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Raw = NDArray[Any]


class ImageError(ValueError):
    """An image message cannot be read as it describes itself."""


@dataclass(frozen=True)
class _Layout:
    """How an encoding lies in memory.

    Attributes:
        dtype: type of one sample.
        channels: samples per pixel.
        to_rgb: from [rows, width, channels] (or [rows, width] for one) to uint8 [H, W, 3].
        rows: rows in memory per image row, as a fraction (numerator, denominator).
        even: the width, the height must be even.
    """

    dtype: type
    channels: int
    to_rgb: Callable[[Raw], Raw]
    rows: tuple[int, int] = (1, 1)
    even: tuple[bool, bool] = (False, False)


def _convert(code: int) -> Callable[[Raw], Raw]:
    return lambda raw: np.asarray(cv2.cvtColor(raw, code))


def _from_16_bit(to_rgb: Callable[[Raw], Raw]) -> Callable[[Raw], Raw]:
    return lambda raw: to_rgb((raw >> 8).astype(np.uint8))


def _nv24_to_rgb(raw: Raw) -> Raw:
    height = raw.shape[0] // 3
    y = raw[:height]
    uv = raw[height:].reshape(height, -1, 2)
    ycrcb = np.dstack([y, uv[..., 1], uv[..., 0]])
    # OpenCV's three-plane conversion wants full-range luma, video comes as 16..235.
    return _video_range_to_rgb(ycrcb)


def _video_range_to_rgb(ycrcb: Raw) -> Raw:
    """ITU-R BT.601, the matrix OpenCV uses for its 4:2:2 and 4:2:0 formats."""
    y = 1.164 * (ycrcb[..., 0].astype(np.float32) - 16)
    cr = ycrcb[..., 1].astype(np.float32) - 128
    cb = ycrcb[..., 2].astype(np.float32) - 128
    rgb = np.stack([y + 1.596 * cr, y - 0.813 * cr - 0.391 * cb, y + 2.018 * cb], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


_GREY = _convert(cv2.COLOR_GRAY2RGB)
_BGR = _convert(cv2.COLOR_BGR2RGB)
_RGBA = _convert(cv2.COLOR_RGBA2RGB)
_BGRA = _convert(cv2.COLOR_BGRA2RGB)
_UYVY = _Layout(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_UYVY), even=(True, False))
_YUYV = _Layout(np.uint8, 2, _convert(cv2.COLOR_YUV2RGB_YUY2), even=(True, False))
# OpenCV names a Bayer pattern by the second and third sample of its second row.
_BAYER = {
    "rggb": _convert(cv2.COLOR_BayerBG2RGB),
    "bggr": _convert(cv2.COLOR_BayerRG2RGB),
    "gbrg": _convert(cv2.COLOR_BayerGR2RGB),
    "grbg": _convert(cv2.COLOR_BayerGB2RGB),
}

_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(np.uint8, 3, np.ascontiguousarray),
    "bgr8": _Layout(np.uint8, 3, _BGR),
    "rgba8": _Layout(np.uint8, 4, _RGBA),
    "bgra8": _Layout(np.uint8, 4, _BGRA),
    "mono8": _Layout(np.uint8, 1, _GREY),
    "8UC1": _Layout(np.uint8, 1, _GREY),
    "8UC3": _Layout(np.uint8, 3, _BGR),
    "8UC4": _Layout(np.uint8, 4, _BGRA),
    "rgb16": _Layout(np.uint16, 3, _from_16_bit(np.ascontiguousarray)),
    "bgr16": _Layout(np.uint16, 3, _from_16_bit(_BGR)),
    "rgba16": _Layout(np.uint16, 4, _from_16_bit(_RGBA)),
    "bgra16": _Layout(np.uint16, 4, _from_16_bit(_BGRA)),
    "mono16": _Layout(np.uint16, 1, _from_16_bit(_GREY)),
    "16UC1": _Layout(np.uint16, 1, _from_16_bit(_GREY)),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Layout(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV12), rows=(3, 2), even=(True, True)),
    "nv21": _Layout(np.uint8, 1, _convert(cv2.COLOR_YUV2RGB_NV21), rows=(3, 2), even=(True, True)),
    "nv24": _Layout(np.uint8, 1, _nv24_to_rgb, rows=(3, 1)),
}
for _pattern, _demosaic in _BAYER.items():
    _LAYOUTS[f"bayer_{_pattern}8"] = _Layout(np.uint8, 1, _demosaic, even=(True, True))
    _LAYOUTS[f"bayer_{_pattern}16"] = _Layout(
        np.uint16, 1, _from_16_bit(_demosaic), even=(True, True)
    )

ENCODINGS: tuple[str, ...] = tuple(_LAYOUTS)


def decode(
    height: int, width: int, encoding: str, step: int, is_bigendian: bool, data: Any
) -> Image:
    """The pixels of a sensor_msgs/Image.

    Padded rows (`step` larger than a row) and big-endian samples are read as they are. rgb8
    without padding is a view on `data`; everything else is one copy. 16-bit samples keep their
    upper byte, so a 12-bit camera that does not shift its samples up looks dark.

    Args:
        height, width: of the image, px.
        encoding: one of `ENCODINGS` (REP 118 and sensor_msgs/image_encodings).
        step: bytes from one row to the next.
        is_bigendian: byte order of 16-bit samples.
        data: anything with the buffer protocol.

    Returns:
        uint8 [height, width, 3], RGB, contiguous.

    Raises:
        ImageError: the fields contradict each other or the encoding is unknown.
    """
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise ImageError(f"image encoding is '{encoding}': use one of {', '.join(ENCODINGS)}")
    for name, size, even in (("width", width, layout.even[0]), ("height", height, layout.even[1])):
        if even and size % 2:
            raise ImageError(f"image {name} is {size} px: {encoding} needs an even {name}")
    rows = height * layout.rows[0] // layout.rows[1]
    raw = samples(
        rows,
        width,
        layout.channels,
        layout.dtype,
        step,
        is_bigendian,
        data,
        what=f"{encoding} image",
    )
    return np.ascontiguousarray(layout.to_rgb(raw))


def decode_compressed(data: Any, image_format: str = "") -> Image:
    """The pixels of a sensor_msgs/CompressedImage: whatever OpenCV reads (JPEG, PNG, ...).

    An orientation tag is ignored, because pixel coordinates refer to the stored picture.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: the data is empty, damaged or cut off.
    """
    compressed = np.frombuffer(data, np.uint8)
    size = compressed.size
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # OpenCV fills what is missing of a cut-off JPEG with grey and says nothing.
    is_jpeg = size >= 2 and compressed[0] == 0xFF and compressed[1] == 0xD8
    if is_jpeg and b"\xff\xd9" not in compressed[-1024:].tobytes():
        raise ImageError(
            f"compressed image ('{image_format}', {size} bytes) is a JPEG without its end: "
            "the publisher or the transport cut it off"
        )
    try:
        bgr = cv2.imdecode(compressed, flags) if size else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise ImageError(
            f"compressed image ('{image_format}', {size} bytes) cannot be decoded: "
            "publish JPEG or PNG"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def samples(
    rows: int,
    width: int,
    channels: int,
    dtype: type,
    step: int,
    is_bigendian: bool,
    data: Any,
    what: str,
) -> Raw:
    """The samples of an image message as an array, without copying where the bytes allow it.

    Returns:
        dtype [rows, width, channels], or [rows, width] for one channel, in native byte order.

    Raises:
        ImageError: a size is zero, a row does not fit `step`, or there is too little data.
    """
    if rows < 1 or width < 1:
        raise ImageError(f"{what} has size {width}x{rows}: it needs at least one pixel")
    sample = np.dtype(dtype).newbyteorder(">" if is_bigendian else "<")
    row = width * channels * sample.itemsize
    if step < row:
        raise ImageError(f"{what} has step {step}: a row of {width} pixels takes {row} bytes")
    pixels = np.frombuffer(data, np.uint8)
    needed = step * (rows - 1) + row  # the last row's padding may be missing
    if pixels.size < needed:
        raise ImageError(
            f"{what} {width}x{rows} with step {step} has {pixels.size} bytes of data: "
            f"it needs {needed}"
        )
    padded = np.lib.stride_tricks.as_strided(pixels, (rows, row), (step, 1))
    if sample.itemsize > 1:
        padded = np.ascontiguousarray(padded).view(sample).astype(dtype, copy=False)
    shape = (rows, width, channels) if channels > 1 else (rows, width)
    return padded.reshape(shape)
