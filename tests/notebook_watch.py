"""What a notebook run does to the machine: its processes, their memory, the files it leaves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil

from helpers.measure import memory_gb

# Folders a run may write into: environment, caches, results and reports; and the learner's own copies, in which
# somebody may be working meanwhile.
ALLOWED_NAMES = {".git", ".venv", ".uv-cache", "__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"}
ALLOWED_PATHS = {"data/.cache", "results", ".report", "build", "work"}
# Ray writes its token, Python and Jupyter their caches, and Ray Train makes `ray_results` on its first run, in which
# nothing may stay. Nothing else is expected in a home folder.
ALLOWED_IN_HOME = {".cache", ".ipython", ".jupyter", ".local"} | {".ray", ".ray/auth_token"}
ALLOWED_IN_HOME |= {".config", ".config/matplotlib", "ray_results"}
LOOKED_INTO_AT_HOME = (".ray", ".config", "ray_results")


class ProcessWatch:
    """Knows the processes of one run and samples their memory, about once a second.

    A process belongs to the run if it was started since the watch began and

    - its environment has the marker,
    - its command line names the run's own temporary folder (Ray's workers
      overwrite their environment with their title), or
    - a process of the run started it.

    Args:
        variable: name of the marker variable in the environment of the run.
        value: its value, unique to the run.
        folder: the run's own temporary folder.
    """

    def __init__(self, variable: str, value: str, folder: Path) -> None:
        self._variable, self._value, self._folder = variable, value, str(folder)
        self._others = set(psutil.process_iter())
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self.started, self._busy = time.monotonic(), _busy_seconds()
        self._own: set[psutil.Process] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_done, daemon=True)
        self.peak_gb = 0.0
        # The share of this machine's processor that other programs took; known at the end.
        self.others_share = 0.0

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.running()  # once more, for what the processes used since the last look
        busy = _busy_seconds() - self._busy - self.cpu_seconds
        available = (time.monotonic() - self.started) * (psutil.cpu_count() or 1)
        self.others_share = min(1.0, max(0.0, busy / available))

    @property
    def cpu_seconds(self) -> float:
        """What the processes of the run have used of the processor, up to the last look at each of them."""
        return sum(self._cpu_seconds.values())

    def running(self) -> list[psutil.Process]:
        """The processes of the run that are alive now."""
        with self._lock:
            # Who starts another is older, so one pass in this order finds whole families.
            new = sorted((p for p in psutil.process_iter() if p not in self._others), key=_started)
            alive = []
            for process in new:
                try:
                    if process.status() != psutil.STATUS_ZOMBIE and self._belongs(process, {p.pid for p in alive}):
                        alive.append(process)
                        times = process.cpu_times()
                        self._cpu_seconds[process] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            self._own.update(alive)
            return alive

    def left_behind(self, grace_seconds: float) -> list[str]:
        """Wait for the processes of the run to end, then describe and end those that did not."""
        deadline = time.monotonic() + grace_seconds
        while (alive := self.running()) and time.monotonic() < deadline:
            time.sleep(0.2)
        found = [_description(process) for process in alive]
        end(alive)
        return found

    def _belongs(self, process: psutil.Process, parents: set[int]) -> bool:
        if process in self._own or process.ppid() in parents:
            return True
        try:
            if process.environ().get(self._variable) == self._value:
                return True
            return any(self._folder in word for word in process.cmdline())
        except psutil.AccessDenied:
            return False

    def _sample_until_done(self) -> None:
        pause = 0.0
        while not self._done.wait(pause):
            # Processor time, not the clock: on a busy machine a look takes long, and the peak would be missed.
            start = time.thread_time()
            self.peak_gb = max(self.peak_gb, memory_gb(self.running()))
            # A look costs up to 30 ms while Ray runs: this keeps it under 3 % of one core.
            pause = max(0.25, 30 * (time.thread_time() - start))


def end(processes: list[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not after three seconds."""
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                ask(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=3)


def _busy_seconds() -> float:
    """Processor time that all programs of this machine have used since its start, and what its host took away."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, name, 0.0) for name in names)


def _started(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _description(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())[:160].rstrip()
        return f"{process.name()} (pid {process.pid}): {command}"
    except psutil.Error:
        return f"pid {process.pid}, just ended"


def files_in_repository(root: Path) -> dict[str, tuple[int, int]]:
    """Each file that a run must leave alone -> its size and time of change.

    A walk instead of `git status`: it also sees ignored files, and works in a
    copy of the course that is no git checkout.
    """
    found: dict[str, tuple[int, int]] = {}
    for folder, folders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _is_allowed(relative / name)]
        found.update(_stats(Path(folder), relative, files))
    return found


def files_at_home(home: Path | None = None) -> dict[str, tuple[int, int]]:
    """The names in the home folder, and the files in the folders a run might write into."""
    home = home or Path.home()
    found = {name: (0, 0) for name in os.listdir(home)}
    for place in LOOKED_INTO_AT_HOME:
        if place == "ray_results":
            for folder, _, files in os.walk(home / place):
                found.update(_stats(Path(folder), Path(folder).relative_to(home), files))
        elif (home / place).is_dir():
            found.update({f"{place}/{name}": (0, 0) for name in os.listdir(home / place)})
    return found


def differences(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], allowed: set[str]) -> list[str]:
    """What is new, changed or gone, one entry for each file."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    words = {(False, True): "new", (True, False): "gone", (True, True): "changed"}
    return [f"{name} ({words[name in before, name in after]})" for name in names if name not in allowed]


def _is_allowed(path: Path) -> bool:
    return path.name in ALLOWED_NAMES or path.suffix == ".egg-info" or path.as_posix() in ALLOWED_PATHS


def _stats(folder: Path, relative: Path, files: list[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for name in files:
        try:
            info = (folder / name).lstat()
        except FileNotFoundError:
            continue
        found[(relative / name).as_posix()] = (info.st_size, info.st_mtime_ns)
    return found
