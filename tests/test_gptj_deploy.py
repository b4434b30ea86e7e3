"""`serve deploy` of the GPT-J service on a head that was started elsewhere, and where somebody else serves already."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import requests
import yaml

from tests.services import Head, head_of_somebody_else, wait_for

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "cluster" / "gptj_service.yaml"
JOIN = "import ray; from ray import serve; ray.init(address='auto', log_to_driver=False)\n"

# What somebody else runs there.
OTHER = """
@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Other:
    def __call__(self, request):
        return "other"

serve.start(http_options={"host": "127.0.0.1", "port": PORT})
serve.run(Other.bind(), name="other", route_prefix="/other")
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with head_of_somebody_else() as head:
        yield head


def run_there(head: Head, source: str) -> None:
    """Run a program that joins the cluster."""
    log = head.folder / "head.log"
    wait_for(lambda: "will now block" in log.read_text(), 60)
    address = re.findall(r"--address='([\d.]+:\d+)'", log.read_text())[0]
    program = head.folder / "program.py"
    program.write_text(JOIN + source)
    environment = head.environment | {"RAY_ADDRESS": address}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=head.folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


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


@pytest.mark.long  # the same is asked of 06's file in make test
def test_service_runs_on_a_head_that_does_not_know_this_repository(head: Head) -> None:
    run_there(head, OTHER.replace("PORT", str(head.http_port)))

    # As it stands, the file is for a cluster whose nodes have the repository on their path: this one has not.
    head.deploy(config_for(head, {}))
    assert "No module named 'cluster'" in head.wait_until("gptj", "DEPLOY_FAILED")

    head.deploy(config_for(head, {"working_dir": f"local://{REPOSITORY}"}))
    head.wait_until("gptj", "RUNNING")
    assert answers(head) == ("other", 200)

    # The last cell of the notebook leaves the others alone, too.
    cells = nbformat.read(REPOSITORY / "notebooks" / "08_serve_gptj.ipynb", 4).cells
    run_there(head, [cell.source for cell in cells if cell.cell_type == "code"][-1])
    assert set(head.applications()) == {"other"}
    assert answers(head) == ("other", 404)


@pytest.mark.long
def test_zip_file_of_the_config_comment_serves_as_well(head: Head) -> None:
    run_there(head, OTHER.replace("PORT", str(head.http_port)))
    (command,) = re.findall(r"(git archive .*)", CONFIG.read_text())
    archive = head.folder / "course.zip"
    words = [f"--output={archive}" if word.startswith("--output=") else word for word in command.split()]
    subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)
    head.deploy(config_for(head, {"working_dir": f"file://{archive}"}))
    head.wait_until("gptj", "RUNNING")
    assert answers(head) == ("other", 200)
