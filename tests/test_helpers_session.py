"""The settings for ray.init: quiet, private, free of clashes, or those of a cluster that is there."""

from __future__ import annotations

import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import pytest
import ray
from ray.util import placement_group_table

import helpers
from helpers import session
from helpers.session import ENVIRONMENT, ray_options

PACKAGE = str(Path(helpers.__file__).parent)
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home folder and none of the variables; afterwards everything is as before."""
    with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}):
        for name in (*ENVIRONMENT, *TOKEN_VARIABLES, "RAY_ADDRESS", "GLOO_SOCKET_IFNAME", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        yield tmp_path


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.fast
def test_new_cluster_is_private_and_quiet(home: Path) -> None:
    options = ray_options(num_cpus=2)
    assert options["address"] == "local"
    assert options["num_cpus"] == 2
    assert options["log_to_driver"] is False
    assert options["logging_level"] == logging.ERROR
    assert "runtime_env" not in options
    assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{options['dashboard_port']}"


@pytest.mark.fast
def test_settings_of_the_caller_win(home: Path) -> None:
    options = ray_options(log_to_driver=True, dashboard_port=1234, logging_level=logging.INFO)
    assert (options["log_to_driver"], options["dashboard_port"]) == (True, 1234)
    assert options["logging_level"] == logging.INFO


@pytest.mark.fast
@pytest.mark.parametrize("name", ENVIRONMENT)
def test_variables_of_the_reader_are_respected(home: Path, name: str) -> None:
    other = "disabled" if name == "RAY_AUTH_MODE" else "1"
    os.environ[name] = other
    ray_options()
    assert os.environ[name] == other


@pytest.mark.fast
def test_token_is_made_once_and_only_for_its_owner(home: Path) -> None:
    ray_options()
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) == 64
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    ray_options()
    assert path.read_text() == token


@pytest.mark.fast
def test_existing_token_is_kept_and_closed_to_others(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("mine")
    path.chmod(0o644)
    ray_options()
    assert (path.read_text(), mode(path)) == ("mine", 0o600)


@pytest.mark.fast
@pytest.mark.parametrize("name", TOKEN_VARIABLES)
def test_token_of_the_reader_is_used(home: Path, name: str) -> None:
    os.environ[name] = "given"
    ray_options()
    assert not (home / ".ray").exists()


@pytest.mark.fast
def test_no_token_without_authentication(home: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray_options()
    assert not (home / ".ray").exists()


@pytest.mark.fast
def test_existing_cluster_is_joined(home: Path) -> None:
    os.environ["RAY_ADDRESS"] = "ray://head:10001"
    options = ray_options(
        num_cpus=2,
        num_gpus=0,
        resources={"disk": 1},
        object_store_memory=10**8,
        object_spilling_directory="x",
        _system_config={},
        namespace="course",
    )
    assert options == {
        "address": "ray://head:10001",
        "runtime_env": {"py_modules": [PACKAGE]},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "course",
    }
    assert not (home / ".ray").exists()
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


@pytest.mark.fast
def test_package_travels_with_a_runtime_env_of_the_caller(home: Path) -> None:
    os.environ["RAY_ADDRESS"] = "auto"
    options = ray_options(runtime_env={"env_vars": {"A": "1"}, "py_modules": ["mine"]})
    assert options["runtime_env"] == {"env_vars": {"A": "1"}, "py_modules": [PACKAGE, "mine"]}


@pytest.mark.fast
@pytest.mark.parametrize("address", ["", "local"])
def test_no_cluster_to_join(home: Path, address: str) -> None:
    os.environ["RAY_ADDRESS"] = address
    assert ray_options(num_cpus=2)["num_cpus"] == 2


@pytest.mark.fast
def test_another_port_for_a_taken_one(taken_port: int) -> None:
    found = session.free_port(taken_port)
    assert found != taken_port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", found))


@pytest.mark.fast
def test_free_port_is_kept(taken_port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
    assert session.free_port(free) == free


JOIN = """
import ray
from ray.util import placement_group_table
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=2))

@ray.remote(num_cpus=0)
def where() -> str:
    import helpers
    return helpers.__file__

