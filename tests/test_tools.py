"""The installer, the offline runner, and `make help`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Instead of being run, the commands of the installer are written down; a folder of its own is set up.

    Commands that hold a text of FAILS end with an error.
    """
    commands: list[str] = []

    def run(*command: str) -> None:
        commands.append(" ".join(command).replace(f"{tmp_path}/", ""))
        if any(text in commands[-1] for text in FAILS):
            raise install.StepFailedError("uv ended with status 2")

    for name in ("TORCH", "INSTALLER", "UV_CACHE_DIR", "UV_TORCH_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(install, "REPOSITORY", tmp_path)
    monkeypatch.setattr(install, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(install, "index_answers", lambda uv, python: False)
    monkeypatch.setattr(install.venv, "create", lambda folder, **options: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e10))
    monkeypatch.setattr(sys, "platform", "linux")
    FAILS.clear()
    return commands


FAILS: set[str] = set()
UV = ".venv/bin/uv pip install --python .venv/bin/python --no-deps"
PIP = ".venv/bin/python -m pip install --no-deps"
GET_UV = ".venv/bin/python -m pip install --quiet --no-deps --require-hashes --requirement .venv/uv.txt"
KERNEL = ".venv/bin/python -m ipykernel install --sys-prefix --env RAY_ENABLE_UV_RUN_RUNTIME_ENV 0"
WITH_PIP = [
    f"{PIP} --require-hashes --requirement {install.LOCK}",
    f"{PIP} --quiet --no-build-isolation --editable .",
    ".venv/bin/python -m pip check",
    KERNEL,
]


def short(commands: list[str], folder: Path) -> list[str]:
    return [command.replace(str(folder), ".") for command in commands]


def test_uv_of_the_lock_installs_the_lock(recorded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    install.main()
    assert short(recorded, tmp_path) == [
        GET_UV,
        f"{UV} --require-hashes --build-constraints {install.LOCK} --requirement {install.LOCK}",
        f"{UV} --quiet --no-build-isolation --editable .",
        ".venv/bin/uv pip check --quiet --python .venv/bin/python",
        KERNEL,
    ]
    own_lock = (tmp_path / ".venv" / "uv.txt").read_text()
    assert names(own_lock) == ["uv"] and own_lock in LOCK and "--hash=sha256:" in own_lock
    said = capsys.readouterr().out
    assert "PyPI's build, which brings CUDA, because PyTorch's index" in said and "does not answer here" in said
    assert "About 3.4 GB to download, 7 GB on disk" in said
    assert re.search(r"The set-up took \d+ s\.$", said.strip())


def test_small_build_without_a_gpu(
    recorded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(install, "index_answers", lambda uv, python: True)
    install.main()
    assert short(recorded, tmp_path)[1:3] == [
        f"{UV} --require-hashes --build-constraints {install.LOCK} --requirement .venv/requirements-without-cuda.txt",
        f"{UV} --torch-backend cpu {' '.join(install.without_cuda(LOCK)[1])}",
    ]
    assert "the CPU build because this machine has no NVIDIA GPU. About 0.6 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "platform", "gpu", "uv", "answers", "expected"),
    [
        ("", "linux", False, "uv", True, "cpu"),
        ("", "linux", False, "uv", False, "cuda"),
        ("", "linux", True, "uv", True, "cuda"),
        ("", "linux", False, None, True, "cuda"),
        ("", "darwin", False, "uv", False, "cpu"),
        ("cpu", "linux", True, "uv", False, "cpu"),
        ("cuda", "linux", False, "uv", True, "cuda"),
    ],
)
def test_choice_of_torch(
    recorded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    platform: str,
    gpu: bool,
    uv: str | None,
    answers: bool,
    expected: str,
) -> None:
    monkeypatch.setenv("TORCH", wanted)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(install, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(install, "index_answers", lambda uv, python: answers)
    assert install.choose_torch(uv, "python")[0] == expected


def script(folder: Path, name: str, *lines: str) -> Path:
    """A program for the PATH of a test."""
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'"], True),
        (["echo 'No devices were found'"], False),
        (["echo 'GPU 0: NVIDIA-SMI has failed'", "exit 9"], False),
        (None, False),
    ],
)
def test_gpu_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str] | None, expected: bool) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if lines is not None:
        script(tmp_path, "nvidia-smi", *lines)
    assert install.has_nvidia_gpu() is expected


@pytest.mark.parametrize(("lines", "expected"), [(["exit 0"], True), (["exit 2"], False), (["exec sleep 20"], False)])
def test_index_is_asked_once_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str], expected: bool
) -> None:
    monkeypatch.setattr(install, "PROBE_SECONDS", 1)
    uv = script(tmp_path, "uv", f'echo "$@ $UV_HTTP_TIMEOUT $UV_HTTP_RETRIES" > {tmp_path}/asked', *lines)
    assert install.index_answers(str(uv), "python") is expected
    asked = (tmp_path / "asked").read_text()
    assert "--dry-run" in asked and "--torch-backend cpu torch==" in asked and asked.endswith(" 5 0\n")


