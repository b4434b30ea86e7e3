"""Is this machine ready for the course, and which processes does Ray run on it?"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import pandas as pd

CGROUP = Path("/sys/fs/cgroup")
# Less than this is what a machine gives and takes all the time.
SETTLED_BYTES = 20e6
# The share of a disk, in use, from which on Ray 2.60 writes no objects to it.
RAY_DISK_LIMIT = "0.95"
# What stands in the command line of Ray's processes, and what they are; the first that fits counts.
RAY_PARTS = {
    "gcs_server": "GCS: knows the cluster",
    "DashboardAgent": "dashboard agent: reports on this node",
    "RuntimeEnvAgent": "runtime environment agent: prepares workers",
    "dashboard.py": "dashboard: the web page",
    "ray-dashboard": "dashboard: the web page",
    "log_monitor": "log monitor: brings prints to the driver",
    "monitor.py": "autoscaler: asks for nodes",
    "ray::": "worker: runs tasks and actors",
    "default_worker.py": "worker: runs tasks and actors",
    "raylet": "raylet: schedules, holds the object store",
}
PACKAGES = ("ray", "torch", "torchvision", "transformers", "datasets", "deepspeed", "jupyterlab")


@dataclass(frozen=True)
class Finding:
    """One checked property of the machine; `advice` is empty when it is OK."""

    what: str
    found: str
    advice: str = ""


class MachineReport(list[Finding]):
    """The findings, shown as a table in a notebook and as plain text elsewhere."""

    @property
    def ok(self) -> bool:
        return not any(finding.advice for finding in self)

    def __repr__(self) -> str:
        width = max(len(f.what) for f in self)
        return "\n".join(f"{f.what.ljust(width)}  {f.found:<34} {f.advice or 'OK'}" for f in self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(f.what)}</th><td>{escape(f.found)}</td><td>{escape(f.advice or 'OK')}</td></tr>"
            for f in self
        )
        head = "<tr><th>checked</th><th>found</th><th>OK, or what to do</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def check_machine() -> MachineReport:
    """Check what the course needs: Python, memory, disk, shared memory, number format, ports.

    Returns:
        One Finding for each property, with what to do where it is not OK.
        Sizes are in GB (10**9 bytes).

    Source: the limits are those that the course's notebooks were measured with.
    """
    return MachineReport([_python(), _cores(), _memory(), _disk(), _shared_memory(), _number_format(), *_ports()])


def versions() -> str:
    """One line with the versions of what the course stands on."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def ray_processes() -> pd.DataFrame:
    """The processes of the Ray that this process has started, by what they are for.

    Memory that several processes share is counted once where the system tells it (Linux); elsewhere each of them
    counts it again.

    Returns:
        One row for each part of Ray: "processes" (their number) and "MB" (10**6 bytes, together), the largest first.
        It has no rows if Ray runs on other machines, or does not run.

    Source: names of the processes as Ray 2.60 starts them; memory is psutil's proportional set size.
    """
    import pandas as pd  # takes a second, which `from helpers.machine import versions` should not cost

    kinds: dict[int, str] = {}
    rows = []
    for process in psutil.Process().children(recursive=True):  # parents come before their children
        try:
            # What a part of Ray starts without a name of its own belongs to that part.
            kind = _ray_part([process.name(), *process.cmdline()]) or kinds.get(process.ppid(), "")
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended meanwhile, or is not ours
            continue
        if kind:
            kinds[process.pid] = kind
            rows.append({"part": kind, "processes": 1, "MB": getattr(memory, "pss", memory.rss) / 1e6})
    table = pd.DataFrame(rows, columns=["part", "processes", "MB"]).groupby("part").sum()
    return table.sort_values("MB", ascending=False).round().astype(int)


def _ray_part(command: list[str]) -> str:
    """What a process of Ray is for, from its name and command line; empty for any other process."""
    line = " ".join(word for word in command if not word.startswith("--"))
    return next((meaning for name, meaning in RAY_PARTS.items() if name in line), "")


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if good else "use Python 3.11, 3.12 or 3.13: make a new environment with one of them"
    return Finding("Python", platform.python_version(), advice)


def _cores() -> Finding:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    limit = _cgroup_cores()
    if limit is None or limit >= cores:
        advice = "" if cores >= 2 else "the notebooks run, but nothing can overlap on 1 core"
        return Finding("CPU cores", f"{cores:g}", advice)
    advice = (
        "" if limit >= 2 else "the notebooks run, but hardly anything can overlap: start the container with --cpus=2"
    )
    return Finding("CPU cores", f"{limit:g} of {cores:g}, the container's limit", advice)


def _memory() -> Finding:
    used, total = used_and_total_memory()
    free = min(total - used, psutil.virtual_memory().available) / 1e9
    found = f"{free:.1f} of {total / 1e9:.1f} GB free"
    limited = _cgroup_memory() is not None and total < psutil.virtual_memory().total
    more = "start the container with --memory=8g" if limited else "close programs until 6 GB are free"
    return Finding(
        "memory",
        f"{found}, the container's limit" if limited else found,
        "" if free >= 6 else f"{more}; notebook 04 needs 6 GB, 07 needs 8",
    )


