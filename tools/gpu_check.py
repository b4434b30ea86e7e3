"""Run what lessons 04, 07 and 08 are about on one GPU, beside the processor, and write one table with the card's name.

    make gpu-check                              # about ten minutes on one GPU
    python -m tools.gpu_check --layers 28       # the whole GPT-J-6B, with 150 GB free on the card and 120 on the disk
    python -m tools.gpu_check --device cpu      # the same code without a GPU, with the tiny GPT-J; stores nothing

It needs this repository and its packages, and no network. Images train with the functions of 04; a GPT-J of full
width with random weights, and as many layers as fit, trains with the cells of 07; and the service of 08 answers in
16 bits, beside `generate` of Transformers with the same numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
import torch
from ray import serve

from benchmarks.rows import Row, markdown, row
from helpers import data
from helpers.language_models import DTYPES
from helpers.session import free_port, ray_options
from tools.rehearse import MAX_LAYERS, parameters, prepare, run_cells, save_random_model

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "benchmarks" / "gpu"
GB = 1e9
BATCH, IMAGES, EPOCHS = 64, 4000, 2  # as many as one core gets through in a minute
STEPS, WIDE_BLOCK, WIDE_BATCH = 6, 512, 8  # of GPT-J; at most 10 steps
LAYERS = 8  # by default; a checkpoint of the whole model would take ten minutes to write
# Of each parameter: weights and gradients in 16 bits, Adam's three numbers in 32, and the gradients once more in 32
# when they are used; a checkpoint has the first and the third. Not measured on a card: a row of the table does that.
BYTES_ON_CARD, BYTES_ON_DISK = 16 + 4, 16
SHARE = 0.8  # of what is free; the rest is for activations, and for others
PROMPTS = ("ROMEO.", "JULIET.", "HAMLET.", "To be, or", "O, that", "My lord,")
TOKENS = 32
SHARE_OF_GPU = 0.5  # for each of the two who have the model of 08 at the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--layers", type=int, help=f"of GPT-J; default: {LAYERS}, or what fits")
    asked = parser.parse_args()
    on_gpu = asked.device == "cuda"
    if asked.layers is not None and not 1 <= asked.layers <= MAX_LAYERS:
        parser.error(f"--layers is {asked.layers}, expected 1 to {MAX_LAYERS}.")
    if on_gpu and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here. --device cpu runs the same code without one, and stores nothing.")
    os.environ.update(RAY_COURSE_SIZE="laptop", HF_HUB_OFFLINE="1")
    if not on_gpu:
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    start = time.time()
    rows = measure(on_gpu, asked.layers)
    text = f"{about(on_gpu)}\n\n{markdown(rows)}\nMeasured in {(time.time() - start) / 60:.0f} minutes.\n"
    print("\n" + text)
    if on_gpu:
        FOLDER.mkdir(exist_ok=True)
        file = FOLDER / f"{file_name(torch.cuda.get_device_name())}.md"
        file.write_text(text)
        print(f"stored in {file.relative_to(REPOSITORY)}")


def measure(on_gpu: bool, layers: int | None = None) -> list[Row]:
    """All rows, one lesson after the other; each has a Ray of its own."""
    rows = []
    for part in (images, lambda gpu: wide_model(gpu, layers), service):
        ray.init(**ray_options(num_cpus=2, log_to_driver=False))
        try:
            rows += part(on_gpu)
        finally:
            serve.shutdown()
            ray.shutdown()
        print(markdown(rows), flush=True)
    return rows


def about(on_gpu: bool) -> str:
    """What was measured, in two lines."""
    from benchmarks.__main__ import processor
    from helpers.machine import versions

    memory = f", {torch.cuda.get_device_properties(0).total_memory / GB:.0f} GB" if on_gpu else ""
    card = torch.cuda.get_device_name() + memory if on_gpu else "no GPU"
    return f"{card}; {processor()}; {time.strftime('%Y-%m-%d')}\n{versions()}"


def file_name(card: str) -> str:
    """The name of a card as that of a file: "NVIDIA H100 80GB" becomes nvidia-h100-80gb."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


# Lesson 04


def images(on_gpu: bool) -> list[Row]:
    """ResNet-18 with one worker, on the device and on one core."""
    device, core = train_images(use_gpu=on_gpu), train_images(use_gpu=False)
    return [
        row(
            "04: ResNet-18, one worker on the device or on one core",
            "images per second",
            {"device": [device["speed"]], "core": [core["speed"]]},
            at_least=3 if on_gpu else None,
        ),
        row(
            f"04: accuracy after {EPOCHS} epochs of {IMAGES:,} images, trained on the device or on one core",
            "share of the test images",
            {"device": [device["accuracy"]], "core": [core["accuracy"]]},
            at_least=0.95,
            note="The same weights at the start; the order of sums differs between the devices.",
        ),
    ]


