"""Notebook 07 beyond what its own run shows: the cluster column, a machine without a compiler, the rehearsal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from helpers import data
from tools import rehearse

REPOSITORY = Path(__file__).resolve().parent.parent
HUB_NAME = "EleutherAI/gpt-j-6b"


def cells_of_the_notebook() -> str:
    cells = nbformat.read(rehearse.NOTEBOOK, 4).cells
    return "\n".join(cell.source for cell in cells if "finetune" in cell.metadata.get("tags", []))


def hub_cache(folder: Path, revision: str) -> Path:
    """A hub cache that answers for GPT-J-6B with the shipped small model, in the layout of huggingface_hub.

    As on the hub the weights are a pickle in float16, and each layer has two buffers of older versions of Transformers.
    """
    snapshot = folder / "hub" / f"models--{HUB_NAME.replace('/', '--')}" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).symlink_to(data.tiny_gptj() / name)
    weights = {name: value.half() for name, value in load_file(data.tiny_gptj() / "model.safetensors").items()}
    for layer in range(json.loads((snapshot / "config.json").read_text())["n_layer"]):
        weights[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        weights[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    torch.save(weights, snapshot / "pytorch_model.bin")
    return folder


def run_with_cells(program: str, **variables: str) -> dict:
    """Run the cells tagged `finetune` and then a program, in a process of its own; returns what it printed last."""
    start = "import json, os\nfrom tools import rehearse\nrehearse.run_cells(globals())\n"
    environment = {**os.environ, "MPLBACKEND": "agg", "RAY_AUTH_TOKEN": "0" * 64, **variables}
    command = [sys.executable, "-c", start + program]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


CLUSTER = """
from unittest import mock
import ray, torch, transformers
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import TrainingArguments

globals().update(steps_per_epoch=30, datasets={}, numbers="bf16")
found = {"workers": size.workers, "stage": size.zero_stage, "configs": {}}
# Before any TrainingArguments: with stage 3 it would look for the other workers.
model = transformers.AutoModelForCausalLM.from_pretrained(**model_source(), dtype=torch.bfloat16)
found["loaded"] = [type(model).__name__, str(model.dtype), model.num_parameters(), tokenizer.vocab_size]
same = transformers.AutoModelForCausalLM.from_pretrained(data.tiny_gptj(), dtype=torch.bfloat16)
weights, loaded = same.state_dict(), model.state_dict()
found["names"] = [weights.keys() == loaded.keys(), len(weights)]
found["difference"] = max((weights[name] - loaded[name]).abs().max().item() for name in weights)
from helpers.language_models import number_format
for fast in (True, False):  # on a CPU
    with mock.patch("helpers.precision.cpu_supports_bf16", return_value=fast):
        found[f"cpu {fast}"] = number_format()
with (
    mock.patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True),
    mock.patch("torch.cuda.is_available", return_value=True),
    mock.patch("torch.cuda.get_device_capability", return_value=CAPABILITY),
    # As in one of 16 workers.
    mock.patch.object(transformers.TrainingArguments, "world_size", size.workers),
    mock.patch("deepspeed.runtime.config.dist.get_rank", return_value=0),
    mock.patch("deepspeed.runtime.config.dist.get_world_size", return_value=size.workers),
):
    half = numbers = number_format()
    for stage in (2, 3):
        size.zero_stage = stage
        settings = trainer_arguments("somewhere")
        with mock.patch("torch.cuda.is_available", return_value=False):
            arguments = TrainingArguments(**settings)
        model_config = transformers.GPTJConfig()
        filled = arguments.hf_deepspeed_config
        model = mock.Mock(config=model_config)
        filled.trainer_config_finalize(arguments, model, settings["max_steps"])
        checked = DeepSpeedConfig(filled.config)
        found["configs"][stage] = {
            "half": half,
            "fp16": checked.float16_config.enabled,
            "bf16": checked.bfloat16_config.enabled,
            "stage": checked.zero_optimization_stage,
            "gathered": checked.zero_config.gather_16bit_weights_on_model_save,
            "micro": checked.train_micro_batch_size_per_gpu,
            "accumulation": checked.gradient_accumulation_steps,
            "batch": checked.train_batch_size,
            "clipping": checked.gradient_clipping,
            "unfilled": "auto" in json.dumps(filled.config),
            "checkpointing": arguments.gradient_checkpointing,
            "optimizer": [checked.optimizer_name, arguments.optim.value, arguments.learning_rate],
        }