def used_and_total_memory(settle_s: float = 0.0) -> tuple[float, float]:
    """The memory in use and the memory that there is, as Ray counts them to decide when memory runs out.

    In a container with a limit these are the container's numbers, otherwise the machine's.

    Args:
        settle_s: for how many seconds at most to wait for processes that are just ending, until the memory in use has
            not fallen for two seconds.

    Returns:
        Two numbers in bytes; what is cached from files counts as free.

    Source: the files are those that Ray 2.60 reads.
    """
    used, total = _used_and_total()
    end, quiet = time.monotonic() + settle_s, 0
    while quiet < 4 and time.monotonic() < end:
        time.sleep(0.5)
        now, total = _used_and_total()
        quiet = 0 if now < used - SETTLED_BYTES else quiet + 1
        used = min(used, now)
    return used, total


def _used_and_total() -> tuple[float, float]:
    machine = psutil.virtual_memory()
    container = _cgroup_memory()
    if container is None or container[1] >= machine.total:
        return machine.total - machine.available, machine.total
    return container


def _cgroup_memory() -> tuple[int, int] | None:
    """Memory in use and the limit, in bytes, of the control group (container) that this process runs in."""
    version_1 = CGROUP / "memory"
    if (version_1 / "memory.limit_in_bytes").exists():
        limit, used = version_1 / "memory.limit_in_bytes", version_1 / "memory.usage_in_bytes"
        statistics, prefix = version_1 / "memory.stat", "total_"
    else:
        limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
        statistics, prefix = CGROUP / "memory.stat", ""
    try:
        rows = dict(line.split() for line in statistics.read_text().splitlines())
        cached = int(rows[f"{prefix}inactive_file"]) + int(rows[f"{prefix}active_file"])
        return int(used.read_text()) - cached, int(limit.read_text())
    except (OSError, ValueError, KeyError):  # no such files, or the limit is the word "max": there is none
        return None


def _cgroup_cores() -> float | None:
    """How many cores' worth of time the container may use; None without a limit."""
    version_1 = CGROUP / "cpu"
    try:
        if (version_1 / "cpu.cfs_quota_us").exists():
            quota = int((version_1 / "cpu.cfs_quota_us").read_text())
            period = int((version_1 / "cpu.cfs_period_us").read_text())
        else:
            quota, period = map(int, (CGROUP / "cpu.max").read_text().split())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


def _disk() -> Finding:
    # Each Ray session writes logs here, and objects that do not fit into memory.
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp" if os.name == "posix" else "."))
    disk = shutil.disk_usage(folder)
    full = 1 - disk.free / disk.total
    limit = float(os.environ.get("RAY_local_fs_capacity_threshold", RAY_DISK_LIMIT))
    elsewhere = "or set RAY_TMPDIR to a folder with a short path on another disk"
    advice = ""
    if full >= limit:
        advice = (
            f"Ray stores no objects on a disk that is {limit:.0%} full, and notebook 02 does not end: free some of the "
            f"disk of {folder}, {elsewhere}, or set RAY_local_fs_capacity_threshold=0.99"
        )
    elif disk.free < 5e9:
        advice = f"free 5 GB on the disk of {folder}, {elsewhere}"
    return Finding("disk for Ray", f"{disk.free / 1e9:.0f} GB free, {full:.0%} full", advice)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "no /dev/shm on this system", "")
    free = shutil.disk_usage(folder).free / 1e9
    advice = "" if free >= 2 else "Ray will use the disk, slowly; in a container add --shm-size=4g"
    return Finding("shared memory", f"{free:.1f} GB free", advice)


def _number_format() -> Finding:
    # Here, because importing torch takes seconds, which `from helpers.machine import versions` should not cost.
    from helpers.precision import cpu_speedup_of_bf16, cpu_supports_bf16

    faster = cpu_speedup_of_bf16()
    if cpu_supports_bf16():
        meaning = f"bfloat16: {faster:.1f} times as fast as float32 here; notebooks with language models use it"
    else:
        meaning = "float32: this processor has no fast bfloat16; 04 and 07 take about 1.4 times as long"
    return Finding("number format", meaning)


def _ports() -> list[Finding]:
    uses = {8265: "the Ray dashboard", 8000: "Ray Serve"}
    findings = []
    for port, use in uses.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                findings.append(Finding(f"port {port}", f"free for {use}"))
            except OSError:
                if port == 8265:  # often by the Ray of this very notebook
                    findings.append(Finding(f"port {port}", "in use, perhaps by your Ray; a second one takes another"))
                    continue
                advice = "stop the program that uses it before notebook 06"
                findings.append(Finding(f"port {port}", f"taken, wanted by {use}", advice))
    return findings
