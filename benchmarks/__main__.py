"""Measure the course, and what it is built on: `make bench`, or `python -m benchmarks NAME ...` for some groups.

Each group runs in a process of its own, one after the other. The table is printed, and stored with the machine's name
in results/bench; with --keep also in benchmarks/table.md and table.json, which the course quotes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks.rows import Row, markdown
from helpers import data

GROUPS = {
    "training": "Ray Train beside torchrun, and the loop of 04 beside the article's",
    "language_model": "GPT-J: Ray Train beside torchrun, DeepSpeed, padding, and the share of the machine's peak",
    "sweeps": "ASHA",
    "serving": "Ray Serve: batches, bare FastAPI, an open loop",
    "writing": "GPT-J behind Serve, beside the server of Transformers",
    "store": "the object store",
    "ray_data": "Ray Data: memory, and a DataLoader",
    "scaling": "more nodes, and more workers",
    "course": "the course itself",
}
LIMIT_S = 900  # for one group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"which ones, of {', '.join(GROUPS)}; all by default"
    )
    parser.add_argument("--keep", action="store_true", help="store the table in benchmarks/ as well")
    parser.add_argument("--rows", help=argparse.SUPPRESS)  # a file for the rows of one group, measured right here
    asked = parser.parse_args()
    if unknown := set(asked.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}: expected some of {', '.join(GROUPS)}")
    if asked.rows:
        rows = importlib.import_module(f"benchmarks.{asked.groups[0]}").measure()
        Path(asked.rows).write_text(json.dumps([asdict(row) for row in rows]))
        return
    names = asked.groups or list(GROUPS)
    if asked.keep and len(names) < len(GROUPS):
        parser.error("--keep stores a whole table: leave out the names of the groups")
    start, rows, failed = time.time(), [], []
    for name in names:
        found = in_its_own_process(name)
        if found is None:
            failed.append(name)
        rows += found or []
    text = f"{about()}\n\n{markdown(rows)}\nMeasured in {(time.time() - start) / 60:.0f} minutes.\n"
    print("\n" + text)
    folders = [data.results_dir("bench")] + ([Path(__file__).parent] if asked.keep and not failed else [])
    for folder in folders:
        (folder / "table.md").write_text(text)
        (folder / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        print(f"stored in {folder}")
    if failed:
        sys.exit(f"no rows of {', '.join(failed)}: see what is printed above")


def in_its_own_process(group: str) -> list[Row] | None:
    """The rows of a group; None if it failed."""
    print(f"\n{group}: {GROUPS[group]}", flush=True)
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", group, "--rows", str(file)]
        # Before the process imports Ray, which reads it once: the nodes of scaling ask for a token.
        variables = {**os.environ, "RAY_AUTH_MODE": "token"}
        process = subprocess.Popen(command, cwd=data.REPOSITORY, env=variables)
        try:
            process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"{group} did not end within {LIMIT_S} s", flush=True)
        finally:
            end_of(process)
        if process.returncode != 0 or not file.exists():
            return None
        found = [dict(entry) for entry in json.loads(file.read_text())]
    for entry in found:
        entry.pop("ratios")
    rows = [Row(**{**entry, "names": tuple(entry["names"])}) for entry in found]
    print(markdown(rows))
    print(f"{group}: {time.time() - start:.0f} s", flush=True)
    return rows


def end_of(process: subprocess.Popen) -> None:
    """End a process, and whatever it has started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def about() -> str:
    """The machine and the versions, in two lines."""
    from helpers.machine import versions
    from helpers.precision import cpu_supports_bf16

    memory = psutil.virtual_memory().total / 1e9
    numbers = "fast" if cpu_supports_bf16() else "slow"
    machine = f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GB, bfloat16 {numbers}; {time.strftime('%Y-%m-%d')}"
    return f"{machine}\n{versions()}"


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    main()
