"""pytest plugin on top of nbmake: runs the notebooks and holds what the course promises.

`pytest --nbmake notebooks` runs each notebook as its readers do, and is red
where a cell fails, the run takes too long or too much memory, leaves a process
or a file behind, a check of an exercise answers wrongly, or a result is not
what tests/expectations.py expects. `--overwrite` refreshes the committed
outputs, `--long` runs each notebook twice, and also those that are left out
elsewhere for lack of time.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbmake.nb_result import NotebookResult
from nbmake.nb_run import NotebookRun
from nbmake.pytest_items import NbMakeFailureRepr, NotebookFile, NotebookItem

from helpers.data import RESULTS_VARIABLE
from tests import expectations, notebook_outputs, notebook_watch

# The promised times are those of an idle machine. A machine that also runs
# something else, or shares its cores, is easily half as slow again.
NOISE = 1.5
# At most this share of a notebook's time is put down to other programs, however busy they were.
MOST_FOR_OTHERS = 0.9
# Ray gives its start a fixed time, which a busy machine can miss. The README tells readers to run the cell again, and
# so do we, once.
START_TIMED_OUT = "The current node timed out during startup"
# Ray's processes need some seconds to end when the kernel has gone.
GRACE_SECONDS = 15.0
MARKER = "RAY_COURSE_RUN"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# A backend chosen for the tests would replace the notebook's own way of showing plots.
UNSET = ("MPLBACKEND",)
# Ray's sessions and the locks of its workers; the sockets of its dashboard, which Ray kills before it could remove
# them; torch's cache; the folder in which Dask's workers have theirs.
OWN_RESULTS = "own_results"
ALLOWED_IN_TEMP = ("ray", "_ray_lockfiles", "pymp-*", "torchinductor_*", "dask-scratch-space", OWN_RESULTS)
# Seconds for a test marked long, some of which run whole lessons on two nodes.
LONG_TEST_SECONDS = 1800
# As the reader has it: tests that ran before have set variables for themselves.
ENVIRONMENT = dict(os.environ)
REPORTS = pytest.StashKey[list["Report"]]()


@dataclass
class Report:
    """What was measured in one run of one notebook, and what was wrong with it."""

    notebook: str
    seconds: float = 0.0
    memory_gb: float = 0.0
    others_share: float = 0.0
    key_figure: str = ""
    slowest_cells: dict[int, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class NotebookProblems(Exception):
    """The run of a notebook is red; the arguments are one sentence for each reason."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("course", "the notebooks of the course")
    group.addoption("--long", action="store_true", help="run each notebook twice, and the tests marked long")
    group.addoption(
        "--slack",
        type=float,
        default=NOISE,
        help="how many times the promised time a notebook may take on this machine (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs only with --long (make test-all)")
    config.stash[REPORTS] = []


def pytest_report_header() -> str:
    if os.environ.get("RAY_COURSE_OFFLINE") == "1":
        return "network: none, only the loopback interface"
    return "network: as this machine has it (make test cuts it off where the system allows)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Quick tests first; the order of the notebooks stays, because one may read what another left.
    items.sort(key=lambda item: isinstance(item, CourseNotebook))
    for item in items:
        if isinstance(item, CourseNotebook):
            item.add_marker(pytest.mark.timeout(0))  # each cell has its limit, and so has the whole
        elif item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_TEST_SECONDS))
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long") or _is_long_notebook(item, config):
            item.add_marker(pytest.mark.skip(reason="runs with --long only"))


