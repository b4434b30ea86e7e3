"""Reading an executed notebook's outputs, and making them fit to be committed."""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tests.expectations import Expectation
from tests.forbidden import machine_paths

# Folders in notebooks/. The lessons themselves lie beside them.
DEEP_DIVES, REFERENCE, SOLUTIONS = "deep_dives", "reference", "solutions"
FOLDERS = (DEEP_DIVES, REFERENCE, SOLUTIONS)
TIME_LINE = re.compile(r"(?m)^(\*\*Time:\*\* .*\brun in about )\d+( seconds on a 2-core machine\.)")
CHECK_TAG = re.compile(r"check-\d+$")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Notes of Ray that a reader sees, and a committed output does without: they are about one run, machine or network.
DROPPED = (
    r"(?m)^ *(?:\(raylet\) )?\[\d{4}-\d\d-\d\d [\d:,]+ I \d+ \d+\] .*\n?",  # notes in C++, of the level INFO
    r"(?m)^\[[^\]\n]* W \d+ \d+\] network_util\.cc:\d+: Failed to determine local IP via external connectivity.*\n?",
    # Right after another dataset has ended, Ray has not yet heard that its CPUs are free.
    r"(?m)^.*\tWARNING dataset\.py:\d+ -- Warning: The Ray cluster currently does not have any available CPUs.*\n?",
    # An actor that Tune had asked for, and no longer needs because a trial has left its own.
    r"(?m)^\[[^\]\n]* E \d+ \d+\] core_worker\.cc:\d+: Failed to register actor\. .*Actor creation cancelled.*\n?",
    # RLlib stores the arguments of its env runners, and keeps them as long as these can be restarted.
    r"(?m)^\[[^\]\n]* E \d+ \d+\] core_worker\.cc:\d+: .*arguments in the object store and max_restarts.*\n?",
    # Notebook 10 leaves this exception unfetched on purpose; Ray reports it in whichever cell runs some seconds later.
    r"(?m)^.*\tERROR worker\.py:\d+ -- Unhandled error .*ray::coat;55\(\).*\n(?: .*\n)*ValueError: .*\n?",
    r"(?m)^.*\tINFO packaging\.py:\d+ -- .*\n?",  # the names of folders that are sent to a cluster
)
# What differs from run to run in Ray's other messages.
TIDY = (
    # The time of a line of a log, also of Dask's, and in C++ also the process and the thread.
    (r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (?=distributed\.)", ""),
    (r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\t(?=[A-Z]+ )", ""),
    (r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]) \d+ \d+\]", r"[\1]"),
    (r"(?m)^\(pid=\d+(?:, ip=[\w.:]+)?\)", "(worker)"),
    (r"(?m)^(\([^()\n]*?) pid=\d+(?:, ip=[\w.:]+)?\)", r"\1)"),
    (r"\b[0-9a-f]{20,}\b", "..."),
    (r"\b(pid=|PID: |Worker port: )\d+\b", r"\1..."),
    (r"\((pid=\.\.\.), ip=[\w.:]+", r"(\1"),  # in the traceback of a task
    (r'File "[^"\n]*[/\\]ipykernel_\d+[/\\]\d+\.py"', 'File "cell"'),
    (r"(?<= \()(?:[^()\n]*ipykernel_\d+[/\\])?\d+\.py(?=:\d+\))", "cell"),  # in the output of py-spy
    (r'File "[^"\n]*[/\\](?:site|dist)-packages[/\\]', 'File "'),
    (r"(?<![\w.~])/[\w./+-]*/session_\d[\w-]*", "/tmp/ray/session_latest"),
)
# A line that Ray writes to stderr: of a log (after TIDY), or what a worker wrote there. Or Dask, if a worker dies.
RAY_LINE = re.compile(
    r"(?:DEBUG|INFO|WARNING) \w+\.py:\d+ -- |\[[IW]\] \w+\.cc:\d+: |\([\w.: ]+\) "
    r"|distributed\.nanny - WARNING - Restarting worker "
    r"|distributed\.client - WARNING - Couldn.t gather \d+ keys, rescheduling "  # asked while its worker died
)
PYTHON_TROUBLE = re.compile(r"\w*Warning: |Traceback \(most recent call last\)")


def notebook_name(path: Path) -> str:
    """The name by which expectations know a notebook: "01_x", "deep_dives/x", "reference/x" or "solutions/01_x"."""
    return f"{path.parent.name}/{path.stem}" if path.parent.name in FOLDERS else path.stem


def is_solution(path: Path) -> bool:
    return path.parent.name == SOLUTIONS


def seconds_of_cells(notebook: NotebookNode) -> float | None:
    """The time that all cells took, from nbclient's records; None if no cell has one."""
    seconds = _seconds(notebook)
    return sum(seconds.values()) if seconds else None


def slowest_cells(notebook: NotebookNode, count: int) -> dict[int, float]:
    """The cells that took longest, counted from 1, with their seconds."""
    seconds = _seconds(notebook)
    return {cell: round(seconds[cell], 1) for cell in sorted(seconds, key=seconds.__getitem__, reverse=True)[:count]}


