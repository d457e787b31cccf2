"""The errors of the tracker: every one names the thing, the value and the fix."""


class TrackerError(Exception):
    """Base of everything the tracker raises on purpose."""


class SettingError(TrackerError, ValueError):
    """A setting's name is unknown, or its value is of the wrong type or out of range."""


class WeightsError(TrackerError):
    """Model weights are missing, damaged or cannot be fetched."""


class DeviceError(TrackerError):
    """The compute device that was asked for is not there."""


class FrameError(TrackerError, ValueError):
    """A frame has the wrong type, shape or size, or its stamp does not move forward."""


class ClipError(TrackerError):
    """The clip does not hold what the call needs."""


class QueryError(TrackerError, ValueError):
    """A query point lies outside the clip or outside the image."""


class OptimizationError(TrackerError):
    """The optimization diverged."""
