"""A live run: frames played to a node in a process of its own, and what it says on /tracks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.assembly import Clip
from dino_tracker_ros.evaluation.live.listener import Listener, Recorded
from dino_tracker_ros.evaluation.live.player import Player
from dino_tracker_ros.evaluation.live.processes import (
    PACKAGE,
    LiveError,
    child_process,
    own_domain,
)
from dino_tracker_ros.ros.node_settings import NodeSettings
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.settings import Settings, Value, describe, with_values

NODE = "dino_tracker"
PLAYED = {"use_sim_time": "true", "image.transport": "raw", "depth.enabled": "false"}
"""What the node must know about the playback, whatever its parameters are."""
LATE = 10.0  # s after the last image until one that is missing counts as lost


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
        recorded: the same as they came over the wire.
        diagnostics: the node's last report, key to value.
        seconds: from the first image to the last tracks.
        published: images that were played.
        latencies: float64, s, of every tracked image, from its publication to its first tracks.
        lag: from the last image to the last tracks, s.
    """

    clips: tuple[Clip, ...]
    recorded: tuple[Recorded, ...]
    diagnostics: Mapping[str, str]
    seconds: float
    published: int
    latencies: NDArray[np.float64]
    lag: float


Progress = Callable[[str, int, int], None]
"""Called with a stage, how many steps of it are done, and how many there are."""


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


def evaluation_parameters() -> Path:
    """The installed config/evaluation.yaml, with which no image is lost."""
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(PACKAGE)) / "config" / "evaluation.yaml"


def parameter_texts(values: Mapping[str, str]) -> dict[str, str]:
    """Parameters given by the user, refused here rather than by the node.

    Args:
        values: text by name, settings of the tracker or of the node.

    Returns:
        The values written so that ROS reads the right type: 5.0 where there may be a fraction.

    Raises:
        SettingError: a name that does not exist, or a value that is not allowed.
    """
    of_node = {info.name for info in describe(NodeSettings())}
    own = {name: value for name, value in values.items() if name in of_node}
    tracker = {name: value for name, value in values.items() if name not in of_node}
    trees = (with_values(NodeSettings(), own), with_values(Settings(), tracker))
    return {
        info.name: _text(info.value)
        for tree in trees
        for info in describe(tree)
        if info.name in values
    }


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_live(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    rate: float,
    params_file: Path,
    parameters: Mapping[str, str],
    log: Path,
    progress: Progress,
    patience: Patience = Patience(),
) -> LiveResult:
    """Plays frames to a node of its own and listens until all of them are tracked.

    Args:
        frames: T frames, stamps increasing.
        queries: float32 [N, 3], (t, x, y), sent to the node beforehand; may be empty.
        rate: how much faster than recorded; infinity does not wait between frames.
        params_file: the node's parameters, in ROS's YAML.
        parameters: of the node, by name; they go before those of the file.
        log: file for what the node prints.
        progress: told about every stage.

    Raises:
        LiveError: the node ended, or nothing went on for too long.
        PlayerError: the frames cannot be played.
    """
    command = [*node_command(), "--ros-args", "--params-file", str(params_file)]
    for name, value in {**parameters, **PLAYED}.items():
        command += ["-p", f"{name}:={value}"]
    if not params_file.is_file():
        raise LiveError(f"there is no file of parameters '{params_file}'")
    with own_domain() as domain, log.open("w") as output, listening(domain) as listener:
        player = Player(listener.node, frames, rate)
        with child_process(command, output, patience.stop) as tracker:
            _await_active(listener, player, tracker, log, patience.start, progress)
            ask_points(listener, frames, queries, patience.start)
            begin = time.monotonic()
            _play(listener, player, tracker, len(frames), log, patience, progress)
        return _result(listener, player, time.monotonic() - begin)


def _result(listener: Listener, player: Player, seconds: float) -> LiveResult:
    published = player.published_at
    latencies = [
        at - published[stamp] for stamp, at in listener.tracked_at.items() if stamp in published
    ]
    lag = max(listener.tracked_at.values(), default=0.0) - max(published.values(), default=0.0)
    return LiveResult(
        clips=tuple(listener.clips),
        recorded=tuple(listener.recorded),
        diagnostics=dict(listener.diagnostics),
        seconds=seconds,
        published=len(published),
        latencies=np.array(latencies, np.float64),
        lag=max(0.0, lag),
    )


