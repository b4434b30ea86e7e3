"""Nodes of a Ray cluster on this machine, started by the command that starts them on machines of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.session import free_port, token_for_its_owner

STARTED = "Ray runtime started"  # `ray start` prints it when the node is up
TOO_SLOW = "timed out during startup"
MORE_TRIES = 2  # where other programs keep the machine busy
GRACE_S = 20.0  # for a node to end in good order
PATIENCE_S = 150.0  # seconds for a start; an idle 2-core machine takes 5 to 15
GCS_PORT, DASHBOARD_PORT = 6379, 8265  # what readers expect; another one where they are taken
STORE_BYTES = 200_000_000
# As which Ray's workers appear in lists of processes, and what else is called so: who waits, and the node's own.
WORKER_TITLE, NOT_WORKING = "ray::", ("ray::IDLE", "ray::RuntimeEnvAgent", "ray::DashboardAgent")
# Python adds the folder of the script that runs to its path, so the guard is started with -c.
FOLDER_OF_FILE = re.compile(r"(?<=--autoscaling-config=)\S*/")  # nothing that a reader needs to see
GUARD = "from helpers.nodes import guard; guard()"


class Node:
    """A node of a cluster: all processes that one `ray start` has started.

    Attributes:
        options: what was given to `ray start`.
        address: HOST:PORT with which other nodes and notebooks join.
        dashboard: URL of the cluster's dashboard, if this is the head; None else.

    Source: written for this course.
    """

    def __init__(self, options: str, address: str, dashboard: str | None, process: subprocess.Popen[bytes]) -> None:
        self.options, self.address, self.dashboard = options, address, dashboard
        self._process = process

    def __repr__(self) -> str:
        state = "running" if self._process.poll() is None else "ended"
        return f"<Node of {self.address}, {state}: ray start {self.options}>"

    def workers(self) -> list[psutil.Process]:
        """The node's processes in which a task or an actor runs just now."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    title = " ".join(process.cmdline())
                    if title.startswith(WORKER_TITLE) and not title.startswith(NOT_WORKING):
                        found.append(process)
        return found

    def stop(self) -> None:
        """End the node's processes in good order; the head notices it up to half a minute later."""
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def cut_off(self) -> None:
        """Kill all processes of the node at once and without a warning. Their connections break, as after a crash."""
        try:
            processes = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        # All of them stand still first, so that none can still report the end of another one.
        for end in (psutil.Process.suspend, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    end(process)
        self.stop()


_nodes: list[Node] = []


def ray_start(options: str, variables: Mapping[str, str] | None = None) -> Node:
    """Run `ray start` with these options, as in a terminal, and wait until the node is up.

    What several nodes on one machine need besides is added: they listen on 127.0.0.1, share the machine's memory
    (200 MB each for objects), and a head takes free ports and a folder of its own, so that it disturbs no other Ray.
    Who joins has to have the token in `~/.ray/auth_token`, which is made if it is missing.

    A node that was started with the same options is ended first, and all nodes are if this one is a head, so that a
    cell can be run again. All of them end with the process that started them.

    Args:
        options: as in a shell, such as "--head --num-cpus=4 --labels=machine=desk" or "--address=127.0.0.1:6379
            --resources='{"camera": 1}'".
        variables: of the environment, for this node only.

    Returns:
        The node; `node.address` is what the next one joins.

    Raises:
        ValueError: the options say neither --head nor --address=HOST:PORT.
        ConnectionError: nobody answers at the address to join.
        RuntimeError: the node did not start; the message holds what `ray start` said.

    Source: written for this course, on the public command line of Ray 2.60.
    """
    given = shlex.split(options)
    head = "--head" in given
    address = None if head else _value(given, "--address")
    if not head and address is None:
        raise ValueError(f"ray_start({options!r}): say --head for a first node, or --address=HOST:PORT to join one.")
    if not head:
        _check_that_somebody_answers(options, address)
    for node in list(_nodes):
        if head or node.options == options:
            node.stop()
            _nodes.remove(node)
    print(f"$ ray start {re.sub(FOLDER_OF_FILE, '', options)}", flush=True)
    token_for_its_owner()
    started = time.monotonic()
    node, said = _start(options, given, address, variables)
    for _ in range(MORE_TRIES):
        if STARTED in said or TOO_SLOW not in said:
            break
        print("  the machine was too busy for Ray's 30 seconds; once more", flush=True)
        node, said = _start(options, given, address, variables)
    if STARTED not in said:
        raise RuntimeError(f"`ray start {options}` did not start a node. It said: {_reason(said)}")
    print(f"  up after {time.monotonic() - started:.0f} s", flush=True)
    return node


def _start(
    options: str, given: list[str], address: str | None, variables: Mapping[str, str] | None
) -> tuple[Node, str]:
    """Try to start a node; returns it, and what it said until it was up or had failed. No address: a head."""
    added = ["--block", "--node-ip-address=127.0.0.1"]
    dashboard, folder = None, ""
    if _value(given, "--object-store-memory") is None:
        added.append(f"--object-store-memory={STORE_BYTES}")
    if address is None:
        port = _value(given, "--port") or str(free_port(GCS_PORT))
        dashboard_port = _value(given, "--dashboard-port") or str(free_port(DASHBOARD_PORT))
        # Its path is short, because Ray keeps sockets in it, whose paths may have 107 bytes at most.
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.name == "posix" else None)
        address, dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}"
        added += [f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}"]
        added.append("--disable-usage-stats")
    node = Node(options, address, dashboard, _guarded(["start", *given, *added], folder, variables))
    _nodes.append(node)
    said = _wait(node._process)
    if STARTED not in said:
        _nodes.remove(node)
        node.stop()
    return node, said


