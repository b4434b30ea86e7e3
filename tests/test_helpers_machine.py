"""The machine check: each property is found, and what is not OK comes with advice."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import machine, precision
from helpers.machine import Finding, MachineReport, check_machine, versions

pytestmark = pytest.mark.fast

Memory = namedtuple("Memory", "available total")
MEMORY_V1 = {
    "memory/memory.limit_in_bytes": "7000000000",
    "memory/memory.usage_in_bytes": "3000000000",
    "memory/memory.stat": "cache 1\ntotal_inactive_file 400000000\ntotal_active_file 600000000",
}
MEMORY_V2 = {
    "memory.max": "7000000000\n",
    "memory.current": "3000000000\n",
    "memory.stat": "anon 1\ninactive_file 400000000\nactive_file 600000000\n",
}
Disk = namedtuple("Disk", "total used free")
Version = namedtuple("Version", "major minor micro")


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Somebody listens on the port: this test, or whoever was there before."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
            other.listen()
        except OSError:
            pass
        yield


@pytest.fixture(autouse=True)
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a control group; none, until a test writes some."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    return tmp_path / "cgroup"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_report_has_every_property(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_machine()
    assert [finding.what for finding in report] == [
        "Python",
        "CPU cores",
        "memory",
        "disk for Ray",
        "shared memory",
        "number format",
        "port 8265",
        "port 8000",
    ]
    assert all(finding.found for finding in report)


@pytest.mark.parametrize(("version", "good"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], good: bool) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert (machine._python().advice == "") is good


@pytest.mark.parametrize(("cores", "good"), [(1, False), (2, True)])
def test_cores(monkeypatch: pytest.MonkeyPatch, cores: int, good: bool) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    finding = machine._cores()
    assert finding.found == str(cores)
    assert (finding.advice == "") is good


@pytest.mark.parametrize(("free", "good"), [(5.9e9, False), (6.1e9, True)])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: float, good: bool) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(free, 16e9))
    finding = machine._memory()
    assert finding.found == f"{free / 1e9:.1f} of 16.0 GB free"
    assert (finding.advice == "") is good
    assert good or "6 GB" in finding.advice


@pytest.mark.parametrize("files", [MEMORY_V1, MEMORY_V2])
def test_memory_of_a_container(cgroup: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(50e9, 64e9))
    write(cgroup, files)
    assert machine.used_and_total_memory() == (2e9, 7e9)  # what is cached from files counts as free
    finding = machine._memory()
    assert finding.found == "5.0 of 7.0 GB free, the container's limit"
    assert finding.advice.startswith("start the container with --memory=8g")


def test_memory_is_read_when_ending_processes_have_given_back_theirs(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([50e9, 51e9, 51e9, 51e9, 52e9, 52e9, 52e9, 52e9, 52e9, 60e9])
    naps: list[float] = []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(next(free), 64e9))
    monkeypatch.setattr(machine.time, "sleep", naps.append)
    assert machine.used_and_total_memory(settle_s=20) == (12e9, 64e9)
    assert len(naps) == 8, "no longer than needed"
    free = iter([50e9] * 3)
    assert machine.used_and_total_memory() == (14e9, 64e9)
    assert len(naps) == 8, "no nap without being asked"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**MEMORY_V2, "memory.max": "max\n"},
        {**MEMORY_V1, "memory/memory.limit_in_bytes": "9223372036854771712"},  # version 1 writes this for 'no limit'
        {**MEMORY_V2, "memory.stat": "anon 1"},
        {**MEMORY_V2, "memory.max": ""},
    ],
)
def test_memory_of_a_container_without_limit(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(50e9, 64e9))
    write(cgroup, files)
    assert machine.used_and_total_memory() == (14e9, 64e9)
    assert machine._memory().found == "50.0 of 64.0 GB free"


def test_a_container_on_a_busy_machine(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1e9, 64e9))
    write(cgroup, MEMORY_V2)
    assert machine._memory().found.startswith("1.0 of 7.0 GB free")


@pytest.mark.parametrize(
    ("files", "found", "good"),
    [
        ({"cpu.max": "150000 100000\n"}, "1.5 of 8, the container's limit", False),
        ({"cpu.max": "400000 100000\n"}, "4 of 8, the container's limit", True),
        ({"cpu.max": "max 100000\n"}, "8", True),
        ({"cpu.max": "1600000 100000\n"}, "8", True),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, "1 of 8, the container's limit", False),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "8", True),
        ({}, "8", True),
    ],
)
def test_cores_of_a_container(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], found: str, good: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    write(cgroup, files)
    finding = machine._cores()
    assert finding.found == found
    assert (finding.advice == "") is good
    assert good or "--cpus=2" in finding.advice


@pytest.mark.parametrize(
    ("total", "free", "threshold", "advice"),
    [
        (100e9, 4e9, None, "Ray stores no objects on a disk that is 95% full"),
        (100e9, 6e9, None, ""),
        (2000e9, 60e9, None, "Ray stores no objects"),  # many GB, and yet too full
        (2000e9, 60e9, "0.99", ""),
        (100e9, 6e9, "0.9", "a disk that is 90% full"),
        (40e9, 4e9, None, "free 5 GB"),
    ],
)
def test_disk(monkeypatch: pytest.MonkeyPatch, total: float, free: float, threshold: str | None, advice: str) -> None:
    asked = []
    monkeypatch.setenv("RAY_TMPDIR", "somewhere")
    monkeypatch.delenv("RAY_local_fs_capacity_threshold", raising=False)
    if threshold:
        monkeypatch.setenv("RAY_local_fs_capacity_threshold", threshold)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(str(folder)) or Disk(total, 0, free))
    finding = machine._disk()
    assert asked == ["somewhere"]
    assert advice in finding.advice
    assert bool(advice) is bool(finding.advice)
    assert not advice or ("somewhere" in finding.advice and "RAY_TMPDIR" in finding.advice)


@pytest.mark.parametrize(("faster", "found"), [(4.04, "bfloat16: 4.0 times as fast"), (0.02, "float32: ")])
def test_number_format(monkeypatch: pytest.MonkeyPatch, faster: float, found: str) -> None:
    monkeypatch.setattr(precision, "cpu_speedup_of_bf16", lambda: faster)
    finding = machine._number_format()
    assert finding.found.startswith(found)
    assert finding.advice == ""  # a processor without it runs the course, too


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="this system has no /dev/shm")
@pytest.mark.parametrize(("free", "good"), [(64e6, False), (3e9, True)])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free: float, good: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(free, 0, free))
    finding = machine._shared_memory()
    assert (finding.advice == "") is good
    assert good or "--shm-size" in finding.advice


def test_taken_port() -> None:
    with listening(8000):
        finding = next(f for f in machine._ports() if f.what == "port 8000")
    assert finding.found.startswith("taken")
    assert "stop the program" in finding.advice


def test_port_of_the_dashboard_in_use_is_fine() -> None:
    # Most often by the Ray of the notebook that asks.
    with listening(8265):
        finding = next(f for f in machine._ports() if f.what == "port 8265")
    assert finding == Finding("port 8265", "in use, perhaps by your Ray; a second one takes another")


def test_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda self, address: None)
    assert [(f.found.partition(" ")[0], f.advice) for f in machine._ports()] == [("free", ""), ("free", "")]


def test_report_is_ok_only_without_advice() -> None:
    assert MachineReport([Finding("a", "1")]).ok
    assert not MachineReport([Finding("a", "1"), Finding("b", "2", "repair it")]).ok


def test_report_as_text_and_table() -> None:
    report = MachineReport([Finding("memory", "1 GB"), Finding("disk", "<none>", "buy & plug in")])
    lines = repr(report).splitlines()
    assert [lines[0].split(), lines[1].split()[:2]] == [["memory", "1", "GB", "OK"], ["disk", "<none>"]]
    html = report._repr_html_()
    assert "<tr><th>memory</th><td>1 GB</td><td>OK</td></tr>" in html
    assert "<td>&lt;none&gt;</td><td>buy &amp; plug in</td>" in html


def test_versions_name_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    line = versions()
    for name in ("Python", *machine.PACKAGES):
        assert f"{name} " in line
    assert "not installed" not in line
    monkeypatch.setattr(machine, "PACKAGES", ("no-such-package",))
    assert "no-such-package not installed" in versions()


# The processes of Ray ----------------------------------------------------------

Memory2 = namedtuple("Memory2", "rss pss")
Rss = namedtuple("Rss", "rss")


class Process:
    """A process as psutil tells of it."""

    def __init__(self, pid: int, ppid: int, *command: str, name: str = "python", memory: Any = None) -> None:
        self.pid, self._ppid, self._command, self._name = pid, ppid, list(command), name
        self._memory = memory or Memory2(500e6, 100e6)

    def name(self) -> str:
        return self._name

    def cmdline(self) -> list[str]:
        return self._command

    def ppid(self) -> int:
        return self._ppid

    def memory_full_info(self) -> Any:
        return self._memory


class Gone(Process):
    def cmdline(self) -> list[str]:
        raise psutil.NoSuchProcess(self.pid)


def processes(monkeypatch: pytest.MonkeyPatch, *found: Process) -> dict[str, tuple[int, int]]:
    """Part -> (number of processes, MB), for these processes."""
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: list(found))
    table = machine.ray_processes()
    assert list(table.columns) == ["processes", "MB"]
    return {part.partition(":")[0]: (row.processes, row.MB) for part, row in table.iterrows()}


def test_ray_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = "--logs-dir=/x/dashboard/raylet/gcs_server"
    found = processes(
        monkeypatch,
        Process(1, 0, "/x/gcs_server", logs, name="gcs_server"),
        Process(2, 0, "python", "/x/monitor.py", logs),
        Process(3, 0, "python", "-u", "/x/log_monitor.py", logs),
        Process(4, 0, "python", "/x/dashboard/dashboard.py", logs),
        Process(5, 4, "python", "-c", "from multiprocessing.forkserver import main"),
        Process(6, 5, name="ray-dashboard-DataHead-0"),
        Process(7, 0, "/x/raylet", logs, name="raylet", memory=Memory2(90e6, 20e6)),
        Process(8, 7, "ray::DashboardAgent", name="ray::DashboardAgent"),
        Process(9, 7, "ray::RuntimeEnvAgent"),
        Process(10, 7, "ray::IDLE"),
        Process(11, 7, "ray::slow_square"),
        Process(12, 0, "python", "-m", "somebody.elses"),
        Gone(13, 7),
    )
    assert found == {
        "dashboard": (3, 300),
        "worker": (2, 200),
        "GCS": (1, 100),
        "autoscaler": (1, 100),
        "log monitor": (1, 100),
        "dashboard agent": (1, 100),
        "runtime environment agent": (1, 100),
        "raylet": (1, 20),
    }
    assert next(iter(found)) == "dashboard" and list(found)[-1] == "raylet"


def test_ray_processes_where_the_system_tells_no_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(monkeypatch, Process(1, 0, "ray::IDLE", memory=Rss(500e6))) == {"worker": (1, 500)}


def test_ray_processes_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(monkeypatch, Process(1, 0, "python")) == {}
