"""Answers to the exercise of the deep dive on autoscaling."""

from __future__ import annotations

import time

import ray
from ray.autoscaler.sdk import request_resources

from helpers.exercises import autoscaling


def cpus_there():
    return ray.cluster_resources().get("CPU", 0)


def comes_in_time(cpus, seconds, there=cpus_there):
    end = time.time() + seconds
    while there() < cpus and time.time() < end:
        time.sleep(0.2)
    return there() >= cpus


def withdraw():
    request_resources(bundles=[])


def does_not_wait(cpus, seconds):
    request_resources(num_cpus=cpus)
    return True


def does_not_wait_for_it(cpus, seconds):
    request_resources(num_cpus=cpus)
    return cpus_there() >= cpus


def never_withdraws(cpus, seconds):
    request_resources(num_cpus=cpus)
    return comes_in_time(cpus, seconds)


def always_withdraws(cpus, seconds):
    came = never_withdraws(cpus, seconds)
    withdraw()
    return came


def asks_by_tasks(cpus, seconds):
    @ray.remote
    def wait():
        time.sleep(1)

    refs = [wait.remote() for _ in range(min(cpus, 20))]
    came = comes_in_time(cpus, seconds)
    for ref in refs:
        ray.cancel(ref)
    return came


def counts_free_cpus(cpus, seconds):
    request_resources(num_cpus=cpus)
    if comes_in_time(cpus, seconds, lambda: ray.available_resources().get("CPU", 0)):
        return True
    withdraw()
    return False


def gives_up_at_once(cpus, seconds):
    if cpus > 5:
        return False
    return right_way(cpus, seconds)


def returns_nothing(cpus, seconds):
    if not right_way(cpus, seconds):
        return None
    return True


def returns_the_number(cpus, seconds):
    right_way(cpus, seconds)
    return cpus_there()


def right_way(cpus, seconds):
    came = never_withdraws(cpus, seconds)
    if not came:
        withdraw()
    return came


def in_bundles(cpus, seconds):
    request_resources(bundles=[{"CPU": 1}] * cpus)
    if comes_in_time(cpus, seconds):
        return True
    request_resources(num_cpus=0)
    return False


def counts_nodes(cpus, seconds):
    request_resources(num_cpus=cpus)

    def there():
        return sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])

    if not comes_in_time(cpus, seconds, there):
        withdraw()
        return False
    return True


def asks_again_and_again(cpus, seconds):
    for _ in range(int(seconds / 0.5)):
        request_resources(num_cpus=cpus)
        if cpus_there() >= cpus:
            return True
        time.sleep(0.5)
    withdraw()
    return False


WRONG = {
    (1, autoscaling.grow): [
        (does_not_wait, "Wait until they are there"),
        (does_not_wait_for_it, "return True when they are there"),
        (never_withdraws, "still stands and keeps machines rented"),
        (always_withdraws, "the request was withdrawn"),
        (asks_by_tasks, "Nothing was asked of the autoscaler"),
        (gives_up_at_once, "may still be coming"),
        (returns_nothing, "give up in time"),
        (counts_free_cpus, "count the CPUs of the whole cluster"),
        (returns_the_number, "return True when they are there"),
    ]
}
RIGHT = {(1, autoscaling.grow): [right_way, in_bundles, counts_nodes, asks_again_and_again]}
