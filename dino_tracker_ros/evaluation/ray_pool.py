"""Independent pieces of work on several machines, through a Ray cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from dino_tracker_ros.evaluation.parallel import CORES, PATIENCE, Lost
from dino_tracker_ros.tracking.errors import TrackerError

Piece = TypeVar("Piece")
Outcome = TypeVar("Outcome")

KNOCK = 10.0  # s that a cluster has to answer


class ClusterError(TrackerError):
    """Ray is not installed, or there is no cluster at the address."""


def run_on_ray(
    work: Callable[[Piece], Outcome],
    pieces: Iterable[Piece],
    address: str,
    gpu: bool,
    prepare: Callable[[int], None],
) -> Generator[tuple[Piece, Outcome | Lost], None, None]:
    """Does the work on every piece, wherever the cluster has room, and yields each as it is done.

    A piece takes a GPU where it wants one and the cluster has any, and some cores of one machine.
    Ray starts a piece again whose machine was lost.

    Args:
        work: a function of a module that every machine has; pieces and outcomes are pickled.
        pieces: started in this order.
        address: as `ray.init` takes it: auto, host:port, ray://host:port; local starts a cluster
            on this machine for the time being.
        gpu: whether a piece can use a GPU.
        prepare: called before each piece with the number of cores it has.

    Raises:
        ClusterError: Ray is not installed, or does not answer.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError("--ray needs the package ray: pip install ray") from None
    try:
        _knock(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    # Ray ends the whole program where something else than Ray answers.
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        raise ClusterError(
            f"no Ray cluster at '{address}': {_line(error)}; one that asks for a token needs "
            "RAY_AUTH_MODE=token"
        ) from error
    pending: dict[Any, Piece] = {}
    try:
        cores, gpus = _share(ray, gpu)
        task = ray.remote(num_cpus=cores, num_gpus=gpus)(_prepared)
        pending = {task.remote(work, piece, prepare, cores): piece for piece in pieces}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            piece = pending.pop(ready)
            try:
                outcome: Outcome | Lost = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = Lost(f"lost on the Ray cluster: {_line(error)}")
            yield piece, outcome
    finally:
        _cancel(ray, list(pending))
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK).close()


def _prepared(
    work: Callable[[Piece], Outcome], piece: Piece, prepare: Callable[[int], None], cores: int
) -> Outcome:
    prepare(cores)
    return work(piece)


def _share(ray: Any, gpu: bool) -> tuple[int, int]:
    """Cores and GPUs for each piece; no more cores than the smallest machine has."""
    machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    with_cores = [int(each["CPU"]) for each in machines if each.get("CPU", 0) >= 1]
    if not with_cores:
        raise ClusterError("the Ray cluster has no machine with a free core: start a worker")
    gpus = int(gpu and any(each.get("GPU", 0) >= 1 for each in machines))
    return min(CORES, *with_cores), gpus


def _cancel(ray: Any, references: list[Any]) -> None:
    for reference in references:
        ray.cancel(reference)  # as Ctrl-C in the worker, so that its own children end
    if references:
        ray.wait(references, num_returns=len(references), timeout=PATIENCE)


def _line(error: BaseException) -> str:
    """An error's own words, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
