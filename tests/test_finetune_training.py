"""Notebook 07's training in itself: gradients with accumulation, the validation loss, a lost worker, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.deepspeed_workers import check_workers
from tests.test_finetune import run_with_cells

OFFLINE = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}

# Small runs of the notebook's own trainer, in 32 bits and without dropout, so that equal runs give equal numbers.
START = """
from pathlib import Path
import ray
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=2))
ray.data.DataContext.get_current().execution_options.preserve_order = True  # limit takes the same blocks each time
numbers, packed_whole = "fp32", packed

# Chance would make equal runs differ.
import shutil
size.model = str(shutil.copytree(data.tiny_gptj(), Path(os.environ["RAY_COURSE_RESULTS"], "without_dropout")))
config = json.loads(Path(size.model, "config.json").read_text())
config.update(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
Path(size.model, "config.json").write_text(json.dumps(config))

def packed(corpus, split, length):
    if split == "train":
        return all_blocks
    return packed_whole(corpus, split, length).limit(VALIDATION_BLOCKS)

def blocks_of_text(count):
    return packed_whole("shakespeare", "train", size.block).limit(count).materialize()

runs = []
def run(**changes):
    rehearse.run_cells(globals(), "epoch")
    runs.append(f"test{len(runs)}")
    return make_trainer(runs[-1], **changes).fit()

def log_of(result, name):
    return [entry[name] for entry in rehearse.log_of(result) if name in entry]
"""

ACCUMULATION = (
    START.replace("VALIDATION_BLOCKS", "32")
    + """
found = {}
all_blocks = blocks_of_text(16)
for batch, accumulation in ((8, 1), (4, 2)):  # 16 blocks in each step, in one pass or in two
    size.batch_per_worker, size.accumulation, size.epochs = batch, accumulation, 3
    result = run()
    found[f"{batch} x {accumulation}"] = [log_of(result, "loss"), log_of(result, "grad_norm")]

# 20 blocks are 5 passes of each worker: two steps, and one pass too many.
all_blocks = blocks_of_text(20)
size.batch_per_worker, size.accumulation, size.epochs, size.learning_rate = 2, 2, 2, 0.0
found["still"] = log_of(run(), "loss")
print(json.dumps(found))
"""
)


@pytest.mark.long
def test_gradients_with_accumulation(tmp_path: Path) -> None:
    found = run_with_cells(ACCUMULATION, RAY_COURSE_RESULTS=str(tmp_path), **OFFLINE)
    (losses, norms), (same_losses, same_norms) = found["8 x 1"], found["4 x 2"]
    assert len(losses) == len(norms) == 3
    assert same_losses == pytest.approx(losses, rel=1e-4)
    assert same_norms == pytest.approx(norms, rel=1e-3), "two passes must give the gradient of one"
    # With a learning rate of 0 nothing changes but the blocks; a gradient left over would double the first loss of the
    # second epoch.
    assert len(found["still"]) == 4
    assert max(found["still"]) < 1.3 * min(found["still"])


EVALUATION = (
    START.replace("VALIDATION_BLOCKS", "41")
    + """
size.batch_per_worker, size.eval_batch, size.epochs, size.learning_rate = 2, 8, 1, 0.0
all_blocks = blocks_of_text(4)
found = {}
for order in ("sorted", "reversed"):
    if order == "reversed":
        def packed(corpus, split, length):
            if split == "train":
                return all_blocks
            blocks = packed_whole(corpus, split, length).limit(41).take_batch(41)["input_ids"]
            blocks = np.concatenate([blocks[:32][::-1], blocks[32:]])
            return ray.data.from_items([{"input_ids": block, "labels": block} for block in blocks])
    found[order] = log_of(run(), "eval_loss")
found["blocks"] = validation.count()
print(json.dumps(found))
"""
)


@pytest.mark.long
def test_validation_loss_does_not_depend_on_which_worker_gets_which_block(tmp_path: Path) -> None:
    found = run_with_cells(EVALUATION, RAY_COURSE_RESULTS=str(tmp_path), **OFFLINE)
    assert found["blocks"] == 32, "only whole batches for every worker: Trainer gives each batch the same weight"
    assert found["reversed"] == pytest.approx(found["sorted"], abs=1e-4)


LOST_WORKER = (
    START.replace("VALIDATION_BLOCKS", "8")
    + """
from safetensors.torch import load_file

def weights_of(result):
    return load_file(Path(result.checkpoint.path, "model.safetensors"))

# All blocks are equal, so it does not matter who gets which, and the two runs must end with equal weights.
text = blocks_of_text(24)
first = {name: value[None] for name, value in text.take(1)[0].items()}
alike = text.map_batches(lambda batch: {name: np.repeat(first[name], len(batch[name]), axis=0) for name in batch})
all_blocks = alike.materialize()
size.batch_per_worker, size.eval_batch, size.zero_stage, size.epochs = 2, 2, STAGE, 3  # 6 steps per epoch
result = run()
kept = {metrics["step"]: checkpoint for checkpoint, metrics in result.best_checkpoints}
start, of_the_lesson = min(kept), trainer_arguments

def trainer_arguments(folder):
    return {**of_the_lesson(folder), "save_steps": 2}

broken = run(start_from=kept[start].path, lose_at=start + 5)
weights, others = weights_of(result), weights_of(broken)
begun = load_file(Path(kept[start].path, "model.safetensors"))
found = {
    "start": start,
    "resumed_at": broken.metrics["resumed_at"],
    "steps": [result.metrics["step"], broken.metrics["step"]],
    "difference": max((weights[name] - others[name]).abs().max().item() for name in weights),
    "learned": max((weights[name] - begun[name]).abs().max().item() for name in weights),
    "reported": [checkpoint.path for checkpoint, _ in result.best_checkpoints],
    "run": result.path,
    "folders": sorted(path.name for path in Path(result.path).iterdir() if path.is_dir()),
}
size.workers = 1
try:
    make_trainer("other", start_from=result.checkpoint.path)
except ValueError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""
)


