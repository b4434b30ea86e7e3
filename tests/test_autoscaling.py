"""Ray's autoscaler with the machines of this computer: the file that it reads, and the exercise of the deep dive."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from helpers.exercises import autoscaling
from helpers.rented_machines import head_that_rents
from tests.exercise_answers.autoscaling import RIGHT, WRONG
from tests.test_exercises import cell_with, verdict_of_cells

KEY = (1, autoscaling.grow)
DIVE = "deep_dives/autoscaling"
CONFIG = """
cluster_name: tests
max_workers: 1
idle_timeout_minutes: 0.05
head_node_type: desk
available_node_types:
  desk: {resources: {CPU: 1}, max_workers: 0}
  rented: {resources: {CPU: 2}, max_workers: 1}
"""


@pytest.mark.fast
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("desk", "expected YAML with keys and values, found str"),
        ("cluster_name: a\nmax_workers: 1", "head_node_type, available_node_types is missing"),
        (
            CONFIG.partition("available")[0] + "available_node_types: [desk]",
            r"is \['desk'\], expected a name and settings",
        ),
        (CONFIG.replace("head_node_type: desk", "head_node_type: cellar"), "expected one of the types desk, rented"),
    ],
)
def test_bad_file_gets_a_sentence(config: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        head_that_rents(config)


@pytest.fixture(scope="module")
def growing_cluster() -> Iterator[None]:
    import ray

    # Ray reads the mode once in a process, and this one may have read another before; who sends a token can join, too.
    own = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with mock.patch.dict(os.environ, own):
        head = head_that_rents(CONFIG)
        try:
            ray.init(address=head.address, log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            head.stop()


@pytest.mark.long
def test_grows_for_a_queue_and_shrinks_again(growing_cluster: None) -> None:
    import ray

    @ray.remote
    def work() -> str:
        time.sleep(2)
        return ray.get_runtime_context().get_node_labels()["machine"]

    def living() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    places = set(ray.get([work.remote() for _ in range(30)]))
    assert len(places) == 2, places
    assert any(place.startswith("rented-") for place in places)
    end = time.monotonic() + 60
    while living() > 1:
        assert time.monotonic() < end, "the rented machine was not given back"
        time.sleep(0.5)


@pytest.mark.long
@pytest.mark.parametrize(("answer", "hint"), WRONG[KEY])
def test_wrong_answer(growing_cluster: None, answer: Callable[..., Any], hint: str) -> None:
    found = autoscaling.grow(answer)
    assert found.status == "not right", found
    assert hint in found.message, found


@pytest.mark.long
@pytest.mark.parametrize("answer", RIGHT[KEY])
def test_right_answer(growing_cluster: None, answer: Callable[..., Any]) -> None:
    assert autoscaling.grow(answer).status == "right"


@pytest.mark.long
def test_stub_and_solution(growing_cluster: None) -> None:
    check = cell_with(DIVE, "check-1")
    assert verdict_of_cells(cell_with(DIVE, "exercise-1"), check, autoscaling.grow).status == "not solved yet"
    solution = "from ray.autoscaler.sdk import request_resources\n" + cell_with("solutions/autoscaling", "solution-1")
    assert verdict_of_cells(solution, check, autoscaling.grow).status == "right"


@pytest.mark.long
def test_nonsense_is_not_right(growing_cluster: None) -> None:
    for answer in (None, 7, lambda cpus, seconds: None, lambda: True):
        assert autoscaling.grow(answer).status == "not right"