found["source"] = model_source()
trainer = make_trainer("test")
scaling = trainer.scaling_config
found["resources"] = [scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker]
found["backend"] = trainer.backend_config.backend
found["timeout"] = trainer.backend_config.timeout_s
found["failures"] = [trainer.run_config.failure_config.max_failures]
found["failures"].append(trainer.run_config.failure_config.controller_failure_limit)
found["score"] = trainer.run_config.checkpoint_config.checkpoint_score_order
found["kept"] = trainer.run_config.checkpoint_config.num_to_keep
found["storage"] = trainer.run_config.storage_path
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    revision = re.search(r'"revision": \(None, "([0-9a-f]{40})"\)', cells_of_the_notebook()).group(1)
    return {
        "HF_HOME": str(hub_cache(tmp_path_factory.mktemp("hub"), revision)),
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "RAY_COURSE_SIZE": "cluster",
        "RAY_COURSE_RESULTS": str(tmp_path_factory.mktemp("shared")),
    }


@pytest.mark.parametrize(
    ("capability", "half"), [((8, 0), "bf16"), pytest.param((7, 5), "fp16", marks=pytest.mark.long)]
)
def test_every_object_of_the_cluster_column_can_be_built(
    hub: dict[str, str], capability: tuple[int, int], half: str
) -> None:
    found = run_with_cells(CLUSTER.replace("CAPABILITY", repr(capability)), **hub)
    assert found["workers"] == 16
    assert found["stage"] == 3, "16 bytes per weight do not fit into 24 GB otherwise"
    assert found["resources"] == [16, True, {"CPU": 8}]
    assert found["loaded"] == ["GPTJForCausalLM", "torch.bfloat16", 6_831_104, 4096]
    assert found["source"]["pretrained_model_name_or_path"] == HUB_NAME
    assert len(found["source"]["revision"]) == 40, "pin a commit, not a branch"
    assert found["names"][0] and found["names"][1] > 60, "legacy buffers must not become weights"
    assert found["difference"] < 1e-6, "the hub's pickle must give the same weights"
    assert (found["cpu True"], found["cpu False"]) == ("bf16", "fp32")
    assert found["backend"] in (None, "nccl"), "without a name Ray Train takes NCCL for workers with GPUs"
    assert found["storage"] == f"{hub['RAY_COURSE_RESULTS']}/train_runs"
    assert found["timeout"] == 3600, "a large checkpoint takes its time"
    assert (found["kept"], found["score"], found["failures"]) == (2, "min", [3, 10])
    for stage, config in found["configs"].items():
        assert config["half"] == half
        assert (config["fp16"], config["bf16"]) == (half == "fp16", half == "bf16")
        assert config["stage"] == int(stage)
        assert config["gathered"] is True, "a checkpoint must have whole weights with stage 3 as well"
        assert (config["micro"], config["accumulation"], config["batch"]) == (8, 1, 128)
        assert (config["clipping"], config["unfilled"]) == (1.0, False)
        assert config["checkpointing"] is True
        # PyTorch's, which Trainer makes: DeepSpeed's own would have to be compiled.
        assert config["optimizer"] == [None, "adamw_torch_fused", 1e-5]


OTHER_REVISION = """
size.revision = "0" * 40
try:
    AutoModelForCausalLM.from_pretrained(**model_source())
except OSError as error:
    print(json.dumps({"error": type(error).__name__}))
"""


def test_another_revision_is_not_loaded(hub: dict[str, str]) -> None:
    """The local hub answers for the pinned commit only, so the test above can fail."""
    found = run_with_cells(OTHER_REVISION, **hub)
    assert found == {"error": "OSError"}


OTHER_FORMAT_AND_STAGES = """
from pathlib import Path
import ray
from helpers.language_models import number_format
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=2, log_to_driver=False))
results = Path(os.environ["RAY_COURSE_RESULTS"])
numbers = number_format()
history = rehearse.train(globals(), 4, results)
# With a rate of 0 the weights stay, so both must find the same loss on the same validation blocks.
numbers, size.learning_rate, stages = "fp32", 0.0, {}
for size.zero_stage in (2, 3):
    stages[size.zero_stage] = rehearse.train(globals(), 2, results)
print(json.dumps({"history": history, "stages": stages}))
"""
NO_COMPILER = {"CXX": "no-such-compiler", "CC": "no-such-compiler", "HF_HUB_OFFLINE": "1"}


