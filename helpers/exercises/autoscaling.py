"""Check of the exercise of the deep dive on autoscaling. A cluster of `head_that_rents` must be running."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray.autoscaler.sdk import request_resources

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, without_ray
from helpers.terminal import ray_command

SMALL, TOO_MANY = 3, 100  # CPUs: one rented machine is enough, and more than the cluster may ever have
PATIENCE_S, SHORT_S = 90.0, 3.0
QUIET_S = 90.0  # for earlier machines to be given back
LATE_S = 15.0  # how much later than asked an answer may give up, on a busy machine
STANDS = "from request_resources()"  # in `ray status`, where a request stands


@exercise_check(seconds=300)
def grow(answer: Callable[[float, float], bool]) -> Verdict:
    """Exercise 1: ask for CPUs and wait until they are there; withdraw the request if they don't come in time."""
    if (missing := without_ray()) is not None:
        return missing
    if not any(node["Labels"].get("machine") == "desk" for node in ray.nodes()):
        return Verdict("not solved yet", "this cluster can't grow: run the first cell, then this one again.")
    neighbour = _Neighbour.remote()
    try:
        return _judge(answer)
    finally:
        ray.kill(neighbour)
        request_resources(bundles=[])


@ray.remote(num_cpus=1, label_selector={"machine": "desk"})
class _Neighbour:
    """Somebody else's work: not all CPUs of the cluster are free, so who counts the free ones waits in vain."""


def _judge(answer: Callable[[float, float], bool]) -> Verdict:
    request_resources(bundles=[])
    end = time.monotonic() + QUIET_S
    while _cpus() >= SMALL and time.monotonic() < end:
        time.sleep(0.2)
    if _cpus() >= SMALL:
        return Verdict("not solved yet", "something keeps a rented machine: run the notebook again up to this cell.")
    got = answer(SMALL, PATIENCE_S)
    cpus = _cpus()
    if got is not True:
        hint = (
            f"The cluster may have {SMALL} CPUs, and had {cpus:g} at the end. Ask with request_resources, count the "
            "CPUs of the whole cluster, and return True when they are there."
        )
        return not_right(f"{got!r} for {SMALL} CPUs", "True", hint)
    if cpus < SMALL:
        return not_right(f"True with {cpus:g} CPUs", f"True with {SMALL}", "Wait until they are there.")
    if not _becomes(True):
        hint = "Nothing was asked of the autoscaler, or the request was withdrawn: the machine would go back when idle."
        return not_right("no request that stands", f"one for {SMALL} CPUs", hint)
    start = time.monotonic()
    got = answer(TOO_MANY, SHORT_S)
    took = time.monotonic() - start
    if got is not False:
        return not_right(f"{got!r} for {TOO_MANY} CPUs", "False", "The cluster can't have as many: give up in time.")
    if took > SHORT_S + LATE_S:
        return not_right(f"False after {took:.0f} s", f"False after {SHORT_S:g} s", "Look at the clock in your loop.")
    if took < SHORT_S - 0.5:
        return not_right(f"False after {took:.1f} s", f"False after {SHORT_S:g} s", "Machines may still be coming.")
    if not _becomes(False):
        hint = "The request still stands and keeps machines rented: withdraw it with request_resources(bundles=[])."
        return not_right("a request after giving up", "none", hint)
    return right(f"{SMALL} CPUs came and stay, and the request for {TOO_MANY} was withdrawn.")


def _cpus() -> float:
    return ray.cluster_resources().get("CPU", 0)


def _becomes(stands: bool) -> bool:
    """Whether `ray status`, which is a second or two behind, comes to say that a request stands, or none does."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if (STANDS in ray_command("status")) == stands:
            return True
    return False
