"""`make chaos`: what it counts, that it kills what it should, and a short form of the whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch

from helpers import data
from tests.conftest import TOKEN
from tools import chaos
from tools.chaos_work import Work, compared, plain_loss, plain_training

GOOD = {"worker": 2, "node": 1}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("found", "counted"),
    [
        ([1, 2, 3], Work(done=3)),
        ([1, None, 3], Work(done=2, lost=1)),
        ([1, 2], Work(done=2, lost=1)),
        ([1, ValueError("x"), 4], Work(done=1, failed=1, wrong=1)),
        ([], Work(done=0, lost=3)),
    ],
)
def test_counted(found: list[Any], counted: Work) -> None:
    assert compared(found, [1, 2, 3]) == counted


@pytest.mark.fast
@pytest.mark.parametrize(
    ("work", "killed", "problem"),
    [
        (Work(done=5), GOOD, None),
        (Work(done=5, lost=1), GOOD, "x: 1 lost"),
        (Work(done=5, failed=10), GOOD, "x: 10 failed"),
        (Work(done=5, wrong=2), GOOD, "x: 2 wrong"),
        (Work(done=0), GOOD, "x: nothing was done"),
        (Work(done=5), {"worker": 0, "node": 0}, "x: nothing was killed, so nothing was shown"),
    ],
)
def test_problems(work: Work, killed: dict[str, int], problem: str | None) -> None:
    row = chaos.Row("x")
    row.add(work, killed)
    assert row.problems() == ([] if problem is None else [problem])


@pytest.mark.fast
def test_table() -> None:
    row = chaos.Row("tasks")
    row.add(Work(done=5, lost=1), GOOD)
    row.add(Work(done=6, wrong=2), GOOD)
    lines = chaos.table([row]).splitlines()
    assert len(lines) == 3 and all(line.count("|") == len(chaos.HEAD) + 1 for line in lines)
    assert lines[-1] == "| tasks | 2 | 11 | 4 | 2 | 1 | 0 | 2 |"


class NodesThatCount:
    """Something runs on them only at times."""

    def __init__(self) -> None:
        self.asked = 0

    def kill_worker(self, chance: random.Random) -> bool:
        self.asked += 1
        return self.asked % 3 == 0

    kill_node = kill_worker


class NodesThatFail(NodesThatCount):
    def kill_worker(self, chance: random.Random) -> bool:
        raise OSError("no more processes")

    kill_node = kill_worker


def begun() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.mark.fast
def test_nothing_is_killed_before_the_work_has_begun() -> None:
    nodes = NodesThatCount()
    with chaos.killing(nodes, random.Random(0), (0.01, 0.02), threading.Event()) as killed:
        time.sleep(0.3)
    assert sum(killed.values()) == nodes.asked == 0


@pytest.mark.fast
def test_kills_are_counted_when_something_was_there_to_be_killed() -> None:
    nodes = NodesThatCount()
    with chaos.killing(nodes, random.Random(0), (0.01, 0.02), begun()) as killed:
        end = time.monotonic() + 20
        while sum(killed.values()) < 8:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert killed["worker"] >= 6 and killed["node"] >= 1, "of four, three are workers"
    assert nodes.asked >= 3 * sum(killed.values())


@pytest.mark.fast
def test_no_more_is_killed_than_allowed() -> None:
    nodes = NodesThatCount()
    with chaos.killing(nodes, random.Random(0), (0.01, 0.02), begun(), kills=2) as killed:
        end = time.monotonic() + 20
        while sum(killed.values()) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.3)
    assert sum(killed.values()) == 2


@pytest.mark.fast
def test_who_cannot_kill_says_so() -> None:
    with pytest.raises(RuntimeError, match="the figures would say too little") as caught:
        with chaos.killing(NodesThatFail(), random.Random(0), (0.01, 0.02), begun()):
            time.sleep(0.5)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.fast
def test_what_is_right_depends_on_every_step() -> None:
    before = torch.get_num_threads()
    try:
        assert plain_loss(0.01, 3) != plain_loss(0.01, 4) != plain_loss(0.02, 4)
        weights, longer = plain_training(1), plain_training(2)
        assert any(not torch.equal(value, longer[name]) for name, value in weights.items())
        assert all(torch.equal(value, plain_training(1)[name]) for name, value in weights.items())
    finally:
        torch.set_num_threads(before)


@pytest.mark.timeout(600)
def test_a_short_form_loses_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "tools.chaos", "--short"]
    done = subprocess.run(command, cwd=data.REPOSITORY, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    rows = [line for line in done.stdout.splitlines() if line.endswith("| 0 | 0 | 0 |")]
    assert len(rows) == len(chaos.WORKLOADS)


@pytest.mark.fast
def test_what_hangs_ends_with_a_sentence() -> None:
    script = "from tools import chaos as c; c.threading.Timer(0, c.give_up, 'x').start(); c.threading.Event().wait()"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=data.REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "x did not end within 900 s: it is lost" in done.stderr


@pytest.mark.fast
def test_without_a_token_it_says_how_to_start() -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "tools.chaos", "--short"]
    done = subprocess.run(command, cwd=data.REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "because Ray reads it once: run make chaos" in done.stderr