def guard() -> None:
    """Run a node until it ends, or until the notebook that started it does: then its end of our stdin is closed.

    Its arguments are a folder to delete afterwards ("" for none), and the command. Only `ray_start` calls it.
    """
    folder, *command = sys.argv[1:]
    node = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def wait_for_the_notebook() -> None:
        sys.stdin.buffer.read()
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(node.pid).children(recursive=True)
            node.terminate()
            # `ray start` of Ray 2.60 waits for itself forever if the signal comes while it is ending anyway.
            time.sleep(GRACE_S)
            for process in (*family, psutil.Process(node.pid)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    threading.Thread(target=wait_for_the_notebook, daemon=True).start()
    node.wait()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _guarded(arguments: list[str], folder: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start `ray` with these arguments under a guard; its output is in a pipe."""
    programs = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment.update(variables or {})
    environment.setdefault("RAY_AUTH_MODE", "token")
    # Jobs start programs such as `python` by their names, and must find those of this environment.
    environment["PATH"] = os.pathsep.join([str(programs), environment.get("PATH", "")])
    if sys.platform == "darwin":
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # without it, Ray refuses a second node on a Mac
    return subprocess.Popen(
        [sys.executable, "-c", GUARD, folder, str(programs / "ray"), *arguments],
        env=environment,
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the stop button interrupts the notebook, and not the node
    )


def _wait(process: subprocess.Popen[bytes]) -> str:
    """What a node says until it is up, has ended, or is given up; what it says later is read and forgotten."""
    said: list[str] = []
    over = threading.Event()

    def read() -> None:
        for line in process.stdout:
            said.append(line.decode(errors="replace"))
            if STARTED in said[-1]:
                over.set()
        over.set()

    threading.Thread(target=read, daemon=True).start()
    if not over.wait(PATIENCE_S):
        said.append(f"nothing more for {PATIENCE_S:g} s")
        process.stdin.close()
    return "".join(said)


def _check_that_somebody_answers(options: str, address: str) -> None:
    """Say at once what Ray would find out after minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"ray_start({options!r}): expected --address=HOST:PORT, found {address!r}.")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConnectionError(
            f"ray_start({options!r}): nobody answers at {address} ({error}). Is the head running? Run its cell again."
        ) from None


def _reason(said: str) -> str:
    """The lines that tell most: click's complaint about an option, or an exception, or else the last ones."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Error: ") or re.match(r"(\w+\.)*\w*(Error|Exception): ", line)]
    return " ".join((told or lines)[-2:])[-600:]


def _value(options: list[str], name: str) -> str | None:
    """The value of an option in either form, `--name=value` or `--name value`; None if it is not there."""
    for place, option in enumerate(options):
        if option.startswith(f"{name}="):
            return option.partition("=")[2]
        if option == name and place + 1 < len(options):
            return options[place + 1]
    return None
