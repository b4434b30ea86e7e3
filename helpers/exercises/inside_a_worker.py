"""Checks of the exercises of the deep dive looking_inside_workers. Ray must be running."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import ray
from ray.util.state import get_log, list_actors
from ray.util.state.exception import RayStateApiException

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, same, without_ray

# What each task writes: levels and messages.
WRITTEN = (
    [("INFO", "reading")],
    [("INFO", "reading"), ("WARNING", "not a price"), ("INFO", "done")],
    [("DEBUG", "a warning is only a word here: WARNING"), ("INFO", "ERROR is one as well")],
    [("ERROR", "no such file"), ("WARNING", "trying again"), ("CRITICAL", "giving up")],
)
COMPLAINTS = {
    place: [message for level, message in lines if level not in ("INFO", "DEBUG")]
    for place, lines in enumerate(WRITTEN)
    if any(level not in ("INFO", "DEBUG") for level, _ in lines)
}
PICTURES, SIDE, STEP = 25, 2000, 50
MOST_MB = 25.0  # by which the actor may grow; the pictures themselves are 100 MB
PATIENCE_S = 20.0


@ray.remote(num_cpus=0)
def _write(lines: list[tuple[str, str]]) -> None:
    """Write lines as Ray's JSON log does, whichever log this Ray has been started with."""
    for level, message in lines:
        print(json.dumps({"levelname": level, "message": message, "filename": "shop.py"}), file=sys.stderr)


@exercise_check
def complaints(answer: Callable[[list[Any]], dict[int, list[str]]]) -> Verdict:
    """Exercise 1: the place of each task that logged a warning or worse, and those messages."""
    if (missing := without_ray()) is not None:
        return missing
    answer([])  # a stub is found out without a task
    refs = [_write.remote(lines) for lines in WRITTEN]
    ray.get(refs)
    for ref, lines in zip(refs, WRITTEN, strict=True):
        _wait_for_log(ref, lines[-1][1])
    got = answer(list(refs))
    if not isinstance(got, dict):
        return not_right(f"a {type(got).__name__}", "a dictionary", "Return place -> messages.")
    if same(got, COMPLAINTS):
        return right("three kinds of complaints, each with its task.")
    if set(got) != set(COMPLAINTS):
        hint = "The keys are places in refs, of the tasks that wrote a WARNING, an ERROR or a CRITICAL."
        if set(got) - set(COMPLAINTS) <= set(range(len(WRITTEN))):
            hint = "Look at levelname alone, and leave out tasks without a complaint."
        return not_right(f"the keys {list(got)}", list(COMPLAINTS), hint)
    hint = "The messages alone, in the order in which they were written, of WARNING, ERROR and CRITICAL."
    return not_right(got, COMPLAINTS, hint)


def _wait_for_log(ref: Any, text: str) -> None:
    """Until the log of a task has this text, or the patience is over."""
    address, end = ray.get_runtime_context().gcs_address, time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(RayStateApiException):  # Ray doesn't know yet where the task ran
            if text in "".join(get_log(address, task_id=ref.task_id().hex(), suffix="err")):
                return
        time.sleep(0.3)


def thumbnail_of(number: int) -> np.ndarray:
    """Every fiftieth pixel of every fiftieth row of a picture; 40 x 40, uint8. Source: written for this course."""
    picture = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return picture[::STEP, ::STEP].copy()


@exercise_check
def thumbnails(answer: type) -> Verdict:
    """Exercise 2: an actor of this class keeps all thumbnails, and no picture."""
    if (missing := without_ray()) is not None:
        return missing
    if not isinstance(answer, type):
        return not_right(f"a {type(answer).__name__}", "a class", "Give the class itself, without @ray.remote.")
    answer().shrink(0)  # a stub is found out without an actor
    before = {actor.actor_id for actor in list_actors(limit=10_000)}
    actor = ray.remote(num_cpus=0)(answer).remote()
    try:
        ray.get(actor.shrink.remote(0))  # what it imports is there now
        pid = next(a.pid for a in list_actors(limit=10_000) if a.actor_id not in before and a.state == "ALIVE")
        process = psutil.Process(pid)
        start = process.memory_full_info().uss
        sizes = ray.get([actor.shrink.remote(number) for number in range(1, PICTURES + 1)])
        grown = (process.memory_full_info().uss - start) / 1e6
        expected = {number: thumbnail_of(number) for number in (1, PICTURES // 2, PICTURES)}
        if set(sizes) != {expected[1].nbytes}:
            return not_right(f"shrink returned {sizes[0]}", expected[1].nbytes, "Return the bytes of the thumbnail.")
        for number, wanted in expected.items():
            got = ray.get(actor.thumbnail.remote(number))
            if not isinstance(got, np.ndarray) or got.shape != wanted.shape or not np.array_equal(got, wanted):
                hint = "thumbnail(number) returns what shrink(number) cut out, for every picture so far."
                return not_right(f"another thumbnail of picture {number}", "its pixels, 40 x 40", hint)
    finally:
        ray.kill(actor)
    if grown > MOST_MB:
        hint = "A slice keeps the array that it was cut from; give the thumbnail bytes of its own."
        return not_right(f"{grown:.0f} MB more after {PICTURES} pictures", "less than one for each", hint)
    return right(f"{PICTURES} thumbnails, and {max(grown, 0):.1f} MB more.")
