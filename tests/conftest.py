"""Fixtures of all tests. Tests write into tmp_path only, never into the repository or the home folder."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

# Before any test imports pyplot, which reads it once.
os.environ.setdefault("MPLBACKEND", "agg")

import pytest


def of_auth() -> dict[str, str]:
    """The environment variables about Ray's token, which a process reads only once."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}


# The same for all modules, because a process reads its token only once.
TOKEN = secrets.token_hex(32)
AUTH_BEFORE = of_auth()


def pytest_collection_finish() -> None:
    """A module that sets one of them when it is imported fails the tests of others, once these have imported Ray."""
    if of_auth() != AUTH_BEFORE:
        raise pytest.UsageError(f"importing the tests changed {AUTH_BEFORE} to {of_auth()} for all of them")


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """One Ray for all tests of a module that need one: a start takes 5 to 15 seconds.

    It ends with the module's last test, and with it the variables that
    ray_options sets: `make test` runs the notebooks after the tests in the same
    pytest, and they must find neither. One Ray for all modules would save a
    minute, but a process that had used it for twenty minutes no longer heard
    from Ray 2.60 that its new actors were alive, and waited for them forever.
    """
    import ray

    from helpers.nodes import TOO_SLOW
    from helpers.session import ray_options

    # A token of its own, or the first run would leave one in the home folder. Ray lets its workers stand back behind
    # all other programs (niceness 15), so beside two busy ones they would get a thirtieth of the machine; and Serve
    # gives its proxy 5 seconds to come up, and ends it after that.
    own = {"RAY_AUTH_TOKEN": TOKEN, "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    own["RAY_worker_niceness"] = "0"
    with mock.patch.dict(os.environ, own):
        os.environ.pop("RAY_ADDRESS", None)
        try:
            ray.init(**ray_options(num_cpus=2))
        except Exception as error:  # Ray raises a plain Exception when a busy machine takes more than its 30 seconds
            if TOO_SLOW not in str(error):
                raise
            ray.init(**ray_options(num_cpus=2))
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def serve_port(ray_session: None) -> Iterator[int]:
    """One Ray Serve for all tests of a module that need one; returns its HTTP port on 127.0.0.1."""
    import ray
    from ray import serve

    from helpers.session import free_port

    port = free_port(8000)

    def start() -> None:
        quiet = {"enable_access_log": False, "log_level": "ERROR"}
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)

    once_more(start, serve.shutdown, ray.exceptions.RayActorError, TimeoutError)
    yield port
    serve.shutdown()


def once_more(start: Callable[[], None], clean_up: Callable[[], None], *errors: type[Exception]) -> None:
    """Start something; after one of these errors, which a busy machine can bring, clean up and start it again."""
    try:
        start()
    except errors as error:
        print(f"once more, after {type(error).__name__}: {error}")
        clean_up()
        start()


def run_patiently(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that starts Ray; once more if the machine was too busy for Ray's own 30 seconds."""
    from helpers.nodes import TOO_SLOW

    done = subprocess.run(command, capture_output=True, text=True, **how)
    if done.returncode != 0 and TOO_SLOW in done.stderr:
        done = subprocess.run(command, capture_output=True, text=True, **how)
    return done
