"""Train the small GPT-J from scratch on Jane Austen, and write everything that is shipped with it.

    python data/gptj_tiny/train_base.py FOLDER_FOR_THE_STATE

The folder keeps the full state of the training, outside the repository. Run
the same command again after an interruption: it goes on from the last state,
with the same batches and the same dropout as without the interruption. It
calculates in bfloat16 where this processor is fast with it, as the one was that
trained the shipped model, and in float32 elsewhere. The tokenizer has to be
there first; make_tokenizer.py makes it. On a machine that has other work, too,
set OMP_WAIT_POLICY=passive: threads that wait for each other then leave the
processor to the others.

`--steps 200 --out FOLDER` tries it out. `--finish` ships the best state that
there is, however far the training has come.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import statistics
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerBase

from helpers import data
from helpers.precision import cpu_supports_bf16

HERE = Path(__file__).parent
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

SEED = 1775  # Jane Austen's year of birth
STEPS = 4000
BATCH = 16
BLOCK = 256
PEAK_RATE, FINAL_RATE = 1e-3, 1e-4
WARM_UP = 200
DROPOUT = 0.2
WEIGHT_DECAY = 0.1
CLIP = 1.0
EVALUATE_EVERY = 200
SHAPE = {"n_embd": 256, "n_layer": 6, "n_head": 4, "rotary_dim": 32, "n_positions": 512}

# The tests measure only this many tokens, which takes a second.
FIRST_TOKENS = 2048
PROMPTS = ("It was a truth", '"My dear Emma," said Mr. Knightley,', "ROMEO.\nBut soft,")


class Text:
    """The tokens of one split: each work begins with <|endoftext|>, rows end with a line end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, corpus: str, split: str) -> None:
        rows = pq.read_table(data.text_file(corpus, split))["text"].to_pylist()
        works = data.text_works(corpus, split)
        tokens: list[int] = []
        self.characters = 0
        for length in works.values():
            work, rows = "".join(f"{row}\n" for row in rows[:length]), rows[length:]
            tokens += [tokenizer.bos_token_id, *tokenizer(work, add_special_tokens=False)["input_ids"]]
            self.characters += len(work)
        self.tokens = torch.tensor(tokens)


