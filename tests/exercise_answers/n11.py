"""Answers to the exercises of notebook 11."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import ray
from ray.util import ActorPool

from helpers.exercises import choosing, others


@ray.remote
def run_bundle(function, bundle):
    return [function(piece) for piece in bundle]


def time_first(function, pieces):
    start = time.perf_counter()
    first = function(pieces[0])
    return first, time.perf_counter() - start


def bundles_of(pieces, size):
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


def joined(lists):
    return [value for values in lists for value in values]


def solution_of_bundles(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)]))]


# --- Exercise 1: wrong ---


def a_task_for_each(function, pieces, seconds):
    if not pieces:
        return []
    first, _ = time_first(function, pieces)
    return [first, *joined(ray.get([run_bundle.remote(function, [piece]) for piece in pieces[1:]]))]


def bundles_of_fifty(function, pieces, seconds):
    if not pieces:
        return []
    first, _ = time_first(function, pieces)
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], 50)]))]


def one_bundle_for_each_worker(function, pieces, seconds):
    if not pieces:
        return []
    first, _ = time_first(function, pieces)
    size = max(1, -(-len(pieces[1:]) // 2))
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)]))]


def bundles_of_no_piece(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = int(seconds / took)
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)]))]


def first_is_lost(function, pieces, seconds):
    return solution_of_bundles(function, pieces, seconds)[1:]


def first_is_there_twice(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces, size)]))]


def first_comes_last(function, pieces, seconds):
    first, *others = solution_of_bundles(function, pieces, seconds) or [None]
    return [*others, first] if pieces else []


def bundle_after_bundle(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [first, *joined(ray.get(run_bundle.remote(function, b)) for b in bundles_of(pieces[1:], size))]


def bundles_not_joined(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [[first], *ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)])]


def references_of_bundles(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [first, *[run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)]]


def without_tasks(function, pieces, seconds):
    return [function(piece) for piece in pieces]


def fails_without_pieces(function, pieces, seconds):
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    return [first, *joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[1:], size)]))]


def as_they_are_ready(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    size = max(1, int(seconds / took))
    waiting = [run_bundle.remote(function, b) for b in reversed(bundles_of(pieces[1:], size))]
    results = [first]
    while waiting:
        ready, waiting = ray.wait(waiting)
        results += ray.get(ready[0])
    return results


# --- Exercise 1: right ---


def bundles_with_actors(function, pieces, seconds):
    if not pieces:
        return []

    @ray.remote
    class Worker:
        def run(self, bundle):
            return [function(piece) for piece in bundle]

    first, took = time_first(function, pieces)
    size = max(1, round(seconds / took))
    pool = ActorPool([Worker.remote() for _ in range(2)])
    return [first, *joined(pool.map(lambda actor, bundle: actor.run.remote(bundle), bundles_of(pieces[1:], size)))]


def every_nth_piece(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    rest = pieces[1:]
    bundles = max(1, -(-len(rest) // max(1, int(seconds / took))))
    results = [None] * len(rest)
    refs = [run_bundle.remote(function, rest[i::bundles]) for i in range(bundles)]
    for i, values in enumerate(ray.get(refs)):
        results[i::bundles] = values
    return [first, *results]


def three_timed_here(function, pieces, seconds):
    start = time.perf_counter()
    here = [function(piece) for piece in pieces[:3]]
    took = (time.perf_counter() - start) / max(1, len(here))
    size = max(1, int(seconds / max(took, 1e-9)))
    return here + joined(ray.get([run_bundle.remote(function, b) for b in bundles_of(pieces[3:], size)]))


def bundles_by_threads(function, pieces, seconds):
    if not pieces:
        return []
    first, took = time_first(function, pieces)
    bundles = bundles_of(pieces[1:], max(1, int(seconds / took)))
    with ThreadPoolExecutor(max(1, len(bundles))) as pool:
        return [first, *joined(pool.map(lambda b: ray.get(run_bundle.remote(function, b)), bundles))]


def as_a_tuple(function, pieces, seconds):
    return tuple(solution_of_bundles(function, pieces, seconds))


# --- Exercise 2: wrong ---


def from_left_to_right(combine, refs):
    total = refs[0]
    for ref in refs[1:]:
        total = combine.remote(total, ref)
    return total


def in_rounds(combine, refs):
    refs = list(refs)
    while len(refs) > 1:
        pairs = [combine.remote(*refs[i : i + 2]) for i in range(0, len(refs) - 1, 2)]
        refs = pairs + refs[len(refs) - len(refs) % 2 :]
        ray.wait(refs, num_returns=len(refs))
    return refs[0]


def all_values_first(combine, refs):
    values = ray.get(list(refs))
    total = refs[0]
    for value in values[1:]:
        total = combine.remote(total, value)
    return total


def onto_the_sum_so_far(combine, refs):
    (total,), waiting = ray.wait(list(refs))
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        total = combine.remote(total, ready)
        ray.wait([total])
    return total


def value_as_answer(combine, refs):
    return ray.get(as_they_come(combine, refs))


def one_is_forgotten(combine, refs):
    return as_they_come(combine, refs[1:] or refs)


def one_twice(combine, refs):
    return as_they_come(combine, [*refs, refs[0]])


def a_list_for_combine(combine, refs):
    return combine.remote(list(refs))


def fetched_and_added(combine, refs):
    return ray.put([value for values in ray.get(list(refs)) for value in values])


# --- Exercise 2: right ---


def as_they_come(combine, refs):
    waiting = list(refs)
    while len(waiting) > 1:
        pair, waiting = ray.wait(waiting, num_returns=2)
        waiting.append(combine.remote(*pair))
    return waiting[0]


def as_they_come_one_by_one(combine, refs):
    waiting, spare = list(refs), None
    for _ in range(2 * len(refs) - 1):
        (ready,), waiting = ray.wait(waiting)
        if spare is None:
            spare = ready
        else:
            waiting.append(combine.remote(spare, ready))
            spare = None
    return spare


def with_a_recursion(combine, refs):
    if len(refs) == 1:
        return refs[0]
    (one, other), waiting = ray.wait(list(refs), num_returns=2)
    return with_a_recursion(combine, [*waiting, combine.remote(one, other)])


def with_values(combine, refs):
    waiting = list(refs)
    while len(waiting) > 1:
        pair, waiting = ray.wait(waiting, num_returns=2)
        waiting.append(combine.options(num_cpus=0).remote(*ray.get(pair)))
    return waiting[0]


# --- Exercise 3 ---

SQUARES = ("loop", "Ray", "faster")
SERVER = ("threads", "loop", "faster")
CRASH = ("Ray", "joblib", "survives")
LOADS = ("Ray actor", "Ray tasks", "fewer loads")


def chosen(squares=SQUARES, server=SERVER, crash=CRASH, loads=LOADS):
    return {"tiny calls": squares, "slow server": server, "crash": crash, "slow load": loads}


WRONG = {
    (3, choosing.four_jobs): [
        (chosen(squares=("Ray", "loop", "faster")), "Choose a reason that this shows"),
        (chosen(squares=("threads", "Ray", "faster")), "Your reason is true"),
        (chosen(server=("joblib", "loop", "faster")), "Your reason is true"),
        (chosen(crash=("joblib", "Ray", "survives")), "raised TerminatedWorkerError"),
        (chosen(crash=("Ray", "joblib", "faster")), "Choose a reason that this shows"),
        (chosen(loads=("joblib", "Ray tasks", "fewer loads")), "Choose a reason that this shows"),
        (chosen(loads=("Ray tasks", "joblib", "survives")), "Choose a reason that this shows"),
        (chosen(crash=("threads", "joblib", "survives")), "See the table"),
        (chosen(crash=("Ray", "Ray", "survives")), "better than"),
        (chosen(crash=("Ray", "joblib", "better")), "Why did you choose it"),
        (chosen(crash="Ray"), "Three texts"),
        ({"tiny calls": SQUARES}, "each of the four jobs"),
        (None, "each of the four jobs"),
    ],
    (1, others.in_bundles): [
        (a_task_for_each, "give each task so many pieces"),
        (bundles_of_fifty, "How many pieces fit"),
        (one_bundle_for_each_worker, "How many pieces fit"),
        (bundles_of_no_piece, "raised"),
        (first_is_lost, "has a result, too"),
        (first_is_there_twice, "belongs into one bundle"),
        (first_comes_last, "Keep the order"),
        (bundle_after_bundle, "the tasks of all bundles first"),
        (bundles_not_joined, "join these lists"),
        (references_of_bundles, "ray.get"),
        (without_tasks, "with a remote function"),
        (fails_without_pieces, "raised"),
        (as_they_are_ready, "Keep the order"),
        (lambda function, pieces, seconds: None, "no first piece"),
    ],
    (2, others.combine_all): [
        (from_left_to_right, "Ask ray.wait for two values"),
        (in_rounds, "Ask ray.wait for two values"),
        (all_values_first, "Ask ray.wait for two values"),
        (onto_the_sum_so_far, "do not wait for the sum so far"),
        (value_as_answer, "Return the last reference"),
        (one_is_forgotten, "n - 1 of them"),
        (one_twice, "unique"),
        (a_list_for_combine, "missing a required argument"),
        (fetched_and_added, "n - 1 of them"),
        (lambda combine, refs: None, "Return the last reference"),
    ],
}
RIGHT = {
    (3, choosing.four_jobs): [
        chosen(squares=("loop", "joblib", "faster"), server=("threads", "Ray", "faster")),
        chosen(loads=("Ray actor", "joblib", "fewer loads")),
        {job: list(choice) for job, choice in reversed(chosen().items())},
    ],
    (1, others.in_bundles): [bundles_with_actors, every_nth_piece, three_timed_here, bundles_by_threads, as_a_tuple],
    (2, others.combine_all): [as_they_come_one_by_one, with_a_recursion, with_values],
}
