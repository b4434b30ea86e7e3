"""Set up .venv from requirements.txt; called by make, runs on a bare Python.

    python3 tools/install.py

TORCH=cpu in the environment takes the CPU build of torch (about 1 GB less to
download than the CUDA build that Linux gets by default).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / ".venv"
# What only the CUDA build of torch needs.
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton==|torch==|torchvision==)")


def without_cuda(requirements: str) -> tuple[str, list[str]]:
    """Split off torch and what only its CUDA build needs.

    Returns:
        The other requirements, with their hashes, and the pins of torch and torchvision.
    """
    entries = re.split(r"(?m)^(?=[A-Za-z])", requirements)
    kept = [entry for entry in entries if not CUDA_ONLY.match(entry)]
    torch = [re.match(r"[^\s;]+", entry).group() for entry in entries if entry.startswith(("torch==", "torchvision=="))]
    return "".join(kept), torch


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"The course needs Python 3.11, 3.12 or 3.13, but this is {found}: make PYTHON=/path/to/another lab")
    requirements = REPOSITORY / "requirements.txt"
    print("Setting up .venv: a few minutes, and about 7 GB on Linux (TORCH=cpu needs about 2 GB).", flush=True)
    venv.create(FOLDER, with_pip=True, clear=True)
    python = str(FOLDER / ("Scripts" if os.name == "nt" else "bin") / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--progress-bar", "off"]
    cpu = os.environ.get("TORCH") == "cpu"
    if cpu:
        text, torch = without_cuda(requirements.read_text())
        requirements = FOLDER / "requirements-without-cuda.txt"
        requirements.write_text(text)
    # The lock is complete, so nothing needs to be resolved.
    run(*pip, "--no-deps", "--require-hashes", "--requirement", str(requirements))
    if cpu:
        run(python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend", "cpu", *torch)
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))
    run(python, "-m", "pip", "check")


def run(*command: str) -> None:
    if subprocess.run(command).returncode:
        sys.exit("Setting up .venv failed; the lines above say why. Mend it and run the same command again.")


if __name__ == "__main__":
    main()
