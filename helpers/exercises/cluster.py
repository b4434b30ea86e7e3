"""Checks of the exercises of notebook 09. Ray must be running; the first one needs two nodes."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from helpers.exercises.meeting import Meeting
from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, without_ray

PATIENCE_S = 10.0  # seconds that a task waits for the others, until it waits in vain
BUSY_S = 3.0  # seconds for which a node has no CPU free
LETTER = "the parcel has arrived"


@exercise_check
def on_every_node(answer: Callable[[Any], dict[str, Any]]) -> Verdict:
    """Exercise 1: the task once on each living node, all at the same time; a dict from node ID to value."""
    if (missing := without_ray()) is not None:
        return missing
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    meeting = Meeting.remote(len(nodes), PATIENCE_S)
    try:
        return _judge_visits(answer, nodes, meeting)
    finally:
        ray.kill(meeting)


def _judge_visits(answer: Callable[[Any], dict[str, Any]], nodes: set[str], meeting: Any) -> Verdict:
    @ray.remote
    def visit() -> str:
        node = ray.get_runtime_context().get_node_id()
        ray.get(meeting.arrive.remote(node))
        return f"greetings from {node}"

    _fill_other_node()
    got = answer(visit)
    if len(nodes) < 2:
        return Verdict("not solved yet", "this cluster has one node: run the first cell, then this one again.")
    visited = ray.get(meeting.present.remote())
    if isinstance(got, dict) and any(isinstance(value, ray.ObjectRef) for value in got.values()):
        return not_right("references", "values", "Trade them for values with ray.get.")
    if ray.get(meeting.in_vain.remote()) and len(set(visited)) == len(nodes):
        hint = "ray.get inside the loop waits for each task before the next one starts: start all of them first."
        return not_right("one task after another", "all at the same time", hint)
    if sorted(visited) != sorted(nodes):
        hint = (
            'A strategy such as SPREAD is no promise. Choose the node of each task with the label "ray.io/node-id", '
            "and start one task for each living node."
        )
        return not_right(f"{len(visited)} tasks on {len(set(visited))} nodes", f"one on each of {len(nodes)}", hint)
    if not isinstance(got, dict):
        return not_right(f"a {type(got).__name__}", "a dict", "Return a dict from each node's ID to a value.")
    if set(got) != nodes:
        return not_right(f"the keys {sorted(map(str, got))}", sorted(nodes), 'A key is the node\'s "NodeID".')
    if any(got[node] != f"greetings from {node}" for node in nodes):
        hint = "Each value must stand at the ID of the node on which its task ran, as it came from the task."
        return not_right(got, "the value of each node's own task", hint)
    return right(f"once on each of {len(nodes)} nodes, all at the same time.")


def _fill_other_node() -> None:
    """Keep the CPUs of one node that is not ours busy for some seconds: who only hopes for that node gets another one.

    Tasks that name the node wait until it is free again. With a single node nothing happens.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    node, cpus = others[0]["NodeID"], int(others[0]["Resources"].get("CPU", 0))
    present = Meeting.remote(cpus, PATIENCE_S)

    @ray.remote(label_selector={"ray.io/node-id": node})
    def work() -> None:
        ray.get(present.arrive.remote(node))
        time.sleep(BUSY_S)

    for _ in range(cpus):
        work.remote()
    while len(ray.get(present.present.remote())) < cpus and not ray.get(present.in_vain.remote()):
        time.sleep(0.05)


