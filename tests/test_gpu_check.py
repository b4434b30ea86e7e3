"""`make gpu-check`: what fits on a card, what its table says, and the whole of it without a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers import data
from tools import gpu_check
from tools.rehearse import parameters

GB = 1e9
FOUND = {
    (2, False): {"steps_per_s": 2.0, "eval_loss": 10.0, "peak_gb": 24.0},
    (2, True): {"steps_per_s": 0.5, "eval_loss": 10.0, "peak_gb": 9.0},
    (3, False): {"steps_per_s": 1.0, "eval_loss": 9.5, "peak_gb": 25.0},
}


@pytest.mark.fast
def test_layers_are_limited_by_card_and_disk() -> None:
    """A layer of GPT-J-6B has 201 million parameters, and the embeddings 412 million."""
    assert gpu_check.layers_that_fit(200 * GB, 500 * GB, wanted=8) == 8
    assert gpu_check.layers_that_fit(200 * GB, 500 * GB, wanted=28) == 28
    card = gpu_check.layers_that_fit(40 * GB, 500 * GB, wanted=28)
    assert parameters(card) * 20 <= 32 * GB < parameters(card + 1) * 20
    disk = gpu_check.layers_that_fit(200 * GB, 30 * GB, wanted=28)
    assert parameters(disk) * 16 <= 24 * GB < parameters(disk + 1) * 16


@pytest.mark.fast
def test_card_that_is_too_small_gets_a_sentence() -> None:
    with pytest.raises(SystemExit, match=r"One layer of GPT-J needs 15 GB free on the card and 12 GB on the disk"):
        gpu_check.layers_that_fit(8 * GB, 500 * GB, wanted=8)


@pytest.mark.fast
def test_rows_of_the_stages() -> None:
    rows = gpu_check.rows_of_stages(FOUND, "2 layers", 10**9, 2e13, tokens_per_step=1000, on_gpu=True)
    offloaded, third, loss, peak, memory = rows
    assert offloaded.ratio == 0.25
    assert third.ratio == 0.5
    assert loss.verdict == "at least 0.99: no"
    worse = {**FOUND, (3, False): {**FOUND[3, False], "eval_loss": 10.5}}
    assert gpu_check.rows_of_stages(worse, "2 layers", 10**9, 2e13, 1000, on_gpu=True)[2].verdict.endswith("no")
    equal = {**FOUND, (3, False): {**FOUND[3, False], "eval_loss": 10.05}}
    assert gpu_check.rows_of_stages(equal, "2 layers", 10**9, 2e13, 1000, on_gpu=True)[2].verdict.endswith("yes")
    assert peak.ratio == pytest.approx(6e9 * 2000 / 2e13)
    assert memory.verdict == "at most 1.3: yes"
    assert len(gpu_check.rows_of_stages(FOUND, "tiny", 10**6, 2e10, 1000, on_gpu=False)) == 4


@pytest.mark.fast
def test_format_of_a_card() -> None:
    assert gpu_check.format_of_card((8, 6)) == gpu_check.format_of_card((12, 0)) == "bf16"
    assert gpu_check.format_of_card((7, 5)) == "fp16"
    assert gpu_check.matrix_peak(on_gpu=False, numbers="fp32") > 1e8


@pytest.mark.fast
def test_service_and_its_comparison_fit_on_one_gpu() -> None:
    """With a whole GPU each, the second one would wait forever."""
    assert 2 * gpu_check.SHARE_OF_GPU <= 1


@pytest.mark.fast
@pytest.mark.parametrize("layers", ["0", "-1", "29"])
def test_layers_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], layers: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--layers", layers])
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert f"--layers is {layers}, expected 1 to 28." in capsys.readouterr().err


@pytest.mark.fast
def test_name_of_a_card_as_a_file() -> None:
    assert gpu_check.file_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert gpu_check.file_name("../Tesla T4 ") == "tesla-t4"


@pytest.mark.long
def test_everything_up_to_the_device_without_a_gpu() -> None:
    """Six steps of each stage, the images, and the service; on the processor, nothing is stored."""
    stored = sorted((data.REPOSITORY / "benchmarks").rglob("*"))
    command = [sys.executable, "-m", "tools.gpu_check", "--device", "cpu"]
    done = subprocess.run(command, cwd=data.REPOSITORY, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr[-2000:]
    table = done.stdout.rpartition("no GPU;")[2]
    assert table.count("| 04: ") == 2
    assert table.count("| 07: ") == 4
    assert table.count("| 08: ") == 2
    assert "equal: 6 | asked for: 6" in table
    assert "at least 0.99: yes" in table
    assert sorted((data.REPOSITORY / "benchmarks").rglob("*")) == stored


@pytest.mark.fast
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert "PyTorch finds no GPU here. --device cpu runs the same code" in capsys.readouterr().err
