"""`make lab`, started for real: the learner's own copies, and a JupyterLab that asks nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from helpers.session import free_port

REPOSITORY = Path(__file__).resolve().parent.parent
TOKEN = {"token": "only-of-this-test"}
COPIES = "work"  # the learner's own copies, a folder of this repository
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab as `make lab` starts it, in a copy of the course; its address."""
    course, home = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("home")
    shutil.copy(REPOSITORY / "Makefile", course)
    for folder in ("tools", "notebooks", "helpers"):
        shutil.copytree(REPOSITORY / folder, course / folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    port = free_port(8900)
    # The environment is the one that runs this test, and counts as up to date.
    command = ["make", "lab", "--old-file=.venv/.ready", f"BIN={Path(sys.executable).parent}", f"PORT={port}"]
    # As in the container, whose user is not root.
    (arguments,) = re.findall(r'(?m)^CMD .*"(LAB_ARGS=.*)"\]$', (REPOSITORY / "Dockerfile").read_text())
    command.append(f"{arguments} --allow-root --IdentityProvider.token={TOKEN['token']}")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "MAKE"))}
    with (home / "log").open("w") as log:
        make = subprocess.Popen(
            command, cwd=course, env=own | {"HOME": str(home)}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_answer(f"{url}/api/status", make, home / "log")
        yield url
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        make.wait(30)


def wait_for_answer(url: str, make: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and make.poll() is None:
        try:
            if requests.get(url, params=TOKEN, timeout=10).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()}")


def get(url: str) -> Any:
    reply = requests.get(url, params=TOKEN, timeout=30)
    assert reply.ok, f"{reply.status_code} {reply.text[:300]}"
    return reply.json()


def test_lessons_and_solutions_are_all_that_is_listed(lab: str) -> None:
    listed = {entry["path"] for entry in get(f"{lab}/api/contents/{COPIES}")["content"]}
    lessons = {f"work/{path.name}" for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    folders = {f"work/{path.parent.name}" for path in (REPOSITORY / "notebooks").glob("[!.]*/*.ipynb")}
    assert listed == lessons | folders


def test_the_first_lesson_has_no_outputs_and_its_links_open(lab: str) -> None:
    cells = get(f"{lab}/api/contents/{COPIES}/00_start_here.ipynb")["content"]["cells"]
    assert len(cells) > 10 and not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    # Links lead to other notebooks, and to files outside of work/.
    for path in ("work/01_tasks_and_actors.ipynb", "work/solutions/00_start_here.ipynb", "helpers/session.py"):
        assert get(f"{lab}/api/contents/{path}?content=0")["path"] == path


def test_nothing_is_asked_about_news(lab: str) -> None:
    # 'none', the default of JupyterLab, opens a pop-up that asks.
    found = get(f"{lab}/lab/api/settings/@jupyterlab/apputils-extension:notification")
    defaults = {name: entry["default"] for name, entry in found["schema"]["properties"].items()}
    assert defaults["fetchNews"] == "false" and defaults["checkForUpdates"] is False


def test_without_the_token_nobody_gets_in(lab: str) -> None:
    assert requests.get(f"{lab}/api/contents/work", timeout=30).status_code == 403


def test_kernels_keep_ray_from_building_environments_under_uv_run(lab: str) -> None:
    spec = get(f"{lab}/api/kernelspecs")["kernelspecs"]["python3"]["spec"]
    assert spec["env"] == {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
