"""Ray's command line, asked from a notebook about the cluster that the notebook uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ray


def ray_command(*arguments: str, timeout: float = 120) -> str:
    """Run a command such as `ray memory --stats-only` as a terminal would, about this notebook's cluster.

    A terminal finds the cluster by itself where there is only one. Here the address is passed on, so that two
    notebooks on one machine don't ask each other's cluster.

    Args:
        *arguments: what follows `ray`, for example "memory", "--stats-only". The command must know `--address`.
        timeout: seconds after which the command is given up.

    Returns:
        What the command printed, without empty lines at its ends.

    Raises:
        RuntimeError: Ray has not been started, or the command failed; the message holds what it said.
        subprocess.TimeoutExpired: the command did not end in time.

    Source: written for this course, on the public command line of Ray 2.60.
    """
    if not ray.is_initialized():
        raise RuntimeError("ray_command asks the cluster, but Ray has not been started: call ray.init first.")
    program = Path(sys.executable).with_name("ray")
    address = ray.get_runtime_context().gcs_address
    command = [str(program), *arguments, "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"`ray {' '.join(arguments)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
