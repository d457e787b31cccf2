"""Pieces of work in processes and on Ray: none takes others along, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dino_tracker_ros.evaluation.parallel import Lost, run_in_processes
from dino_tracker_ros.evaluation.ray_pool import ClusterError, run_on_ray

_slot = -1


def note_slot(slot: int) -> None:
    global _slot
    _slot = slot


def square(number: int) -> tuple[int, int]:
    return number**2, _slot


def square_or_die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        os._exit(7)
    return number**2


def sleep_beside(file: Path) -> None:
    """Leaves its process's number, and that of a child that ends with it, in a file."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        partly = file.with_suffix(".part")
        partly.write_text(f"{os.getpid()} {child.pid}")
        partly.rename(file)
        time.sleep(600)
    finally:
        child.kill()
        child.wait()


def processes_in(file: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(number) for number in file.read_text().split()]


def gone(process: int) -> bool:
    """Whether a process has ended, be it as a zombie that nobody waits for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def assert_all_go(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while not all(gone(each) for each in processes):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.05)


def only_two_fails(number: int) -> int:
    if number == 2:
        raise ValueError("no two")
    return number


def test_every_piece_is_done_once_and_slots_are_not_shared():
    done = dict(run_in_processes(square, range(5), slots=2, prepare=note_slot))
    assert {number: outcome[0] for number, outcome in done.items()} == {
        number: number**2 for number in range(5)
    }
    assert {outcome[1] for outcome in done.values()} <= {0, 1}


def test_a_process_that_dies_loses_its_own_piece_alone():
    done = dict(run_in_processes(square_or_die, range(4), slots=2, prepare=note_slot))
    assert done[0] == 0
    assert done[3] == 9
    assert isinstance(done[1], Lost)
    assert "out of memory" in done[1].message
    assert done[2] == Lost("its process ended with code 7")


def test_processes_end_where_the_reader_stops(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    with closing(run_in_processes(one_of, [files[0], None], 2, note_slot)) as done:
        assert next(done)[0] is None
        processes = processes_in(files[0])
        assert not any(gone(each) for each in processes)
    assert_all_go(processes)


def one_of(file: Path | None) -> None:
    if file is not None:
        sleep_beside(file)


def wait_for_sleepers(folder: Path) -> None:
    """A program that waits for two sleepers, as the command waits for its evaluations."""
    for _ in run_in_processes(sleep_beside, [folder / "a", folder / "b"], 2, note_slot):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path, number):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from test_parallel import wait_for_sleepers\n"
        f"if __name__ == '__main__': wait_for_sleepers(Path({str(tmp_path)!r}))\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    processes = processes_in(tmp_path / "a") + processes_in(tmp_path / "b")
    # As a terminal does it: Ctrl-C goes to the whole group.
    os.killpg(parent.pid, number) if number == signal.SIGINT else parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert said.count("KeyboardInterrupt") <= 1  # the parent's own
    assert_all_go(processes)


@pytest.fixture
def ray_address(monkeypatch) -> str:
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install ray")
    # Workers have to find this module.
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return "local"


def test_ray_does_every_piece(ray_address):
    done = dict(run_on_ray(square, range(4), ray_address, gpu=False, prepare=note_slot))
    assert {number: outcome[0] for number, outcome in done.items()} == {0: 0, 1: 1, 2: 4, 3: 9}
    assert all(outcome[1] >= 1 for outcome in done.values())


def test_a_piece_that_is_lost_on_ray_is_told(ray_address):
    done = dict(run_on_ray(only_two_fails, range(3), ray_address, gpu=False, prepare=note_slot))
    assert done[0] == 0
    assert done[1] == 1
    assert isinstance(done[2], Lost)
    assert "no two" in done[2].message


def test_no_cluster_is_one_clear_message(ray_address):
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        list(run_on_ray(square, [1], "127.0.0.1:1", gpu=False, prepare=note_slot))


def test_ray_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match="pip install ray"):
        list(run_on_ray(square, [1], "auto", gpu=False, prepare=note_slot))