def batch_of(text: Text, step: int) -> torch.Tensor:
    """The batch of this step: blocks of an epoch whose offset and order depend on the seed and the epoch only."""
    # One block is left out, so that every offset leaves the same number of blocks.
    per_epoch = (len(text.tokens) // BLOCK - 1) // BATCH
    epoch, position = divmod(step, per_epoch)
    random = torch.Generator().manual_seed(SEED + epoch)
    offset = int(torch.randint(BLOCK, (1,), generator=random))
    blocks = text.tokens[offset : offset + (len(text.tokens) // BLOCK - 1) * BLOCK].view(-1, BLOCK)
    order = torch.randperm(len(blocks), generator=random)
    return blocks[order[position * BATCH : (position + 1) * BATCH]]


def rate_of(step: int, steps: int) -> float:
    """Learning rate: a linear warm-up, then half a cosine down to the final rate."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2


@torch.inference_mode()
def evaluate(model: GPTJForCausalLM, text: Text, first: int | None = None, low_precision: bool = False) -> dict:
    """Perplexity per token and bits per character; every token after the first is predicted once.

    The text is cut into blocks of 256 tokens, and a token is predicted from
    what stands before it in its block.
    """
    model.eval()
    tokens = text.tokens[:first]
    inputs, targets = tokens[:-1], tokens[1:]
    whole = len(inputs) // BLOCK * BLOCK
    parts = [
        *zip(inputs[:whole].view(-1, BLOCK).split(BATCH), targets[:whole].view(-1, BLOCK).split(BATCH), strict=True),
        (inputs[None, whole:], targets[None, whole:]),
    ]
    loss = 0.0
    for given, wanted in parts:
        if not given.numel():
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            logits = model(input_ids=given).logits
        loss += torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), reduction="sum"
        ).item()
    model.train()
    found = {"tokens": len(targets), "perplexity": round(math.exp(loss / len(targets)), 3)}
    if first is None:
        found["bits_per_character"] = round(loss / math.log(2) / text.characters, 4)
    return found


def new_model(tokenizer: PreTrainedTokenizerBase) -> GPTJForCausalLM:
    torch.manual_seed(SEED)
    end = tokenizer.eos_token_id
    return GPTJForCausalLM(
        GPTJConfig(
            vocab_size=len(tokenizer),
            **SHAPE,
            resid_pdrop=DROPOUT,
            embd_pdrop=DROPOUT,
            attn_pdrop=DROPOUT,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            use_cache=True,
            tie_word_embeddings=False,
        )
    )


def new_optimizer(model: GPTJForCausalLM) -> torch.optim.AdamW:
    # Weight decay is for matrices; biases and layer norms have one dimension.
    matrices = [value for value in model.parameters() if value.dim() > 1]
    vectors = [value for value in model.parameters() if value.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))


class Stopwatch:
    """Sums the seconds of the steps. A step in which the process was paused counts as three ordinary ones at most."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.recent: list[float] = []

    def add(self, seconds: float) -> None:
        self.recent = [*self.recent[-49:], seconds]
        self.seconds += min(seconds, 3 * statistics.median(self.recent))


def train(tokenizer: PreTrainedTokenizerBase, state: Path, steps: int) -> None:
    """Train up to `steps`, from the state in the folder if there is one; the best weights stay there too."""
    text, held_out = Text(tokenizer, "austen", "train"), Text(tokenizer, "austen", "validation")
    model = new_model(tokenizer)
    optimizer = new_optimizer(model)
    done, curve, watch, processor = 0, [], Stopwatch(), 0.0
    saved_state = state / "state.pt"
    if saved_state.is_file():
        saved = torch.load(saved_state, weights_only=True)
        if saved["steps"] != steps:
            raise SystemExit(f"{saved_state} is of a training with {saved['steps']} steps, not {steps}.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done, curve, processor = saved["step"], saved["curve"], saved["processor_seconds"]
        watch = Stopwatch(saved["seconds"])
    parameters = sum(value.numel() for value in model.parameters())
    low_precision = cpu_supports_bf16()
    number_format = "bfloat16" if low_precision else "float32"
    print(
        f"{len(text.tokens):,} training tokens, {parameters:,} parameters, from step {done}, in {number_format}",
        flush=True,
    )
    losses: list[float] = []
    started = time.process_time()
    model.train()
    for step in range(done, steps):
        began = time.perf_counter()
        torch.manual_seed(SEED + step)  # dropout is the same after an interruption
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, steps)
        batch = batch_of(text, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        watch.add(time.perf_counter() - began)
        if (step + 1) % EVALUATE_EVERY and step + 1 != steps:
            continue
        found = evaluate(model, held_out, low_precision=low_precision)["perplexity"]
        best = min((row["validation_perplexity"] for row in curve), default=math.inf)
        curve.append(
            {
                "step": step + 1,
                "tokens": (step + 1) * BATCH * BLOCK,
                "seconds": round(watch.seconds, 1),
                "train_loss": round(statistics.mean(losses), 4),
                "validation_perplexity": found,
            }
        )
        losses = []
        print(curve[-1], flush=True)
        if found < best:
            write_whole(state / "best.safetensors", lambda path: save_file(model.state_dict(), path))
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step + 1,
            "steps": steps,
            "curve": curve,
            "seconds": watch.seconds,
            "processor_seconds": processor + time.process_time() - started,
        }
        write_whole(saved_state, lambda path, content=content: torch.save(content, path))


def write_whole(path: Path, write) -> None:
    """Write beside the file and move into place, so that an interruption leaves the old one."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)


def sample(model: GPTJForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    torch.manual_seed(SEED)
    given = tokenizer(prompt, return_tensors="pt")
    made = model.generate(
        **given, max_new_tokens=60, do_sample=True, temperature=0.8, top_k=50, pad_token_id=tokenizer.pad_token_id
    )
    return tokenizer.decode(made[0], skip_special_tokens=True)


def draw(curve: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=110, layout="constrained")
    millions = [row["tokens"] / 1e6 for row in curve]
    axes.plot(millions, [math.exp(row["train_loss"]) for row in curve], label="training (with dropout)")
    axes.plot(millions, [row["validation_perplexity"] for row in curve], label="validation")
    best = min(curve, key=lambda row: row["validation_perplexity"])
    axes.plot(best["tokens"] / 1e6, best["validation_perplexity"], "o", color="C1", label="shipped")
    axes.set(xlabel="million tokens seen", ylabel="perplexity per token", yscale="log")
    axes.set_yticks([20, 30, 40, 60, 100, 200, 400], labels=["20", "30", "40", "60", "100", "200", "400"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


def ship(tokenizer: PreTrainedTokenizerBase, state: Path, steps: int, out: Path) -> None:
    """Write the best weights, measure them as they are shipped, and say all of it in model.json.

    Matrices are stored as float8 (e4m3) and the rest as bfloat16: half the size. `from_pretrained` converts them.
    """
    saved = torch.load(state / "state.pt", weights_only=True)
    curve = saved["curve"]
    model = new_model(tokenizer)
    model.load_state_dict(load_file(state / "best.safetensors"))
    model.to(torch.bfloat16).save_pretrained(out)
    weights = load_file(out / "model.safetensors")
    small = {name: value.to(torch.float8_e4m3fn) if value.dim() == 2 else value for name, value in weights.items()}
    save_file(small, out / "model.safetensors", metadata={"format": "pt"})
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, curve[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)
    draw(curve, out / "training.png")

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    model.eval()
    names = {"austen": ("train", "validation", "test"), "shakespeare": ("validation", "test")}
    texts = {f"{corpus} {split}": Text(tokenizer, corpus, split) for corpus in names for split in names[corpus]}
    training = texts.pop("austen train")
    about = {
        "parameters": sum(value.numel() for value in model.parameters()),
        "vocabulary": len(tokenizer),
        "trained_on": {"tokens": len(training.tokens), "characters": training.characters},
        "steps": steps,
        "steps_done": saved["step"],
        "best_step": min(curve, key=lambda row: row["validation_perplexity"])["step"],
        "tokens_seen": saved["step"] * BATCH * BLOCK,
        "seconds": round(saved["seconds"]),
        "processor_seconds": round(saved["processor_seconds"]),
        "tokens_per_second": round(saved["step"] * BATCH * BLOCK / saved["seconds"]),
        "threads": torch.get_num_threads(),
        "measured": {name: evaluate(model, text) for name, text in texts.items()},
        "austen_validation_first_tokens": evaluate(model, texts["austen validation"], FIRST_TOKENS),
    }
    model.eval()
    about["samples"] = [sample(model, tokenizer, prompt) for prompt in PROMPTS]
    about["sha256"] = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("config.json", "generation_config.json", "model.safetensors", *TOKENIZER_FILES)
    }
    (out / "model.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))


def main() -> None:
    options = argparse.ArgumentParser(description="Train the small GPT-J from scratch on Jane Austen.")
    options.add_argument("state", type=Path, help="folder for the state of the training, outside the repository")
    options.add_argument("--steps", type=int, default=STEPS, help=f"default: {STEPS}")
    options.add_argument("--out", type=Path, default=HERE, help="where the model goes; default: beside this script")
    options.add_argument("--finish", action="store_true", help="train no more; ship the best state that there is")
    given = options.parse_args()
    torch.set_num_threads(2)
    given.state.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    if not given.finish:
        train(tokenizer, given.state, given.steps)
    if given.out != HERE:
        for name in TOKENIZER_FILES:
            shutil.copy(HERE / name, given.out / name)
    ship(tokenizer, given.state, given.steps, given.out)


if __name__ == "__main__":
    main()
