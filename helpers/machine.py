"""Is this machine ready for the course? And a block to paste when asking for help."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import sysconfig
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

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
    """Check what the course needs: Python, memory, disk, shared memory, compiler, ports.

    Returns:
        One Finding for each property, with what to do where it is not OK.
        Sizes are in GB (10**9 bytes).

    Source: the limits are those that the course's notebooks were measured with.
    """
    return MachineReport([_python(), _cores(), _memory(), _disk(), _shared_memory(), _compiler(), *_ports()])


def versions() -> str:
    """One line with the versions of what the course stands on."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if good else "use Python 3.11, 3.12 or 3.13: make a new environment with one of them"
    return Finding("Python", platform.python_version(), advice)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        "CPU cores", str(cores), "" if cores >= 2 else "the notebooks run, but nothing can overlap on 1 core"
    )


def _memory() -> Finding:
    free, total = psutil.virtual_memory().available / 1e9, psutil.virtual_memory().total / 1e9
    advice = "" if free >= 6 else "close programs until 6 GB are free; notebook 04 needs them"
    return Finding("memory", f"{free:.1f} of {total:.1f} GB free", advice)


def _disk() -> Finding:
    # Each Ray session writes logs here, and objects that do not fit into memory.
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp" if os.name == "posix" else "."))
    free = shutil.disk_usage(folder).free / 1e9
    advice = "" if free >= 5 else f"free 5 GB on the disk of {folder}, or set RAY_TMPDIR to a folder on a larger one"
    return Finding("disk for Ray", f"{free:.0f} GB free", advice)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", "no /dev/shm on this system", "")
    free = shutil.disk_usage(folder).free / 1e9
    advice = "" if free >= 2 else "Ray will use the disk, slowly; in a container add --shm-size=4g"
    return Finding("shared memory", f"{free:.1f} GB free", advice)


def _compiler() -> Finding:
    name = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
    if name and headers:
        return Finding("C++ compiler", Path(name).name)
    missing = "no compiler" if not name else "no Python headers"
    return Finding(
        "C++ compiler", missing, "needed by DeepSpeed in notebook 07 only: install g++ and the Python headers"
    )


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
                advice = (
                    "Ray takes another one by itself: use the address that it shows"
                    if port == 8265
                    else "stop the program that uses it before notebook 06"
                )
                findings.append(Finding(f"port {port}", f"taken, wanted by {use}", advice))
    return findings
