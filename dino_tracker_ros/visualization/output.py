"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dino_tracker_ros.tracking.errors import TrackerError


class OutputError(TrackerError):
    """An output file exists already or cannot be written."""


def check_output(path: Path, overwrite: bool) -> None:
    """Refuses a path that must not or cannot be written, before the work that fills it.

    Raises:
        OutputError: the file exists and `overwrite` is false, or its folder cannot be used.
    """
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder: name a file")
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name or allow overwriting")
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder for outputs where there is none.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder '{folder}' cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"folder '{folder}' cannot be written to")


@contextmanager
def atomic_output(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well.

    Raises:
        OutputError: as `check_output`.
    """
    check_output(path, overwrite)
    # The suffix stays, because encoders choose the format by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
