"""The lifecycle node `dino_tracker`: wires topics, services and parameters to the worker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped, PolygonStamped
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined, unused-ignore]
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from dino_tracker_ros.msg import TrackArray
from dino_tracker_ros.ros import messages
from dino_tracker_ros.ros.clip_buffer import CameraFrame, ClipBuffer, Drop
from dino_tracker_ros.ros.diagnostics import (
    NO_COUNTS,
    NO_INPUT,
    ErrorLog,
    health_of,
)
from dino_tracker_ros.ros.image_decoding import ImageError
from dino_tracker_ros.ros.image_input import ImageInput
from dino_tracker_ros.ros.loading import automatic_preset, load_tracker, release_memory
from dino_tracker_ros.ros.markers import CameraError, marker_array, pinhole_of
from dino_tracker_ros.ros.node_settings import NodeSettings
from dino_tracker_ros.ros.parameters import NodeParameters
from dino_tracker_ros.ros.worker import (
    ClipResult,
    Numbering,
    PointTracker,
    Worker,
    WorkerSettings,
    WorkerStatus,
    describe_error,
)
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.visualization.overlay import draw_overlay

QUEUE = 10  # messages kept of everything but images
PICTURE_QUEUE = 2  # of what is only looked at
QUERY_QUEUE = 1000  # a message for each frame of a long clip may come at once
WORKER_PATIENCE = 4.0  # seconds; ros2 launch loses its own after five
SPINS = "10000"  # that PyTorch's threads wait for each other before they sleep: others need cores
NOT_CONFIGURED = "the node is not configured"


class TrackerNode(LifecycleNode):
    """A camera topic in, `tracks` out.

    Args:
        load: makes the tracker when the node is configured.
        options: of rclpy's node.
    """

    def __init__(
        self, load: Callable[[Settings], PointTracker] = load_tracker, **options: Any
    ) -> None:
        super().__init__("dino_tracker", **options)
        self._load_tracker = load
        self._settings = NodeParameters(self, automatic_preset)
        self._node_settings = NodeSettings()
        self._tracker_settings = Settings()
        self._frames: ClipBuffer | None = None
        self._worker: Worker | None = None
        self._numbering = Numbering()
        self._camera: ImageInput | None = None
        self._state_name = "unconfigured"
        self._is_paused = False
        self._configure_failed = False
        self._error_log = ErrorLog()
        self._dropped_before = 0

        self._tracks = self.create_lifecycle_publisher(TrackArray, "tracks", QUEUE)
        self._overlay = self.create_lifecycle_publisher(Image, "~/overlay", PICTURE_QUEUE)
        self._markers = self.create_lifecycle_publisher(MarkerArray, "~/markers", PICTURE_QUEUE)
        self._reports = self.create_publisher(DiagnosticArray, "/diagnostics", QUEUE)
        self.create_subscription(PolygonStamped, "~/query_points", self._on_polygon, QUERY_QUEUE)
        self.create_subscription(Image, "~/query_mask", self._on_mask, QUEUE)
        self.create_subscription(PointStamped, "clicked_point", self._on_click, QUEUE)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/flush", self._on_flush)
        self.create_service(Trigger, "~/clear_queries", self._on_clear_queries)
        # Steady time: diagnostics go on where simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(0.2, self._follow_publishers, clock=steady)
        for line in self._settings.misspelt():
            self.get_logger().warning(line)
        for problem in self._settings.problems:
            self._error(problem)

    def start(self) -> None:
        """Configures and activates the node where `autostart` says so."""
        if not self._settings.start.autostart:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def spin(self) -> None:
        """Works until the context ends; a callback that fails does not end it.

        On Humble, a change of state that is not possible now raises in rclpy's own callback.

        Raises:
            ExternalShutdownException: the context ended.
        """
        while self.context.ok():
            try:
                rclpy.spin(self)
            except ExternalShutdownException:
                raise
            except Exception as error:
                self._error(f"callback: {describe_error(error)}")

    def close(self) -> bool:
        """Ends the worker, so that the process can end; false where it is too busy to."""
        return self._release()

    # Lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Reads the parameters and loads the weights."""
        try:
            self._configure()
        except InterruptedError:  # the context ended: nothing can be said any more
            raise KeyboardInterrupt from None
        except Exception as error:  # rclpy would finalize the node and say nothing
            self._configure_failed = True
            self._error(f"cannot configure: {describe_error(error)}")
            self._release()
            self._report()
            return TransitionCallbackReturn.FAILURE
        self._configure_failed = False
        return self._enter("inactive", super().on_configure(state))

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Subscribes to the camera."""
        assert self._worker is not None
        assert self._camera is not None
        self._is_paused = False
        result = super().on_activate(state)
        self._worker.activate()
        self._camera.open()
        about = self._camera.status()
        self.get_logger().info(f"waiting for images on {about.topic} ({about.qos})")
        return self._enter("active", result)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Unsubscribes and cancels a running optimization."""
        assert self._worker is not None
        assert self._camera is not None
        self._camera.close()
        self._worker.deactivate()
        return self._enter("inactive", super().on_deactivate(state))

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Frees the model."""
        self._release()
        return self._enter("unconfigured", super().on_cleanup(state))

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Frees everything."""
        self._release()
        return self._enter("finalized", super().on_shutdown(state))

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """After an unforeseen error: back to unconfigured, so that it can be tried again."""
        self._release()
        return self._enter("unconfigured", TransitionCallbackReturn.SUCCESS)

    def _configure(self) -> None:
        own, tracker = self._settings.node(), self._settings.tracker()
        frames = ClipBuffer(own.clip.queue, own.clip.drop, own.clip.max_rate, own.clip.jump_back)
        camera = ImageInput(
            self, own.image, own.depth, self._on_frame, frames.count_drop, self._error
        )
        worker_settings = WorkerSettings(
            length=tracker.clip.length,
            overlap=tracker.clip.overlap,
            keyframes=tracker.clip.keyframes,
            grid_spacing=tracker.queries.grid_spacing,
            mask_spacing=own.queries.mask_spacing,
            maximum=tracker.queries.maximum,
            patience=tracker.queries.patience,
            flush_after=own.clip.flush_after,
            minimum_frames=own.clip.minimum_frames,
        )
        worker = Worker(
            lambda: self._load_tracker(tracker),
            release_memory,
            frames,
            worker_settings,
            self._on_clip,
            self._error,
            self._numbering,
        )
        self.get_logger().info(f"loading the tracker (preset {self._settings.preset})")
        worker.start(keep_waiting=self.context.ok)
        self._node_settings, self._tracker_settings = own, tracker
        self._frames, self._camera, self._worker = frames, camera, worker
        self._settings.lock(True)

    def _release(self) -> bool:
        camera, worker = self._camera, self._worker
        self._camera = self._worker = self._frames = None
        self._dropped_before = 0
        if camera is not None:
            camera.close()
        ended = worker is None or worker.stop(WORKER_PATIENCE)
        if worker is not None:
            self._numbering = worker.numbering
        if not ended:
            self._error("the worker is busy: its memory is freed as soon as it is done")
        self._settings.lock(False)
        return ended

    def _enter(self, name: str, result: TransitionCallbackReturn) -> TransitionCallbackReturn:
        self._state_name = name
        self._report()
        return result

    # Frames in, tracks out -------------------------------------------------------------------

    def _on_frame(self, frame: CameraFrame) -> None:
        if self._frames is None:
            return
        if self._is_paused:
            self._frames.count_drop(Drop.PAUSED)
        else:
            self._frames.put(frame)

    def _on_clip(self, clip: ClipResult) -> None:
        """Publishes; called on the worker's thread."""
        self._tracks.publish(
            messages.track_array(clip.tracks, clip.ids, clip.depth, clip.frame_id, clip.clip_id)
        )
        if self._overlay.get_subscription_count():
            newest = len(clip.tracks.stamps) - 1
            drawn = draw_overlay(clip.image, clip.tracks, newest, ids=clip.ids)
            stamp = int(clip.tracks.stamps[newest])
            self._overlay.publish(messages.image_message(drawn, stamp, clip.frame_id))
        if self._markers.get_subscription_count():
            self._publish_markers(clip)

    def _publish_markers(self, clip: ClipResult) -> None:
        camera = self._camera
        if camera is None:
            return
        try:
            if camera.camera_info is None:
                raise CameraError(f"no camera_info came on {camera.info_topic}: publish it")
            pinhole = pinhole_of(camera.camera_info)
            self._markers.publish(
                marker_array(clip.tracks, clip.ids, clip.depth, pinhole, clip.frame_id)
            )
        except CameraError as error:
            self._error(f"~/markers: {error}")

    # Queries and services --------------------------------------------------------------------

    def _on_polygon(self, message: PolygonStamped) -> None:
        self._with_worker(lambda worker: worker.ask(*messages.query_of_polygon(message)))

    def _on_click(self, message: PointStamped) -> None:
        self._with_worker(lambda worker: worker.ask(*messages.query_of_click(message)))

    def _on_mask(self, message: Image) -> None:
        def ask(worker: Worker) -> None:
            try:
                worker.ask_in_mask(*messages.query_of_mask(message))
            except ImageError as error:
                self._error(f"~/query_mask: {error}")

        self._with_worker(ask)

    def _on_reset(self, request: Any, response: Any) -> Any:
        return self._answer(response, lambda worker: worker.restart("reset was called"), "reset")

    def _on_flush(self, request: Any, response: Any) -> Any:
        return self._answer(response, Worker.flush, "tracking the frames that are there")

    def _on_clear_queries(self, request: Any, response: Any) -> Any:
        return self._answer(response, Worker.clear_points, "all points forgotten")

    def _on_pause(self, request: Any, response: Any) -> Any:
        self._is_paused = bool(request.data)
        done = "paused: images are dropped" if self._is_paused else "resumed"
        return self._answer(response, lambda worker: None, done)

    def _with_worker(self, action: Callable[[Worker], None]) -> bool:
        if self._worker is None:
            self._error(f"query points refused: {NOT_CONFIGURED}")
            return False
        action(self._worker)
        return True

    def _answer(self, response: Any, action: Callable[[Worker], None], done: str) -> Any:
        response.success = self._worker is not None
        response.message = done if response.success else NOT_CONFIGURED
        if self._worker is not None:
            action(self._worker)
        return response

    # Health ----------------------------------------------------------------------------------

    def _error(self, text: str) -> None:
        if self._error_log.add(text):
            self.get_logger().error(text)

    def _follow_publishers(self) -> None:
        if self._camera is not None and self._state_name == "active":
            self._camera.follow_publishers()

    def _report(self) -> None:
        counts = NO_COUNTS if self._frames is None else self._frames.counts()
        paused = self._is_paused and self._state_name == "active"
        health = health_of(
            "paused" if paused else self._state_name,
            NO_INPUT if self._camera is None else self._camera.status(),
            counts,
            WorkerStatus(stage="idle") if self._worker is None else self._worker.status(),
            self._error_log.status(),
            queue_capacity=self._node_settings.clip.queue,
            clip_length=self._tracker_settings.clip.length,
            image_timeout=self._node_settings.image.timeout,
            configure_failed=self._configure_failed,
            dropped_before=self._dropped_before,
        )
        self._dropped_before = sum(counts.dropped.values())
        name = f"{self.get_fully_qualified_name().lstrip('/')}: tracker"
        now = self.get_clock().now().to_msg()
        self._reports.publish(
            messages.diagnostic_array(health, now, name, self._tracker_settings.device)
        )


def main(
    args: list[str] | None = None, load: Callable[[Settings], PointTracker] = load_tracker
) -> None:
    """Runs the node until SIGINT, SIGTERM or its context's shutdown."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when PyTorch is imported
    rclpy.init(args=args)
    node = TrackerNode(load)
    try:
        node.start()
        node.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one Ctrl-C is enough: it ends already
        ended = node.close()
        node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown(uninstall_handlers=False)
    if not ended:
        # PyTorch crashes when Python is taken down around a thread that computes.
        sys.stderr.flush()
        os._exit(0)
