"""Clusters that are there already, started by `ray start` as anybody would: the course joins, or says what to do."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from helpers.nodes import STARTED, TOO_SLOW
from helpers.session import free_port

REPOSITORY = Path(__file__).resolve().parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
# Variables that say how and where to join; each program below gets those that its test is about, and no others.
OURS = ("RAY_", "GLOO_")


@dataclass(frozen=True)
class Running:
    """A cluster of one node with two CPUs."""

    address: str
    client: str
    dashboard: str
    token: str = ""

    @property
    def port(self) -> str:
        """Workers may know the same machine by another address."""
        return self.address.rpartition(":")[2]


def environment(home: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    # Beside other programs, the niceness that Ray gives its workers would leave them a thirtieth of the machine.
    own = {"HOME": str(home), "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    return kept | own | variables


def end_with_children(head: subprocess.Popen) -> None:
    """SIGTERM lets `ray start --block` end its cluster; whatever is left of it after some seconds is killed."""
    started = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.terminate()
    _, left = psutil.wait_procs(started, timeout=20)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(timeout=20)


@contextmanager
def cluster(token: str = "", **variables: str) -> Iterator[Running]:
    """`ray start --head`, on ports and in a folder of its own; ended by its process, not by `ray stop`."""
    folder = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp" if os.name == "posix" else None))  # sockets need short paths
    ports = {name: free_port(0) for name in ("port", "ray-client-server-port", "dashboard-port")}
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    # With ports that it is told, Ray does not wait for its agents to choose some, at most 15 seconds, and give up.
    agents = (
        "dashboard-agent-grpc-port",
        "dashboard-agent-listen-port",
        "metrics-export-port",
        "runtime-env-agent-port",
    )
    command += [f"--{name}={free_port(0)}" for name in agents] + [f"--temp-dir={folder}"]
    heads = []
    try:
        for _ in range(2):  # a busy machine may need more than the 30 seconds that Ray gives a start
            with (folder / "log").open("w") as log:
                settings = environment(folder, **auth, **variables)
                heads.append(subprocess.Popen(command, env=settings, stdout=log, stderr=log))
            said = wait_for_start(heads[-1], folder / "log")
            if STARTED in said or TOO_SLOW not in said:
                break
            end_with_children(heads[-1])
        assert STARTED in said, f"ray start did not come up: {said}"
        here = [f"127.0.0.1:{port}" for port in ports.values()]
        yield Running(here[0], f"ray://{here[1]}", f"http://{here[2]}", token)
    finally:
        for head in heads:
            end_with_children(head)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_start(head: subprocess.Popen, log: Path) -> str:
    """What `ray start` has written when it is up, has ended, or has had 90 seconds."""
    end = time.monotonic() + 90
    while STARTED not in log.read_text() and head.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    return log.read_text()


@pytest.fixture(scope="module")
def with_token() -> Iterator[Running]:
    with cluster(secrets.token_hex(32)) as running:
        yield running


@pytest.fixture(scope="module")
def without_token() -> Iterator[Running]:
    with cluster() as running:
        yield running


NOTEBOOK = """
import os, sys, time
import ray
from helpers.session import ray_options, require_resources

@ray.remote
def where():
    import helpers
    return f"{helpers.__file__} {ray.get_runtime_context().gcs_address}"

def run():
    ray.init(**ray_options(num_cpus=2))
    print("FOUND", ray.get(where.remote(), timeout=60))

"""


def notebook(tmp_path: Path, cells: str, expect: int = 0, **variables: str) -> str:
    """Run cells as a notebook's kernel would: in a process of their own, started elsewhere; returns what they wrote."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK + cells],
        env=environment(tmp_path, **variables),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout


# A cluster that asks for a token, and one that does not ------------------------