# The notebook itself loses a worker with stage 2 and compares the weights.
@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_that_lost_a_worker_ends_with_the_same_weights(tmp_path: Path, stage: int) -> None:
    program = LOST_WORKER.replace("STAGE", str(stage))
    found = run_with_cells(program, RAY_COURSE_RESULTS=str(tmp_path), **OFFLINE)
    assert found["steps"] == [18, 18]
    assert found["start"] < found["resumed_at"] < found["start"] + 5, "it must go on from its own checkpoint"
    assert found["learned"] > 1e-5
    assert found["difference"] <= 1e-6
    # Trainer's own folders are the checkpoints, and nothing is there twice.
    assert all(Path(path).parent == Path(found["run"]) for path in found["reported"])
    assert all(name.startswith("checkpoint-") for name in found["folders"])
    assert len(found["folders"]) <= 3, "the two best, and the newest"
    assert "was saved by 2 workers, but 1 worker would go on from it" in found["refused"]


def checkpoint_of(folder: Path, workers: int) -> str:
    """What DeepSpeed leaves of a run, as empty files."""
    parts = folder / "checkpoint-60" / "global_step60"
    parts.mkdir(parents=True)
    for rank in range(workers):
        (parts / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    (parts / "mp_rank_00_model_states.pt").touch()
    return str(parts.parent)


@pytest.mark.fast
@pytest.mark.parametrize(("saved", "now"), [(2, 1), (1, 2), (16, 4), (12, 2)])
def test_a_checkpoint_of_other_workers_is_refused(tmp_path: Path, saved: int, now: int) -> None:
    with pytest.raises(ValueError, match=rf"checkpoint-60 was saved by {saved} worker.*, but {now} worker") as caught:
        check_workers(checkpoint_of(tmp_path, saved), now)
    assert f"Train with {saved} worker" in str(caught.value)
    assert "from_pretrained" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_a_checkpoint_of_as_many_workers_is_welcome(tmp_path: Path) -> None:
    check_workers(checkpoint_of(tmp_path, 2), 2)
    check_workers(None, 2)


@pytest.mark.fast
def test_a_folder_without_optimizer_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no optimizer states of DeepSpeed"):
        check_workers(checkpoint_of(tmp_path, 0), 2)
