"""Older code beside what to write today: both are run, and a table shows what each of them says."""

from __future__ import annotations

import ast
import contextlib
import html
import io
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from helpers.session import hidden_stderr

# Longer messages are cut: the beginning tells what is wrong.
LONGEST = 120
# Of the table: its columns with their share of the width, and the look of a cell.
COLUMNS = {"older code": 31, "today": 28, "write instead": 28, "and then": 13}
CELL = "text-align: left; vertical-align: top; overflow-wrap: anywhere"
# What Ray wraps around the error of a worker: under one of these names is the error itself.
WRAPPED = ("cause", "worker_failures", "controller_failure")
# The text of Ray's errors has the traceback of the worker, and in it, before these words, what started it all.
FIRST = re.compile(r"(?m)^(\w+): (.*)\n\nThe above exception was the direct cause")
# What differs from machine to machine and from run to run.
COLOURS = r"\x1b\[[0-9;]*m"
OF_ONE_RUN = r"(?<![\w.~:/])(?:/[\w.+-]+){2,}|\b\d+\.\d+\.\d+\.\d+(?::\d+)?\b|\b(?:0x)?[0-9a-f]{8,}\b"


@dataclass(frozen=True)
class Row:
    """One line of older code (or a few), what it says today, what to write instead, and what that says."""

    old: str
    today: str
    new: str
    gives: str

    @property
    def works(self) -> bool:
        """Whether what to write instead ran without an error."""
        return not re.match(r"[\w.()]+: ", self.gives)


@dataclass(frozen=True)
class OlderCode:
    """Rows that a notebook shows as a table, and a terminal as text."""

    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        parts = [
            f"{row.old}\n{textwrap.indent(f'today: {row.today}', '    ')}\n{textwrap.indent(row.new, '    + ')}"
            + (f"\n    then: {row.gives}" if row.gives else "")
            for row in self.rows
        ]
        return "\n".join([*parts, self.summary()])

    def _repr_html_(self) -> str:
        heads = "".join(f'<th style="{CELL}; width: {width}%">{name}</th>' for name, width in COLUMNS.items())
        rows = "".join(
            f"<tr>{_code(row.old)}{_text(row.today)}{_instead(row)}{_text(row.gives)}</tr>" for row in self.rows
        )
        table = f'<table style="width: 100%; table-layout: fixed"><tr>{heads}</tr>{rows}</table>'
        return f"{table}<p>{self.summary()}</p>"

    def summary(self) -> str:
        """One line that counts the rows, and says whether every replacement works."""
        broken = [row.new for row in self.rows if not row.works]
        told = f"{len(broken)} of the replacements fail: {broken}" if broken else "every replacement works"
        return f"{len(self.rows)} {'row' if len(self.rows) == 1 else 'rows'}, {told}."


def older_code(rows: str, **names: Any) -> OlderCode:
    """Run older code and its replacement, row by row, and say what came of both.

    Args:
        rows: written like the changes of a file. Lines that begin with "- " are older code, the lines that follow
            and begin with "+ " are to be written instead. A replacement that is only a comment is not run.
        **names: what the lines may use, such as ray=ray. Each row starts with these names, whatever the rows before
            it did.

    Returns:
        The table.

    Raises:
        ValueError: a line begins with neither, or a row lacks one of its halves.

    Source: written for this course.
    """
    return OlderCode(tuple(_row(old, new, names) for old, new in _pairs(rows)))


def says(code: str, **names: Any) -> str:
    """Run some lines of Python, and say in one line what came of it.

    Whatever the lines print is hidden. Folders, addresses and long numbers become "...", because they belong to one
    machine or one run.

    Args:
        code: the lines; errors in them are what this function is for.
        **names: what they may use, such as ray=ray.

    Returns:
        For example "TypeError: ...", "works", or "gives 3" if the last line is an expression; for an error of a
        worker, its own message. Where the lines run but warn, the first warning follows.

    Source: written for this course.
    """
    heard: list[str] = []
    with _listening(heard):
        try:
            answer = _run(code, names)
        except Exception as error:
            return _of_error(error)
    return f"{answer}, with {heard[0]}" if heard else answer