@pytest.mark.long
def test_both_stages_without_a_compiler_in_the_format_of_this_processor(tmp_path: Path) -> None:
    found = run_with_cells(OTHER_FORMAT_AND_STAGES, **NO_COMPILER, RAY_COURSE_RESULTS=str(tmp_path))
    losses = [entry["loss"] for entry in found["history"] if "loss" in entry]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    stages = found["stages"]
    kept = {stage: next(e["eval_loss"] for e in log if "eval_loss" in e) for stage, log in stages.items()}
    assert kept["3"] == pytest.approx(kept["2"], abs=0.01), "stage 3 must divide the same weights and find them again"


@pytest.mark.fast
def test_workers_and_layers_that_fit() -> None:
    def free(layers: int, workers: int) -> float:
        return rehearse.memory_needed(layers, workers) / rehearse.SHARE_OF_FREE

    assert 15e9 < free(1, 1) < free(1, 2)
    assert rehearse.fitting(free(1, 1) + 1) == (1, 1)
    assert rehearse.fitting(free(1, 2) - 1)[0] == 1
    assert rehearse.fitting(free(1, 2) + 1) == (2, 1)
    assert rehearse.fitting(free(5, 2) - 1) == (2, 4)
    assert rehearse.fitting(free(3, 1) + 1, workers=1) == (1, 3)
    assert rehearse.fitting(1e13) == (2, 28)
    with pytest.raises(SystemExit, match="needs about 2. GB of free memory, and this machine has 1"):
        rehearse.fitting(1e9)


@pytest.mark.fast
def test_a_checkpoint_is_rehearsed_where_it_fits() -> None:
    needed = rehearse.memory_needed(1, 1, "bf16", resume=True) / rehearse.SHARE_OF_FREE
    disk = 2 * 16 * rehearse.parameters(1) / rehearse.SHARE_OF_FREE
    assert rehearse.room_to_resume(needed + 1, disk + 1, 1, 1, "bf16") is None
    assert "of free memory" in rehearse.room_to_resume(needed - 1, disk + 1, 1, 1, "bf16")
    assert "of free disk" in rehearse.room_to_resume(needed + 1, disk - 1, 1, 1, "bf16")
    assert "of free memory" in rehearse.room_to_resume(needed + 1, 2 * disk, 1, 1, "fp32"), "32 bits need more"
    assert rehearse.largest(needed + 1, None, "bf16") == (1, 1)
    assert rehearse.largest(needed - 1, None, "bf16") == rehearse.fitting(needed - 1), "then without a checkpoint"


SAVED = """
from pathlib import Path
import ray
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=2))
size.batch_per_worker, size.eval_batch, size.accumulation, size.save_memory = 1, 1, 2, True
history = rehearse.save_and_resume(globals(), 2, Path(os.environ["RAY_COURSE_RESULTS"]))
print(json.dumps(history))
"""


@pytest.mark.long
def test_the_rehearsal_saves_and_goes_on_from_there(tmp_path: Path) -> None:
    history = run_with_cells(SAVED, RAY_COURSE_RESULTS=str(tmp_path), DS_ACCELERATOR="cpu", HF_HUB_OFFLINE="1")
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    assert sorted(losses) == [1, 2, 3]
    assert {path.name for path in (tmp_path / "train_runs").iterdir()} == {"saved", "resumed"}


@pytest.mark.fast
def test_the_rehearsed_model_has_the_shape_of_gptj_6b() -> None:
    config = rehearse.model_config(layers=1)
    assert (config.n_embd, config.n_head, config.rotary_dim, config.vocab_size, config.n_positions) == (
        4096, 16, 64, 50400, 2048,
    )  # fmt: skip
    assert rehearse.parameters(28) == 6_050_882_784


@pytest.mark.fast
def test_cells_of_the_notebook_are_found() -> None:
    for name in ("def deepspeed_config", "def trainer_arguments", "def train_and_survive", "def make_trainer"):
        assert name in cells_of_the_notebook()
