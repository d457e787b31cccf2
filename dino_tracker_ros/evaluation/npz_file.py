"""Arrays from an .npz file, without pickle: a foreign file must not bring code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.tracking.errors import TrackerError


class NpzError(TrackerError):
    """A file cannot be read as .npz."""


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, by name.

    Raises:
        NpzError: the file is missing, damaged, or holds Python objects.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError:  # NumPy's own words advise to let it run what the file says
        why = "it is damaged, no .npz at all, or holds Python objects, which are never loaded"
    except Exception as error:  # a damaged archive may trip over anything
        why = str(error) or type(error).__name__
    raise NpzError(f"'{file}' cannot be read as .npz: {why}")
