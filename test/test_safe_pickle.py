from __future__ import annotations

import base64
import copyreg
import datetime
import io
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError
from dino_tracker_ros.evaluation.truths.safe_pickle import load_plain

PROTOCOLS = range(2, 6)

# {"walk": {"video": uint8 [1, 2, 2, 3], "points": [[[0.25, 0.5]]], "occluded": [[True]]}}
WRITTEN_ELSEWHERE = {
    "Python 3, NumPy 1.24, protocol 2": (
        "gAJ9cQBYBAAAAHdhbGtxAX1xAihYBQAAAHZpZGVvcQNjbnVtcHkuY29yZS5tdWx0aWFycmF5Cl9yZWNvbnN0cnVj"
        "dApxBGNudW1weQpuZGFycmF5CnEFSwCFcQZjX2NvZGVjcwplbmNvZGUKcQdYAQAAAGJxCFgGAAAAbGF0aW4xcQmG"
        "cQpScQuHcQxScQ0oSwEoSwFLAksCSwN0cQ5jbnVtcHkKZHR5cGUKcQ9YAgAAAHUxcRCJiIdxEVJxEihLA1gBAAAA"
        "fHETTk5OSv////9K/////0sAdHEUYoloB1gMAAAAAAECAwQFBgcICQoLcRVoCYZxFlJxF3RxGGJYBgAAAHBvaW50"
        "c3EZaARoBUsAhXEaaAuHcRtScRwoSwFLAUsBSwKHcR1oD1gCAAAAZjRxHomIh3EfUnEgKEsDWAEAAAA8cSFOTk5K"
        "/////0r/////SwB0cSJiiWgHWAkAAAAAAMKAPgAAAD9xI2gJhnEkUnEldHEmYlgIAAAAb2NjbHVkZWRxJ2gEaAVL"
        "AIVxKGgLh3EpUnEqKEsBSwFLAYZxK2gPWAIAAABiMXEsiYiHcS1ScS4oSwNoE05OTkr/////Sv////9LAHRxL2KJ"
        "aAdYAQAAAAFxMGgJhnExUnEydHEzYnVzLg=="
    ),
    "Python 3, NumPy 1.24, protocol 5": (
        "gAWVNwEAAAAAAAB9lIwEd2Fsa5R9lCiMBXZpZGVvlIwSbnVtcHkuY29yZS5udW1lcmljlIwLX2Zyb21idWZmZXKU"
        "k5QolgwAAAAAAAAAAAECAwQFBgcICQoLlIwFbnVtcHmUjAVkdHlwZZSTlIwCdTGUiYiHlFKUKEsDjAF8lE5OTkr/"
        "////Sv////9LAHSUYihLAUsCSwJLA3SUjAFDlHSUUpSMBnBvaW50c5RoBiiWCAAAAAAAAAAAAIA+AAAAP5RoCowC"
        "ZjSUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYksBSwFLAoeUaBF0lFKUjAhvY2NsdWRlZJRoBiiWAQAA"
        "AAAAAAABlGgKjAJiMZSJiIeUUpQoSwNoDk5OTkr/////Sv////9LAHSUYksBSwGGlGgRdJRSlHVzLg=="
    ),
    "Python 2, NumPy 1.16, protocol 2": (
        "gAJ9cQFVBHdhbGtxAn1xAyhVBnBvaW50c3EEY251bXB5LmNvcmUubXVsdGlhcnJheQpfcmVjb25zdHJ1Y3QKcQVj"
        "bnVtcHkKbmRhcnJheQpxBksAhVUBYodScQcoSwFLAUsBSwKHY251bXB5CmR0eXBlCnEIVQJmNEsASwGHUnEJKEsD"
        "VQE8Tk5OSv////9K/////0sAdGKJVQgAAIA+AAAAP3RiVQV2aWRlb3EKaAVoBksAhVUBYodScQsoSwEoSwFLAksC"
        "SwN0aAhVAnUxSwBLAYdScQwoSwNVAXxOTk5K/////0r/////SwB0YolVDAABAgMEBQYHCAkKC3RiVQhvY2NsdWRl"
        "ZHENaAVoBksAhVUBYodScQ4oSwFLAUsBhmgIVQJiMUsASwGHUnEPKEsDVQF8Tk5OSv////9K/////0sAdGKJVQEB"
        "dGJ1cy4="
    ),
}


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


class Plain:
    pass


class MyArray(np.ndarray):
    pass


