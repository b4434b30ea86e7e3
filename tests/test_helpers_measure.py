"""Timing in turns, and memory counted once."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import psutil
import pytest

from helpers import measure
from helpers.measure import compare, in_turns, memory_gb

pytestmark = pytest.mark.fast


class Clock:
    """Stands for `time`: work advances it, so that the test does not depend on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_ways_take_turns() -> None:
    turns: list[str] = []
    compare({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=3)
    assert "".join(turns) == "abcabcabc"


def test_a_warm_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    takes = {"one": iter([7.0, 1.0, 2.0]), "two": iter([9.0, 0.5, 0.25])}
    turns: list[str] = []

    def work(name: str) -> str:
        turns.append(name)
        clock.now += next(takes[name])
        return f"{name} {len(turns)}"

    seconds, answers = in_turns({name: lambda name=name: work(name) for name in takes}, rounds=2)
    assert turns == ["one", "two"] * 3
    assert seconds == {"one": [1.0, 2.0], "two": [0.5, 0.25]}
    assert answers == {"one": "one 5", "two": "two 6"}


@pytest.mark.parametrize(("ways", "rounds"), [({}, 3), ({"one": int}, 0)])
def test_nothing_to_time(ways: dict, rounds: int) -> None:
    with pytest.raises(ValueError, match="at least one way and one round"):
        in_turns(ways, rounds)


def test_medians_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    takes = {"one": iter([1.0, 9.0, 2.0]), "two": iter([0.5, 0.5, 0.1])}

    def work(name: str) -> None:
        clock.now += next(takes[name])

    table = compare({name: lambda name=name: work(name) for name in takes})
    assert list(table.index) == ["one", "two"]
    assert table["seconds"].tolist() == [2.0, 0.5]
    assert table["times the first"].tolist() == [1.0, 0.25]


def test_error_of_the_work_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        compare({"bad": lambda: 1 / 0})


@pytest.mark.parametrize(("ways", "rounds"), [({}, 3), ({"a": int}, 0)])
def test_nothing_to_compare(ways: dict, rounds: int) -> None:
    with pytest.raises(ValueError, match="at least one way and one round, but got [01] ways and [03] rounds"):
        compare(ways, rounds)


ALLOCATE = "import sys; held = b'x' * 100_000_000; print('ready', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])"

SHARED = """
import os, sys
held = b'x' * 100_000_000
for _ in range(2):
    if os.fork() == 0:
        sum(held[::4096])
        sys.stdin.read()
        os._exit(0)
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how memory is shared")
def test_shared_memory_is_counted_once() -> None:
    with subprocess.Popen([sys.executable, "-c", SHARED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert len(psutil.Process(process.pid).children()) == 2
        top = psutil.Process(process.pid)
        assert 0.1 < memory_gb([top, *top.children(recursive=True)]) < 0.16


@pytest.mark.parametrize("program", [ALLOCATE, PARENT], ids=["itself", "child"])
def test_memory_of_a_process_and_its_children(program: str) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        top = psutil.Process(process.pid)
        assert 0.1 < memory_gb([top, *top.children(recursive=True)]) < 0.16


def test_sum_and_memory_tells_the_memory_of_this_process_alone() -> None:
    total, before = measure.sum_and_memory(np.arange(4))
    held = np.ones(25_000_000)  # 200 MB
    _, after = measure.sum_and_memory(np.arange(4))
    assert total == 6
    assert 150 < after - before < 250, f"{held.nbytes / 1e6} MB more were held, but {after - before:.0f} were seen"


def test_sum_of_block_adds_up_what_another_process_wrote() -> None:
    block = SharedMemory(create=True, size=32)
    try:
        np.ndarray(4, buffer=block.buf)[:] = [1.0, 2.0, 3.0, 4.0]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            total, memory = pool.submit(measure.sum_of_block, block.name, 4).result()
        assert total == 10
        assert memory > 1
    finally:
        block.close()
        block.unlink()
    with pytest.raises(FileNotFoundError):
        measure.sum_of_block(block.name, 4)


def test_folder_mb_adds_up_all_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 1_000_000)
    (tmp_path / "below" / "two").write_bytes(b"x" * 500_000)
    assert measure.folder_mb(tmp_path) == 1.5
    assert measure.folder_mb(tmp_path / "none") == 0


def test_folder_mb_does_not_mind_a_file_that_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [tmp_path / "gone"])
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert measure.folder_mb(tmp_path) == 0


def test_memory_over_time_looks_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(1, 1_000_000))
    monkeypatch.setattr(measure, "used_and_total_memory", lambda: (next(looks) * 1e9, 9e15))

    def work() -> str:
        threading.Event().wait(0.3)
        return "done"

    result, seconds, used = measure.memory_over_time(work, pause=0.01)
    assert result == "done"
    assert used == list(range(1, len(seconds) + 1)) and len(used) > 2
    assert seconds == sorted(seconds) and 0 <= seconds[0] and seconds[-1] >= 0.2


def test_memory_over_time_passes_errors_on_and_stops_looking() -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        measure.memory_over_time(lambda: 1 / 0)
    assert threading.active_count() == threads


def test_the_object_store_of_no_ray_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="call ray.init first"):
        measure.object_store_over_time(lambda: None)


FREED = """
import psutil
from helpers.measure import free_memory

pieces = [bytearray(100_000) for _ in range(2_000)]
lasts = pieces[::50]  # small islands keep the rest from being given back by itself
del pieces
before = psutil.Process().memory_full_info().uss
free_memory()
print(before - psutil.Process().memory_full_info().uss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory this way")
def test_freed_memory_goes_back_to_the_system() -> None:
    command = [sys.executable, "-c", FREED]
    given_back = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert float(given_back) > 100e6