def _is_long_notebook(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether this run leaves a notebook out for lack of time; who refreshes outputs has asked for it."""
    if not isinstance(item, CourseNotebook) or config.option.overwrite:
        return False
    return notebook_outputs.notebook_name(item.path) in expectations.ONLY_WITH_LONG


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    """Let nbmake find the notebooks, but run them here."""
    found = yield
    return [CourseFile.from_parent(parent, path=file_path) if type(f) is NotebookFile else f for f in found]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = config.stash[REPORTS]
    if not reports:
        return
    rows = [("notebook", "seconds", "memory GB", "key figure"), *(_row(report) for report in reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    terminalreporter.section("notebooks")
    for name, seconds, memory, figure in rows:
        line = f"{name.ljust(widths[0])}  {seconds.rjust(widths[1])}  {memory.rjust(widths[2])}  {figure}"
        terminalreporter.write_line(line.rstrip())
    _write_report(config.rootpath / ".report", reports, rows)


class CourseFile(NotebookFile):
    """A notebook of the course: one run, and with --long a second one right after it.

    With --long, one that reads what another leaves runs once more, as if nothing had been left.
    """

    def collect(self) -> Iterator[NotebookItem]:
        yield CourseNotebook.from_parent(self, filename=str(self.path), name="run")
        if self.config.getoption("--long") and not self.config.option.overwrite:
            yield CourseNotebook.from_parent(self, filename=str(self.path), name="second-run")
            if notebook_outputs.notebook_name(self.path) in expectations.READ_RESULTS:
                yield CourseNotebook.from_parent(self, filename=str(self.path), name="without-results")


class CourseNotebook(NotebookItem):
    """One run of a notebook."""

    def __init__(self, parent: Any, filename: str, name: str) -> None:
        # nbmake names each item like its file; two runs need two names.
        super(NotebookItem, self).__init__(name, parent)
        self.filename = filename

    def runtest(self) -> None:
        _end_ray_of_the_tests()
        root = self.config.rootpath
        name = notebook_outputs.notebook_name(self.path)
        report = Report(name if self.name == "run" else f"{name} ({self.name})")
        self.config.stash[REPORTS].append(report)
        executed = self._run_watched(root, report)
        if any(START_TIMED_OUT in problem for problem in report.problems):
            report.problems.clear()
            executed = self._run_watched(root, report)
        if executed is not None:
            self._judge(executed, name, report)
            if self.config.option.overwrite:
                self._refresh(executed.nb, report)
        if report.problems:
            raise NotebookProblems(*report.problems)

    def repr_failure(self, excinfo: pytest.ExceptionInfo, style: Any = None) -> Any:
        if not isinstance(excinfo.value, NotebookProblems):
            return super().repr_failure(excinfo, style)
        where = (
            self.path.relative_to(self.config.rootpath) if self.path.is_relative_to(self.config.rootpath) else self.path
        )
        lines = [f"{where}: {problem}" for problem in excinfo.value.args]
        return NbMakeFailureRepr("\n".join(lines), lines[0].splitlines()[0])

    def _run_watched(self, root: Path, report: Report) -> NotebookResult | None:
        """Execute the notebook, and put into the report what it did to the machine."""
        files, home = notebook_watch.files_in_repository(root), notebook_watch.files_at_home()
        executed = None
        with _own_folder() as folder:
            marker = uuid.uuid4().hex
            watch = notebook_watch.ProcessWatch(MARKER, marker, folder)
            try:
                with watch, _environment(marker, folder, own_results=self.name == "without-results"):
                    executed = self._execute(report)
            finally:
                left = watch.left_behind(GRACE_SECONDS)
            report.memory_gb = round(watch.peak_gb, 2)
            report.others_share = round(watch.others_share, 2)
            stray = [n for n in sorted(os.listdir(folder)) if not any(fnmatch(n, p) for p in ALLOWED_IN_TEMP)]
        report.problems += [f"after {GRACE_SECONDS:g} s it still runs {process}." for process in left]
        if stray:
            report.problems.append(f"it left in the folder for temporary files: {', '.join(stray)}.")
        if new := notebook_watch.differences(files, notebook_watch.files_in_repository(root), set()):
            note = "(Saved by someone else meanwhile? Then run it again.)"
            report.problems.append(f"it changed the repository: {', '.join(new)}. {note}")
        allowed = notebook_watch.ALLOWED_IN_HOME
        if new := notebook_watch.differences(home, notebook_watch.files_at_home(), allowed):
            report.problems.append(f"it changed the home folder: {', '.join(new)}.")
        return executed

    def _execute(self, report: Report) -> NotebookResult | None:
        """Run all cells; None where there is nothing to judge."""
        option = self.config.option
        start = time.monotonic()
        try:
            run = NotebookRun(self.path, option.nbmake_timeout, kernel=option.nbmake_kernel)
            result = run.execute()
        except Exception as error:  # a kernel that dies, a file that is no notebook
            report.seconds = round(time.monotonic() - start, 1)
            report.problems.append(f"it could not be run to its end: {type(error).__name__}: {error}")
            return None
        report.seconds = round(notebook_outputs.seconds_of_cells(result.nb) or time.monotonic() - start, 1)
        report.slowest_cells = notebook_outputs.slowest_cells(result.nb, 8)
        if result.error is not None:
            cell = result.error.failing_cell_index + 1
            summary = notebook_outputs.ANSI.sub("", result.error.summary)
            report.problems.append(f"cell {cell} failed: {summary}\n{result.error.trace}")
        return result

    def _judge(self, executed: NotebookResult, name: str, report: Report) -> None:
        """Put into the report what is wrong with a notebook that ran."""
        report.key_figure = notebook_outputs.key_figure(executed.nb)
        promised = expectations.limit_of(name, expectations.SECONDS, expectations.SECONDS_OF_OTHERS)
        slack = self.config.getoption("--slack")
        if problem := time_problem(report.seconds, promised, slack, report.others_share):
            report.problems.append(problem)
        limit = expectations.limit_of(name, expectations.MEMORY_GB_OF, expectations.MEMORY_GB)
        if report.memory_gb > limit:
            report.problems.append(f"it used {report.memory_gb:.2f} GB of memory, expected at most {limit:g} GB.")
        if executed.error is not None:
            return  # cells after the failed one have no output to judge
        report.problems += notebook_outputs.check_problems(executed.nb, self.path)
        expected = [e for e in expectations.EXPECTATIONS if e.notebook == name]
        report.problems += notebook_outputs.expectation_problems(executed.nb, expected)

    def _refresh(self, notebook: nbformat.NotebookNode, report: Report) -> None:
        """Write the new outputs into the file, unless something is wrong with the run or with them."""
        notebook_outputs.normalise(notebook, report.seconds)
        report.problems += notebook_outputs.unfit_outputs(notebook)
        if report.problems:
            report.problems.append("the file was left as it is; mend the above and run make notebooks again.")
            return
        notebook_outputs.save(notebook, self.path)


def time_problem(seconds: float, promised: float, slack: float, others_share: float) -> str | None:
    """What is wrong with the time of a notebook, or None.

    Args:
        seconds: what its cells took.
        promised: what they may take on an idle machine.
        slack: how many times that is still fine.
        others_share: the share of the processor that other programs took meanwhile.
            So much of the time is not the notebook's.
    """
    lost = seconds * min(others_share, MOST_FOR_OTHERS)
    if seconds - lost <= promised * slack:
        return None
    others = f", and other programs account for {lost:.0f} s" if lost >= 0.5 else ""
    return (
        f"its cells took {seconds:.0f} s, but {promised:g} s are promised "
        f"({promised * slack:g} s with --slack {slack:g}{others})."
    )


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for temporary files, removed afterwards.

    Its path is short: Ray keeps sockets in it, and the path of a socket may
    have 107 bytes at most.
    """
    tempfile.gettempdir()  # remembered by Python, so before the variable points to a folder that goes away
    base = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else None)
    folder = Path(tempfile.mkdtemp(prefix="rc", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(marker: str, folder: Path, own_results: bool) -> Iterator[None]:
    """The environment that the kernel inherits, only while it runs."""
    own = {**OFFLINE, MARKER: marker, "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    if own_results:
        own[RESULTS_VARIABLE] = str(folder / OWN_RESULTS)
    wanted = {name: value for name, value in ENVIRONMENT.items() if name not in UNSET} | own
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(wanted):
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        yield


def _end_ray_of_the_tests() -> None:
    """Tests share one Ray that lives until the last of them; notebooks, which come later, get the whole machine."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _row(report: Report) -> tuple[str, str, str, str]:
    figure = report.key_figure if not report.problems else f"FAILED  {report.key_figure}".strip()
    return report.notebook, f"{report.seconds:.1f}", f"{report.memory_gb:.2f}", figure


def _write_report(folder: Path, reports: list[Report], rows: list[tuple[str, str, str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    content = json.dumps([asdict(report) for report in reports], indent=1, ensure_ascii=False)
    (folder / "notebooks.json").write_text(content + "\n", encoding="utf-8")
    head, *body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    (folder / "notebooks.md").write_text("\n".join([head, "|---|--:|--:|---|", *body]) + "\n", encoding="utf-8")
