"""Answers to the exercises of notebook 03."""

from __future__ import annotations

import traceback

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from helpers.exercises import ray_data
from helpers.exercises.ray_data import ROWS


def spread_not(dataset, work, cpus):
    return dataset.map_batches(work)


def spread_over_batches(dataset, work, cpus):
    return dataset.map_batches(work, batch_size=ROWS // (4 * cpus))


def spread_too_late(dataset, work, cpus):
    return dataset.map_batches(work).repartition(4 * cpus)


def spread_over_as_many_as_cpus(dataset, work, cpus):
    return dataset.repartition(cpus).map_batches(work)


def spread_over_every_row(dataset, work, cpus):
    return dataset.repartition(dataset.count()).map_batches(work)


def spread_for_eight(dataset, work, cpus):
    return dataset.repartition(16).map_batches(work)


def spread_and_forgotten(dataset, work, cpus):
    return dataset.repartition(4 * cpus)


def spread_half(dataset, work, cpus):
    return dataset.limit(ROWS // 2).repartition(4 * cpus).map_batches(work)


def spread_and_taken(dataset, work, cpus):
    return dataset.repartition(4 * cpus).map_batches(work).take_all()


def spread_in_the_notebook(dataset, work, cpus):
    return ray.data.from_items([work(batch) for batch in dataset.iter_batches(batch_size=ROWS // (4 * cpus))])


def spread_anew(dataset, work, cpus):
    return ray.data.from_items(dataset.take_all(), override_num_blocks=4 * cpus).map_batches(work)


def spread_by_a_shuffle(dataset, work, cpus):
    return dataset.repartition(8 * cpus, shuffle=True).map_batches(work, batch_size=5)


def spread_in_frames(dataset, work, cpus):
    frame = dataset.to_pandas()
    return ray.data.from_pandas([frame.iloc[i :: 3 * cpus] for i in range(3 * cpus)]).map_batches(work)


class Namer:
    def __init__(self, load_names):
        self.names = np.array(load_names())

    def __call__(self, batch):
        return {**batch, "name": self.names[batch["label"]]}


class LateNamer:
    def __init__(self, load_names):
        self.load_names = load_names

    def __call__(self, batch):
        return {**batch, "name": np.array(self.load_names())[batch["label"]]}


class ForgetfulNamer(Namer):
    def __call__(self, batch):
        return {"name": self.names[batch["label"]]}


class ShiftedNamer(Namer):
    def __call__(self, batch):
        return {**batch, "name": self.names[batch["label"] - 1]}


class ShortNamer(Namer):
    def __call__(self, batch):
        return {name: values[:1] for name, values in super().__call__(batch).items()}


class RowNamer(Namer):
    def __call__(self, row):
        return {**row, "name": str(self.names[row["label"]])}


class FrameNamer(Namer):
    def __call__(self, frame):
        return frame.assign(name=[self.names[label] for label in frame["label"]])


class LazyNamer(LateNamer):
    names = None

    def __call__(self, batch):
        if self.names is None:
            self.names = np.array(self.load_names())
        return Namer.__call__(self, batch)


def in_a_pool(kind, size=None, **options):
    """An answer that gives map_batches this class."""

    def add_names(dataset, load_names, actors):
        compute = ActorPoolStrategy(size=size or actors)
        return dataset.map_batches(kind, fn_constructor_args=[load_names], compute=compute, **options)

    return add_names


def names_in_a_function(dataset, load_names, actors):
    return dataset.map_batches(lambda batch: {**batch, "name": np.array(load_names())[batch["label"]]})


def names_loaded_in_the_notebook(dataset, load_names, actors):
    names = np.array(load_names())
    return dataset.map_batches(lambda batch: {**batch, "name": names[batch["label"]]})


def names_loaded_before_the_pool(dataset, load_names, actors):
    names = load_names()
    options = {"fn_constructor_args": [lambda: names], "compute": ActorPoolStrategy(size=actors)}
    return dataset.map_batches(Namer, **options)


def names_made_up(dataset, load_names, actors):
    return dataset.map_batches(lambda batch: {**batch, "name": [f"name {label}" for label in batch["label"]]})


def names_in_a_list(dataset, load_names, actors):
    return in_a_pool(Namer)(dataset, load_names, actors).take_all()


def names_without_arguments(dataset, load_names, actors):
    return dataset.map_batches(Namer, compute=ActorPoolStrategy(size=actors))


def names_row_by_row(dataset, load_names, actors):
    return dataset.map(RowNamer, fn_constructor_args=[load_names], compute=ActorPoolStrategy(size=actors))


def names_by_concurrency(dataset, load_names, actors):
    return dataset.map_batches(Namer, fn_constructor_kwargs={"load_names": load_names}, concurrency=actors)


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


def keeps_the_last_error(function):
    error = ""

    def safe(row):
        nonlocal error
        value = None
        try:
            value = function(row)
        except Exception as raised:
            error = str(raised)
        return {**row, "value": value, "error": error}

    return safe


def keeps_the_last_value(function):
    value = None

    def safe(row):
        nonlocal value
        error = ""
        try:
            value = function(row)
        except Exception as raised:
            error = str(raised)
        return {**row, "value": value, "error": error}

    return safe


def takes_0_for_a_failure(function):
    def safe(row):
        try:
            value, error = function(row), ""
        except Exception as raised:
            value, error = None, str(raised)
        return {**row, "value": value or None, "error": error}

    return safe


def names_the_columns(function):
    def safe(row):
        try:
            return {"id": row["id"], "text": row["text"], "value": function(row), "error": ""}
        except Exception as error:
            return {"id": row["id"], "text": row["text"], "value": None, "error": str(error)}

    return safe


def keeps_the_kind_too(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": ""}
        except Exception as error:
            return {**row, "value": None, "error": repr(error)}

    return safe


def loses_failed_rows(function):
    def safe(row):
        try:
            return {**row, "value": function(row), "error": ""}
        except Exception:
            return None

    return safe


def keeps_no_row(function):
    def safe(row):
        try:
            return {"value": function(row), "error": ""}
        except Exception as error:
            return {"value": None, "error": str(error)}

    return safe


class Safe:
    def __init__(self, function):
        self.function = function

    def __call__(self, row):
        value, error = None, ""
        try:
            value = self.function(row)
        except BaseException as raised:
            error = str(raised)
        return dict(row, value=value, error=error)


def keeps_the_last_line(function):
    def safe(row):
        result = {**row, "value": None, "error": ""}
        try:
            result["value"] = function(row)
        except Exception:
            result["error"] = traceback.format_exc().splitlines()[-1].partition(": ")[2]
        return result

    return safe


WRONG = {
    (1, ray_data.spread_work): [
        (spread_over_batches, "A task works on one block"),
        (spread_too_late, "before map_batches"),
        (spread_over_every_row, "Each task has a price"),
        (spread_for_eight, "Each task has a price"),
        (spread_and_forgotten, "Give the function `work`"),
        (spread_not, "A task works on one block"),
        (spread_over_as_many_as_cpus, "a few for each CPU"),
        (spread_half, "whole dataset"),
        (spread_and_taken, "Return what map_batches returns"),
        (spread_in_the_notebook, "map_batches"),
    ],
    (2, ray_data.add_names): [
        (in_a_pool(LateNamer), "once for each actor"),
        (in_a_pool(ForgetfulNamer), "Return the columns of the batch"),
        (in_a_pool(ShiftedNamer), "counted from 0"),
        (in_a_pool(ShortNamer), "Every row of a batch"),
        (in_a_pool(Namer, size=2), "ActorPoolStrategy(size=...)"),
        (names_in_a_function, "give map_batches the class"),
        (names_loaded_in_the_notebook, "fn_constructor_args"),
        (names_loaded_before_the_pool, "fn_constructor_args"),
        (names_made_up, "Call load_names()"),
        (names_in_a_list, "Return what map_batches returns"),
        (names_without_arguments, "load_names"),
    ],
    (3, ray_data.keep_errors): [
        (keeps_value_errors, "not only some kinds"),
        (keeps_some_columns, "same columns"),
        (keeps_the_exception, "str(error)"),
        (none_for_no_error, "empty string"),
        (calls_at_once, "a new function"),
        (names_many_kinds, "not only some kinds"),
        (one_dict_for_all, "inside of the inner function"),
        (keeps_the_last_error, "inside of the inner function"),
        (keeps_the_last_value, "None if it failed"),
        (takes_0_for_a_failure, "0 and an empty list are values"),
        (names_the_columns, "not only some kinds"),
        (keeps_the_kind_too, "str(error)"),
        (loses_failed_rows, "two columns more"),
        (keeps_no_row, "same columns"),
        (lambda function: function, "two columns more"),
    ],
}
RIGHT = {
    (1, ray_data.spread_work): [spread_in_frames, spread_by_a_shuffle, spread_anew],
    (2, ray_data.add_names): [
        in_a_pool(FrameNamer, batch_format="pandas"),
        in_a_pool(LazyNamer, batch_size=7),
        names_row_by_row,
        names_by_concurrency,
    ],
    (3, ray_data.keep_errors): [keeps_errors_in_the_row, Safe, keeps_the_last_line],
}
