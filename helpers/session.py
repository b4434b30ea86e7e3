"""Settings for `ray.init` that keep a notebook quiet, private and free of clashes."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    import ray

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
