"""Which number format the CPU is fast with: measured, quick to find out, and honest about a processor without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import precision

pytestmark = pytest.mark.fast

REPOSITORY = Path(__file__).resolve().parent.parent
# Turns any x86 processor into one with AVX2 and nothing newer, as most laptops have.
AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
PROBE = """
import time
from helpers.precision import cpu_speedup_of_bf16, cpu_supports_bf16

start = time.perf_counter()
print(cpu_speedup_of_bf16(), cpu_supports_bf16(), time.perf_counter() - start)
"""


def measured(**environment: str) -> tuple[float, bool, float]:
    """(ratio, answer, seconds that asking took), in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, answer, seconds = done.stdout.split()
    return float(ratio), answer == "True", float(seconds)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the two variables switch off instructions of x86")
def test_avx2_alone_means_float32() -> None:
    ratio, answer, seconds = measured(**AVX2_ONLY)
    assert ratio < 0.3, "without its instructions bfloat16 is many times slower"
    assert answer is False
    assert seconds < 3, "a measurement must never run the slow way for seconds"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the two variables switch off instructions of x86")
def test_a_busy_machine_gets_the_same_answer() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        ratio, answer, _ = measured(**AVX2_ONLY)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert ratio < 0.3 and answer is False


def test_measuring_leaves_the_number_of_threads_alone() -> None:
    before = precision.torch.get_num_threads()
    precision.cpu_speedup_of_bf16.cache_clear()
    precision.cpu_speedup_of_bf16()
    assert precision.torch.get_num_threads() == before


@pytest.mark.parametrize(("ratio", "answer"), [(0.02, False), (1.0, False), (1.19, False), (1.2, True), (4.0, True)])
def test_float32_unless_clearly_faster(monkeypatch: pytest.MonkeyPatch, ratio: float, answer: bool) -> None:
    monkeypatch.setattr(precision, "cpu_speedup_of_bf16", lambda: ratio)
    assert precision.cpu_supports_bf16() is answer


def test_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = precision.cpu_speedup_of_bf16()
    monkeypatch.setattr(precision.torch, "ones", lambda *a, **k: pytest.fail("it measured again"))
    assert precision.cpu_speedup_of_bf16() == first > 0