def _await_active(
    listener: Listener,
    player: Player,
    tracker: subprocess.Popen[str],
    log: Path,
    seconds: float,
    progress: Progress,
) -> None:
    give_up = time.monotonic() + seconds
    progress("starting the node", 0, 1)
    while listener.diagnostics.get("state") != "active" or not player.is_heard:
        listener.spin(0.1)
        _check_alive(tracker, log)
        if listener.diagnostics.get("state") == "unconfigured" and listener.failed:
            raise LiveError(f"the node cannot start: {listener.diagnostics['last_error']}")
        if time.monotonic() > give_up:
            raise LiveError(f"the node is not ready after {seconds:.0f} s; its log: {log}")
    progress("starting the node", 1, 1)


def ask_points(
    listener: Listener, frames: Sequence[Frame], queries: NDArray[np.float32], seconds: float
) -> None:
    """Sends query points, and waits until the node has them: images must not overtake them.

    Args:
        frames: T frames.
        queries: float32 [N, 3], (t, x, y).
        seconds: how long to wait.

    Raises:
        LiveError: nobody subscribes, or the node does not take the points.
    """
    stamps = {int(t): frames[int(t)].stamp for t in np.unique(queries[:, 0])}
    give_up = time.monotonic() + seconds
    while not listener.ask(queries, stamps):
        listener.spin(0.1)
        if time.monotonic() > give_up:
            raise LiveError(f"nobody subscribes to {listener.query_topic} for {seconds:.0f} s")
    while listener.number("queries_waiting") + listener.number("queries_refused") < len(queries):
        listener.spin(0.1)
        if time.monotonic() > give_up:
            said = listener.diagnostics.get("last_error") or "no error either"
            raise LiveError(f"the node did not take {len(queries)} query points: {said}")


def _play(
    listener: Listener,
    player: Player,
    tracker: subprocess.Popen[str],
    frame_count: int,
    log: Path,
    patience: Patience,
    progress: Progress,
) -> None:
    """Plays the frames, and returns when the tracks of all of them are there."""
    number = listener.number
    last_sign, last_change = None, time.monotonic()
    flushed_at = -1
    while True:
        listener.spin(player.play())
        _check_alive(tracker, log)
        now = time.monotonic()
        progress("replaying", len(player.published_at), frame_count)
        progress("features and flow", number("frames_processed"), frame_count)
        if number("fit.iterations"):
            progress("optimizing", number("fit.iteration"), number("fit.iterations"))
        if not player.is_through:
            last_change = now
            continue
        through = number("frames_processed") + number("frames_dropped")
        # An image may have been lost on the way, whatever the middleware promises.
        all_in = through >= frame_count or now - max(player.published_at.values()) > LATE
        if all_in and listener.diagnostics.get("stage") == "idle" and not number("queue"):
            if number("clip_pending") and number("clip_frames") > 1:
                if flushed_at != number("clips"):
                    flushed_at = number("clips")
                    listener.flush()
            elif len(listener.clips) >= number("clips"):
                return
        sign = listener.signs()
        if sign != last_sign:
            last_sign, last_change = sign, now
        elif now - last_change > patience.progress:
            raise LiveError(
                f"nothing went on for {patience.progress:.0f} s at stage "
                f"'{listener.diagnostics.get('stage')}'; the log: {log}"
            )


def _check_alive(process: subprocess.Popen[str], log: Path) -> None:
    if process.poll() is not None:
        lines = log.read_text(errors="replace").strip().splitlines()
        said = f"{lines[-1]} (all of it: {log})" if lines else f"it said nothing (log: {log})"
        raise LiveError(f"the node ended with code {process.returncode}: {said}")


@contextmanager
def listening(domain: int | None = None, tracker: str = NODE) -> Iterator[Listener]:
    """A listener to the tracker node of that name, in a ROS domain or the environment's.

    Raises:
        LiveError: ROS 2 is not in this environment.
    """
    try:
        import rclpy
    except ImportError as error:
        raise LiveError(f"ROS 2 cannot be imported ({error}): run 'make demo'") from error
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        listener = Listener(context, tracker)
        try:
            yield listener
        finally:
            listener.close()
    finally:
        rclpy.shutdown(context=context)
