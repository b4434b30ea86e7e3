"""Settings for `ray.init` that keep a notebook quiet, private and free of clashes."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group

# Each is set only where the reader has not set it. Why each of them is here:
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # only holders of the token may run code on this cluster
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning about num_gpus=0
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a print in a training worker appears once, not twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # otherwise an internal message at level ERROR
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",  # a worker that forgets to report ends in an error
}


def ray_options(**settings: Any) -> dict[str, Any]:
    """Arguments for `ray.init`: a private local cluster, or the one in RAY_ADDRESS.

    Without RAY_ADDRESS the result starts a new cluster that listens on this
    machine only, whose token is readable by its owner only. With RAY_ADDRESS
    (or the setting `address`) it joins that cluster, leaves out what only a new cluster can be told
    (num_cpus, num_gpus, resources, object_store_memory and private settings), and
    sends this package along, so that workers on other machines can import it.

    Args:
        **settings: further arguments of `ray.init`, such as num_cpus=2.

    Returns:
        A dict for `ray.init(**ray_options(...))`.

    Source: the variables are those of Ray 2.60.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _refresh_ray_config()
    # Its executor logs a dozen lines for each dataset; warnings still appear.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data.dataset").addFilter(_only_lasting_shortage)
    # It logs each start and each change of an application.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    _short_messages()
    address = settings.pop("address", None) or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        only_new = ("num_cpus", "num_gpus", "resources", "object_store_memory", "object_spilling_directory")
        kept = {k: v for k, v in settings.items() if k not in only_new and not k.startswith("_")}
        wished = kept.pop("runtime_env", None) or {}
        modules = [str(Path(__file__).parent), *wished.get("py_modules", [])]
        return {"address": address, "runtime_env": {**wished, "py_modules": modules}, **quiet, **kept}
    if os.environ["RAY_AUTH_MODE"] == "token":
        _private_token()
    _loopback_only()
    port = free_port(8265)
    # Ray Train looks for the dashboard of *its* cluster here. Without it, two
    # notebooks running at once on one machine find each other's.
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return {"address": "local", "dashboard_port": port, **quiet, **settings}


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


def _loopback_only() -> None:
    """Let the new cluster listen on 127.0.0.1 and nowhere else.

    Nobody else can reach it then, and it also starts on a machine without any
    network. Ray does so by itself on macOS and Windows; on Linux this switch,
    whose name does not say it, has the same effect.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "ray" in sys.modules:
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = False


def _only_lasting_shortage(record: logging.LogRecord) -> bool:
    """Keep Ray Data's warning that no CPU is free only if that still holds two seconds later.

    Right after another dataset has ended, Ray has not yet heard that its CPUs are free again.
    """
    if "does not have any available CPUs" not in record.getMessage():
        return True
    for _ in range(20):
        if ray.available_resources().get("CPU"):
            return False
        time.sleep(0.1)
    return True


def _refresh_ray_config() -> None:
    """Let an already imported Ray read the variables again.

    `import ray` reads them once. Without this, a notebook that imports Ray
    first would start a cluster that demands a token, and not send one itself.
    """
    if "ray" in sys.modules and not sys.modules["ray"].is_initialized():
        from ray._raylet import Config

        Config.initialize("")


def _short_messages() -> None:
    """Let Ray's messages about failed tasks and workers keep to their first sentences.

    They go on with process numbers, hexadecimal names and paths of this machine.
    """
    from ray._private import worker

    original = getattr(worker, "print_to_stdstream", None)

    def show(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        if data.get("pid") != "raylet":  # what workers print, if log_to_driver is on
            original(data, ignore_prefix=ignore_prefix)
            return
        for line in filter(str.strip, data["lines"]):
            if "ServeController." in line:  # calls that serve.shutdown() cuts off
                continue
            first, *more = re.split(r"(?<=[.!])\s", line.strip().splitlines()[0])
            short = " ".join([first, *more[:1]]) if len(first) < 60 else first
            print("Ray:", re.sub(r"[0-9a-f]{20,}", "...", short))

    if original is not None and original.__name__ != "show":
        worker.print_to_stdstream = show


def _private_token() -> None:
    """Make sure that the token file exists and that only its owner can read it."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
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
