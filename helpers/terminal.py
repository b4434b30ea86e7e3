"""Command lines, asked from a notebook: that of Ray about the cluster which the notebook uses, and py-spy."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
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


def stack_of(pid: int, calls: int = 8) -> str:
    """What the main thread of a Python process is doing just now, as `py-spy dump` sees it.

    Args:
        pid: number of the process, on this machine.
        calls: how many of its calls to show.

    Returns:
        A line for each call, the innermost first, with its file and line; or a sentence that says why there is none,
        because looking into other processes takes root on macOS, and on Linux where ptrace is restricted.

    Source: written for this course, on the command line of py-spy 0.4.
    """
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        return "  py-spy is not installed: it comes with ray[default]"
    command = [str(program), "dump", "--pid", str(pid)]
    plain = {**os.environ, "NO_COLOR": "1", "CLICOLOR": "0", "CLICOLOR_FORCE": "0"}  # Jupyter asks programs for colors
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=plain)
    lines = done.stdout.splitlines()
    threads = [number for number, line in enumerate(lines) if line.startswith("Thread ")]
    # A thread has a name only where `threading` has been imported; on Linux, the first one has the process's number.
    main = [number for number in threads if '"MainThread"' in lines[number] or f"Thread {pid} " in lines[number]]
    start = next(iter(main + threads), None)
    if done.returncode or start is None:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return f"  py-spy may not look into process {pid} here (it said: {said}); with sudo it may"
    frames = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
    return "\n".join(itertools.islice(frames, calls))


def time_of(pid: int, seconds: int = 3, lines: int = 3) -> str:
    """Where a Python process spends its time, as `py-spy record` samples it a hundred times a second.

    Args:
        pid: number of the process, on this machine.
        seconds: for how long to look.
        lines: how many places to show.

    Returns:
        The places with most samples, each with its share of those of all threads that were busy, and the function,
        the file and the line; or a sentence that says why there are none, as `stack_of` does.

    Source: written for this course, on the command line of py-spy 0.4.
    """
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        return "  py-spy is not installed: it comes with ray[default]"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stacks.txt"
        command = [str(program), "record", "--pid", str(pid), "--duration", str(seconds), "--format", "raw"]
        done = subprocess.run([*command, "--output", str(file)], capture_output=True, text=True, timeout=60 + seconds)
        if done.returncode or not file.exists():
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            return f"  py-spy may not look into process {pid} here (it said: {said}); with sudo it may"
        stacks = [line.rpartition(" ") for line in file.read_text().splitlines()]
    samples = Counter()
    for stack, _, count in stacks:
        samples[stack.rpartition(";")[2]] += int(count)
    total = sum(samples.values())
    return "\n".join(f"{count / total:4.0%}  {place}" for place, count in samples.most_common(lines))
