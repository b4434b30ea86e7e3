"""Wrong answers that learners really give are refused, each with a hint that fits it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import ray
import torch
from ray import serve, tune

from helpers.exercises import finetune, object_store, ray_data, serve_gptj, start_here, tasks_and_actors, train
from helpers.exercises import serve as serving
from helpers.exercises import tune as tuning
from helpers.exercises.verdict import Verdict

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


# 00 --------------------------------------------------------------------------


@ray.remote
def slow_square(x: int) -> int:
    time.sleep(0.5)
    return x * x


def squares_one_by_one(numbers):
    return [ray.get(slow_square.remote(x)) for x in numbers]


def squares_as_references(numbers):
    return [slow_square.remote(x) for x in numbers]


def squares_without_ray(numbers):
    return [x * x for x in numbers]


def squares_as_they_finish(numbers):
    pending, values = [slow_square.remote(x) for x in numbers], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values[::-1]


RIGHT_PARTS = {sentence: part for sentence, (part, _) in start_here.PARTS.items()}


def parts_with(sentence_start: str, part: str) -> dict[str, str]:
    return {s: part if s.startswith(sentence_start) else right for s, right in RIGHT_PARTS.items()}


# 01 --------------------------------------------------------------------------


def get_in_the_loop(task, items):
    return [ray.get(task.remote(item)) for item in items]


def forgets_get(task, items):
    return [task.remote(item) for item in items]


def in_finishing_order(task, items):
    pending, values = [task.remote(item) for item in items], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values


def map_without_tasks(task, items):
    return [number * number for number, _ in items]


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


class PlainMean:
    def add(self, value): ...

    def mean(self): ...


@ray.remote
class ZeroWhenEmpty:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total / max(1, self.count)


@ray.remote
class LastValue:
    def __init__(self):
        self.last = None

    def add(self, value):
        self.last = value

    def mean(self):
        return self.last


@ray.remote
class WholeNumbers:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total // self.count if self.count else None


@ray.remote
class NoneWhenZero:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total / self.count if self.total else None


def without_limit(task, items, limit):
    return ray.get([task.remote(item) for item in items])


def one_at_a_time(task, items, limit):
    return [ray.get(task.remote(item)) for item in items]


def always_three(task, items, limit):
    return right_bounded(task, items, 3)


def limit_minus_one(task, items, limit):
    return right_bounded(task, items, max(1, limit - 1))


def right_bounded(task, items, limit):
    refs, pending = [], []
    for item in items:
        if len(pending) >= limit:
            _, pending = ray.wait(pending)
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return ray.get(refs)


def bounded_but_unordered(task, items, limit):
    pending, values = [], []
    for item in items:
        if len(pending) == limit:
            ready, pending = ray.wait(pending)
            values += ray.get(ready)
        pending.append(task.remote(item))
    return values + ray.get(pending)


# 02 --------------------------------------------------------------------------


@ray.remote
def gets_its_argument(matrix):
    return ray.get(matrix).mean(axis=0)


@ray.remote
def mean_of_rows(matrix):
    return matrix.mean(axis=1)


@ray.remote
def mean_of_all(matrix):
    return matrix.mean()


@ray.remote
def median_of_columns(matrix):
    return np.median(matrix, axis=0)


def always_sixty(picture, amount):
    return (picture.astype(int) + 60).clip(0, 255).astype(np.uint8)


def makes_writeable(picture, amount):
    picture.setflags(write=True)
    return brighten_in_place(picture, amount)


def brighten_in_place(picture, amount):
    picture += amount
    return picture


def brighten_and_overflow(picture, amount):
    return picture + np.uint8(amount)


def brighten_to_integers(picture, amount):
    return (picture.astype(int) + amount).clip(0, 255)


def passes_the_array(task, array, n):
    return ray.get([task.remote(array) for _ in range(n)])


def puts_in_the_loop(task, array, n):
    return ray.get([task.remote(ray.put(array)) for _ in range(n)])


def gets_in_the_loop(task, array, n):
    ref = ray.put(array)
    return [ray.get(task.remote(ref)) for _ in range(n)]


def returns_references(task, array, n):
    ref = ray.put(array)
    return [task.remote(ref) for _ in range(n)]


# 03 --------------------------------------------------------------------------


def centre_in_place(batch):
    batch["picture"] -= batch["picture"].mean(axis=(1, 2), keepdims=True).astype("uint8")
    return batch


def centre_by_batch(batch):
    return {"picture": (batch["picture"] - batch["picture"].mean()).astype("float32")}


def centre_each_column(batch):
    return {"picture": (batch["picture"] - batch["picture"].mean(axis=1, keepdims=True)).astype("float32")}


def centre_as_float64(batch):
    return {"picture": batch["picture"] - batch["picture"].mean(axis=(1, 2), keepdims=True)}


def centre_with_overflow(batch):
    pictures = batch["picture"]
    return {"picture": (pictures - pictures.mean(axis=(1, 2), keepdims=True).astype("uint8")).astype("float32")}


def centre_without_dict(batch):
    return centre_as_float64(batch)["picture"].astype("float32")


def centre_row_by_row(batch):
    return {"picture": np.stack([p - p.mean() for p in batch["picture"]]).astype("float32")}


def keeps_value_errors(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": ""}
        except ValueError as error:
            return {**row, "value": None, "error": str(error)}

    return safe


def names_many_kinds(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": ""}
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            return {**row, "value": None, "error": str(error)}

    return safe


def one_dict_for_all(function):
    result = {}

    def safe(row):
        try:
            result.update(row, value=function(row), error="")
        except Exception as error:
            result.update(row, value=None, error=str(error))
        return result

    return safe


def keeps_some_columns(function):
    def safe(row):
        try:
            return {**row, "value": function(row)}
        except Exception as error:
            return {**row, "error": str(error)}

    return safe


def keeps_the_exception(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": ""}
        except Exception as error:
            return {**row, "value": None, "error": error}

    return safe


def none_for_no_error(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": None}
        except Exception as error:
            return {**row, "value": None, "error": str(error)}

    return safe


def calls_at_once(function):
    return function({"id": 7, "text": "one"})


def keeps_errors_in_the_row(function):
    def safe(row):
        row |= {"value": None, "error": ""}
        try:
            row["value"] = function(row)
        except Exception as error:
            row["error"] = str(error)
        return row

    return safe


def save_and_append(dataset, folder):
    dataset.write_parquet(folder)


def save_once(dataset, folder):
    dataset.write_parquet(folder, mode="ignore")


def save_nothing(dataset, folder):
    dataset.materialize()


def save_after_emptying(dataset, folder):
    shutil.rmtree(folder, ignore_errors=True)
    dataset.write_parquet(folder)


# 04 --------------------------------------------------------------------------


def mean_of_accuracies(reports):
    accuracies = [r["correct"] / r["count"] for r in reports]
    return sum(accuracies) / len(accuracies)


def first_worker_only(reports):
    return reports[0]["correct"] / reports[0]["count"]


def ignores_the_workers(pictures, workers, batch):
    return math.ceil(pictures / batch)


def drops_the_last_batch(pictures, workers, batch):
    return math.ceil(pictures / workers) // batch


def rounds_the_share_down(pictures, workers, batch):
    return math.ceil((pictures // workers) / batch)


def strips_letters(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.lstrip("module."): value for name, value in state.items()}, strict=False)  # noqa: B005


def replaces_everywhere(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.replace("module.", ""): value for name, value in state.items()}, strict=False)


def forgets_the_buffers(path, model):
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"module.{name}"])


def loads_nothing(path, model):
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)


def loads_anything(path, model):
    state = torch.load(path, weights_only=False)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def keeps_the_prefix(path, model):
    model.load_state_dict(torch.load(path, weights_only=True))


# 05 --------------------------------------------------------------------------


RIGHT_SPACE = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "layers": tune.randint(1, 5),
    "momentum": tune.uniform(0.8, 0.99),
    "activation": tune.choice(["relu", "tanh", "gelu"]),
}


def only_the_ends(spec=None):
    """0.0001 to 0.0003, or 0.03 to 0.1: half of the draws on each side of the middle."""
    exponent = np.random.uniform(-4, -3.5)
    return 10 ** (exponent if np.random.rand() < 0.5 else exponent + 2.5)


def rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: max(1, n // f), again=False, last=True):
    total, done, rung = 0, 0, 1
    while rung < max_epochs or (last and rung == max_epochs):
        total += trials * (rung if again else rung - done)
        done, rung = rung, rung * factor
        trials = keep(trials, factor)
    return total


def without_stopping(trials, factor, max_epochs):
    return trials * max_epochs


def starts_again_at_each_rung(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, again=True)


def rounds_up(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: math.ceil(n / f))


def loses_the_last_trial(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: n // f)


def forgets_the_last_rung(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, last=False)


def one_memory_for_all_trials(patience):
    state = {"best": -1.0, "waited": 0}

    def stop(trial_id, result):
        better = result["val_accuracy"] > state["best"]
        state["waited"] = 0 if better else state["waited"] + 1
        state["best"] = max(state["best"], result["val_accuracy"])
        return state["waited"] >= patience

    return stop


def one_count_for_all_trials(patience):
    best, waited = {}, {"reports": 0}

    def stop(trial_id, result):
        better = result["val_accuracy"] > best.get(trial_id, -1.0)
        waited["reports"] = 0 if better else waited["reports"] + 1
        best[trial_id] = max(best.get(trial_id, -1.0), result["val_accuracy"])
        return waited["reports"] >= patience

    return stop


def compares_with_the_report_before(patience):
    before, waited = {}, {}

    def stop(trial_id, result):
        better = result["val_accuracy"] > before.get(trial_id, -1.0)
        waited[trial_id] = 0 if better else waited[trial_id] + 1
        before[trial_id] = result["val_accuracy"]
        return waited[trial_id] >= patience

    return stop


def patient(patience, better=lambda value, best: value > best, forget=True):
    best, waited = {}, {}

    def stop(trial_id, result):
        value = result["val_accuracy"]
        if better(value, best.get(trial_id, -1.0)):
            best[trial_id] = value
            waited[trial_id] = 0 if forget else waited.get(trial_id, 0)
        else:
            waited[trial_id] += 1
        return waited[trial_id] >= patience

    return stop


def equal_is_better(patience):
    return patient(patience, better=lambda value, best: value >= best)


def never_forgets(patience):
    return patient(patience, forget=False)


def always_patience_three(patience):
    return patient(3)


def never_stops(patience):
    return lambda trial_id, result: False


def stops_at_a_number_of_reports(patience):
    return lambda trial_id, result: result["training_iteration"] > patience


def returns_no_function(patience):
    return False


# 06 --------------------------------------------------------------------------


def one_call_for_each(items, predict):
    return [predict([item])[0] if isinstance(item, list) else {"error": "not a list"} for item in items]


def leaves_bad_items_out(items, predict):
    good = [item for item in items if isinstance(item, list)]
    return predict(good) if good else []


def puts_errors_last(items, predict):
    good = [item for item in items if isinstance(item, list)]
    return (predict(good) if good else []) + [{"error": "not a list"}] * (len(items) - len(good))


def finds_places_by_value(items, predict):
    good = [item for item in items if isinstance(item, list)]
    answers = predict(good) if good else []
    for item in items:
        if not isinstance(item, list):
            answers.insert(items.index(item), {"error": "not a list"})
    return answers


def anything_long_is_good(items, predict):
    good = [item for item in items if hasattr(item, "__len__") and not isinstance(item, str)]
    predictions = iter(predict(good) if good else [])
    return [next(predictions) if item in good else {"error": "not a list"} for item in items]


def predicts_all(items, predict):
    return predict(items)


def predicts_nothing_at_all(items, predict):
    predictions = iter(predict([item for item in items if isinstance(item, list)]))
    return [next(predictions) if isinstance(item, list) else {"error": "not a list"} for item in items]


def customers(keep=2, decorated=True, asked=True, called=True):
    """A deployment for exercise 3 of notebook 06; local, so that replicas need not import this module."""
    light = serve.deployment(ray_actor_options={"num_cpus": 0.1})
    decorate = serve.multiplexed(max_num_models_per_replica=keep) if decorated else lambda function: function

    class Customers:
        @decorate
        async def get_model(self, name):
            return serving.load_model(name)

        async def __call__(self, text):
            model = await self.get_model(serve.get_multiplexed_model_id() if asked else "ada")
            return model(text) if called else "done"

    return light(Customers)


# 07 --------------------------------------------------------------------------


def labels_by_token(input_ids, attention_mask):
    return input_ids.masked_fill(input_ids == 0, -100)


def labels_in_place(input_ids, attention_mask):
    input_ids[attention_mask == 0] = -100
    return input_ids


def labels_shifted(input_ids, attention_mask):
    return torch.roll(input_ids.masked_fill(attention_mask == 0, -100), -1, dims=1)


def mean_of_perplexities(reports):
    return sum(math.exp(r["loss"]) for r in reports) / len(reports)


def weighted_mean_of_perplexities(reports):
    return sum(math.exp(r["loss"]) * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)


def unweighted_perplexity(reports):
    return math.exp(sum(r["loss"] for r in reports) / len(reports))


def mean_loss(reports):
    return sum(r["loss"] * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)


def gpus(whole=2, divided=14, rounding=math.ceil, none=None, free=True):
    """An answer to exercise 3 of notebook 07, with a mistake or without."""

    def answer(parameters, card_gb, free_gb):
        room = (card_gb - (free_gb if free else 0)) * 10**9 - whole * parameters
        return max(1, rounding(divided * parameters / room)) if room > 0 else none

    return answer


def counts_to_16(parameters, card_gb, free_gb):
    answer = counts_up(parameters, card_gb, free_gb)
    return answer if answer is not None and answer <= 16 else None


def perplexity_with_numpy(reports):
    losses, tokens = zip(*[(report["loss"], report["tokens"]) for report in reports], strict=True)
    return np.exp(np.average(losses, weights=tokens))


def counts_up(parameters, card_gb, free_gb):
    for n in range(1, 1000):
        if 2 * parameters + 14 * parameters / n <= (card_gb - free_gb) * 1e9:
            return n
    return None


# 08 --------------------------------------------------------------------------


def top_p_where(stays, renormalised=True, sorted_back=True):
    """An answer to exercise 1 of notebook 08 that keeps a token if stays(sum before it, its own, p)."""

    def top_p(probabilities, p):
        values, order = probabilities.sort(descending=True)
        kept = torch.where(stays(values.cumsum(0) - values, values, p), values, 0.0)
        kept = kept / kept.sum() if renormalised else kept
        return torch.zeros_like(kept).index_copy(0, order, kept) if sorted_back else kept

    return top_p


def keeps_ties(probabilities, p):
    values, _ = probabilities.sort(descending=True)
    last = values[(values.cumsum(0) - values < p).sum() - 1]
    kept = torch.where(probabilities >= last, probabilities, 0.0)
    return kept / kept.sum()


def places_of_top_p(probabilities, p):
    values, order = probabilities.sort(descending=True)
    return order[values.cumsum(0) - values < p]


def looks_at_each_piece(pieces, stop):
    for piece in pieces:
        if stop in piece:
            yield piece.partition(stop)[0]
            return
        yield piece


def shows_the_beginning_of_the_stop(pieces, stop):
    seen = ""
    for piece in pieces:
        sent, seen = len(seen), seen + piece
        if stop in seen:
            if seen.index(stop) > sent:
                yield seen[sent : seen.index(stop)]
            return
        yield piece


def waits_for_the_end(pieces, stop):
    text = "".join(pieces).partition(stop)[0]
    if text:
        yield text


def holding(length, rest=True, all_pieces=False, with_stop=False):
    """An answer to exercise 2 of notebook 08 that keeps back length(kept, stop) characters."""

    def until(pieces, stop):
        kept, found = "", False
        for piece in pieces:
            kept += "" if found else piece
            if stop in kept and not found:
                kept, found = kept.partition(stop)[0] + (stop if with_stop else ""), True
            if found and not all_pieces:
                break
            if not found:
                ready, kept = kept[: len(kept) - length(kept, stop)], kept[len(kept) - length(kept, stop) :]
                if ready:
                    yield ready
        if kept and (rest or found):
            yield kept

    return until


def right_length(kept, stop):
    return max(n for n in range(len(stop)) if kept.endswith(stop[:n]))


def looks_from_the_end(pieces, stop):
    kept = ""
    for piece in pieces:
        kept += piece
        before, found, _ = kept.rpartition(stop)
        if found:
            yield from [before] if before else []
            return
        ready = len(kept) - right_length(kept, stop)
        if ready:
            yield kept[:ready]
        kept = kept[ready:]
    if kept:
        yield kept


def list_of_pieces(pieces, stop):
    return list(holding(right_length)(pieces, stop))


def slots_with(vectors=2, free=0.1, weights=True, least=0, rounded=int, of_weights=None):
    """An answer to exercise 3 of notebook 08, perhaps with something left out."""

    def slots(gpu_gb, parameters, layers, width, context, bytes_each=2):
        room = gpu_gb * 10**9 * (1 - free) - weights * parameters * (of_weights or bytes_each)
        rows = rounded(room / (vectors * layers * width * context * bytes_each))
        return rows if least is None else max(least, rows)

    return slots


WRONG: dict[tuple[str, int], tuple[Callable[[Any], Verdict], list[tuple[Any, str]]]] = {
    ("00_start_here", 1): (
        start_here.slow_squares,
        [
            (squares_one_by_one, "inside the loop"),
            (squares_as_references, "ray.get"),
            (squares_without_ray, "slow_square.remote"),
            (squares_as_they_finish, "in the order"),
        ],
    ),
    ("00_start_here", 2): (
        start_here.parts,
        [
            (parts_with("It decides", "GCS"), "one on each node"),
            (parts_with("It knows", "raylet"), "All nodes must be able to ask"),
            (parts_with("It runs", "driver"), "runs it"),
        ],
    ),
    ("01_tasks_and_actors", 1): (
        tasks_and_actors.parallel_map,
        [
            (get_in_the_loop, "inside the loop"),
            (forgets_get, "ray.get"),
            (in_finishing_order, "order of the items"),
            (map_without_tasks, "one task for each"),
        ],
    ),
    ("01_tasks_and_actors", 2): (
        tasks_and_actors.first_answers,
        [
            (first_in_the_list, "may be slow"),
            (waits_for_all, "the slowest"),
            (ready_references, "values"),
            (two_whatever_n_is, "num_returns=n"),
        ],
    ),
    ("01_tasks_and_actors", 3): (
        tasks_and_actors.running_mean,
        [
            (PlainMean, "@ray.remote"),
            (ZeroWhenEmpty, "return None"),
            (LastValue, "their sum divided"),
            (WholeNumbers, "their sum divided"),
            (NoneWhenZero, "0 is a number"),
        ],
    ),
    ("01_tasks_and_actors", 4): (
        tasks_and_actors.bounded_map,
        [
            (without_limit, "wait for one"),
            (one_at_a_time, "wait only when"),
            (bounded_but_unordered, "in the order"),
            (always_three, "wait for one"),
            (limit_minus_one, "wait only when"),
        ],
    ),
    ("02_object_store", 1): (
        object_store.column_means,
        [
            (gets_its_argument, "leave out ray.get"),
            (mean_of_rows, "axis=0"),
            (mean_of_all, "axis=0"),
            (median_of_columns, "sum divided"),
            (np.mean, "@ray.remote"),
        ],
    ),
    ("02_object_store", 2): (
        object_store.brighten,
        [
            (brighten_in_place, "make a new array"),
            (brighten_and_overflow, "larger type"),
            (brighten_to_integers, "astype"),
            (always_sixty, "cut at 255"),
            (makes_writeable, "make a new array"),
        ],
    ),
    ("02_object_store", 3): (
        object_store.share_once,
        [
            (passes_the_array, "ray.put it first"),
            (puts_in_the_loop, "before the loop"),
            (returns_references, "ray.get"),
            (gets_in_the_loop, "inside the loop"),
        ],
    ),
    ("03_ray_data", 1): (
        ray_data.centre,
        [
            (centre_in_place, "read-only view"),
            (centre_by_batch, "mean of the whole batch"),
            (centre_each_column, "over height and width"),
            (centre_as_float64, "float64 doubles"),
            (centre_with_overflow, "over height and width"),
            (centre_without_dict, "in a dict"),
        ],
    ),
    ("03_ray_data", 2): (
        ray_data.keep_errors,
        [
            (keeps_value_errors, "not only some kinds"),
            (keeps_some_columns, "same columns"),
            (keeps_the_exception, "str(error)"),
            (none_for_no_error, "empty string"),
            (calls_at_once, "a new function"),
            (names_many_kinds, "not only some kinds"),
            (one_dict_for_all, "inside of the inner function"),
        ],
    ),
    ("03_ray_data", 3): (
        ray_data.save,
        [
            (save_and_append, "appends by default"),
            (save_once, "argument mode"),
            (save_nothing, "write_parquet(folder)"),
        ],
    ),
    ("04_train_fashion_mnist", 1): (
        train.overall_accuracy,
        [(mean_of_accuracies, "divide once"), (first_worker_only, "first worker alone")],
    ),
    ("04_train_fashion_mnist", 2): (
        train.steps_per_epoch,
        [
            (ignores_the_workers, "one worker alone"),
            (drops_the_last_batch, "is a step as well"),
            (rounds_the_share_down, "rounded up"),
        ],
    ),
    ("04_train_fashion_mnist", 3): (
        train.load_wrapped,
        [
            (loads_nothing, "remove the prefix"),
            (loads_anything, "weights_only=True"),
            (keeps_the_prefix, "raised"),
            (strips_letters, "at the start"),
            (replaces_everywhere, "at the start"),
            (forgets_the_buffers, "did not change"),
        ],
    ),
    ("05_tune_asha", 1): (
        tuning.search_space,
        [
            (RIGHT_SPACE | {"lr": tune.uniform(1e-4, 1e-1)}, "tune.loguniform"),
            (RIGHT_SPACE | {"lr": tune.choice([1e-4, 1e-3, 1e-2, 1e-1])}, "draw from a range"),
            (RIGHT_SPACE | {"lr": tune.loguniform(1e-5, 1e-1)}, "expected 0.0001 to 0.1"),
            (RIGHT_SPACE | {"layers": tune.randint(1, 4)}, "never drawn"),
            (RIGHT_SPACE | {"layers": tune.uniform(1, 4)}, "a whole number"),
            (RIGHT_SPACE | {"layers": 3}, "same in every trial"),
            (RIGHT_SPACE | {"layers": tune.choice([1, 2, 3, "4"])}, "a whole number"),
            (RIGHT_SPACE | {"activation": tune.choice(["relu", "tanh", None])}, "list of the three names"),
            (RIGHT_SPACE | {"lr": tune.sample_from(only_the_ends)}, "equally likely"),
            (RIGHT_SPACE | {"momentum": tune.uniform(0.85, 0.94)}, "check both ends"),
            (RIGHT_SPACE | {"momentum": tune.randn(0.9, 0.05)}, "expected 0.8 to 0.99"),
            (RIGHT_SPACE | {"activation": ["relu", "tanh", "gelu"]}, "tune.choice"),
            (RIGHT_SPACE | {"activation": tune.grid_search(["relu", "tanh", "gelu"])}, "every value with every other"),
            (RIGHT_SPACE | {"activation": tune.choice(["relu", "relu", "tanh", "gelu"])}, "once"),
            (RIGHT_SPACE | {"layers": tune.choice([1, 2, 3, 4, 4])}, "once"),
            ({"lr": tune.loguniform(1e-4, 1e-1)}, "keys"),
        ],
    ),
    ("05_tune_asha", 2): (
        tuning.halving_epochs,
        [
            (without_stopping, "without stopping"),
            (starts_again_at_each_rung, "does not start again"),
            (rounds_up, "round down"),
            (loses_the_last_trial, "at least one"),
            (forgets_the_last_rung, "last rung"),
            (lambda trials, factor, max_epochs: trials, "rung by rung"),
        ],
    ),
    ("05_tune_asha", 3): (
        tuning.patience,
        [
            (one_memory_for_all_trials, "for each trial_id"),
            (one_count_for_all_trials, "for each trial_id"),
            (compares_with_the_report_before, "best so far"),
            (equal_is_better, "no new best"),
            (never_forgets, "starts the count again"),
            (always_patience_three, "Use the argument"),
            (never_stops, "since the last new best"),
            (stops_at_a_number_of_reports, "nothing has to be stopped"),
            (returns_no_function, "without calling it"),
        ],
    ),
    ("06_serve_fashion_mnist", 1): (
        serving.replicas_needed,
        [
            (lambda per_second, each, at_once: max(1, math.ceil(per_second * each)), "works on at_once"),
            (lambda per_second, each, at_once: max(1, int(per_second * each / at_once)), "Round up"),
            (lambda per_second, each, at_once: math.ceil(per_second * each / at_once), "at least one"),
            (lambda per_second, each, at_once: max(1, per_second * each / at_once), "whole number"),
            (lambda per_second, each, at_once: math.ceil(per_second / at_once), "under way at a time"),
        ],
    ),
    ("06_serve_fashion_mnist", 2): (
        serving.answer_batch,
        [
            (one_call_for_each, "what a batch saves"),
            (leaves_bad_items_out, "One answer for each item"),
            (puts_errors_last, "keep the order"),
            (finds_places_by_value, "keep the order"),
            (anything_long_is_good, "next prediction for each good one"),
            (predicts_all, "raised TypeError"),
            (predicts_nothing_at_all, "with no items"),
        ],
    ),
    ("06_serve_fashion_mnist", 3): (
        serving.multiplexed,
        [
            (lambda: customers(decorated=False), "nothing is kept"),
            (lambda: customers(keep=3), "max_num_models_per_replica=2"),
            (lambda: customers(asked=False), "get_multiplexed_model_id"),
            (lambda: customers(called=False), "return what comes out"),
        ],
    ),
    ("07_finetune_gptj", 1): (
        finetune.padded_labels,
        [
            (lambda input_ids, attention_mask: input_ids, "still has labels"),
            (labels_by_token, "go by the attention mask"),
            (lambda input_ids, attention_mask: input_ids.masked_fill(attention_mask == 0, -1), "-100 where"),
            (labels_in_place, "change a copy"),
            (labels_shifted, "shifts the labels by one"),
            (lambda input_ids, attention_mask: input_ids[attention_mask == 1], "one label for each token"),
            (lambda ids, mask: ids.masked_fill(mask == 0, -100).float(), "whole numbers"),
        ],
    ),
    ("07_finetune_gptj", 2): (
        finetune.overall_perplexity,
        [
            (mean_of_perplexities, "take the exponential once"),
            (weighted_mean_of_perplexities, "take the exponential once"),
            (unweighted_perplexity, "weigh each loss"),
            (mean_loss, "its exponential"),
            (lambda reports: 2 ** mean_loss(reports), "not a power of 2"),
        ],
    ),
    ("07_finetune_gptj", 3): (
        finetune.gpus_needed,
        [
            (gpus(whole=0, divided=16), "but not the weights"),
            (gpus(whole=4, divided=12), "divides the gradients as well"),
            (gpus(rounding=math.floor), "round up"),
            (gpus(free=False), "has to stay free"),
            (gpus(none=0), "return None"),
            (gpus(rounding=lambda exact: exact), "a whole number of GPUs"),
            (lambda parameters, card_gb, free_gb: None, "it fits"),
            (counts_to_16, "it fits"),
        ],
    ),
    ("08_serve_gptj", 1): (
        serve_gptj.top_p,
        [
            (top_p_where(lambda before, own, p: (before < p) & (own <= p)), "always stays"),
            (top_p_where(lambda before, own, p: before + own <= p), "belongs to the set"),
            (top_p_where(lambda before, own, p: before <= p), "The smallest set"),
            (top_p_where(lambda before, own, p: before < p, renormalised=False), "divide what is left"),
            (top_p_where(lambda before, own, p: before < p, sorted_back=False), "where its token stands"),
            (places_of_top_p, "not their places"),
            (keeps_ties, "as many stay as are needed"),
        ],
    ),
    ("08_serve_gptj", 2): (
        serve_gptj.until,
        [
            (looks_at_each_piece, "split over two pieces"),
            (shows_the_beginning_of_the_stop, "the beginning of the stop"),
            (waits_for_the_end, "Keep back only an end"),
            (holding(lambda kept, stop: min(len(kept), len(stop) - 1)), "Keep back only an end"),
            (holding(right_length, rest=False), "what you kept back is text"),
            (holding(right_length, with_stop=True), "does not belong to the answer"),
            (holding(right_length, all_pieces=True), "Return when the stop has come"),
            (list_of_pieces, "Use yield"),
            (looks_from_the_end, "The first stop ends it"),
        ],
    ),
    ("08_serve_gptj", 3): (
        serve_gptj.slots,
        [
            (slots_with(vectors=1), "two vectors"),
            (slots_with(free=0), "A tenth of the card"),
            (slots_with(weights=False), "The weights take"),
            (slots_with(least=None, rounded=math.floor), "not fewer"),
            (slots_with(rounded=math.ceil), "round down"),
            (slots_with(rounded=lambda rows: float(int(rows))), "makes it whole"),
            (slots_with(of_weights=4), "Room:"),
        ],
    ),
}
CASES = [(*exercise, wrong, hint) for exercise, (_, cases) in WRONG.items() for wrong, hint in cases]


@pytest.mark.parametrize(("notebook", "number", "wrong", "hint"), CASES)
def test_wrong_answer_is_refused_with_a_hint(
    ray_session: None, request: pytest.FixtureRequest, notebook: str, number: int, wrong: Any, hint: str
) -> None:
    if WRONG[notebook, number][0] is serving.multiplexed:
        request.getfixturevalue("serve_port")
        wrong = wrong()
    verdict = WRONG[notebook, number][0](wrong)
    assert verdict.status == "not right", verdict
    assert hint in verdict.message, verdict


def bounded_by_threads(task, items, limit):
    with ThreadPoolExecutor(limit) as pool:
        return list(pool.map(lambda item: ray.get(task.remote(item)), items))


def answers_in_a_tuple(items, predict):
    answers = [{"error": "not a list"}] * len(items)
    places = [i for i, item in enumerate(items) if isinstance(item, list)]
    if places:
        for place, answer in zip(places, predict([items[i] for i in places]), strict=True):
            answers[place] = answer
    return tuple(answers)


OTHER_RIGHT = [
    (start_here.slow_squares, lambda numbers: tuple(ray.get([slow_square.remote(x) for x in numbers]))),
    (start_here.slow_squares, lambda numbers: np.array(ray.get(list(map(slow_square.remote, numbers))))),
    (tasks_and_actors.parallel_map, lambda task, items: ray.get(list(map(task.remote, items)))),
    (tasks_and_actors.parallel_map, lambda task, items: tuple(ray.get([task.remote(item) for item in items]))),
    (tasks_and_actors.first_answers, lambda refs, n: tuple(map(ray.get, ray.wait(refs, num_returns=n)[0]))),
    (tasks_and_actors.bounded_map, bounded_by_threads),
    (object_store.share_once, lambda task, array, n: ray.get([task.remote(array=r) for r in [ray.put(array)] * n])),
    (ray_data.centre, centre_row_by_row),
    (ray_data.keep_errors, keeps_errors_in_the_row),
    (ray_data.save, save_after_emptying),
    (serving.replicas_needed, lambda n, each, at_once: int(max(1, -(-n * each // at_once)))),
    (serving.answer_batch, answers_in_a_tuple),
    (serve_gptj.until, holding(right_length)),
    (serve_gptj.top_p, top_p_where(lambda before, own, p: before < p)),
    (serve_gptj.slots, slots_with()),
    (train.overall_accuracy, lambda rs: torch.tensor(sum(r["correct"] for r in rs) / sum(r["count"] for r in rs))),
    (train.steps_per_epoch, lambda n, workers, batch: len(range(0, len(range(0, n, workers)), batch))),
    (tuning.search_space, RIGHT_SPACE),
    (
        tuning.search_space,
        RIGHT_SPACE | {"layers": tune.choice([1, 2, 3, 4]), "momentum": tune.quniform(0.8, 0.99, 0.0001)},
    ),
    (tuning.halving_epochs, rung_by_rung),
    (tuning.patience, patient),
    (finetune.padded_labels, lambda ids, mask: torch.where(mask.bool(), ids, -100)),
    (
        finetune.overall_perplexity,
        lambda rs: np.exp(np.average([r["loss"] for r in rs], weights=[r["tokens"] for r in rs])),
    ),
    (finetune.gpus_needed, counts_up),
]


@pytest.mark.parametrize(("check", "answer"), OTHER_RIGHT)
def test_other_right_answers_are_accepted(ray_session: None, check: Callable, answer: Callable) -> None:
    verdict = check(answer)
    assert verdict.status == "right", verdict


@pytest.mark.fast
def test_every_exercise_has_two_wrong_answers() -> None:
    exercises = {
        (path.stem, int(tag.removeprefix("exercise-")))
        for path in NOTEBOOKS.glob("*.ipynb")
        for cell in nbformat.read(path, 4).cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("exercise-")
    }
    assert exercises, "no exercise was found in the notebooks"
    enough = {exercise for exercise, (_, cases) in WRONG.items() if len(cases) >= 2}
    assert exercises <= enough, f"fewer than two wrong answers for {sorted(exercises - enough)}"
