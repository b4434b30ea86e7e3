"""Each check refuses what learners get wrong, with the hint that fits, and accepts what is right in an unusual way.

The answers are in tests/exercise_answers, one module for each notebook.
"""

from __future__ import annotations

import itertools
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import nbformat
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from peft import PeftModel
from pydantic import BaseModel
from ray import serve, tune
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.exercises import (
    capstone,
    choosing,
    cluster,
    debugging,
    lora,
    one_core,
    others,
    serve_gptj,
    start_here,
    tasks_and_actors,
    verdict,
    watched,
    zero,
)
from helpers.exercises import inside_an_llm_server as llm_server
from helpers.exercises import serve as serving
from helpers.exercises.verdict import Verdict, exercise_check, right
from helpers.nodes import ray_start
from tests.exercise_answers import (
    actor_patterns,
    autoscaling,
    fine_tuning_with_lora,
    inside_an_llm_server,
    looking_inside_workers,
    memory_under_pressure,
    n00,
    n01,
    n02,
    n03,
    n04,
    n05,
    n06,
    n07,
    n08,
    n09,
    n10,
    n11,
    n12,
    one_core_well_used,
    operating_a_service,
    planning_six_billion,
    reinforcement_learning,
    trusting_asha,
)
from tests.notebook_outputs import is_solution, notebook_name
from tests.notebook_rules import NOTEBOOKS, notebook_paths

# A deep dive is named with its folder: "deep_dives/actor_patterns".
ANSWERS = {
    "00_start_here": n00,
    "01_tasks_and_actors": n01,
    "02_object_store": n02,
    "03_ray_data": n03,
    "04_train_fashion_mnist": n04,
    "deep_dives/one_core_well_used": one_core_well_used,
    "05_tune_asha": n05,
    "06_serve_fashion_mnist": n06,
    "07_finetune_gptj": n07,
    "deep_dives/planning_six_billion": planning_six_billion,
    "08_serve_gptj": n08,
    "09_from_laptop_to_cluster": n09,
    "10_debugging_and_faults": n10,
    "11_ray_and_the_others": n11,
    "deep_dives/trusting_asha": trusting_asha,
    "deep_dives/operating_a_service": operating_a_service,
    "deep_dives/actor_patterns": actor_patterns,
    "deep_dives/memory_under_pressure": memory_under_pressure,
    "deep_dives/fine_tuning_with_lora": fine_tuning_with_lora,
    "deep_dives/inside_an_llm_server": inside_an_llm_server,
    "deep_dives/looking_inside_workers": looking_inside_workers,
    "12_capstone": n12,
    "deep_dives/reinforcement_learning": reinforcement_learning,
    "deep_dives/autoscaling": autoscaling,
}
ALL_EXERCISES = {
    (notebook, number): (check, module.WRONG[number, check], module.RIGHT[number, check])
    for notebook, module in ANSWERS.items()
    for number, check in module.WRONG
}
# Those of autoscaling need a cluster that grows: test_autoscaling.py tries them.
EXERCISES = {key: exercise for key, exercise in ALL_EXERCISES.items() if key[0] != "deep_dives/autoscaling"}
NEEDS_RAY = {
    "best_config",
    "slow_squares",
    "in_batches",
    "sum_of_squares",
    "spread_work",
    "add_names",
    "multiplexed",
    "temperature",
    "fallback",
    "one_speech",
    "adapted",
    "steps_per_second",
    "train_all",
    "answers_only",
    "divided_adam",
    "all_voices",
    "front_door",
    "passages",
    "search",
    "service",
    "pipeline",
    "in_bundles",
    "combine_all",
    "four_jobs",
    "gather",
}
RAY_MODULES = (
    "tasks_and_actors",
    "actor_patterns",
    "object_store",
    "memory_under_pressure",
    "cluster",
    "debugging",
    "inside_a_worker",
)
# Their answers are made when Serve runs.
OF_SERVE = (
    serving.multiplexed,
    serving.temperature,
    serving.fallback,
    serve_gptj.one_speech,
    serve_gptj.adapted,
    llm_server.front_door,
    capstone.service,
)
STORAGE = tempfile.TemporaryDirectory()  # where a notebook keeps its runs
# Where Ray runs for each answer, make test tries the solution and so many wrong (1) and other right (2) answers, and
# make test-all tries them all, and what needs Ray in the deep dives, which run there, too.
MANY = {1: 1, 2: 0}
# Each of these takes 10 to 50 seconds, because it trains, starts replicas, or needs another node.
FEWER = dict.fromkeys(
    (
        capstone.search,
        capstone.service,
        capstone.pipeline,
        cluster.on_every_node,
        debugging.open_the_circle,
        llm_server.front_door,
        lora.all_voices,
        choosing.four_jobs,
        others.combine_all,
        serve_gptj.adapted,
        serving.fallback,
        zero.divided_adam,
    ),
    {1: 0, 2: 0},
)


