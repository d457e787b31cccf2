"""Independent pieces of work at once, each in a process of its own, so that none harms the others.

A process that dies (a crash in a library, a machine short of memory) loses its own piece and no
other's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Generic, TypeVar

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")

CORES = 4  # that a piece of work without a GPU takes; more bring little
PATIENCE = 15.0  # s that a process gets for its own children when it is told to end


@dataclass(frozen=True)
class Lost:
    """A piece whose process ended without an outcome.

    Attributes:
        message: how it ended, for the user.
    """

    message: str


@dataclass(frozen=True)
class _Running(Generic[Piece]):
    piece: Piece
    slot: int
    process: BaseProcess


def run_in_processes(
    work: Callable[[Piece], Outcome],
    pieces: Iterable[Piece],
    slots: int,
    prepare: Callable[[int], None],
) -> Generator[tuple[Piece, Outcome | Lost], None, None]:
    """Does the work on every piece, at most `slots` at once, and yields each as it is done.

    The processes end with this generator, whether it was exhausted, closed or interrupted, and
    with the process that runs it.

    Args:
        work: a function of a module; it, the pieces and the outcomes are pickled.
        pieces: started in this order.
        slots: how many at once, at least 1.
        prepare: called in each process before its work with the number of its slot, 0..slots-1;
            no two processes have the same number at the same time.
    """
    waiting = deque(pieces)
    free = list(range(slots))
    running: dict[Connection, _Running[Piece]] = {}
    try:
        while waiting or running:
            while waiting and free:
                piece, slot = waiting.popleft(), free.pop(0)
                connection, process = _start(work, piece, prepare, slot)
                running[connection] = _Running(piece, slot, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                done = running[ready]
                outcome = _outcome(ready, done.process)
                del running[ready]
                free.append(done.slot)
                yield done.piece, outcome
    finally:
        _end([each.process for each in running.values()])


def _start(
    work: Callable[[Piece], Outcome], piece: Piece, prepare: Callable[[int], None], slot: int
) -> tuple[Connection, BaseProcess]:
    # Not forked: PyTorch's threads and a GPU do not survive that.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, piece, prepare, slot, theirs), daemon=True)
    # The child starts with Ctrl-C held back, too, until it is in a group of its own.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _child(
    work: Callable[[Piece], Outcome],
    piece: Piece,
    prepare: Callable[[int], None],
    slot: int,
    connection: Connection,
) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which ends its children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow_parent, daemon=True).start()
    prepare(slot)
    connection.send(work(piece))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # PyTorch takes seconds to take itself down


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as an exception, so that what this process started ends with it


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(connection: Connection, process: BaseProcess) -> Outcome | Lost:
    try:
        outcome: Outcome = connection.recv()
        return outcome
    except (EOFError, OSError):
        _join(process)
        return Lost(_cause(process.exitcode))
    finally:
        connection.close()
        _join(process)


def _cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed; if the machine ran out of memory, try fewer --jobs"
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        _join(process)


def _join(process: BaseProcess) -> None:
    process.join(PATIENCE)
    process.kill()
    process.join()
