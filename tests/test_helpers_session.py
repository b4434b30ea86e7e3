"""The settings for ray.init: those of a new cluster, free of clashes, or those of a cluster that is there."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import grpc
import pytest
import ray
from ray.util import placement_group_table

import helpers
from helpers import session
from helpers.session import LOCAL_ENVIRONMENT, UV_SWITCH, ray_options

PACKAGE = str(Path(helpers.__file__).parent)
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home folder and none of the variables; afterwards everything is as before."""
    variables = (
        *LOCAL_ENVIRONMENT,
        *TOKEN_VARIABLES,
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_TMPDIR",
    )
    with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}), mock.patch.object(session, "_set_for_local", set()):
        for name in variables:
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
def test_new_cluster_says_what_ray_says(home: Path) -> None:
    options = ray_options(num_cpus=2)
    port = options["dashboard_port"]
    assert options == {"address": "local", "num_cpus": 2, "dashboard_port": port}
    assert {name: os.environ[name] for name in LOCAL_ENVIRONMENT} == LOCAL_ENVIRONMENT
    assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{port}"


@pytest.mark.fast
def test_settings_of_the_caller_win(home: Path) -> None:
    options = ray_options(log_to_driver=False, dashboard_port=1234, logging_level="ERROR")
    assert options == {"address": "local", "log_to_driver": False, "dashboard_port": 1234, "logging_level": "ERROR"}
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:1234"


@pytest.mark.fast
@pytest.mark.parametrize("name", [*LOCAL_ENVIRONMENT, "RAY_API_SERVER_ADDRESS"])
def test_variables_of_the_reader_are_respected(home: Path, name: str) -> None:
    os.environ[name] = "mine"
    ray_options()
    os.environ["RAY_ADDRESS"] = "auto"
    ray_options()
    assert os.environ[name] == "mine"


@pytest.mark.fast
def test_joining_takes_back_what_a_local_cluster_got(home: Path) -> None:
    before = dict(os.environ)
    ray_options()
    ray_options()  # a second local cluster
    os.environ["RAY_ADDRESS"] = "auto"
    ray_options()
    del os.environ["RAY_ADDRESS"]
    assert dict(os.environ) == before


@pytest.mark.fast
@pytest.mark.parametrize("mode", ["token", "disabled", None])
def test_mode_is_left_to_ray_and_the_reader(home: Path, mode: str | None) -> None:
    if mode:
        os.environ["RAY_AUTH_MODE"] = mode
    ray_options()
    os.environ["RAY_ADDRESS"] = "auto"
    ray_options()
    assert os.environ.get("RAY_AUTH_MODE") == mode


@pytest.mark.fast
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray's shared folder is always /tmp")
@pytest.mark.parametrize("theirs", ["ray", "ray_current_cluster", "_ray_lockfiles", None])
def test_second_user_of_a_machine_gets_a_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, theirs: str | None
) -> None:
    monkeypatch.setenv("TMPDIR", str(home))
    for name in ("ray", "_ray_lockfiles"):
        (home / name).mkdir()
    (home / "ray" / "ray_current_cluster").touch()
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name != theirs)  # root may write everywhere
    ray_options()
    ray_options()
    own = home / f"ray-{os.getuid()}"
    if theirs is None:
        assert "RAY_TMPDIR" not in os.environ and not own.exists()
        return
    assert os.environ["RAY_TMPDIR"] == str(own)
    assert mode(own) == 0o700
    os.environ["RAY_ADDRESS"] = "auto"
    ray_options()
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.fast
def test_folder_of_the_reader_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "mine")
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    ray_options()
    assert os.environ["RAY_TMPDIR"] == "mine"


@pytest.mark.fast
def test_nothing_private_of_ray_is_touched() -> None:
    source = Path(session.__file__).read_text()
    assert not re.search(r"_private|_raylet|addFilter", source)


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
    os.environ["RAY_ADDRESS"] = "auto"
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
        "address": "auto",
        "runtime_env": {"py_modules": [PACKAGE]},
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
@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://cluster.example"])
def test_address_of_a_dashboard_is_refused(home: Path, address: str) -> None:
    os.environ["RAY_ADDRESS"] = address
    with pytest.raises(ValueError, match="a dashboard's address.*ray://HOST:10001"):
        ray_options()


@pytest.mark.fast
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://localhost:{}"])
def test_address_at_which_nobody_answers(home: Path, form: str) -> None:
    address = form.format(session.free_port(0))
    with pytest.raises(ConnectionError, match=f"{address}.*nobody answers"):
        ray_options(address=address)


@pytest.mark.fast
def test_address_at_which_somebody_answers(home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_check_token", lambda address: None)  # tests/test_joining.py asks real clusters
    address = f"127.0.0.1:{taken_port}"
    assert ray_options(address=address)["address"] == address


class AsksForToken(grpc.GenericRpcHandler):
    """Stands for the first server of a cluster; tests/test_joining.py asks real ones."""

    def __init__(self, token: str) -> None:
        self.token = token

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        sent = dict(call.invocation_metadata).get("authorization")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.token and sent != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.fast
@pytest.mark.parametrize("form", ["{}", "ray://{}"])
@pytest.mark.parametrize(
    ("demanded", "variables", "in_file", "problem"),
    [
        ("", {}, "", ""),
        ("", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "other"}, "", ""),
        ("right", {}, "", "got none"),
        ("right", {}, "right", "got none"),  # without the mode, Ray does not send it
        ("right", {"RAY_AUTH_MODE": "token"}, "", "got none"),
        ("right", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "right", "did not accept"),
        ("right", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right"}, "wrong", ""),
        ("right", {"RAY_AUTH_MODE": "token"}, "right\n", ""),
    ],
)
def test_token_of_a_cluster(
    home: Path, form: str, demanded: str, variables: dict[str, str], in_file: str, problem: str
) -> None:
    os.environ.update(variables)
    if in_file:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(in_file)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[AsksForToken(demanded)])
    address = form.format(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    try:
        if not problem:
            assert ray_options(address=address)["address"] == address
            return
        with pytest.raises(PermissionError, match=f"{address} asks for a token, and {problem}.*RAY_AUTH_TOKEN"):
            ray_options(address=address)
    finally:
        server.stop(None)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("command", "stops"), [("uv run jupyter lab", True), ("uv pip", False), ("jupyter lab", False)]
)
def test_uv_run_is_told_from_other_parents(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str, stops: bool
) -> None:
    monkeypatch.delenv(UV_SWITCH, raising=False)
    parents = [
        mock.Mock(cmdline=lambda: ["python"]),
        mock.Mock(cmdline=lambda: ["/bin/" + command.split()[0], *command.split()[1:]]),
    ]
    monkeypatch.setattr(session.psutil, "Process", lambda: mock.Mock(parents=lambda: parents))
    if stops:
        with pytest.raises(RuntimeError, match=f"{UV_SWITCH}=0 uv run jupyter lab"):
            ray_options()
        monkeypatch.setenv(UV_SWITCH, "0")
    ray_options()


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


@pytest.mark.fast
def test_hidden_stderr_hides_what_is_written_past_python(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), session.hidden_stderr():
        os.write(2, b"hidden")
        raise KeyError
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_quiet_log_hides_errors_and_gives_the_level_back(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ray.data")
    before = logger.level
    with pytest.raises(KeyError), session.quiet_log("ray.data"):
        logging.getLogger("ray.data.below").critical("hidden")
        raise KeyError
    assert logger.level == before
    logging.getLogger("ray.data.below").error("seen")
    assert "hidden" not in caplog.text


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