@pytest.mark.long
def test_cluster_with_a_token_in_the_home_folder(with_token: Running, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(with_token.token + "\n")
    shown = notebook(tmp_path, "run()", RAY_ADDRESS=with_token.address, RAY_AUTH_MODE="token")
    assert f":{with_token.port}\n" in shown


@pytest.mark.parametrize("form", ["address", "client"])
def test_cluster_with_a_token_that_the_notebook_has(with_token: Running, tmp_path: Path, form: str) -> None:
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": with_token.token}
    shown = notebook(tmp_path, "run()", RAY_ADDRESS=getattr(with_token, form), **variables)
    assert f":{with_token.port}\n" in shown
    where = re.search(r"FOUND (\S+)", shown).group(1)
    assert not where.startswith(str(REPOSITORY)), "the worker imported the files of this folder, not those sent to it"
    assert not (tmp_path / ".ray").exists(), "joining a cluster makes no token"


@pytest.mark.parametrize(
    "variables",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}],
    ids=["nothing", "no token", "a wrong token"],
)
@pytest.mark.parametrize("form", ["address", "client"])
def test_cluster_with_a_token_that_the_notebook_lacks(
    with_token: Running, tmp_path: Path, form: str, variables: dict[str, str]
) -> None:
    cells = """
try:
    run()
except Exception as error:
    print("SAYS", type(error).__name__, error)
"""
    address = getattr(with_token, form)
    shown = notebook(tmp_path, cells, RAY_ADDRESS=address, **variables)
    said = shown.partition("SAYS ")[2]
    assert said.startswith(f"PermissionError The cluster at {address} asks for a token"), shown
    assert ("did not accept" in said) is ("RAY_AUTH_TOKEN" in variables)
    assert "~/.ray/auth_token or RAY_AUTH_TOKEN, set RAY_AUTH_MODE=token" in said


@pytest.mark.parametrize("form", ["address", pytest.param("client", marks=pytest.mark.long)])
def test_cluster_without_a_token(without_token: Running, tmp_path: Path, form: str) -> None:
    shown = notebook(tmp_path, "run()", RAY_ADDRESS=getattr(without_token, form))
    assert f":{without_token.port}\n" in shown


def test_address_of_the_dashboard_gets_a_sentence(without_token: Running, tmp_path: Path) -> None:
    shown = notebook(tmp_path, "run()", expect=1, RAY_ADDRESS=without_token.dashboard)
    assert "ValueError: RAY_ADDRESS is" in shown and "only `ray job submit` can use" in shown


@pytest.mark.long
def test_notebook_as_a_job(with_token: Running, tmp_path: Path) -> None:
    """As cluster/kuberay/finetune.yaml runs one: its kernel joins the cluster that runs the job."""
    cell = """
import ray
from helpers.session import ray_options

context = ray.init(**ray_options(num_cpus=2, log_to_driver=False))
print("JOINED", context.address_info["gcs_address"], ray.get(ray.remote(lambda: 7).remote()))
"""
    nbformat.write(new_notebook(cells=[new_code_cell(cell)]), tmp_path / "lesson.ipynb")
    convert = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [RAY, "job", "submit", "--address", with_token.dashboard, "--", *convert, str(tmp_path / "lesson.ipynb")],
        env=environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=with_token.token),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = nbformat.read(tmp_path / "out" / "lesson.ipynb", 4).cells[0].outputs
    shown = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert re.search(rf"JOINED \S+:{with_token.port} 7", shown), outputs


