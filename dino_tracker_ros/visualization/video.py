"""Videos and folders of pictures as frames, and frames as a video."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.visualization.output import atomic_output

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NANOSECONDS = 1_000_000_000


class VideoError(TrackerError):
    """A video or a picture cannot be read or written."""


class LazyFrames(Sequence[Frame]):
    """Frames that are decoded when they are asked for, so that length costs no memory.

    Who derives from it sets `stamps`, ns, one for each frame, and says in `_frame` how the frame
    of an index 0 .. T-1 is read.
    """

    stamps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.stamps)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(index, slice):
            return [self._frame(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._frame(index % len(self))

    def _frame(self, index: int) -> Frame:
        raise NotImplementedError


class FolderFrames(LazyFrames):
    """The pictures of a folder, in the order of their names.

    Args:
        folder: holds the pictures.
        rate: frames per second from which stamps are made.
        start, count: first picture, and how many at most.

    Raises:
        VideoError: no folder, no picture in it, or one that cannot be decoded.
    """

    def __init__(
        self, folder: Path, rate: float = 30.0, start: int = 0, count: int | None = None
    ) -> None:
        self.rate = rate
        files = image_files(folder)
        self._files = files[_window(str(folder), len(files), start, count)]
        self.stamps = tuple(
            round((start + i) * NANOSECONDS / rate) for i in range(len(self._files))
        )

    def _frame(self, index: int) -> Frame:
        file = self._files[index]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise VideoError(f"picture '{file}' cannot be decoded: is it damaged?")
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8), self.stamps[index])


class VideoFrames(LazyFrames):
    """The frames of a video file, cheap to read in order.

    Stamps are the container's. Where it has none that increase, they follow from its rate.

    Args:
        file: anything OpenCV decodes.
        start, count: first frame, and how many at most.

    Raises:
        VideoError: the file is missing or holds no frame that can be decoded.
    """

    def __init__(self, file: Path, start: int = 0, count: int | None = None) -> None:
        self._file = file
        self._capture = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and rate > 0 else 30.0
        # A container's own count of frames is a guess; what can be decoded is not.
        end = None if count is None else start + count
        stamps: list[int] = []
        while (end is None or len(stamps) < end) and self._capture.grab():
            stamps.append(round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6))
        if not stamps:
            raise VideoError(f"'{file}' holds no frame that can be decoded")
        if np.any(np.diff(stamps) <= 0):
            stamps = [round(i * NANOSECONDS / self.rate) for i in range(len(stamps))]
        self._start = start
        self.stamps = tuple(stamps[_window(str(file), len(stamps), start, count)])
        self._next = len(stamps)

    def _open(self) -> cv2.VideoCapture:
        if not self._file.is_file():
            raise VideoError(f"there is no file '{self._file}'")
        capture = cv2.VideoCapture(str(self._file))
        if not capture.isOpened():
            raise VideoError(f"'{self._file}' is not a video that OpenCV can decode")
        return capture

    def _frame(self, index: int) -> Frame:
        target = self._start + index
        if target < self._next:  # seeking is not exact in every container; reading on is
            self._capture.release()
            self._capture = self._open()
            self._next = 0
        while self._next < target:
            self._capture.grab()
            self._next += 1
        decoded, image = self._capture.read()
        self._next += 1
        if not decoded:
            raise VideoError(f"frame {target} of '{self._file}' cannot be decoded")
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8), self.stamps[index])


def open_frames(
    path: Path, rate: float = 30.0, start: int = 0, count: int | None = None
) -> FolderFrames | VideoFrames:
    """A video file, or a folder of pictures (`rate` gives these their stamps).

    Raises:
        VideoError: there is nothing at `path`, or nothing that can be decoded.
    """
    if path.is_dir():
        return FolderFrames(path, rate, start, count)
    if not path.exists():
        raise VideoError(f"there is no video or folder '{path}'")
    return VideoFrames(path, start, count)


def image_files(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names.

    Raises:
        VideoError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise VideoError(f"there is no folder '{folder}'")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise VideoError(f"folder '{folder}' holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    return files


class VideoWriter(Protocol):
    """Takes pictures of one size, in order."""

    def write(self, image: NDArray[np.uint8]) -> None:
        """Adds one picture, uint8 [H, W, 3] RGB."""


@contextmanager
def video_writer(
    path: Path, width: int, height: int, rate: float, overwrite: bool = False
) -> Iterator[VideoWriter]:
    """Writes an mp4 that appears when the block ends well.

    H.264 through ffmpeg where one is found (on PATH or in the package imageio-ffmpeg), which
    plays everywhere; else MPEG-4 through OpenCV, which browsers do not play.

    Raises:
        OutputError: `path` exists or its folder cannot be written.
        VideoError: the encoder failed.
    """
    with atomic_output(path, overwrite) as temporary:
        ffmpeg = find_ffmpeg()
        writer: _FfmpegWriter | _OpenCvWriter
        if ffmpeg is not None:
            writer = _FfmpegWriter(ffmpeg, temporary, width, height, rate)
        else:
            writer = _OpenCvWriter(temporary, width, height, rate)
        try:
            yield writer
        except BaseException:
            writer.abort()
            raise
        writer.close()


def write_video(
    path: Path, images: Iterable[NDArray[np.uint8]], rate: float, overwrite: bool = False
) -> int:
    """Writes pictures of one size as an mp4, and returns how many; see `video_writer`."""
    iterator = iter(images)
    first = next(iterator, None)
    if first is None:
        raise VideoError(f"no picture to write to '{path}'")
    count = 1
    with video_writer(path, first.shape[1], first.shape[0], rate, overwrite) as writer:
        writer.write(first)
        for image in iterator:
            writer.write(image)
            count += 1
    return count


def find_ffmpeg() -> str | None:
    """The ffmpeg on PATH, or the one that the package imageio-ffmpeg brings; else None."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # the package is there without a program for this platform
        return None


