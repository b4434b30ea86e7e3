"""What the fixtures rely on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import once_more, run_patiently

pytestmark = pytest.mark.fast


def failing(times: int, error: Exception, done: list[str]):
    """A start that fails so many times, and then succeeds."""

    def start() -> None:
        done.append("start")
        if done.count("start") <= times:
            raise error

    return start


def test_what_a_busy_machine_ended_is_started_once_more():
    done: list[str] = []
    once_more(failing(1, TimeoutError("slow"), done), lambda: done.append("clean"), TimeoutError)
    assert done == ["start", "clean", "start"]


@pytest.mark.parametrize(("times", "error"), [(2, TimeoutError("slow")), (1, ValueError("wrong"))])
def test_what_fails_again_or_otherwise_stays_an_error(times: int, error: Exception):
    done: list[str] = []
    with pytest.raises(type(error)):
        once_more(failing(times, error, done), lambda: done.append("clean"), TimeoutError)
    assert done == ["start", "clean", "start"][: 2 * times - 1]


def test_a_good_start_is_left_alone():
    done: list[str] = []
    once_more(failing(0, TimeoutError(), done), lambda: done.append("clean"), TimeoutError)
    assert done == ["start"]


@pytest.mark.parametrize(
    ("said", "runs"), [("The current node timed out during startup.", 2), ("ValueError: wrong", 1)]
)
def test_a_program_runs_once_more_if_ray_started_too_slowly(tmp_path: Path, said: str, runs: int):
    program = f"print('x', file=open('runs', 'a')); raise SystemExit({said!r})"
    done = run_patiently([sys.executable, "-c", program], cwd=tmp_path)
    assert done.returncode == 1 and said in done.stderr
    assert len((tmp_path / "runs").read_text().split()) == runs
