"""Answers to the exercises of notebook 03."""

from __future__ import annotations

import shutil
import traceback
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from helpers.exercises import ray_data


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


def centre_by_the_mean_picture(batch):
    return {"picture": (batch["picture"] - batch["picture"].mean(axis=0)).astype("float32")}


def centre_and_divide(batch):
    pictures = batch["picture"].astype("float32")
    means, spreads = pictures.mean(axis=(1, 2), keepdims=True), pictures.std(axis=(1, 2), keepdims=True)
    return {"picture": (pictures - means) / spreads}


def centre_to_whole_numbers(batch):
    pictures = batch["picture"].astype("int16")
    return {"picture": (pictures - pictures.mean(axis=(1, 2), keepdims=True).astype("int16")).astype("float32")}


def centre_by_a_loop_over_the_first(batch):
    return {"picture": np.stack([p - batch["picture"][0].mean() for p in batch["picture"]]).astype("float32")}


def centre_by_name(batch):
    return {"pictures": centre_row_by_row(batch)["picture"]}


def centre_flat(batch):
    flat = batch["picture"].reshape(len(batch["picture"]), -1).astype("float32")
    return {"picture": (flat - flat.mean(axis=1, keepdims=True)).reshape(batch["picture"].shape)}


def centre_a_copy(batch):
    pictures = batch["picture"].astype("float32")
    pictures -= pictures.mean(axis=(1, 2))[:, None, None]
    batch["picture"] = pictures
    return batch


def centre_by_einsum(batch):
    pictures = np.asarray(batch["picture"], dtype="float32")
    return {**batch, "picture": pictures - (np.einsum("nhw->n", pictures) / (28 * 28)).reshape(-1, 1, 1)}


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


def save_if_the_number_differs(dataset, folder):
    files = list(Path(folder).rglob("*.parquet"))
    if sum(pq.read_metadata(file).num_rows for file in files) != dataset.count():
        dataset.write_parquet(folder, mode="overwrite")


def save_as_json(dataset, folder):
    dataset.write_json(folder, mode="overwrite")


def save_beside(dataset, folder):
    dataset.write_parquet(f"{folder}-{dataset.count()}")


def save_after_emptying_too_much(dataset, folder):
    for other in Path(folder).parent.iterdir():
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    dataset.write_parquet(folder)


def save_some(dataset, folder):
    dataset.limit(10).write_parquet(folder, mode="overwrite")


def save_or_fail(dataset, folder):
    dataset.write_parquet(folder, mode="error")


def save_in_one_file_each(dataset, folder):
    Path(folder).mkdir(exist_ok=True)
    dataset.to_pandas().to_parquet(Path(folder) / f"{dataset.count()}.parquet")


def save_as_pq(dataset, folder):
    Path(folder).mkdir(exist_ok=True)
    dataset.to_pandas().to_parquet(Path(folder) / "rows.pq")


def save_in_a_subfolder(dataset, folder):
    dataset.repartition(1).write_parquet(f"{folder}/newest", mode="overwrite")


WRONG = {
    (1, ray_data.centre): [
        (centre_in_place, "read-only view"),
        (centre_by_batch, "mean of the whole batch"),
        (centre_each_column, "over height and width"),
        (centre_as_float64, "float64 doubles"),
        (centre_with_overflow, "over height and width"),
        (centre_without_dict, "in a dict"),
        (centre_by_the_mean_picture, "axis=0 goes over the pictures"),
        (centre_and_divide, "no division"),
        (centre_to_whole_numbers, "rounded"),
        (centre_by_a_loop_over_the_first, "over height and width"),
        (centre_by_name, "in a dict"),
        (lambda batch: batch, "astype"),
        (lambda batch: {"picture": centre_row_by_row(batch)["picture"].astype("float16")}, "astype"),
        (lambda batch: {"picture": centre_row_by_row(batch)["picture"].reshape(-1, 784)}, "Keep rows"),
        (lambda batch: {"picture": -centre_row_by_row(batch)["picture"]}, "other way round"),
    ],
    (2, ray_data.keep_errors): [
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
    (3, ray_data.save): [
        (save_and_append, "appends by default"),
        (save_once, "nothing was written"),
        (save_nothing, "write_parquet(folder)"),
        (save_if_the_number_differs, "nothing was written"),
        (save_as_json, "write_parquet(folder)"),
        (save_beside, "write_parquet(folder)"),
        (save_after_emptying_too_much, "Only what is inside"),
        (save_some, "all rows"),
        (save_or_fail, "argument mode"),
        (save_in_one_file_each, "appends by default"),
    ],
}
RIGHT = {
    (1, ray_data.centre): [centre_row_by_row, centre_flat, centre_a_copy, centre_by_einsum],
    (2, ray_data.keep_errors): [keeps_errors_in_the_row, Safe, keeps_the_last_line],
    (3, ray_data.save): [save_after_emptying, save_as_pq, save_in_a_subfolder],
}