def train_images(use_gpu: bool) -> dict[str, float]:
    """Speed and accuracy of one worker of Ray Train."""
    from benchmarks.training import ray_dataset

    with tempfile.TemporaryDirectory() as storage:
        trainer = ray.train.torch.TorchTrainer(
            image_worker,
            train_loop_config={},
            datasets={"train": ray_dataset().limit(IMAGES)},
            scaling_config=ray.train.ScalingConfig(
                num_workers=1, use_gpu=use_gpu, resources_per_worker={"CPU": 1, "GPU": int(use_gpu)}
            ),
            run_config=ray.train.RunConfig(name="images", storage_path=storage),
        )
        return trainer.fit().return_value


def image_worker(config: dict[str, Any]) -> dict[str, float]:
    """Train as 04 does, and look at the images that nobody has seen; the first steps are not timed."""
    from benchmarks.training import accuracy
    from scripts.train_fashion_mnist import build_model, train_step

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ray.train.torch.prepare_model(build_model())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    seen, began = 0, 0.0
    for epoch in range(EPOCHS):
        stream = ray.train.get_dataset_shard("train").iter_torch_batches(
            batch_size=BATCH, local_shuffle_buffer_size=10 * BATCH, local_shuffle_seed=epoch
        )
        for batch in stream:
            train_step(model, optimizer, batch["image"], batch["label"])  # its loss.item() waits for the device
            seen = seen + BATCH if began else 0
            began = began or time.perf_counter()
    speed = seen / (time.perf_counter() - began)
    plain = getattr(model, "module", model).cpu()  # where the images are
    return {"speed": speed, "accuracy": accuracy(plain)}


# Lesson 07


def layers_that_fit(card_bytes: float, disk_bytes: float, wanted: int) -> int:
    """How many layers of GPT-J can be trained on a card, and saved.

    Args:
        card_bytes, disk_bytes: what is free.
        wanted: the most layers.

    Raises:
        SystemExit: not even one fits.
    """
    fitting = [
        layers
        for layers in range(1, wanted + 1)
        if parameters(layers) * BYTES_ON_CARD <= SHARE * card_bytes
        and parameters(layers) * BYTES_ON_DISK <= SHARE * disk_bytes
    ]
    if not fitting:
        one = parameters(1)
        raise SystemExit(
            f"One layer of GPT-J needs {one * BYTES_ON_CARD / SHARE / GB:.0f} GB free on the card and "
            f"{one * BYTES_ON_DISK / SHARE / GB:.0f} GB on the disk, but found {card_bytes / GB:.0f} and "
            f"{disk_bytes / GB:.0f}. Close other programs, or take a larger card."
        )
    return fitting[-1]