def _seconds(notebook: NotebookNode) -> dict[int, float]:
    found = {}
    for number, cell in enumerate(notebook.cells, 1):
        times = cell.metadata.get("execution", {})
        start, stop = times.get("iopub.execute_input"), times.get("shell.execute_reply")
        if start and stop:
            found[number] = (datetime.fromisoformat(stop) - datetime.fromisoformat(start)).total_seconds()
    return found


def cell_with_tag(notebook: NotebookNode, tag: str) -> NotebookNode | None:
    return next((cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])), None)


def text_of(cell: NotebookNode) -> str:
    """All text that a cell shows: what it prints and its text results, in order."""
    parts, printing = [], False
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            if printing:  # one `print` can come in several pieces
                parts[-1] += _joined(output.text)
            else:
                parts.append(_joined(output.text))
            printing = True
            continue
        printing = False
        if "data" in output:
            parts.append(_joined(output.data.get("text/plain", "")))
    return "\n".join(part.rstrip("\n") for part in parts if part)


def key_figure(notebook: NotebookNode) -> str:
    """The last line that the cell tagged `key-figure` shows, or an empty string."""
    cell = cell_with_tag(notebook, "key-figure")
    lines = text_of(cell).strip().splitlines() if cell is not None else []
    return lines[-1].strip() if lines else ""


def check_problems(notebook: NotebookNode, path: Path) -> list[str]:
    """Checks of exercises that do not answer 'not solved yet' in a lesson, or 'right' in its solutions."""
    expected = "right:" if is_solution(path) else "not solved yet"
    problems = []
    for number, cell in enumerate(notebook.cells, start=1):
        for tag in filter(CHECK_TAG.match, cell.metadata.get("tags", [])):
            results = [o for o in cell.get("outputs", []) if o.output_type == "execute_result"]
            found = _joined(results[-1].data.get("text/plain", "")) if results else ""
            if not found.startswith(expected):
                problems.append(
                    f"cell {number} ({tag}): expected an answer that starts with {expected!r}, found {found[:200]!r}."
                )
    return problems


def expectation_problems(notebook: NotebookNode, expectations: list[Expectation]) -> list[str]:
    """What the expectations of this notebook do not find."""
    problems = []
    for expectation in expectations:
        cell = cell_with_tag(notebook, expectation.tag)
        problems.append(expectation.problem(text_of(cell) if cell is not None else None))
    return [problem for problem in problems if problem]


def unfit_outputs(notebook: NotebookNode) -> list[str]:
    """Outputs that must not be committed: errors, paths of this machine, and stderr except for Ray's own messages."""
    problems = []
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                problems.append(f"cell {number}: its output is an error ({output.ename}: {output.evalue[:200]}).")
                continue
            text = _all_text(output)
            if output.get("name") == "stderr" and (stray := not_of_ray(text)):
                problems.append(f"cell {number}: it writes to stderr: {stray[:200]!r}.")
            if paths := machine_paths(text):
                problems.append(f"cell {number}: its output names a folder of this machine: {', '.join(paths)}.")
    return problems


def not_of_ray(text: str) -> str:
    """The first line on stderr that is not of Ray, or that tells of trouble in Python; empty if there is none.

    A message of Ray may have several lines; an indented line belongs to the one before it.
    """
    of_ray = False
    for line in filter(str.strip, text.splitlines()):
        of_ray = bool(RAY_LINE.match(line)) or (of_ray and line[0].isspace())
        if not of_ray or PYTHON_TROUBLE.search(line):
            return line
    return ""


def normalise(notebook: NotebookNode, seconds: float) -> None:
    """Leave in an executed notebook only what is the same on every machine, and its measured time."""
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata["ray_course"] = {**notebook.metadata.get("ray_course", {}), "seconds": round(seconds)}
    shown = max(5, 5 * math.ceil(seconds / 5))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "markdown":
            cell.source = TIME_LINE.sub(rf"\g<1>{shown}\g<2>", cell.source)
        elif cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step: whoever interrupts this keeps the old file."""
    made = path.with_suffix(".ipynb.new")
    made.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
    made.replace(path)


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring streams of the same name become one; of a progress line only its last state stays."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text = _joined(last.text) + _joined(output.text)
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            lines = ANSI.sub("", _joined(output.text)).split("\n")
            output.text = _tidy("\n".join(_last_state(line) for line in lines))
    return [output for output in merged if output.output_type != "stream" or output.text.strip()]


def _tidy(text: str) -> str:
    """Ray's messages without what differs from run to run."""
    for pattern in DROPPED:
        text = re.sub(pattern, "", text)
    for pattern, replacement in TIDY:
        text = re.sub(pattern, replacement, text)
    return text


def _last_state(line: str) -> str:
    """What a terminal shows of a line in which carriage returns overwrite earlier text."""
    states = [state for state in line.split("\r") if state]
    return states[-1] if states else ""


def _all_text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return _joined(output.text)
    data = output.get("data", {})
    return "\n".join(_joined(value) for kind, value in data.items() if not kind.startswith("image/"))


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
