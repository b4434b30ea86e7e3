"""Answers to the exercises of notebook 09."""

from __future__ import annotations

import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from helpers.exercises import cluster


def living():
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def spreads_and_hopes(task):
    return dict(zip(living(), ray.get([task.remote() for _ in living()]), strict=True))


def one_after_another(task):
    return {node: ray.get(task.options(label_selector={"ray.io/node-id": node}).remote()) for node in living()}


def returns_references(task):
    return {node: task.options(label_selector={"ray.io/node-id": node}).remote() for node in living()}


def returns_a_list(task):
    return ray.get([task.options(label_selector={"ray.io/node-id": node}).remote() for node in living()])


def keys_are_numbers(task):
    return dict(enumerate(returns_a_list(task)))


def mixes_up_the_nodes(task):
    return dict(zip(reversed(living()), returns_a_list(task), strict=True))


def only_the_first_node(task):
    node = living()[0]
    return {node: ray.get(task.options(label_selector={"ray.io/node-id": node}).remote())}


def twice_on_each(task):
    returns_a_list(task)
    return dict(zip(living(), returns_a_list(task), strict=True))


def by_affinity(task):
    at = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in living()}
    refs = {node: task.options(scheduling_strategy=strategy).remote() for node, strategy in at.items()}
    return {node: ray.get(ref) for node, ref in refs.items()}


def by_in_list(task):
    nodes = living()
    refs = [task.options(label_selector={"ray.io/node-id": f"in({node})"}).remote() for node in nodes]
    return dict(zip(nodes, ray.get(refs), strict=True))


def from_a_task(task):
    @ray.remote(num_cpus=0)
    def visit_all():
        return by_affinity(task)

    return ray.get(visit_all.remote())


def reserve(n, cpus=1):
    return placement_group([{"CPU": cpus}] * n)


def start(task, group, n):
    inside = task.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    return [inside.remote() for _ in range(n)]


def without_a_group(task, n, seconds):
    if n > ray.cluster_resources()["CPU"]:
        return None
    return ray.get([task.remote() for _ in range(n)])


def forgets_to_remove(task, n, seconds):
    group = reserve(n)
    return ray.get(start(task, group, n)) if group.wait(seconds) else None


def removes_only_after_success(task, n, seconds):
    group = reserve(n)
    if not group.wait(seconds):
        return None
    values = ray.get(start(task, group, n))
    remove_placement_group(group)
    return values


def one_large_bundle(task, n, seconds):
    group = placement_group([{"CPU": n}])
    values = ray.get(start(task, group, n)) if group.wait(seconds) else None
    remove_placement_group(group)
    return values


def reserves_and_runs_beside(task, n, seconds):
    group = reserve(n)
    if group.wait(seconds):
        remove_placement_group(group)
        return ray.get([task.remote() for _ in range(n)])
    remove_placement_group(group)
    return None


def in_the_group_one_by_one(task, n, seconds):
    group = reserve(n)
    values = [ray.get(start(task, group, 1)[0]) for _ in range(n)] if group.wait(seconds) else None
    remove_placement_group(group)
    return values


def an_empty_list_for_none(task, n, seconds):
    group = reserve(n)
    values = ray.get(start(task, group, n)) if group.wait(seconds) else []
    remove_placement_group(group)
    return values


def references_of_the_group(task, n, seconds):
    group = reserve(n)
    if not group.wait(seconds):
        remove_placement_group(group)
        return None
    refs = start(task, group, n)
    ray.wait(refs, num_returns=n)
    remove_placement_group(group)
    return refs


def always_none(task, n, seconds):
    return None


def waits_with_ray_wait(task, n, seconds):
    group = reserve(n)
    try:
        ready, _ = ray.wait([group.ready()], timeout=seconds)
        return ray.get(start(task, group, n)) if ready else None
    finally:
        remove_placement_group(group)


def waits_with_ray_get(task, n, seconds):
    group = placement_group(bundles=[{"CPU": 1} for _ in range(n)], strategy="SPREAD")
    try:
        ray.get(group.ready(), timeout=seconds)
        return tuple(ray.get(start(task, group, n)))
    except ray.exceptions.GetTimeoutError:
        return None
    finally:
        remove_placement_group(group)


def names_each_bundle(task, n, seconds):
    group, values = reserve(n), None
    if group.wait(seconds):
        places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i) for i in range(n)]
        values = ray.get([task.options(scheduling_strategy=place).remote() for place in places])
    remove_placement_group(group)
    return values


