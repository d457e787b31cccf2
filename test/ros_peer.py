"""The other side of the node in tests: a process to start and kill, and a peer to talk to it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from dino_tracker_ros.msg import TrackArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from dino_tracker_ros.ros.messages import image_message, time_of

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds after which a test gives up; none waits that long
ACQUAINTANCE = 0.2  # seconds in which a server learns of a client: it answers no stranger
WIDTH, HEIGHT = 64, 48

# Tests on one machine must not hear each other, nor anything else.
DOMAIN = random.SystemRandom().randrange(1, 100)
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def stamp_of(number: int) -> int:
    return 1_700_000_000_000_000_000 + number * 33_333_333


class NodeProcess:
    """A tracker node in a process of its own, with its output in a file."""

    def __init__(
        self,
        log: Path,
        script: Path,
        parameters: dict[str, Any],
        pythonpath: str = "",
        params_file: Path | None = None,
    ) -> None:
        self.log = log
        arguments = [] if params_file is None else ["--params-file", str(params_file)]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={value}"]
        paths = [path for path in (pythonpath, os.environ.get("PYTHONPATH", "")) if path]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(script), "--ros-args", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )

    def end(self, how: signal.Signals) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Peer:
    """A node in this process: a camera, and a listener to all that the tracker publishes."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("peer", context=self.context)
        self.tracks: list[Any] = []
        self.overlays: list[Any] = []
        self.diagnostics: dict[str, str] = {}
        self.level, self.message, self.reports = -1, "", 0
        self.node.create_subscription(TrackArray, "tracks", self.tracks.append, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.log: Callable[[], str] = str
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def camera(self, topic: str = "image_raw", kind: Any = Image, reliable: bool = True) -> Any:
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return self.node.create_publisher(kind, topic, QoSProfile(depth=100, reliability=policy))

    def play(self, camera: Any, numbers: range, value: Any = 0) -> None:
        """Publishes plain rgb8 pictures of one colour."""
        for number in numbers:
            image = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
            camera.publish(image_message(image, stamp_of(number), "camera"))

    def wait(self, condition: Callable[[], bool], what: str = "") -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (
                f"gave up waiting {what}: {self.message} {self.diagnostics}\n{self.log()}"
            )
            time.sleep(0.02)

    def wait_for_state(self, state: str) -> None:
        """Until a report sent from now on says so."""
        self.diagnostics = {}
        self.wait(lambda: self.diagnostics.get("state") == state, f"for state {state}")

    def wait_for(self, **values: Any) -> None:
        """Until the diagnostics have these values; `__` stands for a dot."""
        wanted = {name.replace("__", "."): str(value) for name, value in values.items()}
        self.wait(
            lambda: all(self.diagnostics.get(name) == value for name, value in wanted.items()),
            f"for {wanted}",
        )

    def wait_for_listener(self, publisher: Any) -> None:
        self.wait(lambda: publisher.get_subscription_count() > 0, "for a subscription")

    def wait_for_clips(self, count: int) -> None:
        self.wait(lambda: len(self.tracks) >= count, f"for {count} clips")

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Calls a service and returns its response."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
            self.wait(self._clients[name].service_is_ready, f"for the service {name}")
            time.sleep(ACQUAINTANCE)
        client = self._clients[name]
        self.wait(client.service_is_ready, f"for the service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"for the answer of {name}")
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        if self.context.ok():
            rclpy.shutdown(context=self.context)
        self._thread.join(PATIENCE)
        self.node.destroy_node()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.level, self.message = status.level[0], status.message
            self.diagnostics = {pair.key: pair.value for pair in status.values}
            self.reports += 1


def compressed_message(data: bytes, number: int) -> Any:
    message = CompressedImage(format="jpeg")
    message.header.stamp = time_of(stamp_of(number))
    message.header.frame_id = "camera"
    message.data = data
    return message
