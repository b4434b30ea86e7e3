"""Checks of the exercises of notebook 03."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from helpers import data
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, without_ray

Row = dict[str, Any]


def _pictures() -> np.ndarray:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    pictures[1] //= 8  # a dark one: the means of the pictures differ
    pictures.flags.writeable = False  # as Ray Data hands them out
    return pictures


@exercise_check
def centre(answer: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Verdict:
    """Exercise 1: each picture minus its own mean, as float32, from a read-only batch."""
    pictures = _pictures()
    try:
        result = answer({"picture": pictures})
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        return not_right("an attempt to change the batch", "a new array", "A batch is a read-only view: make a copy.")
    if not isinstance(result, dict) or "picture" not in result:
        return not_right(type(result).__name__, 'a dict {"picture": ...}', "Return the column in a dict.")
    got = np.asarray(result["picture"])
    expected = (pictures - pictures.mean(axis=(1, 2), keepdims=True)).astype("float32")
    if got.shape != expected.shape:
        return not_right(f"shape {got.shape}", f"shape {expected.shape}", "Keep rows, height and width.")
    if got.dtype != np.float32:
        return not_right(got.dtype, "float32", "Convert the result, or the mean's float64 doubles its size.")
    if np.allclose(got, expected, atol=1e-3):
        return right("every picture has its own mean removed, and the batch is left as it was.")
    if np.allclose(got, pictures - pictures.mean(), atol=1e-3):
        hint = "That is the mean of the whole batch: take axis=(1, 2), so that each picture has its own."
    else:
        hint = "Subtract the mean over height and width; keepdims=True makes the shapes fit."
    worst = float(np.abs(got.mean(axis=(1, 2))).max())
    return not_right(f"pictures with means of up to {worst:.1f}", "0 for each", hint)


@exercise_check
def keep_errors(answer: Callable[[Callable[[Row], Any]], Callable[[Row], Row]]) -> Verdict:
    """Exercise 2: errors become data, whatever their kind, and no row is lost."""

    class Unreadable(Exception):
        """A kind of error that no answer can name."""

    def function(row: Row) -> float:
        if row["text"] == "torn":
            raise Unreadable("torn")
        return 10 / {"one": 1, "zero": 0}[row["text"]]

    safe = answer(function)
    if not callable(safe):
        return not_right(type(safe).__name__, "a function", "keep_errors returns a new function, and does not call it.")
    seen: list[Any] = []
    for text, value, message in (
        ("one", 10.0, ""),
        ("zero", None, "division by zero"),
        ("two", None, "'two'"),
        ("torn", None, "torn"),
    ):
        row = {"id": 7, "text": text}
        try:
            got = safe(dict(row))
        except NotImplementedError:
            raise  # the stub is in the inner function
        except Exception as error:
            kind = type(error).__name__
            hint = f"Catch Exception, not only some kinds: {kind} came through."
            return not_right(f"{kind} for {text!r}", "a row", hint)
        expected = {**row, "value": value, "error": message}
        if not isinstance(got, dict):
            return not_right(type(got).__name__, "a dict", "Return the row, with two columns more.")
        if got != expected:
            hint = "Every row needs the same columns: those of the row, and value and error."
            if "error" in got and {**got, "error": message} == expected:
                hint = "The message is str(error); it is the empty string if nothing failed."
            return not_right(got, expected, hint)
        if any(got is other for other in seen):
            return not_right("one dict for two rows", "a new one", "Make the result inside of the inner function.")
        seen.append(got)
    return right("all rows come out, with a value or with the reason why there is none.")


@exercise_check
def save(answer: Callable[[Any, str], object]) -> Verdict:
    """Exercise 3: writing again replaces what was there. Needs a running Ray."""
    import ray.data

    if (missing := without_ray()) is not None:
        return missing
    with tempfile.TemporaryDirectory(dir=data.results_dir("checks")) as folder:
        path = str(Path(folder) / "saved")
        for expected, blocks in ((40, 4), (40, 4), (10, 1)):
            answer(ray.data.range(expected, override_num_blocks=blocks), path)
            files = sorted(Path(path).rglob("*.parquet"))
            found = sum(pq.read_metadata(file).num_rows for file in files)
            if found == expected:
                continue
            hint = "write_parquet appends by default; its argument mode says what to do with older files."
            if not files:
                hint = "Write it with dataset.write_parquet(folder)."
            return not_right(f"{found} rows", f"{expected} rows", hint)
    return right("the folder holds what was saved last, and nothing else.")
