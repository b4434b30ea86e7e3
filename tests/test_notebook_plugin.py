"""The plugin that runs the notebooks is red where it must be: tiny bad notebooks, run by a pytest of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import expectations, notebook_outputs, notebook_watch
from tests.expectations import Expectation
from tests.notebook_plugin import time_problem

REPOSITORY = Path(__file__).resolve().parent.parent
# The course's own limits are replaced by tiny ones, and one expectation.
CONFTEST = """
import os
from tests import expectations, notebook_plugin
notebook_plugin.GRACE_SECONDS = 3.0
os.environ["SET_BY_A_TEST"] = "1"
expectations.SECONDS = {"slow": 0.1, "deep_dives/slow_dive": 0.1}
expectations.MEMORY_GB = 0.5
expectations.EXPECTATIONS[:] = [
    expectations.Expectation(name, "score", r"score ([0-9.]+)", "the score", at_least=0.85)
    for name in ("good", "low_score", "no_score", "deep_dives/good_dive", "deep_dives/low_dive", "reference/low_page")
]
"""
MARKERS = {"RAY_COURSE_RUN", "PYTEST_CURRENT_TEST"}


class Verdict:
    """Source of a cell whose last expression shows a verdict."""

    @staticmethod
    def cell(text: str):
        source = f"class V:\n    def __repr__(self):\n        return {text!r}\nV()"
        return code(source, "check-1")


def code(source: str, *tags: str):
    return new_code_cell(source, metadata={"tags": list(tags)})


NOTEBOOKS = {
    "good": [
        new_markdown_cell("# Good\n\n**Time:** the cells run in about 999 seconds on a 2-core machine."),
        code("for i in range(3):\n    print(f'step {i}', end='\\r')\nprint('score 0.90')", "score"),
        code("import sys\nprint('several', flush=True)\nprint('lines')", "key-figure"),
        Verdict.cell("not solved yet: replace the stub"),
    ],
    "environment": [
        code("import os; e = os.environ"),
        code("assert e['HF_HUB_OFFLINE'] == e['TRANSFORMERS_OFFLINE'] == e['HF_DATASETS_OFFLINE'] == '1'"),
        code("assert e['TMPDIR'] == e['RAY_TMPDIR'] and len(e['TMPDIR']) < 40, e['TMPDIR']"),
        code("assert e['MPLBACKEND'] != 'agg' and 'SET_BY_A_TEST' not in e"),
    ],
    "failing_cell": [code("1 / 0")],
    "starts_at_second_try": [
        code("from pathlib import Path; tried = Path('results/tried'); first = not tried.exists()"),
        code("tried.parent.mkdir(exist_ok=True); tried.touch()"),
        code("assert not first, 'The current node timed out during startup. This could happen because ...'"),
    ],
    "never_starts": [code("raise Exception('The current node timed out during startup. ...')")],
    "greedy": [code("import time; x = b'1' * 600_000_000; time.sleep(2.5)")],
    "slow": [code("import time; time.sleep(1.8)")],
    "hanging": [code("import time; time.sleep(600)")],
    "solved_lesson": [Verdict.cell("right: well done")],
    "no_verdict": [code("None", "check-1")],
    "solutions/wrong": [Verdict.cell("not right: got 1, expected 2.")],
    "solutions/right": [Verdict.cell("right: well done")],
    "deep_dives/good_dive": [code("print('score 0.90')", "score"), Verdict.cell("not solved yet: replace the stub")],
    "deep_dives/low_dive": [code("print('score 0.10')", "score")],
    "deep_dives/slow_dive": [code("import time; time.sleep(1.8)")],
    "deep_dives/solved_dive": [Verdict.cell("right: well done")],
    "solutions/slow_dive": [code("import time; time.sleep(1.8)")],
    "reference/low_page": [code("print('score 0.10')", "score")],
    "left_process": [code("import subprocess; p = subprocess.Popen(['sleep', '612'], start_new_session=True)")],
    "left_file": [code("import pathlib, tempfile\npathlib.Path('stray.txt').write_text('x'); tempfile.mkstemp()")],
    "overwrites_itself": [code("open('overwrites_itself.ipynb', 'a').write(' ')")],
    "low_score": [code("print('score 0.10')", "score")],
    "no_score": [code("print('score 0.90')")],
    "dead_kernel": [code("import os; os._exit(1)")],
    "writes_stderr": [code("import sys; print('warning', file=sys.stderr)")],
}


def make_project(folder: Path, names: list[str]) -> None:
    for name in notebook_outputs.FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name in names:
        # On a busy machine every cell takes long, so only the one that hangs has a short limit.
        metadata = {"execution": {"timeout": 4}} if name == "hanging" else {}
        nbformat.write(new_notebook(cells=NOTEBOOKS[name], metadata=metadata), folder / f"{name}.ipynb")


def run_pytest(folder: Path, *options: str) -> tuple[int, dict[str, str], str]:
    """Run the notebooks of a project; returns exit code, notebook -> failure message ("": passed), output."""
    environment = {name: value for name, value in os.environ.items() if name not in MARKERS}
    environment |= {"PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.notebook_plugin", "-p", "no:cacheprovider", "--nbmake"]
    done = subprocess.run(
        [*command, "--junitxml=.report/junit.xml", *options, "."],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert (folder / ".report" / "junit.xml").is_file(), output
    messages = {}
    for case in ElementTree.parse(folder / ".report" / "junit.xml").iter("testcase"):
        name = case.get("classname", "").replace(".", "/").removesuffix("/ipynb")
        messages[f"{name}::{case.get('name')}"] = "".join(f.text or "" for f in case.iter("failure"))
    return done.returncode, messages, output


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, str], str]:
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, list(NOTEBOOKS))
    return folder, *run_pytest(folder, "--nbmake-timeout", "120")


RED = {
    "failing_cell": ("cell 1 failed: ", "ZeroDivisionError"),
    "never_starts": ("cell 1 failed: ", "timed out during startup"),
    "slow": (" s, but 0.1 s are promised (0.15 s with --slack 1.5",),
    "greedy": ("GB of memory, expected at most 0.5 GB",),
    "hanging": ("cell 1 failed: ", "timed out", "after 4 seconds"),
    "solved_lesson": ("cell 1 (check-1)", "'not solved yet'", "right: well done"),
    "no_verdict": ("cell 1 (check-1)", "found ''"),
    "deep_dives/low_dive": ("the score is 0.10, expected at least 0.85",),
    "deep_dives/slow_dive": (" s, but 0.1 s are promised",),
    "deep_dives/solved_dive": ("cell 1 (check-1)", "'not solved yet'", "right: well done"),
    "reference/low_page": ("the score is 0.10, expected at least 0.85",),
    "solutions/slow_dive": (" s, but 0.1 s are promised",),
    "solutions/wrong": ("cell 1 (check-1)", "'right:'", "not right: got 1"),
    "left_process": ("after 3 s it still runs sleep (pid ", "sleep 612"),
    "left_file": ("changed the repository: stray.txt (new)", "temporary files: tmp"),
    "overwrites_itself": ("changed the repository: overwrites_itself.ipynb (changed)",),
    "low_score": ("the score is 0.10, expected at least 0.85",),
    "no_score": ("no cell has the tag 'score'",),
    "dead_kernel": ("could not be run to its end: DeadKernelError",),
}


@pytest.mark.parametrize("name", RED)
def test_a_bad_notebook_is_red_and_says_why(all_runs: tuple, name: str) -> None:
    _, code, messages, _ = all_runs
    assert code == 1
    for part in (f"{name}.ipynb: ", *RED[name]):
        assert part in messages[f"{name}::run"]


def test_only_bad_notebooks_are_red(all_runs: tuple) -> None:
    _, _, messages, output = all_runs
    green = {name for name, message in messages.items() if not message}
    assert green == {f"{name}::run" for name in NOTEBOOKS if name not in RED}, output


def test_what_stayed_behind_is_ended(all_runs: tuple) -> None:
    assert ["sleep", "612"] not in [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]


def test_table_and_report(all_runs: tuple) -> None:
    folder, _, _, output = all_runs
    rows = {row["notebook"]: row for row in json.loads((folder / ".report" / "notebooks.json").read_text())}
    assert set(rows) == set(NOTEBOOKS)
    assert rows["good"]["key_figure"] == "lines"
    assert 1.8 <= rows["slow"]["seconds"] < 60
    assert max(rows["slow"]["slowest_cells"].values()) >= 1.8
    assert all(0 <= row["others_share"] <= 1 for row in rows.values())
    assert 0.02 < rows["good"]["memory_gb"] < 0.5 < 0.6 < rows["greedy"]["memory_gb"] < 1
    assert rows["good"]["problems"] == [] and rows["slow"]["problems"]
    assert "notebook" in output and "memory GB" in output
    assert f"| {rows['slow']['seconds']:.1f} |" in (folder / ".report" / "notebooks.md").read_text()


def test_running_does_not_touch_the_file(all_runs: tuple) -> None:
    cell = nbformat.read(all_runs[0] / "good.ipynb", 4).cells[1]
    assert cell.outputs == [] and cell.execution_count is None


def test_the_second_run_comes_with_long(tmp_path: Path) -> None:
    # Fails when it runs again: the file of the first run is there.
    cells = [code("import pathlib; p = pathlib.Path('results'); p.mkdir()")]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    nbformat.write(new_notebook(cells=cells), tmp_path / "once.ipynb")
    exit_code, messages, _ = run_pytest(tmp_path, "--long")
    assert exit_code == 1
    assert messages["once::run"] == "" and "FileExistsError" in messages["once::second-run"]


def test_who_reads_results_runs_also_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = sorted(expectations.READ_RESULTS)[0]
    # Fails where the folder of the first two runs is not the one.
    cells = [code("from helpers import data; (data.results_dir('x') / 'made').touch(exist_ok=False)")]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for other in (name, "other"):
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{other}.ipynb")
    monkeypatch.setenv("RAY_COURSE_RESULTS", str(tmp_path / "shared"))
    _, messages, output = run_pytest(tmp_path, "--long")
    assert "FileExistsError" in messages[f"{name}::second-run"], output
    assert "FileExistsError" not in messages[f"{name}::without-results"], output
    assert "other::without-results" not in messages
    assert not list(tmp_path.glob("**/own_results"))


@pytest.mark.fast
def test_readers_of_results_exist() -> None:
    assert all((REPOSITORY / "notebooks" / f"{name}.ipynb").is_file() for name in expectations.READ_RESULTS)


@pytest.mark.parametrize(("options", "runs"), [((), False), (("--long",), True), (("--overwrite",), True)])
def test_long_notebooks_are_left_out_unless_asked_for(tmp_path: Path, options: tuple[str, ...], runs: bool) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "deep_dives").mkdir()
    long, short = sorted(expectations.ONLY_WITH_LONG)[0], "deep_dives/short"
    for name in (long, short):
        nbformat.write(new_notebook(cells=[code("1 / 0")]), tmp_path / f"{name}.ipynb")
    _, messages, output = run_pytest(tmp_path, *options)
    assert "ZeroDivisionError" in messages[f"{short}::run"], output
    assert ("ZeroDivisionError" in messages[f"{long}::run"]) is runs, output


@pytest.mark.fast
def test_no_lesson_is_left_out() -> None:
    assert {name.partition("/")[0] for name in expectations.ONLY_WITH_LONG} == {"deep_dives", "reference"}
    missing = [n for n in expectations.ONLY_WITH_LONG if not (REPOSITORY / "notebooks" / f"{n}.ipynb").is_file()]
    assert missing == []


def test_overwrite_normalises_or_refuses(tmp_path: Path) -> None:
    names = ["good", "failing_cell", "writes_stderr"]
    make_project(tmp_path, names)
    before = {name: (tmp_path / f"{name}.ipynb").read_bytes() for name in names}
    exit_code, messages, output = run_pytest(tmp_path, "--overwrite")
    assert exit_code == 1
    assert messages["good::run"] == "", output
    assert "writes to stderr: 'warning" in messages["writes_stderr::run"]
    for name in ("failing_cell", "writes_stderr"):
        assert "left as it is" in messages[f"{name}::run"]
        assert (tmp_path / f"{name}.ipynb").read_bytes() == before[name]
    text = (tmp_path / "good.ipynb").read_text()
    made = nbformat.reads(text, 4)
    assert text.endswith("}\n") and '\n "cells": [' in text
    assert made.metadata.ray_course.seconds < 60
    told = re.search(r"in about (\d+) seconds on", made.cells[0].source)
    assert told and made.metadata.ray_course.seconds <= int(told.group(1)) <= made.metadata.ray_course.seconds + 5
    assert [output.text for output in made.cells[1].outputs] == ["score 0.90\n"]
    assert [output.text for output in made.cells[2].outputs] == ["several\nlines\n"]
    assert [cell.execution_count for cell in made.cells[1:]] == [1, 2, 3]
    assert all("execution" not in cell.metadata for cell in made.cells)
    assert made.metadata.kernelspec.display_name == "Python 3"
    assert "version" not in made.metadata.language_info


@pytest.mark.fast
@pytest.mark.parametrize(
    ("output", "good"),
    [("accuracy 0.87", True), ("accuracy 0.84", False), ("accuracy nan", False), ("nothing", False), (None, False)],
)
def test_expectation_of_a_number(output: str | None, good: bool) -> None:
    expectation = Expectation("x", "t", r"accuracy (\S+)", "the accuracy", at_least=0.85, at_most=1)
    assert (expectation.problem(output) is None) is good


@pytest.mark.fast
def test_expectation_of_a_text_and_of_thousands() -> None:
    assert Expectation("x", "t", r"is (\w+)", "the answer", equals="right").problem("it is right") is None
    assert "is wrong, expected exactly right" in (
        Expectation("x", "t", r"is (\w+)", "the answer", equals="right").problem("it is wrong") or ""
    )
    assert Expectation("x", "t", r"([0-9,]+) rows", "the rows", at_least=2000).problem("10,000 rows") is None


@pytest.mark.fast
@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("one: 10\ntwo: 21", None),
        ("one: 1,000\ntwo: 2,100", None),
        ("one: 10\ntwo: 14", "two beside one is 1.4, expected at least 1.5"),
        ("one: 0\ntwo: 21", "is 21 / 0, expected"),
        ("two: 21", "expected 'one: (\\\\S+)' beside two beside one, found 'two: 21'"),
    ],
)
def test_expectation_of_one_number_beside_another(output: str, says: str | None) -> None:
    expectation = Expectation("x", "t", r"two: (\S+)", "two beside one", at_least=1.5, over=r"one: (\S+)")
    problem = expectation.problem(output)
    assert problem is None if says is None else says in (problem or "")


def test_an_expectation_that_cannot_fail_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a group"):
        Expectation("x", "t", r"[0-9]+", "the number", at_least=1)
    with pytest.raises(ValueError, match="can never fail"):
        Expectation("x", "t", r"([0-9]+)", "the number")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("notebooks/01_x.ipynb", "01_x"),
        ("notebooks/deep_dives/x.ipynb", "deep_dives/x"),
        ("notebooks/reference/x.ipynb", "reference/x"),
        ("notebooks/solutions/01_x.ipynb", "solutions/01_x"),
    ],
)
def test_a_notebook_is_named_with_its_folder(path: str, name: str) -> None:
    assert notebook_outputs.notebook_name(Path(path)) == name
    assert notebook_outputs.is_solution(Path(path)) is name.startswith("solutions/")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "limit"),
    [("01_x", 5), ("solutions/01_x", 5), ("deep_dives/y", 7), ("solutions/y", 7), ("reference/z", 240), ("y_x", 240)],
)
def test_solutions_share_the_limit_of_what_they_solve(name: str, limit: float) -> None:
    assert expectations.limit_of(name, {"01_x": 5, "deep_dives/y": 7}, 240) == limit


@pytest.mark.fast
def test_expectations_and_limits_name_notebooks_that_exist() -> None:
    names = {notebook_outputs.notebook_name(p) for p in (REPOSITORY / "notebooks").rglob("*.ipynb")}
    limits = {*expectations.SECONDS, *expectations.MEMORY_GB_OF}
    unknown = {*limits, *(e.notebook for e in expectations.EXPECTATIONS)} - names
    assert not unknown, f"tests/expectations.py names notebooks that do not exist: {sorted(unknown)}"


@pytest.mark.fast
def test_a_progress_line_keeps_its_last_state() -> None:
    text = "10 %\r50 %\r100 %\ndone\r\n\x1b[32mgreen\x1b[0m\n"
    outputs = [new_output("stream", name="stdout", text=part) for part in (text[:12], text[12:])]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=outputs)])
    notebook_outputs.normalise(notebook, 61.2)
    assert [output.text for output in notebook.cells[0].outputs] == ["100 %\ndone\ngreen\n"]
    assert notebook.metadata["ray_course"]["seconds"] == 61


STARTED = (
    "2026-11-26 02:11:44,861\tINFO worker.py:2029 -- Started a local Ray instance. View the dashboard at "
    "\x1b[1m\x1b[32mhttp://127.0.0.1:8265 \x1b[39m\x1b[22m\n"
)
DIED = (
    "\x1b[33m(raylet)\x1b[0m A worker died or was killed. Lease ID: 0d0000003a5097bc82b4919b37b8c62036b3fe8ff6894f64 "
    'Worker port: 41123 Worker PID: 14006\n  File "/tmp/rcx1/ipykernel_77/1234.py", line 5, in busy\n'
    '  File "/' + 'home/ann/.venv/lib/python3.11/site-packages/ray/x.py", line 7\n'
    "logs in /tmp/rcx1/ray/session_2026-11-26_02-11-37_8_1/logs/worker.err\n"
)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "written", "committed"),
    [
        (
            "stderr",
            STARTED,
            "INFO worker.py:2029 -- Started a local Ray instance. View the dashboard at http://127.0.0.1:8265 \n",
        ),
        ("stdout", "\x1b[36m(f pid=8579)\x1b[0m hello\n", "(f) hello\n"),
        ("stdout", "(Counter.add pid=8579, ip=10.1.2.3) hello pid=5\n", "(Counter.add) hello pid=...\n"),
        ("stdout", "(pid=8579) hello\n", "(worker) hello\n"),
        (
            "stdout",
            'ray::f() (pid=8579, ip=10.1.2.3)\n  File "/x/ipykernel_7/12.py", line 4, in f\n',
            'ray::f() (pid=...)\n  File "cell", line 4, in f\n',
        ),
        (
            "stdout",
            "    get (ray/_private/worker.py:3012)\n    order (/tmp/ipykernel_7/12.py:14)\n    order (15108.py:9)\n",
            "    get (ray/_private/worker.py:3012)\n    order (cell:14)\n    order (cell:9)\n",
        ),
        (
            "stdout",
            "\x1b[33m(raylet)\x1b[0m Spilled 190 MiB, 10 objects.\n"
            "    [2026-11-26 03:02:14,841 I 244 244] (raylet) worker_pool.cc:564: Started worker process\n",
            "(raylet) Spilled 190 MiB, 10 objects.\n",
        ),
        (
            "stderr",
            "[2026-11-26 02:11:51,220 W 8683 8683] network_util.cc:330: no network\n",
            "[W] network_util.cc:330: no network\n",
        ),
        (
            "stdout",
            DIED,
            "(raylet) A worker died or was killed. Lease ID: ... Worker port: ... Worker PID: ...\n"
            '  File "cell", line 5, in busy\n  File "ray/x.py", line 7\n'
            "logs in /tmp/ray/session_latest/logs/worker.err\n",
        ),
        ("stdout", "process 3, 0x1f, worker: 12\n", "process 3, 0x1f, worker: 12\n"),
    ],
)
def test_messages_of_ray_are_committed_without_what_changes(name: str, written: str, committed: str) -> None:
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[new_output("stream", name=name, text=written)])])
    notebook_outputs.normalise(notebook, 1)
    assert notebook.cells[0].outputs[0].text == committed
    assert notebook_outputs.unfit_outputs(notebook) == []


@pytest.mark.fast
@pytest.mark.parametrize(
    "text",
    [
        "[2026-11-26 03:01:17,845 W 2 2] network_util.cc:330: Failed to determine local IP via external connectivity "
        "to: 8.8.8.8:53, falling back to hostname resolution\n",
        "\x1b[33m(raylet)\x1b[0m [2026-11-26 03:02:22,615 I 25 25] logging.cc:303: Set ray log level to 3\n",
        "[2026-11-26 16:13:01,123 E 15371 15371] core_worker.cc:2488: Failed to register actor. Error message: "
        "SchedulingCancelled: Actor creation cancelled. actor_id=0123456789abcdef01234567\n",
        "2026-11-26 03:02:05,514\tINFO packaging.py:785 -- Creating a file package for local module '/"
        + "w/helpers'.\n",
        "2026-11-26 03:58:05,514\tWARNING dataset.py:8601 -- Warning: The Ray cluster currently does not have any "
        "available CPUs. The Dataset job will hang unless more CPUs are freed up.\n",
        "2026-11-26 03:58:05,514\tERROR worker.py:439 -- Unhandled error (suppress with "
        "'RAY_IGNORE_UNHANDLED_ERRORS=1'): "
        '\x1b[36mray::coat;55()\x1b[39m (pid=413, ip=127.0.0.1)\n  File "cell", line 12, in read_price\n'
        "ValueError: not enough values to unpack (expected 2, got 1)\n",
    ],
)
def test_notes_of_ray_about_one_run_are_not_committed(text: str) -> None:
    outputs = [new_output("stream", name="stderr", text=text), new_output("stream", name="stdout", text="kept\n")]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=outputs)])
    notebook_outputs.normalise(notebook, 1)
    assert [output.text for output in notebook.cells[0].outputs] == ["kept\n"]


@pytest.mark.fast
def test_a_print_that_comes_in_pieces_is_read_as_one() -> None:
    pieces = [("stdout", "old"), ("stdout", " "), ("stdout", "2\n"), ("stderr", "x\n"), ("stdout", "new 3\n")]
    outputs = [new_output("stream", name=name, text=text) for name, text in pieces]
    cell = new_code_cell("x", outputs=[*outputs, new_output("execute_result", data={"text/plain": "right"})])
    assert notebook_outputs.text_of(cell) == "old 2\nnew 3\nright"


@pytest.mark.fast
@pytest.mark.parametrize(
    "text",
    [
        "a warning\n",
        "(f) fine\nnot of Ray\n",
        "cell.py:3: UserWarning: the copy is slow\n  x = y\n",
        "(f) x.py:3: DeprecationWarning: use y\n",
        "INFO worker.py:1 -- started\nTraceback (most recent call last):\n",
        "ERROR worker.py:1 -- broken\n",
        "2026-11-26 03:58:05,514\tERROR worker.py:439 -- Unhandled error (suppress with "
        "'X=1'): ray::other() (pid=413)\n",
    ],
)
def test_other_lines_on_stderr_are_unfit(text: str) -> None:
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[new_output("stream", name="stderr", text=text)])])
    problems = notebook_outputs.unfit_outputs(notebook)
    assert len(problems) == 1 and "writes to stderr" in problems[0]


@pytest.mark.fast
@pytest.mark.parametrize("text", ["/" + "home/someone/x.py", "/tmp/rcx/y", "/" + "root/x", r"C:\Users\x"])
def test_a_path_of_the_machine_is_unfit(text: str) -> None:
    output = new_output("execute_result", data={"text/plain": f"see {text}"}, execution_count=1)
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[output])])
    assert len(notebook_outputs.unfit_outputs(notebook)) == 1
    output.data["text/plain"] = "see ~/data and results/model"
    assert notebook_outputs.unfit_outputs(notebook) == []


@pytest.mark.fast
def test_a_process_without_the_marker_is_found_by_its_command_line_or_parent(tmp_path: Path) -> None:
    watch = notebook_watch.ProcessWatch("RAY_COURSE_RUN", "no process has this", tmp_path)
    source = "import subprocess, time; subprocess.Popen(['sleep', '613']); time.sleep(613)"
    parent = subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], env={})
    stranger = subprocess.Popen(["sleep", "614"], env={})
    try:
        deadline = time.monotonic() + 60
        while len(watch.running()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        found = watch.left_behind(0.0)
        assert len(found) == 2
        assert f"(pid {parent.pid})" in found[0] and found[1].endswith(": sleep 613")
        assert stranger.poll() is None
        assert watch.running() == []
    finally:
        for process in (parent, stranger):
            process.kill()
            process.wait()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("seconds", "others_share", "good"),
    [
        (100, 0.0, True),
        (150, 0.0, True),
        (151, 0.0, False),
        (151, 0.1, True),
        (300, 0.5, True),
        (301, 0.5, False),
        (1500, 1.0, True),
        (1501, 1.0, False),
    ],
)
def test_time_that_other_programs_took_is_not_the_notebooks(seconds: float, others_share: float, good: bool) -> None:
    problem = time_problem(seconds, promised=100, slack=1.5, others_share=others_share)
    assert (problem is None) is good
    if problem:
        assert problem.startswith(f"its cells took {seconds} s, but 100 s are promised (150 s with --slack 1.5")
        assert ("other programs account for" in problem) is (others_share > 0)


BURN = "import time\nwhile time.process_time() < 1.5: pass\nprint('burnt', flush=True)\ntime.sleep(60)"


@pytest.mark.fast
@pytest.mark.parametrize("own", [True, False])
def test_processor_time_is_told_apart_from_that_of_others(tmp_path: Path, own: bool) -> None:
    with notebook_watch.ProcessWatch("RAY_COURSE_RUN", "this run", tmp_path) as watch:
        environment = {"RAY_COURSE_RUN": "this run"} if own else {}
        command = [sys.executable, "-c", BURN]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "burnt\n"
            seconds = time.monotonic() - watch.started
            watch.running()
            process.kill()
    cores = psutil.cpu_count() or 1
    if own:
        assert 1.4 < watch.cpu_seconds < 2.5
    else:
        assert watch.cpu_seconds == 0
        # The processor's own records come in hundredths of a second for each core.
        assert watch.others_share > 1.3 / (cores * (seconds + 3))


@pytest.mark.fast
def test_a_busy_machine_does_not_hide_the_peak(tmp_path: Path) -> None:
    looks = []

    class Slow(notebook_watch.ProcessWatch):
        """On a busy machine a look waits for the processor most of its time."""

        def running(self) -> list[psutil.Process]:
            looks.append(time.monotonic())
            time.sleep(0.5)
            return []

    with Slow("RAY_COURSE_RUN", "this run", tmp_path):
        deadline = time.monotonic() + 12
        while len(looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = len(looks)
    assert seen >= 3, "after a slow look, the next one came too late to see a peak of memory"


@pytest.mark.fast
def test_changes_of_the_home_folder_are_seen(tmp_path: Path) -> None:
    (tmp_path / "ray_results" / "old").mkdir(parents=True)
    (tmp_path / ".config").mkdir()
    (tmp_path / "ray_results" / "old" / "kept.json").touch()
    before = notebook_watch.files_at_home(tmp_path)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    (tmp_path / ".config" / "matplotlib").mkdir()
    assert not notebook_watch.differences(
        before, notebook_watch.files_at_home(tmp_path), notebook_watch.ALLOWED_IN_HOME
    )
    (tmp_path / "ray_results" / "old" / "result.json").touch()
    (tmp_path / ".ray" / "other").touch()
    (tmp_path / "model.pt").touch()
    (tmp_path / "ray_results" / "old" / "kept.json").unlink()
    found = notebook_watch.differences(before, notebook_watch.files_at_home(tmp_path), notebook_watch.ALLOWED_IN_HOME)
    assert found == [
        ".ray/other (new)",
        "model.pt (new)",
        "ray_results/old/kept.json (gone)",
        "ray_results/old/result.json (new)",
    ]


@pytest.mark.fast
def test_an_empty_results_folder_may_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "ray_results").mkdir()
    with_it = notebook_watch.files_at_home(tmp_path)
    (tmp_path / "ray_results").rmdir()
    without = notebook_watch.files_at_home(tmp_path)
    for before, after in ((with_it, without), (without, with_it)):
        assert not notebook_watch.differences(before, after, notebook_watch.ALLOWED_IN_HOME)