def load(data: bytes) -> Any:
    return load_plain(io.BytesIO(data), "clips.pkl")


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(GroundTruthError) as caught:
        load(data)
    for word in ("clips.pkl", *words):
        assert word in str(caught.value)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_data_comes_back_as_it_was(protocol):
    random = np.random.default_rng(0)
    shared = [1, 2]
    data = {
        "arrays": [
            random.integers(0, 256, (2, 3, 4, 3), np.uint8),
            random.random((3, 4, 2)).astype(">f4"),
            np.asfortranarray(random.random((3, 4))),
            random.random((3, 4)) < 0.5,
            np.zeros((0, 5), np.int16),
            np.array(7),
            np.array([b"\xff\xd8jpeg", b"x"]),
            np.array(["name", "länger"]),
        ],
        "scalars": (np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("ä"), np.bytes_(b"b")),
        "plain": [None, True, False, -5, 10**40, 1.25, "ä", b"", b"\x00\xff"],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        3: {"nested": [{}, []]},
        "twice": [shared, shared],
    }
    assert same(data, load(pickle.dumps(data, protocol)))


@pytest.mark.parametrize("text", WRITTEN_ELSEWHERE.values(), ids=WRITTEN_ELSEWHERE)
def test_other_versions_are_read(text):
    walk = load(base64.b64decode(text))["walk"]
    assert same(walk["video"], np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3))
    assert same(walk["points"], np.array([[[0.25, 0.5]]], np.float32))
    assert same(walk["occluded"], np.array([[True]]))


def test_arrays_are_views_of_what_was_read():
    array = load(pickle.dumps(np.zeros(1000), 5))
    assert array.base is not None and not array.flags.owndata


# What is refused ------------------------------------------------------------------------------


def touch(path: Path) -> str:
    return f"touch {path}"


