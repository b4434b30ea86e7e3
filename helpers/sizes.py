"""One notebook, two sizes: the settings of a laptop and of a cluster, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from typing import Any

SIZES = ("laptop", "cluster")
VARIABLE = "RAY_COURSE_SIZE"


class Size:
    """The settings of the chosen size, as attributes; shows both sizes as a table."""

    def __init__(self, settings: Mapping[str, tuple[Any, Any]], name: str) -> None:
        self.name = name
        self._settings = dict(settings)
        column = SIZES.index(name)
        for key, values in self._settings.items():
            setattr(self, key, values[column])

    def _rows(self) -> list[tuple[str, ...]]:
        return [(key, *(str(value) for value in values)) for key, values in self._settings.items()]

    def __repr__(self) -> str:
        rows = [("setting", *SIZES), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, f"chosen: {self.name}"])

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{name}{' (chosen)' if name == self.name else ''}</th>" for name in SIZES)
        chosen = SIZES.index(self.name)
        body = ""
        for key, *values in self._rows():
            cells = [f"<b>{escape(v)}</b>" if i == chosen else escape(v) for i, v in enumerate(values)]
            body += f"<tr><th>{escape(key)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        return f"<table><thead><tr><th>setting</th>{heads}</tr></thead><tbody>{body}</tbody></table>"


def choose_size(settings: Mapping[str, tuple[Any, Any]], size: str | None = None) -> Size:
    """Choose the laptop or the cluster column of a notebook's settings.

    Args:
        settings: name of each setting -> its value on a (laptop, cluster).
        size: "laptop" or "cluster". If it is not given, the environment
            variable RAY_COURSE_SIZE decides, and without it "laptop".

    Returns:
        The chosen settings as attributes; `name` is the size itself.

    Raises:
        ValueError: the size is unknown, or a setting does not have two values.

    Source: written for this course.
    """
    origin = "the argument size" if size is not None else VARIABLE
    name = size if size is not None else os.environ.get(VARIABLE, "laptop")
    if name not in SIZES:
        raise ValueError(f"{origin} is {name!r}, but a size is one of: {', '.join(SIZES)}.")
    for key, values in settings.items():
        if not isinstance(values, tuple) or len(values) != 2:
            raise ValueError(f"The setting {key!r} needs two values, (laptop, cluster), but has {values!r}.")
    return Size(settings, name)
