"""The machine check: each property is found, and what is not OK comes with advice."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from helpers import machine
from helpers.machine import Finding, MachineReport, check_machine, versions

pytestmark = pytest.mark.fast

Memory = namedtuple("Memory", "available total")
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


def test_report_has_every_property() -> None:
    report = check_machine()
    assert [finding.what for finding in report] == [
        "Python",
        "CPU cores",
        "memory",
        "disk for Ray",
        "shared memory",
        "C++ compiler",
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


@pytest.mark.parametrize(("free", "good"), [(4e9, False), (6e9, True)])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: float, good: bool) -> None:
    asked = []
    monkeypatch.setenv("RAY_TMPDIR", "somewhere")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(str(folder)) or Disk(free, 0, free))
    finding = machine._disk()
    assert asked == ["somewhere"]
    assert (finding.advice == "") is good
    assert good or ("somewhere" in finding.advice and "RAY_TMPDIR" in finding.advice)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="this system has no /dev/shm")
@pytest.mark.parametrize(("free", "good"), [(64e6, False), (3e9, True)])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, free: float, good: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(free, 0, free))
    finding = machine._shared_memory()
    assert (finding.advice == "") is good
    assert good or "--shm-size" in finding.advice


@pytest.mark.parametrize(
    ("compiler", "headers", "found"),
    [("/usr/bin/g++", True, "g++"), (None, True, "no compiler"), ("/usr/bin/g++", False, "no Python headers")],
)
def test_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path, compiler: str | None, headers: bool, found: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    if headers:
        (tmp_path / "Python.h").touch()
    finding = machine._compiler()
    assert finding.found == found
    assert (finding.advice == "") is (compiler is not None and headers)


@pytest.mark.parametrize(("port", "advice"), [(8265, "Ray takes another one"), (8000, "stop the program")])
def test_taken_port(port: int, advice: str) -> None:
    with listening(port):
        finding = next(f for f in machine._ports() if f.what == f"port {port}")
    assert finding.found.startswith("taken")
    assert advice in finding.advice


def test_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda self, address: None)
    assert [(f.found.partition(" ")[0], f.advice) for f in machine._ports()] == [("free", ""), ("free", "")]


def test_report_is_ok_only_without_advice() -> None:
    assert MachineReport([Finding("a", "1")]).ok
    assert not MachineReport([Finding("a", "1"), Finding("b", "2", "mend it")]).ok


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