print("FOUND", ray.get(where.remote()))
ray.shutdown()
"""


def test_workers_of_an_existing_cluster_get_the_package(ray_session: None, tmp_path: Path) -> None:
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        [sys.executable, "-c", JOIN], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.partition("FOUND ")[2].strip()
    assert found and not found.startswith(PACKAGE), "the worker imported the files of this folder, not those sent to it"


def test_ray_listens_on_loopback_only(ray_session: None) -> None:
    import psutil
    import ray

    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    listening = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a worker of an earlier Ray may be ending
            name, connections = process.name(), process.net_connections(kind="tcp")
            listening |= {(name, *c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}
    names = {name for name, *_ in listening}
    assert {"raylet", "gcs_server"} <= names, f"these processes must listen, but found {names}"
    assert not [entry for entry in listening if not is_loopback(entry[1])]


def is_loopback(address: str) -> bool:
    """Also of ::ffff:127.0.0.1, the IPv6 way of writing the IPv4 address."""
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.mark.fast
def test_loopback_is_told_from_other_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.7", "::ffff:10.0.0.7")))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Task busy failed. There are 3 retries remaining, so the task will be retried. Error: User exception:\n"
            '  File "/somewhere/cell.py", line 5, in busy',
            "Ray: Task busy failed. There are 3 retries remaining, so the task will be retried.\n",
        ),
        (
            "A worker died or was killed while executing a task by an unexpected system error. Lease ID: "
            "0d0000003a5097bc82b4919b37b8c62036b3fe8ff6894f64903c7d62 Worker PID: 14006",
            "Ray: A worker died or was killed while executing a task by an unexpected system error.\n",
        ),
        (
            "The node with node id: 0d0c9d79662c0ee05325d361b7deceae2f4e4f271164e4d24fd8fc72 and address: 127.0.0.1 "
            "and node name: 127.0.0.1 has been marked dead. This can happen when a \t(1) raylet crashes",
            "Ray: The node with node id: ... and address: 127.0.0.1 and node name: 127.0.0.1 has been marked dead.\n",
        ),
    ],
)
def test_messages_of_ray_are_short(
    message: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    session._short_messages()
    worker.print_to_stdstream({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr().out == shown


@pytest.mark.fast
def test_hidden_stderr_hides_what_is_written_past_python(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), session.hidden_stderr():
        os.write(2, b"hidden")
        raise KeyError
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


@pytest.mark.parametrize(("free_cpus", "shown"), [([0.0, 2.0], False), ([0.0], True)])
def test_warning_that_no_cpu_is_free_is_kept_only_if_it_lasts(
    monkeypatch: pytest.MonkeyPatch, free_cpus: list[float], shown: bool
) -> None:
    answers = iter(free_cpus)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": next(answers, free_cpus[-1])})
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    text = "Warning: The Ray cluster currently does not have any available CPUs. The Dataset job will hang"
    record = logging.LogRecord("ray.data.dataset", logging.WARNING, "dataset.py", 1, text, None, None)
    assert session._only_lasting_shortage(record) is shown
    record.msg = "another warning"
    assert session._only_lasting_shortage(record)


def test_resources_that_are_there_are_accepted_at_once(ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    session.require_resources([{"CPU": 1, "GPU": 0}] * 2 + [{}])
    assert capsys.readouterr().out == ""


def test_resources_that_are_missing_are_named(ray_session: None) -> None:
    bundles = [{"CPU": 1, "GPU": 1}] * 2 + [{"camera": 1}]
    with pytest.raises(RuntimeError, match="lacks GPU and camera: ") as raised:
        session.require_resources(bundles, wait_s=0.1)
    message = str(raised.value)
    assert "asks for 2 × (1 CPU + 1 GPU) and 1 × (1 camera)" in message
    assert "nodes have 1 × (2 CPU + 0 GPU + 0 camera)" in message
    assert """--resources='{"camera": 1}'""" in message and "wait_s=600" in message
    assert not [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def nodes_with(*resources: dict[str, float]) -> list[dict[str, object]]:
    return [{"Alive": True, "Resources": own} for own in resources]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("nodes", "bundles", "lacking"),
    [
        ([{"CPU": 1}, {"CPU": 1}], [{"CPU": 2}], "a node with room for 2 CPU at once"),
        ([{"CPU": 3}, {"CPU": 3}], [{"CPU": 2}] * 3, "a node with room for 2 CPU at once"),
        ([{"CPU": 1, "GPU": 1}, {"CPU": 1}], [{"CPU": 1}, {"CPU": 1, "GPU": 1}], ""),  # only one way fits
        ([{"CPU": 1}, {"GPU": 1}], [{"CPU": 1, "GPU": 1}], "a node with room for 1 CPU + 1 GPU at once"),
        ([{"CPU": 2, "memory": 4e9}], [{"memory": 6e9}], "memory"),
        ([{"CPU": 2}], [{"GPU": 0.5}] * 2, "GPU"),
        ([{"GPU": 1}], [{"GPU": 0.5}] * 2, ""),
        ([], [{"CPU": 1}], "CPU"),
    ],
)
def test_bundles_are_laid_onto_nodes_whole(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    bundles: list[dict[str, float]],
    lacking: str,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    dead = {"Alive": False, "Resources": {"CPU": 64, "GPU": 8, "memory": 1e12}}
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *nodes_with(*nodes)])
    monkeypatch.setattr(session, "placement_group", lambda bundles: None)
    monkeypatch.setattr(session, "remove_placement_group", lambda group: None)
    if not lacking:
        session.require_resources(bundles, wait_s=0)
        return
    with pytest.raises(RuntimeError) as raised:
        session.require_resources(bundles, wait_s=0)
    assert str(raised.value).startswith(f"The cluster lacks {lacking}: ")


@pytest.mark.fast
def test_a_node_that_joins_meanwhile_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([[{"CPU": 2}], [{"CPU": 2}], [{"CPU": 2}, {"CPU": 2, "GPU": 1}]])
    removed = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes_with(*next(states)))
    monkeypatch.setattr(session, "placement_group", lambda bundles: bundles)
    monkeypatch.setattr(session, "remove_placement_group", removed.append)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    session.require_resources([{"GPU": 1}], wait_s=60)
    assert removed == [[{"GPU": 1}]]


@pytest.mark.fast
def test_resources_are_asked_for_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="call ray.init first"):
        session.require_resources([{"CPU": 1}])