def make(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def numpy_load(path: Path) -> Call:
    path.with_name("payload.npy").write_bytes(pickle.dumps(Call(os.system, touch(path))))
    return Call(np.load, str(path.with_name("payload.npy")), None, True)


# By name: what makes a file when it is unpickled, and what the message must name.
ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "os.system": (lambda path: Call(os.system, touch(path)), f"{os.name}.system"),
    "eval": (lambda path: Call(eval, make(path)), ".eval"),
    "exec": (lambda path: Call(exec, make(path)), ".exec"),
    "open": (lambda path: Call(open, str(path), "w"), ".open"),
    "subprocess": (lambda path: Call(subprocess.call, ["touch", str(path)]), ".call"),
    "a pickle in a pickle": (
        lambda path: Call(pickle.loads, pickle.dumps(Call(os.system, touch(path)))),
        "pickle.loads",
    ),
    "numpy.load": (numpy_load, "numpy.load"),
    "in an array of objects": (
        lambda path: np.array([Call(os.system, touch(path))], object), "dtype 'O8'",
    ),
    "as a key": (lambda path: {Call(os.system, touch(path)): 1}, f"{os.name}.system"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_attack_runs_nothing_and_is_named(tmp_path, name, protocol):
    attack, named = ATTACKS[name]
    data = pickle.dumps({"walk": {"video": [attack(tmp_path / "canary")]}}, protocol)
    refused(data, named)
    assert not (tmp_path / "canary").exists()
    pickle.loads(data)
    assert (tmp_path / "canary").exists(), "this was no attack"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Plain(), "test_safe_pickle.Plain"),
        (np.zeros(3).view(MyArray), "test_safe_pickle.MyArray"),
        (np.zeros(3, [("a", "f4"), ("b", "i8")]), "dtype 'V12'"),
        (np.zeros(3, "M8[s]"), "dtype 'M8'"),
        (np.zeros(3, complex), "dtype 'c16'"),
        (np.random.default_rng(0), "numpy.random"),
        (np.float32, "numpy.float32"),
        (datetime.datetime(2020, 1, 1), "datetime.datetime"),
        ({1, 2}, ""),
        (frozenset([1]), ""),
        (1j, "complex"),
        (bytearray(b"x"), "bytearray"),
        (np.ndarray, "numpy.ndarray"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_classes_are_refused_by_name(protocol, value, named):
    refused(pickle.dumps([value], protocol), named)


def test_extension_codes_are_refused_even_when_python_has_looked_them_up(tmp_path):
    code = 240
    copyreg.add_extension(os.name, "system", code)
    try:
        data = pickle.dumps(Call(os.system, touch(tmp_path / "canary")), 2)
        refused(data, "EXT1")
        assert not (tmp_path / "canary").exists()
        pickle.loads(data)
        (tmp_path / "canary").unlink()
        refused(data, "EXT1")
        assert not (tmp_path / "canary").exists()
    finally:
        copyreg.remove_extension(os.name, "system", code)


def test_persistent_ids_are_refused():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return "id" if isinstance(value, Plain) else None

    stream = io.BytesIO()
    Pickler(stream, 4).dump([Plain()])
    refused(stream.getvalue(), "BINPERSID")


def test_buffers_from_outside_are_refused():
    data = pickle.dumps(np.zeros(100), 5, buffer_callback=lambda buffer: None)
    refused(data, "NEXT_BUFFER")


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
FROM_BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
EMPTY = RECONSTRUCT + b"(" + NDARRAY + b"(K\x00tC\x01btR"  # an array before its state is set
U1 = DTYPE + b"(X\x02\x00\x00\x00u1\x89\x88tR"
MILLION = b"J\x40\x42\x0f\x00"

TRICKS = {
    "an array of another class": (
        RECONSTRUCT + b"(" + DTYPE + b"(K\x00tC\x01btR",
        "_reconstruct for something but an array",
    ),
    "an array without a state": (EMPTY, "an unfinished array"),
    "more pixels than bytes": (
        EMPTY + b"(K\x01(" + 4 * MILLION + b"t" + U1 + b"\x89C\x03abctb",
        "3 bytes for an array uint8",
    ),
    "a negative size": (
        EMPTY + b"(K\x01(J\xff\xff\xff\xffJ\xff\xff\xff\xfft" + U1 + b"\x89C\x01atb",
        "shape (-1, -1)",
    ),
    "an endless size": (
        EMPTY + b"(K\x01(K\x00\x8a\x10" + 15 * b"\xff" + b"\x7ft" + U1 + b"\x89C\x00tb",
        "not a whole pickle",
    ),
    "a list for bytes": (EMPTY + b"(K\x01(K\x01t" + U1 + b"\x89]K\x05atb", "plain bytes"),
    "a buffer beyond its end": (
        FROM_BUFFER + b"(C\x02ab" + U1 + b"(" + MILLION + b"tX\x01\x00\x00\x00CtR", "2 bytes for",
    ),
    "a buffer without a dtype": (
        FROM_BUFFER + b"(C\x02abX\x02\x00\x00\x00u1(K\x02tX\x01\x00\x00\x00CtR", "plain bytes",
    ),
    "a dtype of objects": (DTYPE + b"(X\x01\x00\x00\x00OtR", "dtype 'O'"),
    "a dtype given fields": (
        U1 + b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}K\x01K\x01K\x00tb", "records",
    ),
    "a scalar of objects": (
        b"cnumpy.core.multiarray\nscalar\n(" + DTYPE + b"(X\x01\x00\x00\x00OtR]tR",
        "dtype 'O'",
    ),
    "a state for a class": (
        NDARRAY + b"(N}X\x03\x00\x00\x00newK\x01stb", "state of numpy.ndarray",
    ),
    "a state for a list": (b"]}X\x0c\x00\x00\x00__setstate__K\x01sb", "state of list"),
    "a class made": (NDARRAY + b"(K\x01tR", "calls numpy.ndarray"),
    "another codec": (
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR", "rot13",
    ),
    "a new object": (NDARRAY + b")\x81", "NEWOBJ"),
    "an instance of old": (b"(ios\nsystem\n", "INST"),
    "an attribute with dots": (RECONSTRUCT[:-1] + b".__globals__\n", "__globals__"),
    "names that are no strings": (b"]]\x93", "[].[]"),
    "more than there is": (b"\x86", "more from its stack"),
    "items for a tuple": (b")K\x01a", "adds items to tuple"),
    "a list in itself": (b"]q\x00h\x00a", "contains itself"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_refused(name):
    data, word = TRICKS[name]
    refused(b"\x80\x04" + data + b".", word)


def test_lengths_are_not_believed():
    refused(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.")  # bytes
    refused(b"\x80\x04\x8b\xff\xff\xff\x7fabc.")  # an integer


def test_deep_nesting_is_refused():
    refused(b"\x80\x02" + 100_000 * b"]" + 99_999 * b"a" + b".", "nested too deeply")


def test_shared_containers_do_not_multiply():
    # Each list holds the one before it twice: 2^60 ends, if they were followed one by one.
    data = b"\x80\x02]q\x00" + 60 * b"]q\x01(h\x00h\x00eq\x00" + b"."
    value = load(data)
    for _ in range(60):
        assert value[0] is value[1]
        value = value[0]


@pytest.mark.parametrize("data", [b"", b"?", b"\x80\x04", b"\x80\x04h\x07.", b"\x80\x04K"])
def test_what_is_no_whole_pickle(data):
    refused(data, "not a whole pickle")


@pytest.mark.parametrize("data", [b"\x93NUMPY", b"I5\n.", b"\x80\x06K\x01.", b"text"])
def test_what_is_no_pickle_of_these_protocols(data):
    refused(data, "not a pickle of protocol 2 to 5")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools on old instructions
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_is_one_error(protocol):
    clip = {"video": np.zeros((2, 3, 4, 3), np.uint8), "name": "walk", "n": np.float32(1)}
    whole = pickle.dumps({"walk": clip, "list": [1, 2.5, b"x", None]}, protocol)
    random = np.random.default_rng(protocol)
    errors = 0
    for _ in range(3000):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for position in random.integers(0, len(damaged), random.integers(0, 4)):
            damaged[position] = random.integers(0, 256)
        try:
            load(bytes(damaged))
        except GroundTruthError:
            errors += 1
    assert errors > 1000
