"""Settings for `ray.init`: a Ray of the notebook's own on this machine, or the cluster in RAY_ADDRESS."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from ray.util import placement_group, remove_placement_group

# For a cluster that this notebook starts, where the reader has not set them. Joining a cluster takes them back.
LOCAL_ENVIRONMENT = {
    # Training workers of one machine find each other without any network.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    # A worker that forgets to report ends in an error after five minutes, not never.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    # Nobody takes this machine away for another customer, so no process has to watch for that in each training run.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# What only a new cluster can be told.
ONLY_NEW = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory", "object_spilling_directory")
# `import ray` reads it; "0" lets workers use the environment that is there.
UV_SWITCH = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
_set_for_local: set[str] = set()


def ray_options(**settings: Any) -> dict[str, Any]:
    """Arguments for `ray.init`: a new cluster on this machine, or the one in RAY_ADDRESS.

    Without RAY_ADDRESS the result starts a new cluster. Only who has the token in `~/.ray/auth_token` can run code on
    it. The token is the protection: on Linux, Ray's processes listen on all networks of the machine.

    With RAY_ADDRESS (or the setting `address`) it joins that cluster, leaves out what only a new cluster can be told
    (num_cpus, num_gpus, resources, object_store_memory, ...), and sends this package along, so that workers on other
    machines can import it. What the cluster decides, such as whether it asks for a token, stays as it is.

    Args:
        **settings: further arguments of `ray.init`, such as num_cpus=2.

    Returns:
        A dict for `ray.init(**ray_options(...))`.

    Raises:
        ValueError: RAY_ADDRESS is the address of a dashboard.
        ConnectionError: nobody answers at that address.
        PermissionError: the cluster asks for a token that this notebook lacks, or somebody else owns the folder for
            Ray's temporary files.
        RuntimeError: the notebook runs under `uv run`, which Ray would misunderstand.

    Source: written for this course; the variables are those of Ray 2.60.
    """
    _check_uv_run()
    # They log a dozen lines for each dataset, sweep, or change of an application; warnings still appear.
    for library in ("data", "serve", "tune"):
        logging.getLogger(f"ray.{library}").setLevel(logging.WARNING)
    address = settings.pop("address", None) or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _check_address(address)
        _leave_local()
        kept = {k: v for k, v in settings.items() if k not in ONLY_NEW and not k.startswith("_")}
        runtime_env = dict(kept.get("runtime_env") or {})
        runtime_env["py_modules"] = [str(Path(__file__).parent), *runtime_env.get("py_modules", [])]
        return {"address": address, **kept, "runtime_env": runtime_env}
    token_for_its_owner()
    port = settings.get("dashboard_port") or free_port(8265)
    # Two notebooks at once on one machine: `ray.util.state` and Ray Train find the dashboard of *their* cluster here.
    _set_local({**LOCAL_ENVIRONMENT, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", **_own_folder()})
    return {"address": "local", "dashboard_port": port, **settings}


def require_resources(bundles: list[dict[str, float]], wait_s: float = 20) -> None:
    """Say within seconds what the cluster lacks, where Ray would wait for it without a word.

    Each bundle must fit on one node as a whole, as a task, an actor or a training worker must. What counts is what the
    nodes have, not what is free at the moment: Ray waits for what others still use. During the wait a placement group
    asks for the bundles, so that an autoscaler, if there is one, knows which nodes to add.

    Args:
        bundles: what is needed at the same time, such as [{"CPU": 1, "GPU": 1}] * 16.
        wait_s: how long to wait for nodes that are still joining.

    Raises:
        RuntimeError: Ray has not been started, or the nodes cannot hold the bundles.

    Source: written for this course, on ray.nodes and placement groups.
    """
    if not ray.is_initialized():
        raise RuntimeError("require_resources asks the cluster, but Ray has not been started: call ray.init first.")
    asked = [{name: amount for name, amount in bundle.items() if amount > 0} for bundle in bundles]
    asked = [bundle for bundle in asked if bundle]
    if _first_without_room(asked, _nodes()) is None:
        return
    print(f"waiting up to {wait_s:g} s for nodes with {_counted(asked)} ...", flush=True)
    demand = placement_group(asked)
    end = time.monotonic() + wait_s
    try:
        while True:
            nodes = _nodes()
            lacking = _first_without_room(asked, nodes)
            if lacking is None:
                return
            if time.monotonic() >= end:
                raise RuntimeError(_shortage(asked, lacking, nodes))
            time.sleep(0.5)
    finally:
        remove_placement_group(demand)


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hide what this process writes to stderr, also what C++ code writes past Python.

    Errors still reach the notebook as exceptions. Use it around one statement
    whose harmless notes are known.

    Source: written for this course.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def quiet_log(name: str) -> Iterator[None]:
    """Hide what a logger and those below it say through Python's logging; afterwards it says as much as before.

    Use it around one statement whose errors the notebook prints itself.

    Args:
        name: of the logger, such as "ray.data".

    Source: written for this course.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def free_port(preferred: int) -> int:
    """Return a port of 127.0.0.1 on which nobody listens: the preferred one, or any.

    Args:
        preferred: the port that readers expect, such as 8265 for Ray's dashboard.

    Raises:
        OSError: no port is free.

    Source: written for this course.
    """
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("No free port on 127.0.0.1: close a program that listens there and try again.")


