#!/usr/bin/env python3
"""Make the ROS 2 wheels of a virtual environment usable for building messages.

The wheels' CMake export files name include folders of the machine they were built on, and CMake
refuses targets with folders that do not exist. This removes them; a distribution's own packages
need no mending. Run it with the environment's own Python; running it again changes nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

INCLUDE_FOLDERS = re.compile(r'(INTERFACE_INCLUDE_DIRECTORIES )"([^"$]+)"')


def keep_existing(match: re.Match[str]) -> str:
    """The same CMake property with only the absolute folders that exist here."""
    folders = [folder for folder in match.group(2).split(";") if Path(folder).is_dir()]
    return f'{match.group(1)}"{";".join(folders)}"'


def mend(share: Path) -> list[Path]:
    """Mend every exported Python target under share; return the files that changed."""
    changed = []
    for path in sorted(share.glob("*/cmake/*__rosidl_generator_pyExport.cmake")):
        before = path.read_text(encoding="utf-8")
        after = INCLUDE_FOLDERS.sub(keep_existing, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    print(f"mended {len(mend(Path(sys.prefix, 'share')))} CMake export files in {sys.prefix}")
