"""One notebook, two sizes: the settings of a laptop and of a cluster, side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from typing import Any

SIZES = ("laptop", "cluster")
VARIABLE = "RAY_COURSE_SIZE"
SETTINGS_VARIABLE = "RAY_COURSE_SETTINGS"


class Size:
    """The settings of the chosen size, as attributes; shows both sizes as a table.

    Args:
        settings: name of each setting -> its value on a (laptop, cluster).
        name: the chosen size.
        changes: settings that have another value than in the chosen column.
    """

    def __init__(
        self, settings: Mapping[str, tuple[Any, Any]], name: str, changes: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self._settings = dict(settings)
        self._changes = dict(changes or {})
        column = SIZES.index(name)
        for key, values in self._settings.items():
            setattr(self, key, self._changes.get(key, values[column]))

    def _heads(self) -> list[str]:
        return [*SIZES, *([SETTINGS_VARIABLE] if self._changes else [])]

    def _rows(self) -> list[list[str]]:
        rows = [[key, *(str(value) for value in values)] for key, values in self._settings.items()]
        if self._changes:
            for row in rows:
                row.append(str(self._changes[row[0]]) if row[0] in self._changes else "")
        return rows

    def __repr__(self) -> str:
        rows = [["setting", *self._heads()], *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        changed = f", with the changes in {SETTINGS_VARIABLE}" if self._changes else ""
        return "\n".join([*lines, f"chosen: {self.name}{changed}"])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{name}{' (chosen)' if name == self.name else ''}</th>" for name in self._heads())
        body = ""
        for key, *values in self._rows():
            chosen = len(SIZES) if key in self._changes else SIZES.index(self.name)
            cells = [f"<b>{escape(v)}</b>" if i == chosen else escape(v) for i, v in enumerate(values)]
            body += f"<tr><th>{escape(key)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><thead><tr><th>setting</th>{heads}</tr></thead><tbody>{body}</tbody></table>"


def choose_size(settings: Mapping[str, tuple[Any, Any]], size: str | None = None) -> Size:
    """Choose the laptop or the cluster column of a notebook's settings.

    The environment variable RAY_COURSE_SETTINGS changes single settings of the
    chosen column without an edit: a JSON object such as `{"epochs": 1}`. The
    table then shows the changes in a column of their own.

    Args:
        settings: name of each setting -> its value on a (laptop, cluster).
        size: "laptop" or "cluster". If it is not given, the environment
            variable RAY_COURSE_SIZE decides, and without it "laptop".

    Returns:
        The chosen settings as attributes; `name` is the size itself.

    Raises:
        ValueError: the size is unknown, a setting does not have two values, or
            RAY_COURSE_SETTINGS is no JSON object, names a setting that does
            not exist, or gives one a value of another type.

    Source: written for this course.
    """
    origin = "the argument size" if size is not None else VARIABLE
    name = size if size is not None else os.environ.get(VARIABLE, "laptop")
    if name not in SIZES:
        raise ValueError(f"{origin} is {name!r}, but a size is one of: {', '.join(SIZES)}.")
    for key, values in settings.items():
        if not isinstance(values, tuple) or len(values) != 2:
            raise ValueError(f"The setting {key!r} needs two values, (laptop, cluster), but has {values!r}.")
    return Size(settings, name, _changes(settings))


def _changes(settings: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The settings in RAY_COURSE_SETTINGS, checked against both columns."""
    text = os.environ.get(SETTINGS_VARIABLE, "").strip()
    if not text:
        return {}
    try:
        wanted = json.loads(text)
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        raise ValueError(
            f"{SETTINGS_VARIABLE} is {text!r}, but it must be a JSON object such as "
            '{"epochs": 1, "use_gpu": false}: names in double quotes, and true, false or null for the values '
            "that Python calls True, False and None."
        )
    changes = {}
    for key, value in wanted.items():
        if key not in settings:
            raise ValueError(
                f"{SETTINGS_VARIABLE} names the setting {key!r}, but here the settings are: {', '.join(settings)}."
            )
        changes[key] = tuple(value) if isinstance(value, list) else value
        if not any(_is_like(changes[key], example) for example in settings[key]):
            raise ValueError(
                f"{SETTINGS_VARIABLE} sets {key!r} to {json.dumps(value)}, but it must be like one of its two values: "
                f"{' or '.join(json.dumps(example) for example in settings[key])}."
            )
    return changes


def _is_like(value: Any, example: Any) -> bool:
    """Whether a value has the type of the example; a whole number may stand for a fraction."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and bool(value) and all(_is_like(v, example[0]) for v in value)
    if isinstance(example, float) and type(value) is int:
        return True
    return type(value) is type(example)
