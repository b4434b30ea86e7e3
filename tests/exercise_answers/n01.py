"""Answers to the exercises of notebook 01."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import ray
from ray.util import ActorPool
from ray.util.state import list_tasks

from helpers.exercises import tasks_and_actors


def two_whatever_n_is(refs, n):
    return ray.get(ray.wait(refs, num_returns=2)[0])


def first_in_the_list(refs, n):
    return ray.get(refs[:n])


def waits_for_all(refs, n):
    ready, _ = ray.wait(refs, num_returns=n)
    ray.get(refs)
    return ray.get(ready)


def ready_references(refs, n):
    return ray.wait(refs, num_returns=n)[0]


def the_first_answer_twice(refs, n):
    (ready,), _ = ray.wait(refs, num_returns=1)
    return [ray.get(ready)] * n


def answers_that_wait_a_while(refs, n):
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=1)
    return ray.get(ready)


def hasty_answers(refs, n):
    ready, _ = ray.wait(refs, num_returns=n, timeout=0)
    return ray.get(ready)


def different_answers(refs, n):
    ready, _ = ray.wait(refs, num_returns=n)
    return list(set(ray.get(ready)))


def one_answer(refs, n):
    return ray.get(ray.wait(refs)[0])


def answers_one_by_one(refs, n):
    values = []
    while len(values) < n:
        ready, refs = ray.wait(refs)
        values += ray.get(ready)
    return values


def answers_by_asking_again(refs, n):
    ready = []
    while len(ready) < n:
        ready, _ = ray.wait(refs, num_returns=n, timeout=0.05)
    return [ray.get(ref) for ref in ready]


def answers_that_remove(refs, n):
    values = []
    for _ in range(n):
        (ready,), _ = ray.wait(refs)
        refs.remove(ready)
        values.append(ray.get(ready))
    return values


def one_at_a_time(task, items, n):
    return [ray.get(task.remote(item)) for item in items]


def all_at_once(task, items, n):
    return ray.get([task.remote(item) for item in items])


def groups_of_n(task, items, n):
    values = []
    for i in range(0, len(items), n):
        values += ray.get([task.remote(item) for item in items[i : i + n]])
    return values


def waits_for_the_oldest(task, items, n):
    refs = []
    for place, item in enumerate(items):
        if place >= n:
            ray.wait([refs[place - n]])
        refs.append(task.remote(item))
    return ray.get(refs)


def window(task, items, n):
    """The references of a right answer, and those whose ends nobody has seen yet."""
    refs, pending = [], []
    for item in items:
        if len(pending) == n:
            _, pending = ray.wait(pending)
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return refs


def one_too_many(task, items, n):
    return ray.get(window(task, items, n + 1))


def one_too_few(task, items, n):
    return ray.get(window(task, items, max(1, n - 1)))


def window_of_references(task, items, n):
    return window(task, items, n)


def window_of_values(task, items, n):
    """Values in the order in which their tasks end, and the tasks that are left when all have started."""
    pending, values = [], []
    for item in items:
        if len(pending) == n:
            (ready,), pending = ray.wait(pending)
            values.append(ray.get(ready))
        pending.append(task.remote(item))
    return values, pending


def window_in_finishing_order(task, items, n):
    values, pending = window_of_values(task, items, n)
    return values + ray.get(pending)


def window_that_forgets_the_last(task, items, n):
    return window_of_values(task, items, n)[0]


def window_by_item(task, items, n):
    refs = dict(zip(items, window(task, items, n), strict=True))
    return [ray.get(ref) for ref in refs.values()]


def window_of_distinct_items(task, items, n):
    return ray.get(window(task, sorted(set(items)), n))


def window_without_tasks(task, items, n):
    return [item * item for item in items]


def window_by_threads(task, items, n):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda item: ray.get(task.remote(item)), items))


def window_that_pops(task, items, n):
    left, refs = list(enumerate(items)), {}
    values = [None] * len(items)
    while left or refs:
        while left and len(refs) < n:
            place, item = left.pop()
            refs[task.remote(item)] = place
        (ready,), _ = ray.wait(list(refs))
        values[refs.pop(ready)] = ray.get(ready)
    return tuple(values)


def window_that_counts(task, items, n):
    refs = []
    for item in items:
        while refs and len(ray.wait(refs, num_returns=len(refs), timeout=0)[1]) >= n:
            time.sleep(0.01)
        refs.append(task.remote(item))
    return ray.get(refs)


WORDS = {"PENDING_NODE_ASSIGNMENT": "resources", "PENDING_ARGS_AVAIL": "argument"}


def state_of(name):
    return list_tasks(filters=[("name", "=", name)])[0].state


def why_as_the_state(name):
    return state_of(name)


def why_in_small_letters(name):
    return state_of(name).lower()


def why_of_the_first_task(name):
    state = list_tasks()[0].state
    return WORDS.get(state, state.lower())


def why_pending_is_pending(name):
    state = state_of(name)
    return "resources" if state.startswith("PENDING") else state.lower()


def why_without_failures(name):
    return WORDS.get(state_of(name), "running")


def why_of_all(name):
    return [WORDS.get(task.state, task.state.lower()) for task in list_tasks(filters=[("name", "=", name)])]


def why_in_capitals(name):
    return WORDS.get(state_of(name), state_of(name)).capitalize()


def why_by_looking_through_all(name):
    for task in list_tasks(limit=10_000):
        if task.name == name:
            return WORDS.get(task.state, task.state.lower())
    return "no such task"


def why_by_cases(name):
    match state_of(name):
        case "PENDING_NODE_ASSIGNMENT":
            return "resources"
        case "PENDING_ARGS_AVAIL":
            return "argument"
        case other:
            return other.lower()


def why_by_filters(name):
    words = {**WORDS, "RUNNING": "running", "FAILED": "failed", "FINISHED": "finished"}
    for state, word in words.items():
        if list_tasks(filters=[("name", "=", name), ("state", "=", state)]):
            return word
    raise LookupError(name)


def actors_of(Model, n):
    return [Model.remote() for _ in range(n)]


def one_actor_for_all(Model, n, requests):
    first, *_ = actors_of(Model, n)
    return ray.get([first.predict.remote(request) for request in requests])


def an_actor_for_each_request(Model, n, requests):
    return ray.get([Model.remote().predict.remote(request) for request in requests])


def ask_one_by_one(Model, n, requests):
    actors = actors_of(Model, n)
    return [ray.get(actors[i % n].predict.remote(request)) for i, request in enumerate(requests)]


def ask_all_of_them(Model, n, requests):
    actors = actors_of(Model, n)
    return ray.get([actor.predict.remote(request) for request in requests for actor in actors])


def ask_in_rounds(Model, n, requests):
    actors, values = actors_of(Model, n), []
    for actor in actors:
        values += ray.get(
            [actor.predict.remote(request) for request in requests[len(values) :][: -(-len(requests) // n)]]
        )
    return values


def ask_for_references(Model, n, requests):
    actors = actors_of(Model, n)
    return [actors[i % n].predict.remote(request) for i, request in enumerate(requests)]


def ask_in_finishing_order(Model, n, requests):
    pending, values = ask_for_references(Model, n, requests), []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values


def ask_in_blocks(Model, n, requests):
    """The answers of the first actor, then those of the second: each in order, all together not."""
    refs = [[actor.predict.remote(r) for r in requests[i::n]] for i, actor in enumerate(actors_of(Model, n))]
    return [value for of_one in refs for value in ray.get(of_one)]


def ask_different_ones(Model, n, requests):
    actors = actors_of(Model, n)
    return ray.get([actors[i % n].predict.remote(request) for i, request in enumerate(set(requests))])


def ask_a_class(Model, n, requests):
    actors = [Model() for _ in range(n)]
    return ray.get([actors[i % n].predict.remote(request) for i, request in enumerate(requests)])


def ask_nobody(Model, n, requests):
    return []


def ask_by_a_pool(Model, n, requests):
    pool = ActorPool(actors_of(Model, n))
    return list(pool.map(lambda actor, request: actor.predict.remote(request), requests))


def ask_by_slices(Model, n, requests):
    values = [None] * len(requests)
    refs = [[actor.predict.remote(r) for r in requests[i::n]] for i, actor in enumerate(actors_of(Model, n))]
    for i, of_one in enumerate(refs):
        values[i::n] = ray.get(of_one)
    return tuple(values)


def ask_by_threads(Model, n, requests):
    actors = actors_of(Model.options(num_cpus=0), n)
    with ThreadPoolExecutor(16) as threads:
        ask = lambda i: ray.get(actors[i % n].predict.remote(requests[i]))  # noqa: E731
        return list(threads.map(ask, range(len(requests))))


def ask_with_a_window(Model, n, requests):
    """No actor gets its next request before it has answered."""
    free, answers, running = actors_of(Model, min(n, len(requests))), {}, {}
    for i, request in enumerate(requests):
        if not free:
            (ready,), _ = ray.wait(list(running))
            place, actor = running.pop(ready)
            answers[place] = ray.get(ready)
            free.append(actor)
        actor = free.pop()
        running[actor.predict.remote(request)] = (i, actor)
    answers |= {place: ray.get(ref) for ref, (place, _) in running.items()}
    return [answers[i] for i in range(len(requests))]


WRONG = {
    (1, tasks_and_actors.first_answers): [
        (first_in_the_list, "may be slow"),
        (waits_for_all, "the slowest"),
        (ready_references, "values"),
        (two_whatever_n_is, "num_returns=n"),
        (the_first_answer_twice, "may be slow"),
        (answers_that_wait_a_while, "Return n values"),
        (hasty_answers, "Return n values"),
        (different_answers, "Return n values"),
        (one_answer, "Return n values"),
        (lambda refs, n: ray.get(refs)[:n], "may be slow"),
        (lambda refs, n: ray.get(ray.wait(refs, num_returns=n)[0])[0], "Return a list"),
        (lambda refs, n: ray.get(ray.wait(refs, num_returns=n)[1]), "num_returns=n"),
    ],
    (2, tasks_and_actors.at_most): [
        (one_at_a_time, "Keep n tasks under way"),
        (all_at_once, "wait for one of them"),
        (groups_of_n, "any of them makes room"),
        (waits_for_the_oldest, "any of them makes room"),
        (one_too_many, "at most 2"),
        (one_too_few, "Keep n tasks under way"),
        (window_of_references, "with ray.get"),
        (window_in_finishing_order, "order of the items"),
        (window_that_forgets_the_last, "One result for each item"),
        (window_by_item, "two items are equal"),
        (window_of_distinct_items, "one task for each"),
        (window_without_tasks, "one task for each"),
        (lambda task, items, n: [task(item) for item in items], "task.remote"),
        (lambda task, items, n: None, "Return a list"),
    ],
    (3, tasks_and_actors.why): [
        (why_as_the_state, "instead of Ray's state"),
        (why_in_small_letters, "The words are"),
        (why_of_the_first_task, "of this name only"),
        (why_pending_is_pending, "a word of its own"),
        (why_without_failures, "a word of its own"),
        (why_of_all, "returns a list"),
        (why_in_capitals, "The words are"),
    ],
    (4, tasks_and_actors.ask_all): [
        (one_actor_for_all, "one actor with"),
        (an_actor_for_each_request, "Start n actors with Model.remote()"),
        (ask_one_by_one, "before you wait"),
        (ask_all_of_them, "Each request goes to one actor"),
        (ask_in_rounds, "before you wait"),
        (ask_for_references, "Trade them for values"),
        (ask_in_finishing_order, "in the order of the requests"),
        (ask_in_blocks, "in the order of the requests"),
        (ask_different_ones, "Each request goes to one actor"),
        (ask_a_class, "Model.remote()"),
        (ask_nobody, "Start n actors"),
        (lambda Model, n, requests: [request * request for request in requests], "Start n actors"),
    ],
}
RIGHT = {
    (1, tasks_and_actors.first_answers): [
        lambda refs, n: tuple(map(ray.get, ray.wait(refs, num_returns=n)[0])),
        answers_one_by_one,
        answers_by_asking_again,
        answers_that_remove,
    ],
    (2, tasks_and_actors.at_most): [window_by_threads, window_that_pops, window_that_counts],
    (3, tasks_and_actors.why): [why_by_looking_through_all, why_by_cases, why_by_filters],
    (4, tasks_and_actors.ask_all): [
        ask_by_a_pool,
        ask_by_slices,
        ask_by_threads,
        ask_with_a_window,
    ],
}