def _row(old: str, new: str, names: dict[str, Any]) -> Row:
    is_code = bool(ast.parse(new).body)
    return Row(old, says(old, **names), new, says(new, **names) if is_code else "")


def _pairs(rows: str) -> list[tuple[str, str]]:
    """(older code, what to write instead) of each row."""
    pairs: list[tuple[list[str], list[str]]] = []
    for line in filter(str.strip, textwrap.dedent(rows).splitlines()):
        sign, code = line[:2].rstrip(), line[2:]
        if sign == "-" and (not pairs or pairs[-1][1]):
            pairs.append(([], []))
        if sign not in ("-", "+") or not pairs:
            raise ValueError(f"Expected a line that begins with '- ' or, after one, with '+ ', but found {line!r}.")
        pairs[-1][sign == "+"].append(code)
    if not pairs or not pairs[-1][1]:
        raise ValueError("The last row has no line that begins with '+ ', so nothing to write instead.")
    return [("\n".join(old), "\n".join(new)) for old, new in pairs]


def _run(code: str, names: dict[str, Any]) -> str:
    """Run lines in a scope of their own; "works", or what the last expression gives."""
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_given", ast.Store())], last.value)
    scope = {"__name__": "__main__", **names}
    exec(compile(ast.fix_missing_locations(tree), "<older code>", "exec"), scope)
    return f"gives {_line(repr(scope['_given']))}" if isinstance(last, ast.Expr) else "works"


@contextlib.contextmanager
def _listening(heard: list[str]) -> Iterator[None]:
    """Hide all output; warnings, and messages of loggers from the level WARNING on, go into a list."""
    collector = _Collector(heard)
    loggers = [logging.getLogger(), *filter(_has_handlers, logging.root.manager.loggerDict.values())]
    handlers = [(logger, logger.handlers) for logger in loggers]
    with (
        hidden_stderr(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(record=True) as caught,
    ):
        try:
            for logger in loggers:
                logger.handlers = [collector]
            yield
        finally:
            for logger, own in handlers:
                logger.handlers = own
            heard[:0] = [f"a {w.category.__name__}: {_line(str(w.message))}" for w in caught]


def _has_handlers(logger: object) -> bool:
    return isinstance(logger, logging.Logger) and bool(logger.handlers)


class _Collector(logging.Handler):
    """Keeps the messages of loggers."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(f"the message: {_line(record.getMessage())}")


def _of_error(error: BaseException) -> str:
    """The type of an error and its message; of an error that Ray wrapped, the message of the one inside."""
    inner = error
    while (inside := _inside(inner)) is not None:
        inner = inside
    outer, kind, message = type(error).__name__, type(inner).__name__, str(inner)
    first = FIRST.search(str(error)) if hasattr(error, "cause") else None
    if first:
        kind, message = first.groups()
    told = f"{outer}: " if kind in outer else f"{outer}: {kind}: "
    return told + _line(message)


def _inside(error: BaseException) -> BaseException | None:
    """The error in which another one is wrapped; None if there is none."""
    for name in WRAPPED:
        found = getattr(error, name, None)
        if isinstance(found, dict):  # of the workers, by rank
            found = next(iter(found.values()), None)
        if isinstance(found, BaseException):
            return found
    return None


def _line(text: str) -> str:
    text = re.sub(OF_ONE_RUN, "...", re.sub(COLOURS, "", text)).replace(" (...)", "")
    return textwrap.shorten(text, LONGEST, placeholder=" ...")


def _code(code: str) -> str:
    return f'<td style="{CELL}"><code style="white-space: pre-wrap">{html.escape(code)}</code></td>'


def _instead(row: Row) -> str:
    """What to write instead; advice, which is a comment, as plain text."""
    return _code(row.new) if row.gives else _text(row.new.removeprefix("# "))


def _text(text: str) -> str:
    return f'<td style="{CELL}">{html.escape(text)}</td>'
