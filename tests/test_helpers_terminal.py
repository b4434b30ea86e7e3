"""Ray's command line answers about the cluster of the notebook."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

from helpers import terminal
from helpers.data import REPOSITORY
from helpers.terminal import ray_command, stack_of, time_of


@pytest.mark.fast
def test_without_ray_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="call ray.init first"):
        ray_command("memory")


def test_it_asks_this_cluster(ray_session: None) -> None:
    import ray

    ref = ray.put(np.zeros(5_000_000))  # 40 MB
    said = ray_command("memory", "--stats-only")
    used = re.search(r"Plasma memory usage (\d+) MiB, .*% full, .*% needed", said)
    assert used and int(used.group(1)) >= 38, said
    assert ray.get(ref)[0] == 0


def test_a_command_that_fails_says_why(ray_session: None) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ray memory --no-such-option` failed: .*No such option"):
        ray_command("memory", "--no-such-option")


SLEEPER = """
import time
def inner():
    time.sleep(600)
def outer():
    inner()
outer()
"""


def test_stack_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost call comes first. The process is our own child, into which Linux lets us look."""
    monkeypatch.setenv("CLICOLOR_FORCE", "1")  # as Jupyter sets it for its kernels
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        end = time.monotonic() + 60
        while "inner" not in (said := stack_of(process.pid)) and time.monotonic() < end:
            time.sleep(0.2)
        if sys.platform == "linux":
            assert re.search(r"(?s)^    inner \(.*:4\)\n    outer \(.*:6\)\n", said + "\n"), said
            assert len(stack_of(process.pid, calls=1).splitlines()) == 1
    finally:
        process.kill()
        process.wait()
    assert re.search(rf"may not look into process {process.pid} here \(it said: .+\)", stack_of(process.pid))


@pytest.mark.fast
def test_stack_without_py_spy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(terminal.sys, "executable", str(tmp_path / "python"))
    assert "py-spy is not installed" in stack_of(1)
    assert "py-spy is not installed" in time_of(1)


BUSY = """
def search():
    while True:
        9999 in range_as_list
range_as_list = list(range(10_000))
search()
"""


def test_time_of_a_process() -> None:
    """Nearly all of it goes into one line. The process is our own child, into which Linux lets us look."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(2)
        if sys.platform == "linux":
            said = time_of(process.pid, seconds=1)
            share = re.match(r" *(\d+)%  search \(.*:4\)", said)
            assert share and int(share[1]) >= 80, said
            assert len(time_of(process.pid, seconds=1, lines=1).splitlines()) == 1
    finally:
        process.kill()
        process.wait()
    assert re.search(rf"may not look into process {process.pid} here \(it said: .+\)", time_of(process.pid))


def test_the_commands_of_the_field_guide_work(ray_session: None) -> None:
    import ray

    guide = nbformat.read(REPOSITORY / "notebooks" / "reference" / "field_guide.ipynb", 4)
    text = "\n".join(cell.source for cell in guide.cells if cell.cell_type == "markdown")
    commands = re.findall(r"(?m)^ray (.+?) +#", text)
    assert len(commands) == 5
    kept = ray.put(np.zeros(1_000_000))
    for command in commands:
        assert ray_command(*shlex.split(command)), command
    del kept
