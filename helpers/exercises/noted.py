"""Pieces of work that note where they ran: in which process, with how many CPUs and threads, and beside which others.

A check gives them to the learner's code, which runs them in tasks or actors of its own. This module imports PyTorch
only where a piece of work runs, so that a new process of Ray is soon there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

BUILDING = 2.0  # seconds that it takes to build a step: many times as long as the steps after it
STEP = 0.1  # seconds of a step
APART = 0.3  # seconds by which trainings with even numbers end later


@dataclass(frozen=True)
class Note:
    """Where a piece of work ran.

    Attributes:
        number: which piece it was, from 0.
        process: Ray's name of the process, also of the driver's own.
        cpus: how many CPUs the process had reserved; 0 in the driver.
        threads: how many threads PyTorch would have used there.
        start, end: seconds on the clock of that machine.
    """

    number: int
    process: str
    cpus: float
    threads: int
    start: float
    end: float


@ray.remote(num_cpus=0)
class Notes:
    """Collects notes, and lets pieces of work wait for each other.

    Args:
        patience: seconds after which a piece of work that waits for another one waits in vain.

    Source: written for this course.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._notes: list[Note] = []
        self._partner: asyncio.Event | None = None
        self._in_vain = False

    async def add(self, note: Note) -> None:
        self._notes.append(note)

    async def seen(self) -> tuple[list[Note], bool]:
        """All notes, in the order in which they came, and whether a piece of work waited in vain."""
        return list(self._notes), self._in_vain

    async def meet(self) -> None:
        """Wait until another piece of work is under way at the same time; after one has waited in vain, none waits."""
        if self._partner is not None:
            self._partner.set()
            self._partner = None
        elif not self._in_vain:
            self._partner = mine = asyncio.Event()
            try:
                await asyncio.wait_for(mine.wait(), self._patience)
            except TimeoutError:
                self._in_vain, self._partner = True, None


def note_of(number: int, start: float) -> Note:
    """The note of a piece of work that began at that time and ends now, in this process.

    Args:
        number: which piece it was, from 0.
        start: when it began, on the clock time.monotonic().

    Source: written for this course.
    """
    import torch

    end, context = time.monotonic(), ray.get_runtime_context()
    try:
        cpus = float(context.get_assigned_resources().get("CPU", 0))
    except AssertionError:  # Ray tells it to its workers only
        cpus = 0.0
    return Note(number, context.get_worker_id(), cpus, torch.get_num_threads(), start, end)


@dataclass(frozen=True)
class MakeStep:
    """A function that builds a model, which takes long, and returns a function that does one quick step."""

    notes: ray.actor.ActorHandle

    def __call__(self) -> Callable[[], None]:
        time.sleep(BUILDING)
        done: list[int] = []

        def step() -> None:
            start = time.monotonic()
            time.sleep(STEP)
            ray.get(self.notes.add.remote(note_of(len(done), start)))
            done.append(1)

        return step


@dataclass(frozen=True)
class Training:
    """A function that trains a small model, together with another one at the same time, and returns its loss."""

    notes: ray.actor.ActorHandle
    number: int
    loss: float

    def __call__(self) -> float:
        start = time.monotonic()
        ray.get(self.notes.meet.remote())
        if self.number % 2 == 0:
            time.sleep(APART)  # so that the order in which they end is not the order in which they began
        ray.get(self.notes.add.remote(note_of(self.number, start)))
        return self.loss
