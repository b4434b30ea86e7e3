"""Nodes are started by the real command, say why they did not start, and end with the process that started them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers import nodes
from helpers.nodes import ray_start

REPOSITORY = Path(__file__).resolve().parent.parent
STARTS_AND_IS_KILLED = """
import os, signal
from helpers.nodes import ray_start

head = ray_start("--head --num-cpus=1 --include-dashboard=false")
node = ray_start(f"--address={head.address} --num-cpus=1 --labels=machine=cellar")
print(repr(node))
print("ADDRESS", head.address, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fast
def test_neither_head_nor_address() -> None:
    with pytest.raises(ValueError, match="say --head for a first node, or --address=HOST:PORT"):
        ray_start("--adress=127.0.0.1:6379")


@pytest.mark.fast
def test_address_without_a_port() -> None:
    with pytest.raises(ValueError, match="expected --address=HOST:PORT, found 'desk'"):
        ray_start("--address=desk")


@pytest.mark.fast
def test_nobody_answers() -> None:
    before = time.monotonic()
    with pytest.raises(ConnectionError, match=r"nobody answers at 127\.0\.0\.1:9"):
        ray_start("--address 127.0.0.1:9 --num-cpus=1")
    assert time.monotonic() - before < 10


@pytest.mark.fast
@pytest.mark.parametrize("options", [["--port=1", "--x"], ["--x", "--port", "1"]])
def test_value_in_both_forms(options: list[str]) -> None:
    assert nodes._value(options, "--port") == "1"
    assert nodes._value(options, "--por") is None


def test_unknown_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(RuntimeError, match="No such option '--numcpus'"):
        ray_start("--head --numcpus=1")


@pytest.mark.fast
def test_a_start_that_was_too_slow_is_tried_twice_more(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setattr(
        nodes,
        "_guarded",
        lambda arguments, folder, variables: subprocess.Popen(
            [sys.executable, "-c", "print('Exception: The current node timed out during startup.')"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ),
    )
    with pytest.raises(RuntimeError, match="Exception: The current node timed out during startup"):
        ray_start("--head")
    assert capfd.readouterr().out.count("once more") == 2


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", sleeper])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.fast
def test_a_node_that_does_not_end_is_killed_with_what_it_started() -> None:
    """Seen once in many runs: the signal reached `ray start` while it was ending, and it waited for itself."""
    guard = "from helpers import nodes; nodes.GRACE_S = 1; nodes.guard()"
    command = [sys.executable, "-c", guard, "", sys.executable, "-c", STUBBORN]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    child = psutil.Process(int(process.stdout.readline()))
    time.sleep(1)  # until the child ignores the signal, too
    process.stdin.close()
    process.wait(timeout=30)
    with suppress(psutil.NoSuchProcess):
        child.wait(timeout=10)


def test_nodes_end_with_who_started_them() -> None:
    """The process is killed, so it can't clean up: what it started ends all the same, and leaves no folder."""
    folders = set(Path("/tmp").glob("ray-*"))
    token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-c", STARTS_AND_IS_KILLED]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **token}, capture_output=True, text=True)
    assert "running: ray start --address=" in done.stdout, done.stdout + done.stderr
    address = done.stdout.partition("ADDRESS ")[2].split()[0]
    port = address.partition(":")[2]

    def left() -> list[str]:
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
        mine = [line for line in lines if f":{port}" in line or f"port={port}" in line]
        return mine + [str(folder) for folder in set(Path("/tmp").glob("ray-*")) - folders]

    end = time.monotonic() + 30
    while left() and time.monotonic() < end:
        time.sleep(0.2)
    assert not left()