def test_pip_takes_over_where_uv_fails(recorded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    FAILS.add("uv pip install")
    install.main()
    assert short(recorded, tmp_path)[2:] == WITH_PIP
    assert (
        "uv did not succeed (uv ended with status 2; the lines above say why), so pip does it"
        in capsys.readouterr().out
    )


def test_pip_takes_over_where_uv_cannot_be_had(
    recorded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    FAILS.add("uv.txt")
    install.main()
    assert short(recorded, tmp_path)[1:] == WITH_PIP
    assert "uv could not be had, so pip does it" in capsys.readouterr().out


def test_uv_of_the_reader_is_taken_where_the_locked_one_cannot_be_had(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FAILS.add("uv.txt")
    monkeypatch.setattr(install.shutil, "which", lambda name: "/opt/uv" if name == "uv" else None)
    install.main()
    assert recorded[1].startswith("/opt/uv pip install ")


def no_ensurepip(folder: Path, **options: object) -> None:
    raise subprocess.CalledProcessError(1, "ensurepip")


def test_python_without_ensurepip(recorded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.venv, "create", no_ensurepip)
    with pytest.raises(SystemExit, match="lacks ensurepip. On Debian and Ubuntu: sudo apt install python3-venv"):
        install.main()
    (install.FOLDER).mkdir()
    monkeypatch.setattr(install.shutil, "which", lambda name: "/opt/uv" if name == "uv" else None)
    install.main()
    assert recorded[0] == f"/opt/uv venv --quiet --clear --seed --python {sys.executable} .venv"


def test_pip_can_be_asked_for(recorded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTALLER", "pip")
    install.main()
    assert short(recorded, tmp_path) == WITH_PIP


def test_whoever_asked_for_the_small_build_does_not_get_the_large_one(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FAILS.add("uv pip install")
    monkeypatch.setenv("TORCH", "cpu")
    with pytest.raises(SystemExit, match="TORCH=cpu needs uv"):
        install.main()
    assert not [command for command in recorded if "-m pip install --no-deps --require" in command]


def test_where_pip_fails_too_it_ends_with_a_sentence(recorded: list[str]) -> None:
    FAILS.add("pip install")
    with pytest.raises(SystemExit, match="Setting up .venv failed: .* run the same command again."):
        install.main()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_half_an_environment_is_never_ready(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*command: str) -> None:
        raise error

    install.FOLDER.mkdir()
    (install.FOLDER / ".ready").touch()
    monkeypatch.setattr(install, "run", stop)
    with pytest.raises(SystemExit, match="set-up was stopped|No space left on device"):
        install.main()
    assert not (install.FOLDER / ".ready").exists()


def test_failed_command_is_noticed() -> None:
    with pytest.raises(install.StepFailedError, match="ended with status 3"):
        install.run(sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(install.StepFailedError, match="no-such-program"):
        install.run("/no-such-program")


def test_downloads_stay_in_the_repository_unless_the_reader_has_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")  # would replace the choice of the installer
    assert install.environment()["UV_CACHE_DIR"] == str(REPOSITORY / ".uv-cache")
    assert "UV_TORCH_BACKEND" not in install.environment()
    monkeypatch.setenv("UV_CACHE_DIR", "/elsewhere")
    assert install.environment()["UV_CACHE_DIR"] == "/elsewhere"
    assert "/.uv-cache/" in (REPOSITORY / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0), (2, 7, 18)])
def test_unsupported_python_is_refused(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as stopped:
        install.main()
    found = ".".join(map(str, version))
    assert f"needs Python 3.11, 3.12 or 3.13, but this is {found}" in str(stopped.value)
    assert "make PYTHON=" in str(stopped.value)
    assert not recorded and not install.FOLDER.exists()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 9)])
def test_supported_python_goes_on(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    install.main()
    assert recorded


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TORCH", "gpu", "TORCH is 'gpu', but it can only be cpu or cuda, or left out."),
        ("INSTALLER", "conda", "INSTALLER is 'conda', but it can only be uv or pip, or left out."),
    ],
)
def test_wrong_choice_is_refused(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        install.main()
    assert not recorded and not install.FOLDER.exists()


def test_environment_of_somebody_else_is_not_emptied(recorded: list[str], tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / ".venv").symlink_to(tmp_path / "shared")
    with pytest.raises(SystemExit, match="is a link to .*shared, which would be emptied"):
        install.main()
    assert not recorded


def test_too_small_a_disk_is_noticed_before_the_download(recorded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))
    with pytest.raises(SystemExit, match="needs about 7 GB of disk, but only 3.0 GB are free"):
        install.main()
    assert len(recorded) == 1  # uv itself
    monkeypatch.setenv("TORCH", "cpu")
    install.main()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_sets_up_until_it_succeeds_and_again_when_the_lock_changes(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "tools").mkdir()
    for name in ("requirements.txt", "tools/install.py"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    python = script(tmp_path, "python", f"mkdir -p {tmp_path}/.venv", f"echo x >> {tmp_path}/runs", "exit $FAIL")

    def make(fail: int) -> int:
        command = ["make", "--silent", f"PYTHON={python}", ".venv/.ready"]
        run = os.environ | {"FAIL": str(fail)}
        return subprocess.run(command, cwd=tmp_path, env=run, capture_output=True, timeout=60).returncode

    def runs() -> int:
        return len((tmp_path / "runs").read_text().split())

    assert make(fail=1) != 0 and not (tmp_path / ".venv" / ".ready").exists()
    assert make(fail=0) == 0 and runs() == 2
    assert make(fail=0) == 0 and runs() == 2, "what is ready was set up again"
    os.utime(tmp_path / "requirements.txt", None)
    os.utime(tmp_path / ".venv" / ".ready", (2, 2))
    assert make(fail=0) == 0 and runs() == 3


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
