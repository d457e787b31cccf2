#!/usr/bin/env python3
"""Let a virtual environment import this package's modules from the source tree, live.

The generated messages and our modules share the name dino_tracker_ros but lie in two folders
while developing: this source tree and colcon's install folder. A .pth file in the environment
joins the two, once pip has installed the package there as editable. Installed packages, as users
have them, need no joining.

Run it with the environment's own Python; the argument is colcon's install folder.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def join(source: Path, install: Path) -> Path:
    """Write the .pth file that joins the package in source with the messages in install."""
    package = source.name
    built = next(install.glob(f"{package}/lib/python3*/site-packages/{package}"), None)
    if built is None:
        raise SystemExit(f"no messages of {package} under {install}: build them first (make build)")
    folders = [str(source), str(built)]
    pth = Path(sysconfig.get_path("purelib"), f"{package}_messages.pth")
    pth.write_text(
        f"import {package}; {package}.__path__[:] = {folders!r}\n", encoding="utf-8"
    )
    return pth


if __name__ == "__main__":
    repository = Path(__file__).resolve().parent.parent
    print(f"wrote {join(repository / 'dino_tracker_ros', Path(sys.argv[1]).resolve())}")