@exercise_check(seconds=60)
def all_or_nothing(answer: Callable[[Any, int, float], list[Any] | None]) -> Verdict:
    """Exercise 2: n tasks at the same time in a placement group, or none; no reservation is left."""
    if (missing := without_ray()) is not None:
        return missing
    cpus = int(ray.cluster_resources()["CPU"])
    before = set(placement_group_table())
    try:
        for n, seconds in ((2, 30.0), (1, 30.0), (cpus + 1, 1.0)):
            meeting = Meeting.remote(n, PATIENCE_S)
            try:
                wrong = _judge_group(answer, n, seconds, meeting, fits=n <= cpus)
            finally:
                ray.kill(meeting)
            if wrong is not None:
                return wrong
    finally:  # what an answer has left behind would take the CPUs of whatever comes next
        for name, group in placement_group_table().items():
            if name not in before and group["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
    return right(f"2 tasks together, and none where {cpus + 1} CPUs would have been needed.")


def _judge_group(
    answer: Callable[[Any, int, float], list[Any] | None], n: int, seconds: float, meeting: Any, fits: bool
) -> Verdict | None:
    @ray.remote
    def meet() -> int:
        return ray.get(meeting.arrive.remote(ray.get_runtime_context().get_placement_group_id() or "outside"))

    before = set(placement_group_table())
    got = answer(meet, n, seconds)
    case = f"n={n}, seconds={seconds:g}"
    groups = {name: group for name, group in placement_group_table().items() if name not in before}
    present, in_vain = ray.get([meeting.present.remote(), meeting.in_vain.remote()])
    if not fits and (got is not None or present):
        found = f"{len(present)} tasks ran and {got} came back" if present else got
        hint = "group.wait(seconds) tells whether there is room; if there is none, return None, and start no task."
        return not_right(f"{found} for {case}", "None, and no task, on a cluster without room", hint)
    if fits and (wrong := _judge_values(got, n, present, in_vain, case)) is not None:
        return wrong
    if not any(len(g["bundles"]) == n and all(b == {"CPU": 1} for b in g["bundles"].values()) for g in groups.values()):
        found = [list(group["bundles"].values()) for group in groups.values()] or "no placement group"
        hint = f"Reserve a list of {n} bundles with one CPU each: one bundle must fit on one node as a whole."
        return not_right(f"{found} for {case}", f"a group of {n} bundles", hint)
    if not _all_removed(groups):
        hint = "remove_placement_group(group) gives the CPUs back, whether or not the tasks could run."
        return not_right(f"a reservation that is still there after {case}", "none", hint)
    return None


def _judge_values(got: object, n: int, present: list[str], in_vain: bool, case: str) -> Verdict | None:
    values = as_list(got)
    if values is None:
        return not_right(f"{got} for {case}", f"a list of {n} values", "There was room: run the tasks, return a list.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "values", "Trade them for values with ray.get, before you remove the group.")
    if "outside" in present:
        hint = "Start each task with scheduling_strategy=PlacementGroupSchedulingStrategy(group)."
        return not_right("tasks outside of the placement group", "tasks that use what it reserved", hint)
    if in_vain:
        hint = "ray.get inside the loop waits for each task before the next one starts: start all of them first."
        return not_right("one task after another", f"{n} at the same time", hint)
    if len(present) != n or sorted(map(str, values)) != sorted(map(str, range(n))):
        return not_right(f"{values} from {len(present)} tasks", f"the values of {n} tasks", "Call the task n times.")
    return None


def _all_removed(groups: dict[str, dict[str, Any]]) -> bool:
    """Whether these placement groups have gone; Ray removes them in the background."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        table = placement_group_table()
        if all(table.get(name, {}).get("state", "REMOVED") == "REMOVED" for name in groups):
            return True
        time.sleep(0.1)
    return False


@exercise_check(seconds=150)
def run_job(answer: Callable[[JobSubmissionClient, str, str, float], tuple[str, str]]) -> Verdict:
    """Exercise 3: a job in a working directory; its final status and its log; stopped where it takes too long."""
    if (missing := without_ray()) is not None:
        return missing
    jobs = JobSubmissionClient(ray.get_runtime_context().gcs_address)
    before = {job.submission_id for job in jobs.list_jobs()}
    python = shlex.quote(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "letter.txt").write_text(LETTER)
        Path(folder, "read.py").write_text(
            "import time\nprint(open('letter.txt').read())\ntime.sleep(2)\nprint('end')\n"
        )
        Path(folder, "fail.py").write_text("print('it begins', flush=True)\nraise ValueError('it breaks')\n")
        Path(folder, "long.py").write_text("import time\ntime.sleep(600)\n")
        cases = (
            ("read.py", 100.0, "SUCCEEDED", (LETTER, "end")),
            ("fail.py", 100.0, "FAILED", ("it begins", "it breaks")),
            ("long.py", 2.0, "STOPPED", ()),
        )
        try:
            for program, seconds, status, words in cases:
                got = answer(jobs, f"{python} {program}", folder, seconds)
                wrong = _judge_job(got, jobs, before, status, words)
                if wrong is not None:
                    return wrong
        finally:
            for job in _running(jobs, before):
                jobs.stop_job(job)
    return right("one job succeeded, one failed, and one was stopped in time.")


def _judge_job(
    got: object, jobs: JobSubmissionClient, before: set[str], status: str, words: tuple[str, ...]
) -> Verdict | None:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return not_right(got, "a pair (status, log)", "Return the final status and the whole log.")
    ended, log = got
    ended = ended.value if isinstance(ended, JobStatus) else ended
    late = "Wait until jobs.get_job_status(job).is_terminal(), and only then ask for status and log."
    if status == "STOPPED":
        if running := _running(jobs, before):
            hint = "When the time is up, call jobs.stop_job(job), and wait until the job has ended."
            return not_right(f"{len(running)} job still running after its time", "a stopped job", hint)
        if ended != status:
            return not_right(f"the status {ended}", status, "Ask for the status again after the job was stopped.")
        return None
    if ended != status:
        if ended == "FAILED" and "can't open file" in str(log):
            late = 'Give the folder along: runtime_env={"working_dir": folder}.'
        if ended == "STOPPED":
            late = "The job was stopped before its time was up: compare the seconds since the start with the limit."
        return not_right(f"the status {ended}", status, late)
    if not isinstance(log, str) or any(word not in log for word in words):
        return not_right(
            f"the log {log!r}", f"a log with {' and '.join(map(repr, words))}", f"Return all of it. {late}"
        )
    return None


def _running(jobs: JobSubmissionClient, before: set[str]) -> list[str]:
    """The jobs submitted since then that have not ended."""
    return [
        job.submission_id
        for job in jobs.list_jobs()
        if job.submission_id and job.submission_id not in before and not job.status.is_terminal()
    ]
