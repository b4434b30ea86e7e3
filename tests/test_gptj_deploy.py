"""`serve deploy` of the GPT-J service on a head that was started elsewhere, and where somebody else serves already."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import requests
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "cluster" / "gptj_service.yaml"
SERVE = [sys.executable, "-m", "ray.serve.scripts"]

# What somebody else runs there. It does not know this repository.
OTHER = """
import ray
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Other:
    def __call__(self, request):
        return "other"

ray.init(address="auto", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": PORT})
serve.run(Other.bind(), name="other", route_prefix="/other")
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Head:
    environment: dict[str, str]  # of whoever uses it
    folder: Path  # in which its processes run
    dashboard: str
    http_port: int

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"

    def deploy(self, config: dict) -> None:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        self.run(*SERVE, "deploy", str(path), "--address", self.dashboard)

    def applications(self) -> dict[str, dict]:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        reply = requests.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=30)
        return reply.json()["applications"]

    def wait_for(self, name: str, status: str, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while True:
            application = self.applications().get(name, {})
            if application.get("status") == status:
                return application
            assert time.monotonic() < end, f"{name} is not {status} after {seconds} s: {application}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` in an empty folder, with nothing of this repository on its path; ended by its process id."""
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # short: sockets below it have long names
    kept = {name: value for name, value in os.environ.items() if not re.match("RAY_|PYTHONPATH", name)}
    environment = kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONSAFEPATH": "1",
    }
    port, dashboard, client, agent, http = free_ports(5)
    ports = {"--port": port, "--dashboard-port": dashboard, "--ray-client-server-port": client}
    ports |= {"--dashboard-agent-listen-port": agent, "--min-worker-port": 0, "--max-worker-port": 0}
    options = [f"{name}={value}" for name, value in ports.items()]
    options += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=true", f"--temp-dir={folder / 'r'}"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    found = Head(environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, folder, f"http://127.0.0.1:{dashboard}", http)
    try:
        wait_until_it_answers(found, process)
        yield found
    finally:
        process.terminate()  # --block ends what it has started
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(head: Head, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            head.applications()
            return
        except (requests.RequestException, ValueError, KeyError):
            log = (head.folder / "head.log").read_text()
            assert process.poll() is None and time.monotonic() < end, f"the head does not answer:\n{log}"
            time.sleep(0.5)


def config_for(head: Head, runtime_env: dict) -> dict:
    """The shipped file, for two cores, at a prefix that nobody else has."""
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = head.http_port
    (application,) = config["applications"]
    application |= {"route_prefix": "/gptj", "runtime_env": runtime_env}
    application["args"] |= {"replicas": 1, "cpus": 0.2}
    application["deployments"][0]["user_config"] = {"tuned": 1.0, "base": 0.0}
    return config


def answers(head: Head) -> tuple[str, int]:
    """What the other application answers, and the status of ours."""
    url = f"http://127.0.0.1:{head.http_port}"
    order = {"prompt": "ROMEO.", "max_new_tokens": 3}
    other = requests.get(f"{url}/other", timeout=60)
    return other.text, requests.post(f"{url}/gptj/generate", json=order, timeout=60).status_code


def test_service_runs_on_a_head_that_does_not_know_this_repository(head: Head) -> None:
    script = head.folder / "other.py"
    script.write_text(textwrap.dedent(OTHER).replace("PORT", str(head.http_port)))
    head.run(sys.executable, str(script))

    # As it stands, the file is for a cluster whose nodes have the repository on their path: this one has not.
    head.deploy(config_for(head, {}))
    message = head.wait_for("gptj", "DEPLOY_FAILED", 120)["message"]
    assert "No module named 'cluster'" in message, message

    head.deploy(config_for(head, {"working_dir": f"local://{REPOSITORY}"}))
    head.wait_for("gptj", "RUNNING", 180)
    assert answers(head) == ("other", 200)

    # The last cell of the notebook leaves the others alone, too.
    cells = nbformat.read(REPOSITORY / "notebooks" / "08_serve_gptj.ipynb", 4).cells
    last = [cell.source for cell in cells if cell.cell_type == "code"][-1]
    join = "import ray; from ray import serve; ray.init(address='auto', log_to_driver=False)"
    head.run(sys.executable, "-c", f"{join}\n{last}")
    assert set(head.applications()) == {"other"}
    assert answers(head) == ("other", 404)


@pytest.mark.long
def test_zip_file_of_the_config_comment_serves_as_well(head: Head) -> None:
    (command,) = re.findall(r"(git archive .*)", CONFIG.read_text())
    archive = head.folder / "course.zip"
    words = [f"--output={archive}" if word.startswith("--output=") else word for word in command.split()]
    subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)
    head.deploy(config_for(head, {"working_dir": f"file://{archive}"}))
    head.wait_for("gptj", "RUNNING", 240)
    assert answers(head)[1] == 200
