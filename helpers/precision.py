"""Which number format a CPU calculates fast with: bfloat16 where it has instructions for it, else float32."""

from __future__ import annotations

import time
from functools import cache

import torch

# Half-precision products have to be clearly faster, or the plain 32 bits are the better choice.
WORTH_IT = 1.2


@cache
def cpu_speedup_of_bf16() -> float:
    """Measure how many times as fast this CPU multiplies matrices in bfloat16 as in float32.

    PyTorch calculates with bfloat16 on every CPU, but only some have instructions that make it fast, such as AMX.
    With AVX-512 alone it can be slower than float32, and with AVX2 alone PyTorch falls into a plain loop that takes 10
    to 100 times as long, without a word. The name of the instruction set does not tell, so we measure: the two small
    products of a linear layer and of its gradient, in turns, the fastest of five. One thread measures, because threads
    that wait for each other on a busy machine spend time that would count. That takes milliseconds (a tenth of a
    second where the answer is bad), and is remembered for the life of the process.

    Returns:
        A ratio: above 1, bfloat16 is faster.

    Source: written for this course.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _speedup_of_bf16()
    finally:
        torch.set_num_threads(threads)


def _speedup_of_bf16() -> float:
    matrices = {dtype: torch.ones(256, 256, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    fastest = dict.fromkeys(matrices, float("inf"))
    for turn in range(6):
        for dtype, matrix in matrices.items():
            start = time.thread_time()  # what other programs take does not count
            torch.nn.functional.linear(matrix, matrix)
            matrix @ matrix
            if turn:  # the first turn only warms up
                fastest[dtype] = min(fastest[dtype], time.thread_time() - start)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def cpu_supports_bf16() -> bool:
    """Say whether bfloat16 pays on this CPU; where it does not, calculate in float32.

    Ask once, in the notebook, and pass the answer on to the workers, so that all of them calculate alike.

    Returns:
        True if products in bfloat16 are at least 1.2 times as fast as in float32.

    Source: written for this course.
    """
    return cpu_speedup_of_bf16() >= WORTH_IT