def submit(jobs, command, folder):
    return jobs.submit_job(entrypoint=command, runtime_env={"working_dir": folder})


def wait(jobs, job, seconds):
    end = time.monotonic() + seconds
    while not jobs.get_job_status(job).is_terminal() and time.monotonic() < end:
        time.sleep(0.2)


def does_not_wait(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    return jobs.get_job_status(job), jobs.get_job_logs(job)


def forgets_the_folder(jobs, command, folder, seconds):
    job = jobs.submit_job(entrypoint=command)
    wait(jobs, job, seconds)
    return jobs.get_job_status(job), jobs.get_job_logs(job)


def gives_up_without_stopping(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    wait(jobs, job, seconds)
    return jobs.get_job_status(job), jobs.get_job_logs(job)


def stops_every_job(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    jobs.stop_job(job)
    wait(jobs, job, 60)
    return jobs.get_job_status(job), jobs.get_job_logs(job)


def only_the_last_line(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    wait(jobs, job, seconds)
    return jobs.get_job_status(job), jobs.get_job_logs(job).splitlines()[-1]


def only_the_status(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    wait(jobs, job, seconds)
    return jobs.get_job_status(job)


def status_from_before_the_stop(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    wait(jobs, job, seconds)
    status = jobs.get_job_status(job)
    if not status.is_terminal():
        jobs.stop_job(job)
        wait(jobs, job, 60)
    return status, jobs.get_job_logs(job)


def by_a_client_of_its_own(jobs, command, folder, seconds):
    job, until = submit(jobs, command, folder), time.time() + seconds
    while jobs.get_job_info(job).status in ("PENDING", "RUNNING"):
        if time.time() > until:
            jobs.stop_job(job)
        time.sleep(0.5)
    return [str(jobs.get_job_info(job).status.value), jobs.get_job_logs(job)]


def with_a_deadline(jobs, command, folder, seconds):
    job = submit(jobs, command, folder)
    wait(jobs, job, seconds)
    if jobs.get_job_status(job) == "RUNNING" or jobs.get_job_status(job) == "PENDING":
        jobs.stop_job(job)
        wait(jobs, job, 100)
    return jobs.get_job_status(job), jobs.get_job_logs(job)


def with_a_name(jobs, command, folder, seconds):
    name = f"mine-{time.time_ns()}"
    jobs.submit_job(entrypoint=command, submission_id=name, runtime_env={"working_dir": folder})
    wait(jobs, name, seconds)
    if not jobs.get_job_status(name).is_terminal():
        jobs.stop_job(name)
    wait(jobs, name, 100)
    return jobs.get_job_status(name).value, jobs.get_job_logs(name)


WRONG = {
    (1, cluster.on_every_node): [
        (spreads_and_hopes, "ray.io/node-id"),
        (one_after_another, "start all of them first"),
        (returns_references, "ray.get"),
        (returns_a_list, "Return a dict"),
        (keys_are_numbers, "NodeID"),
        (mixes_up_the_nodes, "on which its task ran"),
        (only_the_first_node, "one task for each living node"),
        (twice_on_each, "one task for each living node"),
    ],
    (2, cluster.all_or_nothing): [
        (forgets_to_remove, "gives the CPUs back"),
        (removes_only_after_success, "whether or not"),
        (one_large_bundle, "one CPU each"),
        (without_a_group, "PlacementGroupSchedulingStrategy"),
        (reserves_and_runs_beside, "PlacementGroupSchedulingStrategy"),
        (in_the_group_one_by_one, "start all of them first"),
        (an_empty_list_for_none, "return None"),
        (references_of_the_group, "ray.get"),
        (always_none, "There was room"),
    ],
    (3, cluster.run_job): [
        (does_not_wait, "is_terminal"),
        (gives_up_without_stopping, "jobs.stop_job"),
        (forgets_the_folder, "working_dir"),
        (stops_every_job, "before its time was up"),
        (only_the_last_line, "Return all of it"),
        (only_the_status, "whole log"),
        (status_from_before_the_stop, "after the job was stopped"),
    ],
}
RIGHT = {
    (1, cluster.on_every_node): [by_affinity, by_in_list, from_a_task],
    (2, cluster.all_or_nothing): [waits_with_ray_wait, waits_with_ray_get, names_each_bundle],
    (3, cluster.run_job): [by_a_client_of_its_own, with_a_deadline, with_a_name],
}
