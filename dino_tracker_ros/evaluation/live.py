"""A live run: the node in one process, a camera in another, and this one listening to /tracks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.assembly import Clip
from dino_tracker_ros.tracking.errors import TrackerError

PACKAGE = "dino_tracker_ros"
NODE = "dino_tracker"
STATUS_NAME = f"{NODE}: tracker"
QUEUE = 100
LATE = 10.0  # s after the last image until one that is missing counts as lost


class LiveError(TrackerError):
    """A live run failed: ROS is not there, or a process did not do its part in time."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        start: for the node to be active; it may have to load gigabytes.
        progress: for any sign of progress while frames are worked on.
        stop: for a process to end when asked to.
    """

    start: float = 300.0
    progress: float = 180.0
    stop: float = 10.0


@dataclass(frozen=True)
class LiveResult:
    """What a listener got.

    Attributes:
        clips: tracks of each TrackArray, in order.
        diagnostics: the node's last report, key to value.
        seconds: from the first image to the last tracks.
    """

    clips: tuple[Clip, ...]
    diagnostics: Mapping[str, str]
    seconds: float


Progress = Callable[[str, int, int], None]
"""Called with a stage, how many steps of it are done, and how many there are."""


def isolate() -> None:
    """Keeps this process and its children to themselves; call it before rclpy is initialised.

    A ROS domain of their own, loopback only, and a transport that large images get through.
    """
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":  # newer ones warn about it
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "LARGE_DATA"


def node_command() -> list[str]:
    """Starts the installed node.

    Raises:
        LiveError: ROS 2 or the package is not in this environment.
    """
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    except ImportError:
        raise LiveError(
            "ROS 2 is not in this environment: run 'make demo', or source your workspace"
        ) from None
    try:
        prefix = Path(get_package_prefix(PACKAGE))
    except PackageNotFoundError:
        raise LiveError(
            f"{PACKAGE} is not built in this environment: run 'make build' or 'colcon build', "
            "and source its setup file"
        ) from None
    executable = prefix / "lib" / PACKAGE / "tracker_node"
    if not executable.is_file():
        raise LiveError(f"'{executable}' is missing: build {PACKAGE} again")
    return [sys.executable, str(executable)]


def run_live(
    parameters: Mapping[str, str],
    source: Sequence[str],
    frame_count: int,
    stamps: NDArray[np.int64],
    queries: NDArray[np.float32],
    log: Path,
    progress: Progress,
    patience: Patience = Patience(),
) -> LiveResult:
    """Replays frames to a node of its own and listens until all of them are tracked.

    Args:
        parameters: of the node, by name.
        source: options of `replay` that name the frames.
        frame_count: T.
        stamps: int64 [T], ns, what the images will be stamped with.
        queries: float32 [N, 3], (t, x, y), sent to the node beforehand; may be empty.
        log: file for what the processes print.
        progress: told about every stage.

    Raises:
        LiveError: a process ended or nothing went on for too long.
    """
    node = [*node_command(), "--ros-args"]
    for name, value in parameters.items():
        node += ["-p", f"{name}:={value}"]
    camera = [
        sys.executable, "-m", "dino_tracker_ros.evaluation.replay", *source,
        "--first-stamp", str(stamps[0]),
    ]  # fmt: skip
    with log.open("w") as output, _listener() as listener:
        with _process(node, output, patience.stop) as tracker:
            _await_active(listener, tracker, log, patience.start, progress)
            listener.ask(queries, stamps, patience.start)
            with _process(camera, output, patience.stop, subprocess.PIPE) as player:
                begin = time.monotonic()
                _await_tracks(listener, tracker, player, frame_count, log, patience, progress)
                seconds = time.monotonic() - begin
        return LiveResult(tuple(listener.clips), dict(listener.diagnostics), seconds)


def _await_active(
    listener: _Listener,
    tracker: subprocess.Popen[str],
    log: Path,
    seconds: float,
    progress: Progress,
) -> None:
    give_up = time.monotonic() + seconds
    progress("starting the node", 0, 1)
    while listener.diagnostics.get("state") != "active":
        listener.spin()
        _check_alive(tracker, "the node", log)
        if listener.diagnostics.get("state") == "unconfigured" and listener.failed:
            raise LiveError(f"the node cannot start: {listener.diagnostics['last_error']}")
        if time.monotonic() > give_up:
            raise LiveError(f"the node is not ready after {seconds:.0f} s; its log: {log}")
    progress("starting the node", 1, 1)


def _await_tracks(
    listener: _Listener,
    tracker: subprocess.Popen[str],
    player: subprocess.Popen[str],
    frame_count: int,
    log: Path,
    patience: Patience,
    progress: Progress,
) -> None:
    published = _Counter(player)
    last_sign, last_change = None, time.monotonic()
    flushed_at, played_at = -1, time.monotonic()
    while True:
        listener.spin()
        _check_alive(tracker, "the node", log)
        if player.poll() not in (None, 0):
            raise LiveError(f"the replay failed: {_last_line(log)}")
        now = listener.numbers()
        progress("replaying", published.value, frame_count)
        progress("features and flow", now["frames_processed"], frame_count)
        if now["fit.iterations"]:
            progress("optimizing", now["fit.iteration"], now["fit.iterations"])
        if player.poll() is None:
            played_at = time.monotonic()
        through = now["frames_processed"] + now["frames_dropped"]
        # An image may have been lost on the way, whatever the middleware promises.
        all_in = through >= frame_count or time.monotonic() - played_at > LATE
        idle = listener.diagnostics.get("stage") == "idle" and not now["queue"]
        if player.poll() == 0 and all_in and idle:
            if now["clip_pending"]:
                if flushed_at != now["clips"]:
                    flushed_at = now["clips"]
                    listener.flush()
            elif len(listener.clips) >= now["clips"]:
                return
        sign = (published.value, listener.signs())
        if sign != last_sign:
            last_sign, last_change = sign, time.monotonic()
        elif time.monotonic() - last_change > patience.progress:
            raise LiveError(
                f"nothing went on for {patience.progress:.0f} s at stage "
                f"'{listener.diagnostics.get('stage')}'; the log: {log}"
            )


def _check_alive(process: subprocess.Popen[str], name: str, log: Path) -> None:
    if process.poll() is not None:
        raise LiveError(f"{name} ended with code {process.returncode}: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1]} (all of it: {log})" if lines else f"it said nothing (log: {log})"


class _Counter:
    """The last number that a process printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.value = 0
        self._stream = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._stream is not None
        for line in self._stream:
            if line.strip().isdigit():
                self.value = int(line)


