"""Set up .venv from requirements.txt; called by make, runs on a bare Python.

    python3 tools/install.py

uv does it, in the version of the lock; where uv does not work, pip does, which
takes minutes longer. Two variables choose otherwise:

- TORCH=cpu or TORCH=cuda: the build of torch. Without it, a machine without an
  NVIDIA GPU gets the much smaller CPU build, if PyTorch's own index answers. The
  lock has the hashes of PyPI's builds only, so the CPU build is the one thing
  that comes without a hash.
- INSTALLER=pip: without uv.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / ".venv"
LOCK = REPOSITORY / "requirements.txt"
# What only the CUDA build of torch needs.
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton==|torch==|torchvision==)")
# GB to download, and GB on disk, on Linux x86-64: `uv pip install` lists the first, `du` the second.
SIZES = {"cpu": (0.6, 2), "cuda": (3.4, 7)}
PROBE_SECONDS = 15
AGAIN = "Solve this and run the same command again."


class StepFailedError(Exception):
    """A command of the set-up ended with an error, which it has printed."""


def entries(requirements: str) -> list[str]:
    """The lock, cut where a package begins; what stands before the first is the first piece."""
    return re.split(r"(?m)^(?=[A-Za-z])", requirements)


def without_cuda(requirements: str) -> tuple[str, list[str]]:
    """Split off torch and what only its CUDA build needs.

    Returns:
        The other requirements, with their hashes, and the pins of torch and torchvision.
    """
    kept = [entry for entry in entries(requirements) if not CUDA_ONLY.match(entry)]
    torch = [entry for entry in entries(requirements) if entry.startswith(("torch==", "torchvision=="))]
    return "".join(kept), [re.match(r"[^\s;]+", entry).group() for entry in torch]


def only(name: str, requirements: str) -> str:
    """The entry of one package, with its hashes."""
    return "".join(entry for entry in entries(requirements) if entry.startswith(f"{name}=="))


def has_nvidia_gpu() -> bool:
    """Whether a driver of NVIDIA answers and knows a GPU."""
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return True
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU" in found.stdout


def index_answers(uv: str, python: str) -> bool:
    """Whether PyTorch's own index has the CPU build for this machine and can be reached."""
    _, torch = without_cuda(LOCK.read_text())
    command = [uv, "pip", "install", "--python", python, "--dry-run", "--no-deps", "--torch-backend", "cpu", *torch]
    patience = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    try:
        found = subprocess.run(command, env=environment(**patience), capture_output=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0


def choose_torch(uv: str | None, python: str) -> tuple[str, str]:
    """Which build of torch this machine gets.

    Returns:
        'cpu' or 'cuda', and why.
    """
    wanted = os.environ.get("TORCH", "")
    if wanted:
        return wanted, f"because you set TORCH={wanted}"
    if sys.platform != "linux":
        return "cpu", "the one that PyPI has for this system"
    if has_nvidia_gpu():
        return "cuda", "because this machine has an NVIDIA GPU"
    if uv is None:
        return "cuda", "because the smaller one for CPUs needs uv"
    if index_answers(uv, python):
        return "cpu", "because this machine has no NVIDIA GPU"
    return "cuda", "because PyTorch's index, which has a smaller one for CPUs, does not answer here"


def environment(**own: str) -> dict[str, str]:
    """The variables of uv: its downloads stay in the repository, so .venv links to them instead of copying."""
    inherited = {name: value for name, value in os.environ.items() if name != "UV_TORCH_BACKEND"}
    return {"UV_CACHE_DIR": str(REPOSITORY / ".uv-cache"), **inherited, **own}


def run(*command: str) -> None:
    """Run a command that prints for itself.

    Raises:
        StepFailedError: if it fails.
    """
    try:
        status = subprocess.run(command, env=environment()).returncode
    except OSError as error:
        raise StepFailedError(str(error)) from None
    if status:
        raise StepFailedError(f"{Path(command[0]).name} ended with status {status}")


def make_environment() -> tuple[str, str | None]:
    """A fresh .venv.

    Returns:
        Its Python, and uv if it could be had.
    """
    python = str(FOLDER / ("Scripts" if os.name == "nt" else "bin") / "python")
    mine = shutil.which("uv")
    try:
        venv.create(FOLDER, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        # Debian and Ubuntu leave pip out of their Python.
        if mine is None:
            sys.exit(
                f"{sys.executable} cannot make an environment, because it lacks ensurepip. On Debian and Ubuntu: "
                f"sudo apt install python3-venv. {AGAIN}"
            )
        run(mine, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(FOLDER))
    if os.environ.get("INSTALLER") == "pip":
        return python, None
    own_lock = FOLDER / "uv.txt"
    own_lock.write_text(only("uv", LOCK.read_text()))
    try:
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--requirement", str(own_lock))
    except StepFailedError:
        return python, mine
    return python, str(Path(python).with_name("uv"))


def with_uv(uv: str, python: str, torch_build: str) -> None:
    """Install everything with uv.

    Raises:
        StepFailedError: if one of its commands fails.
    """
    install = [uv, "pip", "install", "--python", python, "--no-deps"]
    # The lock is complete, so nothing needs to be resolved; what a package needs to be built comes from it, too.
    hashed = [*install, "--require-hashes", "--build-constraints", str(LOCK), "--requirement"]
    if torch_build == "cpu" and sys.platform == "linux":
        text, torch = without_cuda(LOCK.read_text())
        rest = FOLDER / "requirements-without-cuda.txt"
        rest.write_text(text)
        run(*hashed, str(rest))
        run(*install, "--torch-backend", "cpu", *torch)
    else:
        run(*hashed, str(LOCK))
    run(*install, "--quiet", "--no-build-isolation", "--editable", str(REPOSITORY))
    run(uv, "pip", "check", "--quiet", "--python", python)


def with_pip(python: str) -> None:
    """Install everything with pip, and PyPI's build of torch.

    Raises:
        StepFailedError: if one of its commands fails.
    """
    install = [python, "-m", "pip", "install", "--no-deps"]
    run(*install, "--require-hashes", "--requirement", str(LOCK))
    run(*install, "--quiet", "--no-build-isolation", "--editable", str(REPOSITORY))
    run(python, "-m", "pip", "check")


def check_before() -> None:
    """End with a sentence where the set-up cannot succeed."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"The course needs Python 3.11, 3.12 or 3.13, but this is {found}: make PYTHON=/path/to/another lab")
    for name, allowed in (("TORCH", ("cpu", "cuda")), ("INSTALLER", ("uv", "pip"))):
        found = os.environ.get(name)
        if found and found not in allowed:
            sys.exit(f"{name} is {found!r}, but it can only be {' or '.join(allowed)}, or left out.")
    if FOLDER.is_symlink():
        sys.exit(f".venv is a link to {FOLDER.resolve()}, which would be emptied: remove the link. {AGAIN}")


def check_disk(torch_build: str) -> None:
    """End with a sentence where the packages do not fit."""
    free, needed = shutil.disk_usage(REPOSITORY).free / 1e9, SIZES[torch_build][1]
    if free < needed:
        sys.exit(f"The set-up needs about {needed:g} GB of disk, but only {free:.1f} GB are free. {AGAIN}")


def main() -> None:
    check_before()
    start = time.monotonic()
    say("Setting up .venv, once: an environment for Python, and uv, which fills it.")
    try:
        # Half an environment is never ready: make writes the stamp again when all of this has succeeded.
        (FOLDER / ".ready").unlink(missing_ok=True)
        python, uv = make_environment()
        torch_build, why = choose_torch(uv, python)
        check_disk(torch_build)
        name = {"cpu": "the CPU build", "cuda": "PyPI's build, which brings CUDA,"}[torch_build]
        download, disk = SIZES[torch_build]
        say(f"torch: {name} {why}. About {download:g} GB to download, {disk:g} GB on disk in all.")
        install(uv, python, torch_build)
        # Under `uv run`, Ray would start its workers with `uv run`, too; kernels of this environment tell it not to.
        run(python, "-m", "ipykernel", "install", "--sys-prefix", "--env", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    except StepFailedError as error:
        sys.exit(f"Setting up .venv failed: {error}; the lines above say why. {AGAIN}")
    except OSError as error:
        sys.exit(f"Setting up .venv failed: {error}. {AGAIN}")
    except KeyboardInterrupt:
        sys.exit("\nThe set-up was stopped. The same command begins it again, with what has been downloaded.")
    say(f"The set-up took {time.monotonic() - start:.0f} s.")


def install(uv: str | None, python: str, torch_build: str) -> None:
    """Fill the environment with uv, or else with pip."""
    if uv is not None:
        try:
            with_uv(uv, python, torch_build)
            return
        except StepFailedError as error:
            say(f"uv did not succeed ({error}; the lines above say why), so pip does it, which takes some minutes.")
    elif os.environ.get("INSTALLER") != "pip":
        say("uv could not be had, so pip does it, which takes some minutes.")
    if os.environ.get("TORCH") == "cpu" and sys.platform == "linux":
        sys.exit(f"TORCH=cpu needs uv, because pip would take PyPI's build with CUDA. {AGAIN}")
    with_pip(python)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
