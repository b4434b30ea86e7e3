"""The installer, the offline runner, and `make help`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = (REPOSITORY / "requirements.txt").read_text()


def tool(name: str) -> ModuleType:
    """A script of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install, offline = tool("install"), tool("offline")


def names(requirements: str) -> list[str]:
    return re.findall(r"(?m)^([A-Za-z][\w.-]*)==", requirements)


# --- install ----------------------------------------------------------------------------------------------------------


def test_without_cuda_splits_the_lock() -> None:
    kept, torch = install.without_cuda(LOCK)
    assert [pin.partition("==")[0] for pin in torch] == ["torch", "torchvision"]
    assert all(f"{pin} " in LOCK or f"{pin}\n" in LOCK for pin in torch)
    removed = set(names(LOCK)) - set(names(kept))
    assert {"torch", "torchvision", "triton"} <= removed
    assert all(re.match(r"(nvidia|cuda|torch|torchvision|triton)", name) for name in removed)
    assert not [name for name in names(kept) if re.match(r"(nvidia|cuda)-", name)]


def test_without_cuda_keeps_the_rest_with_its_hashes() -> None:
    kept, _ = install.without_cuda(LOCK)
    entries = re.split(r"(?m)^(?=[A-Za-z])", kept)[1:]
    assert len(entries) > 100
    assert all("--hash=sha256:" in entry and entry in LOCK for entry in entries)
    assert {"ray", "deepspeed", "transformers", "numpy"} <= set(names(kept))


def test_without_cuda_on_a_small_lock() -> None:
    lock = (
        "# made\na==1 \\\n    --hash=sha256:00\nnvidia-x==2 \\\n    --hash=sha256:11\ntorch==3 ; python_version > '3'\n"
    )
    assert install.without_cuda(lock) == ("# made\na==1 \\\n    --hash=sha256:00\n", ["torch==3"])


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0), (2, 7, 18)])
def test_unsupported_python_is_refused(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(install.venv, "create", lambda *a, **k: pytest.fail("it began to install"))
    with pytest.raises(SystemExit) as stopped:
        install.main()
    found = ".".join(map(str, version))
    assert f"needs Python 3.11, 3.12 or 3.13, but this is {found}" in str(stopped.value)
    assert "make PYTHON=" in str(stopped.value)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 9)])
def test_supported_python_goes_on(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
    class BeganError(Exception):
        pass

    def begin(*arguments: object, **options: object) -> None:
        raise BeganError

    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(install.venv, "create", begin)
    with pytest.raises(BeganError):
        install.main()


def test_failed_step_stops() -> None:
    with pytest.raises(SystemExit, match="Setting up .venv failed"):
        install.run(sys.executable, "-c", "raise SystemExit(3)")


# --- offline ----------------------------------------------------------------------------------------------------------

PROBE = """
import os, socket, threading, time

start = time.monotonic()
try:
    # TEST-NET-1 belongs to nobody; with a network the packets leave and nothing answers for seconds.
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print("outside", type(error).__name__, error.errno, time.monotonic() - start < 1)
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname(), timeout=5):
        print("loopback works")
print("names", sorted(name for _, name in socket.if_nameindex()))
print("variable", os.environ.get("RAY_COURSE_OFFLINE"))
"""


@pytest.fixture
def isolated() -> None:
    if offline.isolation() is None:
        pytest.skip("this system allows no network namespace (unshare --net)")


def run_offline(*command: str) -> subprocess.CompletedProcess[str]:
    script = str(REPOSITORY / "tools" / "offline.py")
    return subprocess.run([sys.executable, script, *command], capture_output=True, text=True, timeout=60)


def test_nothing_but_loopback(isolated: None) -> None:
    done = run_offline(sys.executable, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"outside OSError 101 True", lines[0]), "expected 'network is unreachable' at once: " + lines[0]
    assert lines[1] == "loopback works"
    assert "'lo'" in lines[2] and "eth" not in lines[2]
    assert lines[3] == "variable 1"


def test_status_of_the_command_comes_back(isolated: None) -> None:
    assert run_offline(sys.executable, "-c", "raise SystemExit(7)").returncode == 7


def test_without_namespaces_it_runs_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A PATH without unshare is a system without namespaces.
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_offline(sys.executable, "-c", "print('ran')")
    assert done.stdout.splitlines() == [
        "No network namespace on this system: the tests run with the network as it is.",
        "ran",
    ]


# --- make -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = re.search(r"(?m)^\.PHONY:(.*)$", makefile).group(1).split()
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"make ([a-z-]+) +(\S.+)", line) for line in done.stdout.splitlines()]
    assert all(lines), done.stdout
    assert sorted(line.group(1) for line in lines) == sorted(targets)
    assert {"lab", "test", "test-fast", "test-all", "notebooks", "lock", "clean"} <= set(targets)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_alone_is_make_help() -> None:
    alone, help_ = (
        subprocess.run(["make", "--no-print-directory", *target], cwd=REPOSITORY, capture_output=True, text=True)
        for target in ([], ["help"])
    )
    assert alone.stdout == help_.stdout
