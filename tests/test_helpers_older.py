"""Older code and its replacement are run, and one line says what came of each."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings

import pytest

from helpers.older import LONGEST, OlderCode, Row, older_code, says

pytestmark = pytest.mark.fast


class TaskError(Exception):
    """Like Ray's: the error of the worker is inside."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a traceback of many lines")
        self.cause = cause


class GroupError(Exception):
    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__("Training failed")
        self.worker_failures = failures


def raising(error: BaseException) -> None:
    raise error


def warn_and_log() -> int:
    warnings.warn("the old way", FutureWarning, stacklevel=2)
    logging.getLogger("some.library").warning("also said")
    return 3


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = 1", "works"),
        ("x = 1\nx + 1", "gives 2"),
        ("None", "gives None"),
        ("number + 1", "gives 6"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from pathlib import NoSuchName", "ImportError: cannot import name 'NoSuchName' from 'pathlib'"),
        ("class A: pass\nA.__module__", "gives '__main__'"),
        ("x = (", "SyntaxError: "),
        ("fail(TaskError(ValueError('too small')))", "TaskError: ValueError: too small"),
        ("fail(GroupError({0: TaskError(KeyError('a'))}))", "GroupError: KeyError: 'a'"),
        ("fail(GroupError({}))", "GroupError: Training failed"),
        ("fail(OSError('no /data/users/ann/x.csv at 10.1.2.3:6379'))", "OSError: no ... at ..."),
        ("fail(OSError('see https://docs.example.org/a/b'))", "OSError: see https://docs.example.org/a/b"),
        ("fail(OSError('\\x1b[31mred\\x1b[0m\\n  and more'))", "OSError: red and more"),
        ("hex(2**40 + 2**60)", "gives '...'"),
        ("warn()", "gives 3, with a FutureWarning: the old way"),
    ],
)
def test_says(code: str, answer: str) -> None:
    names = {"number": 5, "fail": raising, "TaskError": TaskError, "GroupError": GroupError, "warn": warn_and_log}
    found = says(code, **names)
    assert found == answer or (answer.endswith(": ") and found.startswith(answer))


def test_the_error_of_a_task_names_both_types_once() -> None:
    class RayTaskErrorOfValueError(TaskError):
        pass

    wrapped = RayTaskErrorOfValueError(ValueError("too small"))
    wrapped.__class__.__name__ = "RayTaskError(ValueError)"
    assert says("fail(error)", fail=raising, error=wrapped) == "RayTaskError(ValueError): too small"


def test_the_error_of_a_function_given_to_ray_data_is_found_in_its_text() -> None:
    class DataError(TaskError):
        def __str__(self) -> str:
            return (
                "in f\nTypeError: no dict\n\nThe above exception was the direct cause of ...:\n\nUserCodeError: failed"
            )

    assert says("fail(error)", fail=raising, error=DataError(ValueError("failed"))) == "DataError: TypeError: no dict"


def test_a_long_message_is_cut() -> None:
    found = says("fail(ValueError('word ' * 100))", fail=raising)
    assert len(found) <= LONGEST + len("ValueError: ") and found.endswith(" ...")


def test_a_message_of_a_logger_is_heard_and_its_handlers_come_back() -> None:
    logger, handler = logging.getLogger("some.library"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        found = says("log.warning('%s is old', 'x')", log=logger)
        assert found == "gives None, with the message: x is old"
        assert says("log.info('detail')", log=logger) == "gives None"
        assert logger.handlers == [handler]
        says("1 / 0")
        assert logger.handlers == [handler]
    finally:
        logger.removeHandler(handler)


def test_what_the_lines_print_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, sys\nprint('a')\nprint('b', file=sys.stderr)\nos.write(2, b'c')\nNone"
    assert says(code) == "gives None"
    assert capfd.readouterr() == ("", "")
    print("back", file=sys.stderr)
    assert capfd.readouterr().err == "back\n"


def test_an_interruption_is_none_of_the_answers() -> None:
    with pytest.raises(KeyboardInterrupt):
        says("fail(KeyboardInterrupt())", fail=raising)


ROWS = """
    - 1 / 0
    + 1 / 1

    - def f():
    -     return [2]
    - f() + 1
    + def f():
    +     return 2
    + f() + 1
    - number = 1 < 2
    + # leave it out
"""


def test_each_row_is_run_with_the_same_names() -> None:
    table = older_code("- number = 7\n- fail\n+ number = 8\n- number\n+ number + 1", number=5)
    assert [(row.today, row.gives) for row in table.rows] == [
        ("NameError: name 'fail' is not defined", "works"),
        ("gives 5", "gives 6"),
    ]


def test_the_table_as_text() -> None:
    lines = repr(older_code(ROWS)).splitlines()
    assert lines == [
        "1 / 0",
        "    today: ZeroDivisionError: division by zero",
        "    + 1 / 1",
        "    then: gives 1.0",
        "def f():",
        "    return [2]",
        "f() + 1",
        '    today: TypeError: can only concatenate list (not "int") to list',
        "    + def f():",
        "    +     return 2",
        "    + f() + 1",
        "    then: gives 3",
        "number = 1 < 2",
        "    today: works",
        "    + # leave it out",
        "3 rows, every replacement works.",
    ]


def test_the_table_as_html_is_escaped() -> None:
    shown = older_code(ROWS)._repr_html_()
    assert shown.count("<tr>") == 4 and "number = 1 &lt; 2" in shown
    assert "3 rows, every replacement works." in shown
    assert ">leave it out</td>" in shown and "f() + 1</code>" in shown


def test_a_replacement_that_fails_is_told() -> None:
    table = older_code("- 1 / 0\n+ 2 / 0\n- 1\n+ 2")
    assert [row.works for row in table.rows] == [False, True]
    assert older_code("- 1\n+ 2").summary() == "1 row, every replacement works."
    assert table.summary() == "2 rows, 1 of the replacements fail: ['2 / 0']."
    assert not Row("a", "b", "c", "RayTaskError(ValueError): x").works
    assert Row("a", "b", "c", "works, with a FutureWarning: x").works


def test_a_table_comes_back_from_another_process() -> None:
    table = older_code(ROWS)
    assert pickle.loads(pickle.dumps(table)) == table  # noqa: S301
    assert isinstance(table, OlderCode)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "nothing to write instead"),
        ("- 1", "nothing to write instead"),
        ("- 1\n+ 2\n- 3", "nothing to write instead"),
        ("+ 1", r"found '\+ 1'"),
        ("- 1\n+ 2\nx = 3", "found 'x = 3'"),
        ("-1\n+ 2", "found '-1'"),
    ],
)
def test_rows_that_are_none_are_refused(rows: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        older_code(rows)
