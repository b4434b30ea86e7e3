"""What 02 says about tensors: copied by default, shared and not protected with Ray's switch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import ray, torch
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=1))
ref = ray.put(torch.zeros(1_000_000))
one, other = ray.get(ref), ray.get(ref)
one[0] = 5
print("shared:", one.data_ptr() == other.data_ptr(), "changed:", float(other[0]) == 5)
ray.shutdown()
"""


@pytest.mark.parametrize(("switch", "expected"), [pytest.param("0", "False", marks=pytest.mark.long), ("1", "True")])
def test_tensors_are_shared_only_with_the_switch(switch: str, expected: str) -> None:
    environment = {**os.environ, "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": switch}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == f"shared: {expected} changed: {expected}", done.stderr[-2000:]