def wide_model(on_gpu: bool, layers: int | None = None) -> list[Row]:
    """ZeRO of stage 2, stage 2 with Adam on the processor, and stage 3, with the cells of 07; 6 steps each."""
    names: dict[str, Any] = {"__name__": "__main__"}
    run_cells(names)
    size = names["size"]
    size.workers, size.use_gpu, size.learning_rate = 1, on_gpu, 1e-5
    names["numbers"] = format_of_card(torch.cuda.get_device_capability()) if on_gpu else "fp32"
    names["StepTimer"] = with_peak(names["StepTimer"])
    results = REPOSITORY / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-", dir=results))  # /tmp may be in memory
    try:
        if on_gpu:
            free = torch.cuda.mem_get_info()[0]
            layers = layers_that_fit(free, shutil.disk_usage(folder).free, layers or LAYERS)
            save_random_model(layers, folder / "model", names["tokenizer"])
            size.model, size.revision = str(folder / "model"), None
            size.block, size.batch_per_worker, size.eval_batch, size.save_memory = WIDE_BLOCK, WIDE_BATCH, 1, True
            count, called = parameters(layers), f"{layers} layers of GPT-J"
        else:
            count, called = names["model"].num_parameters(), "the tiny GPT-J"
        names["gpus"] = int(on_gpu)
        found = {
            (stage, offload): steps_of(names, stage, offload, folder / f"zero{stage}{offload}")
            for stage, offload in ((2, False), (2, True), (3, False))
        }
        peak = matrix_peak(on_gpu, names["numbers"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows_of_stages(found, called, count, peak, size.block * size.batch_per_worker, on_gpu)


def rows_of_stages(
    found: dict[tuple[int, bool], dict[str, float]],
    called: str,
    count: int,
    peak: float,
    tokens_per_step: int,
    on_gpu: bool,
) -> list[Row]:
    """The rows of 07, from what the three runs reported."""
    speeds = {key: tokens_per_step * metrics["steps_per_s"] for key, metrics in found.items()}
    losses = sorted([found[3, False]["eval_loss"], found[2, False]["eval_loss"]])
    rows = [
        row(
            f"07: {called}, ZeRO 2 with Adam's numbers in the computer's memory, or on the device",
            "tokens per second",
            {"offloaded": [speeds[2, True]], "on the device": [speeds[2, False]]},
        ),
        row(
            f"07: {called}, ZeRO 3 or ZeRO 2, one worker",
            "tokens per second",
            {"ZeRO 3": [speeds[3, False]], "ZeRO 2": [speeds[2, False]]},
        ),
        row(
            f"07: {called}, loss after {STEPS} steps with ZeRO 2 and with ZeRO 3",
            "validation loss",
            {"the smaller": losses[:1], "the larger": losses[1:]},
            at_least=0.99,
            note="What stage 3 divides it does not change, so the ratio should be 1.",
        ),
        row(
            f"07: {called}, what a step calculates beside the products of matrices that the device can do",
            "GFLOP per second",
            {"training": [6 * count * speeds[2, False] / 1e9], "peak": [peak / 1e9]},
            note="6 FLOP for each parameter and token; the peak is measured with large products in the same format.",
        ),
    ]
    if on_gpu:
        planned = count * BYTES_ON_CARD / GB
        rows.append(
            row(
                f"07: {called}, most memory on the device with ZeRO 2, beside the plan without activations",
                "GB",
                {"most": [found[2, False]["peak_gb"]], "planned": [planned]},
                at_most=1.3,
            )
        )
    return rows


def with_peak(timer: type) -> type:
    """The lesson's timer, which also knows the most memory that the device has held."""

    class Timer(timer):
        def times(self) -> dict[str, float]:
            held = torch.cuda.max_memory_allocated() / GB if torch.cuda.is_available() else 0.0
            return {**super().times(), "peak_gb": held}

    return Timer


def steps_of(names: dict[str, Any], stage: int, offload: bool, storage: Path) -> dict[str, float]:
    """A run of a few steps with the lesson's trainer; returns what it reported with its checkpoint."""
    storage.mkdir()
    lesson = names.setdefault("deepspeed_of_lesson", names["deepspeed_config"])

    def config(asked: int) -> dict[str, Any]:
        settings = lesson(asked)
        if offload:  # with PyTorch's Adam, because DeepSpeed would compile its own
            settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
            settings["zero_force_ds_cpu_optimizer"] = False
        return settings

    names["deepspeed_config"], names["size"].zero_stage = config, stage
    prepare(names, STEPS, str(storage))
    metrics = names["make_trainer"](f"zero-{stage}-{offload}").fit().metrics
    shutil.rmtree(storage)  # a checkpoint of the whole model is large
    return metrics


def format_of_card(capability: tuple[int, int]) -> str:
    """What a card calculates in: bfloat16 since Ampere, float16 before (NVIDIA's CUDA programming guide)."""
    return "bf16" if capability >= (8, 0) else "fp16"


def matrix_peak(on_gpu: bool, numbers: str) -> float:
    """FLOP per second of a large product of matrices, in the format of the training."""
    device, size = ("cuda", 8192) if on_gpu else ("cpu", 1024)
    dtype = DTYPES[numbers]
    one = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


# Lesson 08


def service(on_gpu: bool) -> list[Row]:
    """The service of 08 on the device and on a core, and whether it says what Transformers says."""
    import transformers

    from helpers import lessons

    folder, port = str(data.fine_tuned_gptj()), free_port(8000)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    names: dict[str, Any] = {"ray": ray, "serve": serve, "asyncio": asyncio}
    names["AsyncTextIteratorStreamer"] = transformers.AsyncTextIteratorStreamer
    lessons.run_cells("08_serve_gptj", "service", names)
    gpus = SHARE_OF_GPU if on_gpu else 0
    devices = {"device": {"num_cpus": 0.4, "num_gpus": gpus}, "core": {"num_cpus": 0.4}}
    writers = {
        name: names["Writer"].options(name=f"Writer-{name}", ray_actor_options=options).bind(folder, 256)
        for name, options in devices.items()
    }
    serve.run(names["Completions"].bind(**writers), name="gptj", route_prefix="/gptj")
    speeds, answers = answers_of(f"http://127.0.0.1:{port}/gptj/v1/completions", tuple(devices))
    expected = ray.get(ray.remote(num_gpus=gpus)(greedy_answers).remote(folder))
    same = sum(a == b for a, b in zip(answers["device"], expected, strict=True))
    return [
        row("08: answers from the device, or from one core", "tokens per second", speeds),
        row(
            "08: greedy answers of the service that are those of `generate`, in the same format",
            "answers",
            {"equal": [float(same)], "asked for": [float(len(PROMPTS))]},
            at_least=1,
        ),
    ]


def answers_of(url: str, models: tuple[str, ...]) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Tokens per second in three rounds, and the answers to all prompts, of each model."""
    import requests

    speeds: dict[str, list[float]] = {model: [] for model in models}
    answers: dict[str, list[str]] = {}
    for turn in range(4):
        for model in models:
            start, tokens, texts = time.perf_counter(), 0, []
            for prompt in PROMPTS:
                body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
                answer = requests.post(url, json=body, timeout=120).json()
                tokens += answer["usage"]["completion_tokens"]
                texts.append(answer["choices"][0]["text"])
            answers[model] = texts
            if turn:  # the first one only warms up
                speeds[model].append(tokens / (time.perf_counter() - start))
    return speeds, answers


def greedy_answers(folder: str) -> list[str]:
    """What Transformers writes by itself, with the same model in the same format."""
    from helpers.language_models import load_model

    model, tokenizer = load_model(folder)
    texts = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
        texts.append(tokenizer.decode(written[inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


if __name__ == "__main__":
    main()
