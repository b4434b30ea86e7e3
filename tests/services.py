"""What the tests of services share."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import requests
import yaml
from ray.serve.schema import ServeDeploySchema

from helpers.nodes import TOO_SLOW

SERVE = [sys.executable, "-m", "ray.serve.scripts"]  # the command `serve`


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Look again and again, until the condition is true; fail after so many seconds."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"not true after {seconds} seconds"
        time.sleep(0.05)


def valid_application(path: Path, service: ModuleType) -> dict:
    """The one application of a config file: valid, on this machine only, with the default settings of the module."""
    config = yaml.safe_load(path.read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert schema.http_options.host == "127.0.0.1"
    (application,) = config["applications"]
    module, function = application["import_path"].split(":")
    assert module == service.__name__ and callable(getattr(service, function))
    assert service.Settings(**application["args"]) == service.Settings()
    return application


@dataclass
class Head:
    """A cluster that somebody else started: its processes know nothing of this repository."""

    folder: Path  # where they run
    environment: dict[str, str]  # of whoever uses it
    dashboard: str
    http_port: int

    def serve(self, *arguments: str) -> None:
        """Run the command `serve` as somebody would who sits in an empty folder."""
        command = [*SERVE, *arguments, "--address", self.dashboard]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"

    def deploy(self, config: dict[str, Any]) -> None:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        self.serve("deploy", str(path))

    def applications(self) -> dict[str, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        reply = requests.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=30)
        return reply.json()["applications"]

    def wait_until(self, name: str, status: str, seconds: float = 240) -> str:
        """Wait for a status of an application; returns the message that comes with it."""
        end = time.time() + seconds
        while (found := self.applications().get(name, {})).get("status") != status:
            assert time.time() < end, f"{name} is not {status} after {seconds} s: {found}"
            time.sleep(0.5)
        return found["message"]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def head_of_somebody_else() -> Iterator[Head]:
    """`ray start --head` in an empty folder, with a token of its own; ended by the number of its process."""
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # short: sockets below it have long names
    kept = {name: value for name, value in os.environ.items() if not re.match("RAY_|PYTHONPATH", name)}
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {"RAY_worker_niceness": "0"}  # or other programs would leave its workers a thirtieth of the machine
    environment = kept | own | {"PYTHONSAFEPATH": "1"}
    port, dashboard, client, agent, http = _free_ports(5)
    ports = {"port": port, "dashboard-port": dashboard, "ray-client-server-port": client}
    ports |= {"dashboard-agent-listen-port": agent, "min-worker-port": 0, "max-worker-port": 0}
    options = [f"--{name}={value}" for name, value in ports.items()]
    options += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=true", f"--temp-dir={folder}/r"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    head = Head(folder, environment, f"http://127.0.0.1:{dashboard}", http)
    processes: list[subprocess.Popen] = []

    def start() -> str:
        """What `ray start` has written when its head answers or has ended."""
        log = folder / "head.log"
        with log.open("w") as written:
            processes.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=written, stderr=subprocess.STDOUT)
            )
        wait_for(lambda: processes[-1].poll() is not None or _answers(head), 180)
        return log.read_text()

    try:
        said = start()
        if processes[-1].poll() is not None and TOO_SLOW in said:
            said = start()  # a busy machine may need more than the 30 seconds that Ray gives a start
        assert processes[-1].poll() is None, said
        yield head
    finally:
        for process in processes:
            process.terminate()  # --block ends what it has started
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(head: Head) -> bool:
    try:
        head.applications()
    except (requests.RequestException, ValueError, KeyError):
        return False
    return True