class _FfmpegWriter:
    def __init__(self, ffmpeg: str, path: Path, width: int, height: int, rate: float) -> None:
        self._shape = (height, width, 3)
        # yuv420p is what players expect, and needs even sides.
        command = [
            ffmpeg, "-y", "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}",
            "-i", "-", "-an", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2",
            "-c:v", "libx264", "-preset", "fast", "-crf", "18", "-pix_fmt", "yuv420p",
            "-movflags", "+faststart", str(path),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def write(self, image: NDArray[np.uint8]) -> None:
        _check_shape(image, self._shape)
        assert self._process.stdin is not None
        # ffmpeg has ended on an error if the pipe is broken; close() says which.
        with suppress(BrokenPipeError):
            self._process.stdin.write(np.ascontiguousarray(image).data)

    def close(self) -> None:
        _, message = self._process.communicate()
        if self._process.returncode:
            lines = message.decode(errors="replace").strip().splitlines()
            raise VideoError(f"ffmpeg could not write the video: {lines[-1] if lines else '?'}")

    def abort(self) -> None:
        self._process.kill()
        self._process.communicate()


class _OpenCvWriter:
    def __init__(self, path: Path, width: int, height: int, rate: float) -> None:
        self._shape = (height, width, 3)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, rate, (width, height))
        if not self._writer.isOpened():
            raise VideoError(
                f"this OpenCV cannot write mp4 of {width}x{height} px: install imageio-ffmpeg"
            )

    def write(self, image: NDArray[np.uint8]) -> None:
        _check_shape(image, self._shape)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()

    abort = close


def _check_shape(image: NDArray[np.uint8], shape: tuple[int, int, int]) -> None:
    if image.shape != shape or image.dtype != np.uint8:
        raise VideoError(f"picture is {image.dtype} {image.shape}: this video holds uint8 {shape}")


def _window(name: str, total: int, start: int, count: int | None) -> slice:
    if not 0 <= start < total:
        raise VideoError(f"start is frame {start}, but '{name}' has frames 0..{total - 1}")
    return slice(start, total if count is None else min(total, start + count))
