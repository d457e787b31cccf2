"""A node's process, which ends with ours, and a ROS domain that no other live run is in."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dino_tracker_ros.tracking.errors import TrackerError

PACKAGE = "dino_tracker_ros"
DOMAINS = 101  # the highest one that is safe beside Linux's own ports


class LiveError(TrackerError):
    """A live run failed: ROS is not there, or the node did not do its part in time."""


@contextmanager
def own_domain() -> Iterator[int]:
    """Keeps this process and its children to themselves, also from other live runs.

    A ROS domain that nobody else's live run on this machine has, loopback only, and a transport
    that large images get through.
    """
    with _reserved_domain() as domain:
        own = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA",
        }
        if os.environ.get("ROS_DISTRO") == "humble":  # newer ones warn about it
            own["ROS_LOCALHOST_ONLY"] = "1"
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield domain
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def _reserved_domain() -> Iterator[int]:
    """A domain whose lock file is ours while the block runs."""
    for step in range(DOMAINS):
        domain = 1 + (os.getpid() + step) % DOMAINS
        lock = _locked(Path(tempfile.gettempdir()) / f"{PACKAGE}_domain_{domain}.lock")
        if lock is not None:
            with lock:
                yield domain
            return
    raise LiveError(f"{DOMAINS} live runs are under way on this machine: wait for one to end")


def _locked(path: Path) -> IO[str] | None:
    """The file, open and locked; None where another run has it, or it is another user's."""
    try:
        lock = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


@contextmanager
def child_process(
    command: Sequence[str], log: Any, patience: float
) -> Iterator[subprocess.Popen[str]]:
    """A child in its own group, so that Ctrl-C reaches it once, from here, and never survives.

    Args:
        command: that starts it.
        log: open file for what it prints.
        patience: s, to end in when the block does; then it is killed.
    """
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        yield process
    finally:
        _end(process, patience)


def _end(process: subprocess.Popen[str], patience: float) -> None:
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(patience)
    finally:  # also where Ctrl-C was pressed once more
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