def _nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _first_without_room(bundles: list[dict[str, float]], nodes: list[dict[str, float]]) -> dict[str, float] | None:
    """Lay bundles onto nodes, the demanding ones first, and return the first that finds no room; None if all do."""
    left = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda bundle: (len(bundle), sum(bundle.values())), reverse=True):
        fitting = [node for node in left if all(node.get(name, 0) >= amount for name, amount in bundle.items())]
        if not fitting:
            return bundle
        node = min(fitting, key=len)  # what needs no GPU goes to a node without one, if there is one
        for name, amount in bundle.items():
            node[name] -= amount
    return None


def _shortage(bundles: list[dict[str, float]], lacking: dict[str, float], nodes: list[dict[str, float]]) -> str:
    """The message of require_resources: what is missing, what was asked for, what the cluster has, what to do."""
    asked, there = _sum(bundles), _sum(nodes)
    missing = [name for name in asked if asked[name] > there.get(name, 0)]
    what = " and ".join(missing) if missing else f"a node with room for {_amounts(lacking)} at once"
    have = [{name: node.get(name, 0) for name in asked} for node in nodes]
    made_up = {name: asked[name] for name in missing if name not in ("CPU", "GPU", "memory", "object_store_memory")}
    option = f" --resources='{json.dumps(made_up)}'" if made_up else ""
    return (
        f"The cluster lacks {what}: this notebook asks for {_counted(bundles)}, each on one node, and its nodes have "
        f"{_counted(have)}. Ask for less, or add a node (on another machine: `ray start "
        f"--address=HEAD:PORT{option}`); if an autoscaler adds nodes, give it time: "
        "require_resources(..., wait_s=600)."
    )