def needs_ray(check: Callable) -> bool:
    return check.__name__ in NEEDS_RAY or check.__module__.rpartition(".")[2] in RAY_MODULES


def named(answer: Any, place: int) -> str:
    return f"{place}-{getattr(answer, '__name__', type(answer).__name__)}"


def short_name(notebook: str) -> str:
    """The number of a lesson, or the file name of a deep dive."""
    return Path(notebook).name if "/" in notebook else notebook[:2]


def left_out(notebook: str, check: Callable, place: int, which: int) -> bool:
    """Whether make test leaves this answer to make test-all."""
    return needs_ray(check) and ("/" in notebook or place >= FEWER.get(check, MANY)[which])


def exercises(long: tuple[Callable, ...] = ()) -> list[Any]:
    """A test for each exercise; those of deep dives that need Ray, and these, run in make test-all only."""
    return [
        pytest.param(*key, marks=[pytest.mark.long] if check in long or ("/" in key[0] and needs_ray(check)) else [])
        for key, (check, _, _) in EXERCISES.items()
    ]


def cases(which: int) -> list[Any]:
    """A test for each wrong (1) or right (2) answer, with a name that finds it in its module."""
    return [
        pytest.param(
            exercise[0],
            case,
            id=f"{short_name(notebook)}-{number}-{named(case[0] if which == 1 else case, place)}",
            marks=[pytest.mark.long] if left_out(notebook, exercise[0], place, which) else [],
        )
        for (notebook, number), exercise in EXERCISES.items()
        for place, case in enumerate(exercise[which])
    ]


@pytest.fixture
def second_node(ray_session: None) -> Iterator[None]:
    """Another node joins the cluster of the tests, for one test."""
    import ray

    address = ray.get_runtime_context().gcs_address
    node = ray_start(f"--address={address} --num-cpus=2")
    yield
    node.stop()
    end = time.monotonic() + 180  # the cluster notices after half a minute; until then it would send tasks there
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        assert time.monotonic() < end, "the second node has been stopped, and is still counted as alive"
        time.sleep(0.1)