@contextmanager
def _process(
    command: Sequence[str], log: Any, patience: float, stdout: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A child in its own group, so that Ctrl-C reaches it once, from here, and never survives."""
    process = subprocess.Popen(
        command,
        stdout=log if stdout is None else stdout,
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
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _listener() -> Iterator[_Listener]:
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise LiveError(f"ROS 2 cannot be imported ({error}): run 'make demo'") from error
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield _Listener()
    finally:
        rclpy.shutdown()


class _Listener:
    """Subscribed to /tracks and /diagnostics like anyone else."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
        from geometry_msgs.msg import PolygonStamped
        from std_srvs.srv import Trigger

        from dino_tracker_ros.msg import TrackArray

        self.clips: list[Clip] = []
        self.diagnostics: dict[str, str] = {}
        self.failed = False
        self._error_level = DiagnosticStatus.ERROR
        self._node = rclpy.create_node("listener")
        self._node.create_subscription(TrackArray, "tracks", self._on_tracks, QUEUE)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, QUEUE)
        self._asking = self._node.create_publisher(PolygonStamped, f"{NODE}/query_points", QUEUE)
        self._flush: Any = self._node.create_client(Trigger, f"{NODE}/flush")

    def spin(self, seconds: float = 0.1) -> None:
        """Takes what comes in that time."""
        import rclpy

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self._node, timeout_sec=left)

    def ask(self, queries: NDArray[np.float32], stamps: NDArray[np.int64], patience: float) -> None:
        """Sends query points, one message for each frame they are on."""
        from geometry_msgs.msg import Point32, Polygon, PolygonStamped

        from dino_tracker_ros.ros.messages import time_of

        if not len(queries):
            return
        give_up = time.monotonic() + patience
        while not self._asking.get_subscription_count():
            self.spin()
            if time.monotonic() > give_up:
                raise LiveError(f"nobody subscribes to {self._asking.topic_name}")
        for time_index in np.unique(queries[:, 0]):
            message = PolygonStamped()
            message.header.stamp = time_of(stamps[int(time_index)])
            own = queries[queries[:, 0] == time_index]
            message.polygon = Polygon(points=[Point32(x=float(x), y=float(y)) for _, x, y in own])
            self._asking.publish(message)
        # Images must not overtake the points: wait until the node has them.
        while self.numbers()["queries_waiting"] + self.numbers()["queries_refused"] < len(queries):
            self.spin()
            if time.monotonic() > give_up:
                raise LiveError(f"the node did not take {len(queries)} query points")

    def flush(self) -> None:
        """Asks the node to track the frames that wait for a full clip."""
        from std_srvs.srv import Trigger

        self._flush.call_async(Trigger.Request())

    def numbers(self) -> dict[str, int]:
        """The counters of the last report, 0 where there is none."""
        names = (
            "frames_processed", "frames_dropped", "queue", "clips", "clips_failed", "clip_pending",
            "fit.iteration", "fit.iterations", "queries_waiting", "queries_refused",
        )  # fmt: skip
        return {name: int(float(self.diagnostics.get(name, "0") or 0)) for name in names}

    def signs(self) -> tuple[object, ...]:
        """Whatever changes while the node gets on."""
        numbers = self.numbers()
        keys = ("stage", "seconds.features", "seconds.flow", "seconds.track")
        return (*numbers.values(), *(self.diagnostics.get(key) for key in keys), len(self.clips))

    def _on_tracks(self, message: Any) -> None:
        from dino_tracker_ros.ros.messages import tracks_of

        tracks, ids, _ = tracks_of(message)
        self.clips.append((tracks, ids))

    def _on_report(self, message: Any) -> None:
        for status in message.status:
            if status.name == STATUS_NAME:
                self.diagnostics = {value.key: value.value for value in status.values}
                self.failed = status.level == self._error_level
