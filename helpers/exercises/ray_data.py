"""Checks of the exercises of notebook 03."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from helpers import data
from helpers.exercises.verdict import Verdict, described, exercise_check, not_right, right, same, without_ray

Row = dict[str, Any]


def _pictures(rows: int) -> np.ndarray:
    random = np.random.default_rng(rows)
    pictures = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    pictures[rows // 2] //= 8  # a dark one: the means of the pictures differ
    pictures.flags.writeable = False  # as Ray Data hands them out
    return pictures


@exercise_check
def centre(answer: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Verdict:
    """Exercise 1: each picture minus its own mean, as float32, from a read-only batch."""
    for rows in (5, 1, 28):  # 28 rows of 28 x 28: a mean over the wrong axes has a fitting shape
        wrong = _judge_centred(answer, _pictures(rows))
        if wrong is not None:
            return wrong
    return right("every picture has its own mean removed, and the batch is left as it was.")


def _judge_centred(answer: Callable[..., Any], pictures: np.ndarray) -> Verdict | None:
    try:
        result = answer({"picture": pictures})
    except ValueError as error:
        if "read-only" not in str(error) and "WRITEABLE" not in str(error):
            raise
        return not_right("an attempt to change the batch", "a new array", "A batch is a read-only view: make a copy.")
    if not isinstance(result, dict) or "picture" not in result:
        shown = f"a dict with {sorted(result)}" if isinstance(result, dict) else f"a {type(result).__name__}"
        return not_right(shown, 'a dict {"picture": ...}', "Return the column in a dict.")
    got = np.asarray(result["picture"])
    means = pictures.mean(axis=(1, 2), keepdims=True)
    expected = (pictures - means).astype("float32")
    if got.shape != expected.shape:
        return not_right(f"shape {got.shape}", f"shape {expected.shape}", "Keep rows, height and width.")
    if got.dtype == np.float64:
        return not_right(got.dtype, "float32", "Convert the result, or the mean's float64 doubles its size.")
    if got.dtype != np.float32:
        return not_right(got.dtype, "float32", "Convert the result with .astype('float32').")
    if np.allclose(got, expected, atol=1e-2):
        return None
    place = tuple(int(i) for i in np.argwhere(~np.isclose(got, expected, atol=1e-2))[0])
    row, *pixel = place
    found = f"{got[place]:.2f} for the pixel {tuple(pixel)} of picture {row}, which has the value {pictures[place]}"
    wanted = f"{expected[place]:.2f}: the mean of this picture is {float(means[row].item()):.2f}"
    return not_right(found, wanted, _centre_hint(got, pictures, means))


def _centre_hint(got: np.ndarray, pictures: np.ndarray, means: np.ndarray) -> str:
    def like(other: np.ndarray) -> bool:
        return np.allclose(got, other, atol=1e-2)

    own = pictures - means
    if like(pictures - pictures.mean()):
        return "That is the mean of the whole batch: take axis=(1, 2), so that each picture has its own."
    if like(pictures - pictures.mean(axis=0, keepdims=True)):
        return "axis=0 goes over the pictures: the mean of one picture goes over height and width, axis=(1, 2)."
    if any(like(pictures - pictures.mean(axis=axis, keepdims=True)) for axis in (1, 2)):
        return "That is the mean of a row or column of pixels: take both, over height and width, axis=(1, 2)."
    if any(like(pictures - rounded(means)) for rounded in (np.floor, np.round)):
        return "The mean was rounded to a whole number: subtract it as it is."
    if like((pictures - means.astype(np.uint8)).astype(np.uint8)) or like(own.astype(np.uint8)):
        return "uint8 has no numbers below 0 and no fractions: subtract the mean over height and width as a float."
    if like(own / pictures.std(axis=(1, 2), keepdims=True)) or like(own / 255):
        return "Subtract the mean over height and width, and nothing more: no division."
    if like(-own):
        return "The picture minus its mean, not the other way round."
    return "Subtract the mean over height and width; keepdims=True makes the shapes fit."


class _Unreadable(Exception):
    """A kind of error that no answer can name."""


def _reciprocal(row: Row) -> Any:
    """A function of a row that fails in several ways, and whose results include ones that count as false."""
    if row["text"] == "torn":
        raise _Unreadable("torn")
    if row["text"] == "empty":
        return 0.0
    if row["text"] == "list":
        return []
    return 10 / {"one": 1, "zero": 0, "four": 4}[row["text"]]


# Errors and results take turns: an error that is kept outside of the inner function shows up in the next row.
KEPT: list[tuple[Row, Any, str]] = [
    ({"id": 7, "text": "one"}, 10.0, ""),
    ({"id": 8, "text": "zero"}, None, "division by zero"),
    ({"id": 7, "text": "one"}, 10.0, ""),
    ({"text": "two", "path": "a.png", "size": 3}, None, "'two'"),
    ({"text": "empty"}, 0.0, ""),
    ({"id": 9, "text": "torn"}, None, "torn"),
    ({"id": 10, "text": "list"}, [], ""),
    ({"id": 11, "text": "four"}, 2.5, ""),
]


@exercise_check
def keep_errors(answer: Callable[[Callable[[Row], Any]], Callable[[Row], Row]]) -> Verdict:
    """Exercise 2: errors become data, whatever their kind, and no row is lost."""
    safe, other = answer(_reciprocal), answer(lambda row: row["id"] + 1)
    if not callable(safe):
        hint = "keep_errors returns a new function, and does not call it."
        return not_right(f"a {type(safe).__name__}", "a function", hint)
    seen: list[Any] = []
    for row, value, message in KEPT:
        got, wrong = _one_row(safe, row)
        if wrong is not None:
            return wrong
        wrong = _judge_row(got, row, value, message)
        if wrong is not None:
            return wrong
        if any(got is before for before in seen):
            return not_right("one dict for two rows", "a new one", "Make the result inside of the inner function.")
        seen.append(got)
    if not same([(got["value"], got["error"]) for got in seen], [kept[1:] for kept in KEPT]):
        hint = "Make what you return inside of the inner function, anew for each row."
        return not_right("rows that a later call has changed", "rows that stay as they were returned", hint)
    got, wrong = _one_row(other, {"id": 3})
    return (
        wrong
        or _judge_row(got, {"id": 3}, 4, "")
        or right("all rows come out, with a value or with the reason why there is none.")
    )


def _one_row(safe: Callable[[Row], Row], row: Row) -> tuple[Any, Verdict | None]:
    try:
        return safe(dict(row)), None
    except NotImplementedError:
        raise  # the stub is in the inner function
    except (_Unreadable, ArithmeticError, LookupError) as error:  # what the function of the row raises
        kind = type(error).__name__.lstrip("_")
        hint = f"Catch Exception, not only some kinds: {kind} came through."
        return None, not_right(f"{kind} for {row}", "a row", hint)


def _judge_row(got: Any, row: Row, value: Any, message: str) -> Verdict | None:
    expected = {**row, "value": value, "error": message}
    if not isinstance(got, dict):
        return not_right(f"a {type(got).__name__} for {row}", "a dict", "Return the row, with two columns more.")
    if same(got, expected):
        return None
    if set(got) != set(expected):
        hint = "Every row needs the same columns: its own, whatever they are, and value and error."
    elif not same({**got, "error": message}, expected):
        hint = "The columns of the row stay, and value is what the function gave; None if it failed."
        if value is not None and got["value"] is None:
            hint = "0 and an empty list are values as well: only an exception means that the function failed."
    elif message == "" and got["error"] not in ("", None):
        hint = "This row has no error: begin each row with an empty one, inside of the inner function."
    else:
        hint = "The message is str(error); it is the empty string if nothing failed."
    return not_right(got, expected, hint)


@exercise_check
def save(answer: Callable[[Any, str], object]) -> Verdict:
    """Exercise 3: writing again replaces what was there. Needs a running Ray."""
    import ray.data

    if (missing := without_ray()) is not None:
        return missing
    with tempfile.TemporaryDirectory(dir=data.results_dir("checks")) as folder:
        neighbour = Path(folder) / "neighbour.txt"
        neighbour.write_text("This file belongs to somebody else.")
        # Into a new folder; then as many rows, but others; then fewer; then into another folder.
        for name, first, rows, blocks in (
            ("saved", 0, 40, 4),
            ("saved", 100, 40, 4),
            ("saved", 7, 10, 1),
            ("b", 3, 5, 2),
        ):
            ids = list(range(first, first + rows))
            path = Path(folder) / name
            had_files = path.exists()
            try:
                answer(ray.data.from_items([{"id": i} for i in ids], override_num_blocks=blocks), str(path))
            except (FileExistsError, ValueError) as error:
                if not had_files:
                    raise
                hint = "The folder may hold older files: the argument mode of write_parquet says what to do with them."
                return not_right(f"{described(error)}, when saving again", "the newest rows in the folder", hint)
            wrong = _judge_folder(path, ids)
            if wrong is not None:
                return wrong
            if not neighbour.exists():
                hint = "Only what is inside of the folder may be replaced."
                return not_right("a file beside the folder that is gone", "one that is left alone", hint)
    return right("the folder holds what was saved last, and nothing else.")


def _judge_folder(path: Path, ids: list[int]) -> Verdict | None:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    parquet = [file for file in files if file.read_bytes()[:4] == b"PAR1"]  # whatever its name
    if not parquet:
        found = f"{len(files)} files of another format" if files else "no file in the folder"
        return not_right(found, "Parquet files", "Write it with dataset.write_parquet(folder).")
    found = [value for file in parquet for value in pq.ParquetFile(file).read().to_pydict().get("id", [])]
    if sorted(found) == ids:
        return None
    if set(ids) <= set(found):
        hint = "write_parquet appends by default; its argument mode says what to do with older files."
        return not_right(f"{len(found)} rows, {len(found) - len(ids)} of them from before", f"{len(ids)} rows", hint)
    if not set(ids) & set(found):
        hint = "The older files were left and nothing was written; the argument mode of write_parquet can replace them."
        return not_right("the rows that were saved before", f"the {len(ids)} newest rows", hint)
    return not_right(f"{len(found)} rows", f"{len(ids)} rows", "Write all rows of the dataset.")