@pytest.fixture
def services(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Starts what a check needs to judge an answer, and nothing for the many that need nothing."""

    def start(check: Callable, answered: bool = True) -> None:
        if needs_ray(check):
            request.getfixturevalue("ray_session")
        if answered and check is cluster.on_every_node:
            request.getfixturevalue("second_node")
        if check in (*OF_SERVE, capstone.pipeline):
            port = request.getfixturevalue("serve_port")
            for module in (serving, capstone):
                monkeypatch.setattr(module, "DEFAULT_URL", f"http://127.0.0.1:{port}")

    return start


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong answers that wait in vain are given up sooner; a right one never waits."""
    monkeypatch.setattr(watched, "PATIENCE", 2.0)
    monkeypatch.setattr(serve_gptj, "PATIENCE_S", 4.0)


@pytest.mark.parametrize(("check", "case"), cases(1))
def test_wrong_answer_is_refused_with_a_hint(
    services: Callable,
    monkeypatch: pytest.MonkeyPatch,
    hasty: None,
    check: Callable[[Any], Verdict],
    case: tuple[Any, str],
) -> None:
    services(check)
    answer, hint = case
    slow_start = {
        start_here.slow_squares: "inside the loop",
        one_core.train_all: "before you call ray.get",
        lora.all_voices: "before you call ray.get",
    }
    if hint != slow_start.get(check, hint):
        monkeypatch.setattr(watched, "PATIENCE", 30.0)  # new processes for tasks can take long on a busy machine
    found = check(answer() if check in OF_SERVE else answer)
    assert found.status == "not right", found
    assert hint in found.message, found


@pytest.mark.parametrize(("check", "answer"), cases(2))
def test_other_right_answer_is_accepted(services: Callable, check: Callable[[Any], Verdict], answer: Any) -> None:
    services(check)
    found = check(answer() if check in OF_SERVE else answer)
    assert found.status == "right", found


def cell_with(notebook: str, tag: str) -> str:
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", 4).cells
    return next(cell.source for cell in cells if tag in cell.metadata.get("tags", []))


def solution_of(notebook: str, number: int) -> str:
    """The cell of a solution; with it, in the capstone, those that its steps are built on."""
    if "capstone" not in notebook:
        return cell_with(notebook, f"solution-{number}")
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", 4).cells
    wanted = re.compile(rf"given|solution-[1-{number}]b?")
    return "\n".join(c.source for c in cells if any(wanted.fullmatch(tag) for tag in c.metadata.get("tags", [])))


def verdict_of_cells(answer: str, check_cell: str, check: Callable) -> Verdict:
    """What a check says about the cell of an answer, as in the notebook."""
    import ray

    names: dict[str, Any] = {
        "storage": STORAGE.name,
        "np": np,
        "math": math,
        "time": time,
        "ray": ray,
        "serve": serve,
        "tune": tune,
    }
    # What the cells of 06 above its exercises have imported; None: the url of the check's own.
    names.update(url=None, FastAPI=FastAPI, BaseModel=BaseModel)
    names.update(gym=gym)  # of the deep dive on reinforcement learning
    # Those of 08.
    names.update(threading=threading)
    names.update(AutoModelForCausalLM=AutoModelForCausalLM, AutoTokenizer=AutoTokenizer, PeftModel=PeftModel)
    names.update(torch=torch, check=__import__(check.__module__, fromlist=["check"]))
    # As in a notebook: this module's own `from __future__ import annotations` stays out of the cell.
    exec(compile(answer, "cell", "exec", dont_inherit=True), names)
    before, _, last = check_cell.strip().rpartition("\n")  # the first check of a lesson may import its module before
    exec(f"{before}\nverdict = {last}", names)
    return names["verdict"]


@pytest.mark.parametrize(("notebook", "number"), exercises())
def test_stub_is_not_solved_yet(services: Callable, notebook: str, number: int) -> None:
    check = EXERCISES[notebook, number][0]
    services(check, answered=False)
    stub, check_cell = cell_with(notebook, f"exercise-{number}"), cell_with(notebook, f"check-{number}")
    found = verdict_of_cells(stub, check_cell, check)
    assert found.status == "not solved yet", found
    assert "Ray is not running" not in found.message


# The last step of the capstone runs those before it, and takes as long as all of them.
@pytest.mark.parametrize(("notebook", "number"), exercises(long=(capstone.pipeline,)))
def test_solution_is_right(services: Callable, notebook: str, number: int) -> None:
    check = EXERCISES[notebook, number][0]
    services(check)
    solution = solution_of(f"solutions/{Path(notebook).name}", number)
    found = verdict_of_cells(solution, cell_with(notebook, f"check-{number}"), check)
    assert found.status == "right", found


class Odd:
    """A result with which nothing can be done."""

    def __repr__(self) -> str:
        raise RuntimeError("no words for it")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    __hash__ = None


def raising(error: BaseException) -> Callable[..., Any]:
    def answer(*arguments: Any) -> Any:
        raise error

    return answer


def returning(result: Any) -> Callable[..., Any]:
    return lambda *arguments: result


NONSENSE = [
    raising(SystemExit(1)),
    raising(GeneratorExit()),
    raising(RecursionError("too deep")),
    returning(None),
    returning(Odd()),
    returning("text"),
    returning(math.nan),
    returning([[1, 2], [3]]),
    returning(np.zeros((2, 0))),
    returning(returning(Odd())),
    lambda *arguments: (_ for _ in ()),
    lambda: None,
    None,
    7,
    {},
    Odd(),
    int,
]


@pytest.mark.parametrize(
    ("notebook", "number"),
    [
        pytest.param(*key, marks=[pytest.mark.long] if needs_ray(exercise[0]) else [])
        for key, exercise in EXERCISES.items()
    ],
)
def test_check_never_raises(services: Callable, hasty: None, notebook: str, number: int) -> None:
    check = EXERCISES[notebook, number][0]
    services(check)
    for place, answer in enumerate(NONSENSE):
        found = check(answer)
        assert found.status == "not right", (place, found.status)
        assert repr(found)


@pytest.mark.fast
def test_answers_are_many() -> None:
    exercises = {
        (notebook_name(path), int(tag.removeprefix("exercise-")))
        for path in notebook_paths()
        if not is_solution(path)
        for cell in nbformat.read(path, 4).cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("exercise-")
    }
    assert exercises, "no exercise was found in the notebooks"
    assert exercises == set(ALL_EXERCISES)
    for exercise, (_, wrong, unusual) in ALL_EXERCISES.items():
        assert len(wrong) >= 5, f"{exercise} has {len(wrong)} wrong answers, expected at least 5"
        assert len(unusual) >= 3, f"{exercise} has {len(unusual)} other right answers, expected at least 3"


@pytest.mark.fast
def test_rule_all_together() -> None:
    """Nobody ends before all have started; the last one is first."""
    may_end = watched.all_together(3)
    assert not may_end([0, 1], [])
    assert may_end([0, 1, 2], []) == [2]
    assert may_end([0, 1, 2], [2]) == [1]
    assert not may_end([0, 1, 2], [2, 1, 0])


@pytest.mark.fast
def test_rule_one_for_one() -> None:
    """One ends, by turns another one, and then nobody until a new one has started; the oldest at last."""
    may_end = watched.one_for_one(7, 3)
    assert not may_end([0, 1], [])
    assert may_end([0, 1, 2], []) == [1]
    assert not may_end([0, 1, 2], [1])
    assert may_end([0, 1, 2, 3], [1]) == [3]
    assert may_end([0, 1, 2, 3, 4, 5, 6], [1, 3]) == [0, 2, 4, 5, 6]
    assert watched.one_for_one(3, 1)([0], []) == [0]
    assert watched.one_for_one(7, 3, oldest_too=True)([0, 1, 2], []) == [0]


def test_right_answer_on_a_slow_machine(ray_session: None) -> None:
    """Somebody else takes the processor between any two calls: slowness is no mistake."""

    import ray

    def slow_window(task: Any, items: list[Any], n: int) -> list[Any]:
        refs, pending = [], []
        for item in items:
            time.sleep(0.7)
            if len(pending) == n:
                _, pending = ray.wait(pending)
            refs.append(task.remote(item))
            pending.append(refs[-1])
        return ray.get(refs)

    assert tasks_and_actors.at_most(slow_window).status == "right"


@exercise_check
def _check_that_calls(answer: Callable[[], Any]) -> Verdict:
    answer()
    return right("it came back.")


def wait_for_what_never_comes() -> None:
    import ray

    @ray.remote(resources={"a device that nobody has": 1})
    def never() -> None: ...

    ray.get(never.remote())


def wait_one_by_one_for_what_never_comes() -> None:
    import ray

    @ray.remote(resources={"a device that nobody has": 1})
    def never() -> None: ...

    pending = [never.remote()]
    while pending:
        _, pending = ray.wait(pending)


@pytest.mark.parametrize("answer", [wait_for_what_never_comes, wait_one_by_one_for_what_never_comes])
def test_endless_waiting_is_not_right(ray_session: None, monkeypatch: pytest.MonkeyPatch, answer: Callable) -> None:
    monkeypatch.setattr(verdict, "TIME_LIMIT", 1.0)
    found = _check_that_calls(answer)
    assert found.status == "not right"
    assert "never comes" in found.message


@pytest.mark.fast
def test_endless_loop_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "TIME_LIMIT", 0.2)

    def loop() -> None:
        for _ in itertools.count():
            try:
                time.sleep(0.01)
            except Exception:
                continue

    found = _check_that_calls(loop)
    assert found.status == "not right"
    assert "a loop in it never ends" in found.message