def test_script_as_a_job(with_token: Running, tmp_path: Path) -> None:
    """As cluster/README.md submits one: it runs on the cluster that runs the job, and its log comes back."""
    variables = {"RAY_COURSE_RESULTS": str(tmp_path), "RAY_COURSE_SETTINGS": '{"trials": 4, "max_epochs": 3}'}
    runtime_env = json.dumps({"env_vars": variables})
    script = [sys.executable, str(REPOSITORY / "scripts" / "tune_fashion_mnist.py")]
    command = [
        RAY,
        "job",
        "submit",
        "--address",
        with_token.dashboard,
        "--runtime-env-json",
        runtime_env,
        "--submission-id",
        "sweep",
        "--",
        *script,
    ]
    token = environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=with_token.token)
    done = subprocess.run(command, env=token, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    # `ray job submit` may end before it has shown the last lines (Ray's issue 48701), so they are asked for.
    ask = [RAY, "job", "logs", "--address", with_token.dashboard, "sweep"]
    log = subprocess.run(ask, env=token, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "4 trials, 0 failed" in log and re.search(r"validation 0\.\d+, test accuracy 0\.\d+", log)
    assert list(tmp_path.glob("tune_runs/*/asha")), "its results are where the job's variable says"


# A kernel that ran locally before, and what the cluster lacks -------------------


@pytest.mark.long
def test_kernel_that_ran_locally_joins(without_token: Running, tmp_path: Path) -> None:
    cells = f"""
run()
ray.shutdown()
os.environ["RAY_ADDRESS"] = "{without_token.address}"
run()
print("LEFT", [name for name in ("RAY_API_SERVER_ADDRESS", "GLOO_SOCKET_IFNAME") if name in os.environ])
"""
    shown = notebook(tmp_path, cells)
    assert shown.count("FOUND ") == 2 and f":{without_token.port}\n" in shown
    assert "LEFT []" in shown


def test_resource_that_the_cluster_lacks_is_named_in_time(without_token: Running, tmp_path: Path) -> None:
    cells = """
ray.init(**ray_options(num_cpus=2, resources={"camera": 1}))
start = time.monotonic()
try:
    require_resources([{"CPU": 2}, {"camera": 1}], wait_s=5)
except RuntimeError as error:
    print("SAYS", error)
print("SECONDS", time.monotonic() - start)
"""
    shown = notebook(tmp_path, cells, RAY_ADDRESS=without_token.address)
    assert "SAYS The cluster lacks camera: " in shown
    assert float(re.search(r"SECONDS (\S+)", shown)[1]) < 30


# Other ways to start the notebook ----------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(not Path(sys.executable).with_name("uv").exists(), reason="uv is not installed beside Python")
def test_under_uv_run(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("uv")),
        "run",
        "--no-project",
        "--offline",
        "--python",
        sys.executable,
    ]
    cells = "from helpers.session import ray_options\n" + NOTEBOOK + "run()"  # helpers before ray
    works = subprocess.run(
        [*command, "python", "-c", cells], env=environment(tmp_path), cwd=tmp_path, capture_output=True, timeout=150
    )
    assert works.returncode == 0 and b"FOUND " in works.stdout, works.stderr
    late = subprocess.run(
        [*command, "python", "-c", NOTEBOOK + "run()"], env=environment(tmp_path), cwd=tmp_path, capture_output=True
    )
    assert b"RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 uv run jupyter lab" in late.stderr, late.stderr


def test_kernel_that_was_started_elsewhere_finds_helpers_and_data(tmp_path: Path) -> None:
    source = "from helpers import data, session\nprint((data.fashion_mnist_root() / 'FashionMNIST').is_dir())"
    notebook = new_notebook(cells=[new_code_cell(source)])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[0].outputs[0].text == "True\n"


STOP = """
import signal, threading
threading.Timer({seconds}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    run()
    print("STARTED")
except KeyboardInterrupt:
    print("STOPPED")
for attempt in (1, 2):
    try:
        if ray.is_initialized():
            ray.shutdown()
        run()
        break
    except Exception:  # what the stopped start left behind can hold the dashboard's port for a moment
        if attempt == 2:
            raise
"""


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_stop_pressed_while_ray_starts(tmp_path: Path, seconds: float) -> None:
    shown = notebook(tmp_path, STOP.format(seconds=seconds))
    assert "FOUND " in shown.partition("STOPPED")[2], shown


# The first notebook, which starts Ray in the plain way ----------------------------


def cell_of(path: str, tag: str) -> str:
    cells = nbformat.read(REPOSITORY / "notebooks" / path, 4).cells
    return next(cell.source for cell in cells if tag in cell.metadata.get("tags", []))


FIRST = "00_start_here.ipynb"


def test_plain_start_and_the_exercises_of_00_on_workers_without_helpers(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "helpers"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("raise ImportError('this machine has no helpers')")
    first = cell_of(FIRST, "first-result")
    cells = f"{first}\nprint('FOUND', ray.get_runtime_context().gcs_address)\n{first}\n"  # a second time, too
    cells += "from helpers.exercises import start_here as check\n"
    for number in (1, 2):
        cells += cell_of(f"solutions/{FIRST}", f"solution-{number}")
        cells += f"\nprint('SAYS', {cell_of(FIRST, f'check-{number}')})\n"
    with cluster(PYTHONPATH=str(elsewhere.parent)) as running:
        shown = notebook(tmp_path, cells, RAY_ADDRESS=running.address)
    assert re.search(rf"FOUND \S+:{running.port}\n", shown), shown
    assert shown.count("SAYS right: ") == 2, shown
    assert "squaring 7" in shown