def _sum(bundles: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            total[name] = total.get(name, 0) + amount
    return total


def _counted(bundles: list[dict[str, float]]) -> str:
    """For example '2 × (1 CPU + 1 GPU) and 1 × (4 CPU)': equal ones are counted."""
    counts = Counter(_amounts(bundle) for bundle in bundles)
    return " and ".join(f"{count} × ({text})" for text, count in counts.items())


def _amounts(resources: dict[str, float]) -> str:
    """For example '1 CPU + 1 GPU'; bytes in GB."""
    parts = [
        f"{amount / 1e9:.1f} GB of {name}" if name.endswith("memory") else f"{amount:g} {name}"
        for name, amount in resources.items()
    ]
    return " + ".join(parts)


def token_for_its_owner() -> None:
    """Make sure that the token file exists and that only its owner can read it; Ray would leave that to the umask."""
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


def _set_local(variables: dict[str, str]) -> None:
    """Set variables for a local cluster, and remember which ones to take back when a cluster is joined."""
    for name, value in variables.items():
        if name not in os.environ or name in _set_for_local:
            os.environ[name] = value
            _set_for_local.add(name)


def _own_folder() -> dict[str, str]:
    """RAY_TMPDIR with a folder of this user, where another user has files in the shared one that only they may write.

    Its path is short, because Ray keeps sockets in it, whose paths may have 107 bytes at most.
    """
    if os.name != "posix" or ("RAY_TMPDIR" in os.environ and "RAY_TMPDIR" not in _set_for_local):
        return {}
    shared = Path(os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp")
    used = (shared / "ray", shared / "ray" / "ray_current_cluster", shared / "_ray_lockfiles")
    if all(os.access(path, os.W_OK) for path in used if path.exists()):
        return {}
    own = shared / f"ray-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise PermissionError(f"{own} belongs to somebody else: set RAY_TMPDIR to a folder of yours with a short path.")
    return {"RAY_TMPDIR": str(own)}


def _leave_local() -> None:
    """Take back what was set for a local cluster."""
    for name in _set_for_local:
        os.environ.pop(name, None)
    _set_for_local.clear()


def _check_uv_run() -> None:
    """Say how to start under `uv run`; otherwise Ray stops with 'pyproject.toml is not in the working_dir'.

    Ray would start its workers with `uv run`, too, from a copy of the current folder. The workers of this course use
    the environment that is there; the switch is read by `import ray`, so it must be set before that.

    Source: the switch is documented with Ray's support of uv.
    """
    if os.environ.get(UV_SWITCH) is not None:
        return
    for parent in psutil.Process().parents():
        try:
            command = parent.cmdline()[:2]
        except psutil.Error:
            continue
        if len(command) == 2 and (Path(command[0]).name, command[1]) == ("uv", "run"):
            raise RuntimeError(
                f"This notebook was started by `uv run`, whose environment Ray would build anew for each worker. End "
                f"Jupyter and start it again as `{UV_SWITCH}=0 uv run jupyter lab`."
            )


def _check_address(address: str) -> None:
    """Refuse an address that cannot work, in a sentence, before Ray waits for an answer."""
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"RAY_ADDRESS is {address!r}, a dashboard's address, which only `ray job submit` can use. A notebook joins "
            "a cluster with 'HOST:PORT' (the port is 6379 unless `ray start` was told another one) from one of its "
            "machines, or with 'ray://HOST:10001' from outside."
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # "auto", or a form that Ray itself judges
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"RAY_ADDRESS is {address!r}, but nobody answers there ({error}). Is the cluster running, and can this "
            "machine reach it? Without RAY_ADDRESS the notebook starts a Ray of its own."
        ) from None
    _check_token(address)


def _check_token(address: str) -> None:
    """Say where the token goes if the cluster asks for one; `ray.init` would only say that it cannot connect.

    Whatever else the cluster answers is left to `ray.init`.
    """
    token = _token_of_the_reader() if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    # The question with which every driver begins, and that of every Ray Client.
    question = "RayletDriver/ClusterInfo" if address.startswith("ray://") else "NodeInfoGcsService/GetClusterId"
    with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
        ask = channel.unary_unary(f"/ray.rpc.{question}")
        try:
            ask(b"", metadata=[("authorization", f"Bearer {token}")] if token else None, timeout=5)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                return
            what = "did not accept the one that was sent" if token else "got none"
            raise PermissionError(
                f"The cluster at {address} asks for a token, and {what}. Write the cluster's token into "
                "~/.ray/auth_token or RAY_AUTH_TOKEN, set RAY_AUTH_MODE=token, and start Jupyter again: Ray reads them "
                "only once."
            ) from None


def _token_of_the_reader() -> str:
    """The token that Ray would send; empty if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else ""