@pytest.mark.fast
@pytest.mark.parametrize(("busy", "waited"), [(False, "after 1 seconds"), (True, "after 4 seconds")])
def test_a_busy_machine_gives_an_answer_more_time(monkeypatch: pytest.MonkeyPatch, busy: bool, waited: str) -> None:
    monkeypatch.setattr(verdict, "TIME_LIMIT", 1.0)
    monkeypatch.setattr(verdict, "machine_is_busy", lambda: busy)
    began = time.monotonic()
    found = _check_that_calls(lambda: time.sleep(60))
    assert waited in found.message
    assert time.monotonic() - began >= (3.9 if busy else 0.9)


@pytest.mark.fast
@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (1.4, False), (1.6, True), (8.0, True)])
def test_what_counts_as_busy(monkeypatch: pytest.MonkeyPatch, load: float, busy: bool) -> None:
    monkeypatch.setattr(verdict.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(verdict.os, "getloadavg", lambda: (4 * load, 99.0, 99.0))
    assert verdict.machine_is_busy() is busy


@pytest.mark.long
def test_actors_that_start_late_are_no_mistake(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exercise 2 of 07: how long a process takes to start says nothing about the answer."""
    monkeypatch.setattr(zero, "PATIENCE", 3.0)
    assert zero.divided_adam(n07.one_starts_late).status == "right"


@pytest.mark.fast
def test_an_answer_that_loses_the_first_interruption_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "TIME_LIMIT", 0.2)

    def wait() -> None:
        try:
            time.sleep(60)
        except BaseException:  # what a callback of a library does with an exception
            pass
        time.sleep(60)

    assert "never comes" in _check_that_calls(wait).message


@pytest.mark.fast
def test_limit_ends_with_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "TIME_LIMIT", 0.2)
    assert _check_that_calls(lambda: None).status == "right"
    time.sleep(0.3)  # nothing interrupts what comes after


@pytest.mark.fast
def test_check_works_in_another_thread() -> None:
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(_check_that_calls(lambda: None)))
    thread.start()
    thread.join()
    assert found[0].status == "right"
