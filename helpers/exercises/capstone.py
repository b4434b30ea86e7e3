"""Checks, hints and the scoring page of notebook 12, the capstone.

Steps 1, 3 and 4 run the learner's code in Ray, step 2 in threads (see workers.py), and step 5 with real workers, one of
which it kills.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.data
import ray.train
import requests
import torch
from ray import serve, tune

from helpers import passages as given
from helpers.exercises.capstone_hints import HINTS
from helpers.exercises.verdict import Verdict, as_number, described, exercise_check, not_right, right, without_ray
from helpers.exercises.workers import Run, Team
from helpers.load import LoadGenerator, summary
from helpers.session import quiet_log

# It logs several lines for each change of an application; warnings still appear, as with ray_options.
logging.getLogger("ray.serve").setLevel(logging.WARNING)

STEPS = ("Data", "Train", "Tune", "Serve", "All together")
_verdicts: dict[int, Verdict] = {}
_hints: Counter[int] = Counter()
_found: dict[str, float] = {}  # the learning rate that the search of step 3 found


def step(number: int, seconds: float) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Make a check that the scoring page knows.

    Args:
        number: of the step, from 1.
        seconds: after which the answer is given up.

    Source: written for this course.
    """

    def decorate(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
        checked = exercise_check(check, seconds=seconds)

        @functools.wraps(check)
        def kept(*answers: Any) -> Verdict:
            _verdicts[number] = checked(*answers)
            return _verdicts[number]

        return kept

    return decorate


# --- hints and the scoring page ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text that a notebook shows as it is, without quotation marks."""

    text: str

    def __repr__(self) -> str:
        return self.text


def hint(number: int) -> Text:
    """The next hint for a step: first where to read, then what to call, then a sketch; after that the sketch again.

    Args:
        number: of the step, from 1 to 5.

    Raises:
        ValueError: there is no such step.

    Source: written for this course.
    """
    if number not in HINTS:
        raise ValueError(f"There is no step {number!r}: expected one of {', '.join(map(str, HINTS))}.")
    level = min(_hints[number], len(HINTS[number]) - 1)
    _hints[number] += 1
    return Text(f"Hint {level + 1} of {len(HINTS[number])} for step {number}.\n\n{HINTS[number][level]}")


def score() -> Text:
    """The scoring page: how many of the five steps are right, and what the checks have said last.

    Source: written for this course.
    """
    solved = sum(verdict.status == "right" for verdict in _verdicts.values())
    lines = [f"{solved} of {len(STEPS)} steps", ""]
    for number, name in enumerate(STEPS, 1):
        verdict = _verdicts.get(number, Verdict("not tried yet", "run the cell of its check."))
        hints = f" [hints: {min(_hints[number], len(HINTS[number]))}]" if _hints[number] else ""
        said = textwrap.shorten(f"{verdict.status}: {verdict.message}", 160, placeholder=" ...")
        lines.append(f"{number} {name:13} {said}{hints}")
    if solved == len(STEPS):
        lines += ["", "You have taken a question from files to a service on your own."]
    return Text("\n".join(lines))


# --- step 1: data -----------------------------------------------------------------------------------------------------

Passages = Counter[tuple[str, int, bytes]]  # work, label and ids of each passage
HELD_OUT_SHARE = (0.05, 0.4)


@step(1, seconds=180)
def passages(answer: Callable[[list[str]], Any]) -> Verdict:
    """Step 1: from files to two datasets of passages, without broken parts and without a work in both."""
    if (missing := without_ray()) is not None:
        return missing
    with tempfile.TemporaryDirectory() as folder, quiet_log("ray.data"):
        try:
            result = answer(given.write_parts(folder))
            if not _are_datasets(result):
                hint = "Return two datasets: return train, held_out."
                return not_right(f"a {type(result).__name__}", "two datasets", hint)
            read = [_read(part) for part in result]
        except NotImplementedError:
            raise
        except Exception as error:
            if "NoneType" not in str(error):
                raise
            hint = "A part without a text (None) is broken: leave it out before you look into its text."
            return not_right(described(error), "datasets without broken parts", hint)
    if (wrong := next((found for found in read if isinstance(found, Verdict)), None)) is not None:
        return wrong
    train, held_out = read
    wrong = _wrong_passages(train + held_out) or _wrong_split(train, held_out)
    kept = f"{train.total():,} passages to train on and {held_out.total():,} of other works; every broken part is out."
    return wrong or right(kept)


def _are_datasets(result: Any) -> bool:
    pair = isinstance(result, (tuple, list)) and len(result) == 2
    return pair and all(isinstance(part, ray.data.Dataset) for part in result)


def _read(dataset: ray.data.Dataset) -> Passages | Verdict:
    """The passages of a dataset, or what is wrong with its columns."""
    found: Passages = Counter()
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        if not {"work", "label", "ids"} <= set(batch):
            hint = "Each row is a dict with these three names; other columns do no harm."
            return not_right(f"the columns {sorted(batch)}", "work, label and ids", hint)
        for work, label, ids in zip(batch["work"], batch["label"], batch["ids"], strict=True):
            if np.shape(ids) != (given.WORDS,):
                hint = "What is left at the end of a part is no whole passage: drop it."
                return not_right(f"ids of the shape {np.shape(ids)}", f"{given.WORDS} numbers", hint)
            found[str(work), int(label), np.asarray(ids, dtype=np.int64).tobytes()] += 1
    return found


@functools.cache
def _expected() -> tuple[Passages, dict[str, Passages]]:
    """The passages of all whole parts, and those of the broken ones by what is wrong with them."""
    whole: Passages = Counter()
    broken: dict[str, Passages] = {"damaged": Counter(), "unknown": Counter()}
    for part in given.parts_of_works():
        if part["text"] is None:
            continue
        kind = broken["damaged"] if given.DAMAGED in part["text"] else whole
        labels = [given.AUTHORS.index(part["author"])] if part["author"] in given.AUTHORS else [0, 1]
        kind = kind if len(labels) == 1 else broken["unknown"]
        for ids in _cut(part["text"]):
            kind.update((part["work"], label, ids.tobytes()) for label in labels)
    return whole, broken


def _cut(text: str) -> list[np.ndarray]:
    ids = given.word_ids(text)
    return [ids[i : i + given.WORDS] for i in range(0, len(ids) - given.WORDS + 1, given.WORDS)]


def _wrong_passages(found: Passages) -> Verdict | None:
    """The verdict if passages are missing, or if there are some that should not be there."""
    whole, broken = _expected()
    extra, lost = found - whole, whole - found
    expected = f"the {whole.total():,} of all whole parts"
    if not extra and not lost:
        return None
    got = f"{found.total():,} passages, {extra.total():,} of them too many, and {lost.total():,} missing"
    if extra & (broken["damaged"] - whole):
        hint = "A part with the character DAMAGED in its text is broken: leave the whole part out."
    elif extra and not extra - broken["unknown"]:
        hint = "A part whose author is none of the two is broken: nobody knows its label."
    elif sorted((work, ids) for work, _, ids in lost) == sorted((work, ids) for work, _, ids in extra):
        hint = "The label is the place of the author in AUTHORS: 0 for Shakespeare, 1 for Austen."
    elif extra and not set(extra) - set(whole):
        hint = "Some passages are there twice: each belongs to one of the two datasets, and only once."
    elif extra:
        hint = f"Cut word_ids of the text of one part, from its beginning: {given.WORDS} ids, and the next ones."
    else:
        hint = "Cut every whole part from its beginning to its end, and keep all its passages."
    return not_right(got, expected, hint)


def _wrong_split(train: Passages, held_out: Passages) -> Verdict | None:
    both = {work for work, _, _ in train} & {work for work, _, _ in held_out}
    if both:
        hint = "Then the model is tested on works that it has learnt from. Split the works, not the rows."
        return not_right(f"{len(both)} works in both datasets, such as {min(both)}", "each work in one of them", hint)
    for name, part in (("train", train), ("held_out", held_out)):
        if len({label for _, label, _ in part}) < 2:
            hint = "Hold out at least one work of either author, and leave the others for training."
            return not_right(f"works of one author in {name}", "works of both", hint)
    share = held_out.total() / (train.total() + held_out.total())
    low, high = HELD_OUT_SHARE
    if not low <= share <= high:
        return not_right(f"{share:.0%} held out", f"{low:.0%} to {high:.0%}", "Three or four works are a good number.")
    return None


# --- step 2: train ----------------------------------------------------------------------------------------------------

HELD_OUT = ("NORTHANGER ABBEY", "MACBETH", "TWELFTH NIGHT; OR, WHAT YOU WILL")
EPOCHS, DIES_AFTER = 3, 2
ACCURACY = 0.85  # over 0.9 is usual
EVERYBODY = "Every worker must do the same: take its batches, add up its counts, and call ray.train.report."
MODEL_FILE = "model.pt"


@functools.cache
def _sample() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Some passages to train on, and some of other works, work by work as they come out of files."""
    rows: dict[bool, list[tuple[int, np.ndarray]]] = {True: [], False: []}
    for part in given.parts_of_works():
        if part["text"] is not None and given.DAMAGED not in part["text"] and part["author"] in given.AUTHORS:
            label = given.AUTHORS.index(part["author"])
            rows[part["work"] in HELD_OUT] += [(label, ids) for ids in _cut(part["text"])[::4]]
    train, held_out = (
        {"ids": np.stack([ids for _, ids in some]), "label": np.array([label for label, _ in some])}
        for some in (rows[False], rows[True])
    )
    return train, held_out


@functools.cache
def _trained() -> torch.nn.Module:
    """A model of the check's own, trained on the sample."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _train(0.02, 3)


def _train(lr: float, epochs: int) -> torch.nn.Module:
    model = given.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        given.train_epoch(model, optimizer, given.batches(_sample()[0]))
    return model


def _accuracy(model: torch.nn.Module) -> float:
    correct, total = given.count_right(model, given.batches(_sample()[1], 1000))
    return correct / total


class _Killed(BaseException):
    """Ends a worker in the middle of its training."""


@dataclass
class _Mishap:
    """What `config["after_epoch"]` is in step 2: notes each epoch, and ends the worker of rank 1 after one of them."""

    team: Team
    dies_after: int = 0
    epochs: list[int] = field(default_factory=list)  # of rank 0
    killed: bool = False

    def __call__(self, epoch: int) -> None:
        if self.team.rank == 0:
            self.epochs.append(epoch)
        elif epoch == self.dies_after:
            self.killed = True
            raise _Killed


@step(2, seconds=150)
def training(answer: Callable[[dict[str, Any]], object]) -> Verdict:
    """Step 2: a training function for two workers that loses one and goes on. The workers are threads."""
    train, held_out = _sample()
    little = {name: values[:: len(values) // 64][:64] for name, values in train.items()}
    config = {"lr": 0.02, "epochs": EPOCHS, "batch_size": 128, "train": train, "held_out": held_out}
    with Team(2) as team:
        first = _Mishap(team, DIES_AFTER)
        run = _work(team, answer, {**config, "after_epoch": first})
        if (wrong := _wrong_start(run, first)) is not None:
            return wrong
        before = as_number(run.reports[0][-1]["val_accuracy"])
        # It trains on next to nothing now, so what it knows at the end is what the checkpoint held.
        with Team(2, run.checkpoint) as again:
            run = _work(again, answer, {**config, "train": little, "after_epoch": _Mishap(again)})
            wrong = _wrong_restart(run, before) or _wrong_checkpoint(run)
    return wrong or right(f"accuracy {before:.2f} on works it has not seen, and a lost worker costs no epoch.")


def _work(team: Team, answer: Callable[..., object], config: dict[str, Any]) -> Run:
    with contextlib.suppress(_Killed):
        team.work(answer, [[dict(config)]] * 2)
    return team.run


def _epochs(run: Run, rank: int = 0) -> list[Any]:
    return [as_number(metrics.get("epoch")) for metrics in run.reports[rank]]


def _wrong_start(run: Run, mishap: _Mishap) -> Verdict | None:
    """The verdict on the run that lost a worker."""
    expected = list(range(1, DIES_AFTER + 1))
    if not mishap.killed and run.stuck:
        return not_right("workers that wait for one another", "a run that comes to its end", EVERYBODY)
    if not any(run.reports):
        hint = "Call ray.train.report(metrics, checkpoint=...) after each epoch, in every worker."
        return not_right("no report", "one after each epoch", hint)
    if not mishap.killed:
        hint = 'Call config["after_epoch"](epoch) in every worker, after each report.'
        return not_right("no call of after_epoch in both workers", "one after each epoch", hint)
    if _epochs(run) != expected or any(as_number(m.get("val_accuracy")) is None for m in run.reports[0]):
        hint = 'After each epoch, counted from 1, report the numbers "epoch" and "val_accuracy", then call after_epoch.'
        return not_right(f"the reports {run.reports[0]}", f"one for each of the epochs {expected}", hint)
    if run.checkpoint is None:
        hint = "A worker was killed, and nothing was saved: pass checkpoint=... to ray.train.report after each epoch."
        return not_right("no checkpoint, so all would start from zero", "a checkpoint with each report", hint)
    total, each = len(_sample()[0]["label"]), [as_number(reports[0].get("rows")) for reports in run.reports]
    if None in each or abs(sum(each) - total) > 2:
        hint = "Each worker trains on its own share: every second row, from its rank on. train_epoch returns how many."
        return not_right(f"{each} as rows of the two workers", f"about {total // 2:,} each", hint)
    if [len(models) for models in run.models] != [1, 1]:
        hint = "Give your model to ray.train.torch.prepare_model once, before the loop, and train what it returns."
        return not_right("workers that train a model of their own", "one model, trained together", hint)
    return None


def _wrong_restart(run: Run, before: float) -> Verdict | None:
    """The verdict on the run that goes on from a checkpoint of the first."""
    if run.stuck:
        return not_right("workers that wait for one another after a restart", "a run that goes on", EVERYBODY)
    wanted = list(range(DIES_AFTER + 1, EPOCHS + 1))
    for rank in (0, 1):
        done = _epochs(run, rank)
        if done[:1] == [1]:
            hint = "Load what ray.train.get_checkpoint() holds, in every worker, and go on with the epoch after it."
            return not_right(f"the epochs {done} after a restart: it began anew", f"{wanted}", hint)
        if done != wanted:
            hint = f"The checkpoint was that of epoch {DIES_AFTER}, so the next one is that number plus 1."
            return not_right(f"the epochs {done} after a restart", f"{wanted}", hint)
    values = [as_number(reports[-1].get("val_accuracy")) for reports in run.reports]
    if values[0] is None or values[1] is None or abs(values[0] - values[1]) > 1e-6:
        hint = "Add up the counts of both workers with torch.distributed.all_reduce, and divide once."
        return not_right(f"the accuracies {values} in the two workers", "one number for all held-out rows", hint)
    if values[0] < before - 0.05:
        hint = "The number of the epoch came out of the checkpoint, and the weights did not: load both."
        return not_right(f"accuracy {values[0]:.2f} after a restart, {before:.2f} before it", "about the same", hint)
    return None


def _wrong_checkpoint(run: Run) -> Verdict | None:
    """The verdict on the file with the weights, and on what was said about them."""
    model, path = given.build_model(), Path(run.checkpoint.path) / MODEL_FILE
    if not path.is_file():
        names = sorted(file.name for file in path.parent.iterdir())
        hint = f'Save the weights as Path(folder) / "{MODEL_FILE}": the service will look for this file.'
        return not_right(f"a checkpoint with the files {names}", MODEL_FILE, hint)
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:
        hint = f"{MODEL_FILE} is state_dict() of the plain model, which DDP keeps in model.module, and nothing else."
        return not_right(f"a file that build_model() can't load ({described(error)})", "its weights", hint)
    reported, counted = as_number(run.reports[0][-1]["val_accuracy"]), _accuracy(model)
    if abs(reported - counted) > 0.01:
        hint = "Count on the rows of held_out, all of them, with the weights that you save."
        return not_right(f"{reported:.3f} as val_accuracy", f"{counted:.3f}, which the saved weights reach", hint)
    if reported < ACCURACY:
        hint = "Mix the rows, as batches does, and train with train_epoch: each call is one epoch."
        return not_right(f"accuracy {reported:.2f}", f"at least {ACCURACY}", hint)
    return None


# --- step 3: tune -----------------------------------------------------------------------------------------------------

TRIALS, MAX_EPOCHS = 12, 9
BUDGET = 90  # of the 108 that all trials would need; ASHA hardly ever spends more than half
RATES = (1e-5, 1.0)


@step(3, seconds=180)
def search(answer: Callable[[Any, Any, str], Any]) -> Verdict:
    """Step 3: trials within a budget of epochs. Needs a running Ray."""
    if (missing := without_ray()) is not None:
        return missing
    train, held_out = _sample()
    with tempfile.TemporaryDirectory() as folder:
        results = answer(dict(train), dict(held_out), folder)
        if not isinstance(results, tune.ResultGrid):
            return not_right(f"a {type(results).__name__}", "a ResultGrid", "Return what Tuner(...).fit() returns.")
        return _judge_trials(results)


def _judge_trials(results: tune.ResultGrid) -> Verdict:
    if results.num_errors:
        return not_right(f"a trial that failed: {described(results.errors[0])}", "trials without an error", "Mend it.")
    if len(results) != TRIALS:
        return not_right(f"{len(results)} trials", f"{TRIALS}", "num_samples in TuneConfig says how many.")
    values = [as_number((result.metrics or {}).get("val_accuracy")) for result in results]
    if None in values:
        hint = 'Call tune.report({"val_accuracy": ...}) after each epoch.'
        return not_right("a trial without val_accuracy", "one after each epoch", hint)
    wrong = _wrong_rates([as_number(result.config.get("lr")) for result in results])
    epochs = [int(result.metrics["training_iteration"]) for result in results]
    if wrong is not None:
        return wrong
    if max(epochs) != MAX_EPOCHS:
        hint = f"Report after each epoch; a trial that isn't stopped has {MAX_EPOCHS}, so max_t={MAX_EPOCHS}."
        return not_right(f"at most {max(epochs)} reports of a trial", f"{MAX_EPOCHS} of the best", hint)
    spent = f"{sum(epochs)} epochs"
    if sum(epochs) > BUDGET:
        hint = "Nothing stops a bad trial early. Give TuneConfig a scheduler that does: ASHA, after one epoch at first."
        return not_right(spent, f"at most {BUDGET} of the {TRIALS * MAX_EPOCHS} that all trials would need", hint)
    return _judge_best(results, values, spent)


def _wrong_rates(rates: list[Any]) -> Verdict | None:
    low, high = RATES
    if any(rate is None or not low <= rate <= high for rate in rates):
        return not_right(f"the learning rates {rates}", f"lr from {low} to {high}", "Each config has a number lr.")
    if len(set(rates)) < TRIALS / 2:
        return not_right(f"{len(set(rates))} different learning rates", f"{TRIALS}", "Draw one for each trial.")
    if sorted(rates)[1] > 0.01:
        hint = "Nearly all were large. Each power of ten should be equally likely: tune.loguniform."
        return not_right(f"hardly a learning rate below {sorted(rates)[1]:.2f}", "some of every size", hint)
    return None


def _judge_best(results: tune.ResultGrid, values: list[float], spent: str) -> Verdict:
    try:
        best = results.get_best_result()
    except (RuntimeError, ValueError) as error:
        hint = 'TuneConfig needs metric="val_accuracy" and a mode, so that Tune knows which trial is the best.'
        return not_right(described(error), "a best trial", hint)
    value, lr = float(best.metrics["val_accuracy"]), float(best.config["lr"])
    if value < max(values) - 1e-9:
        hint = 'More accuracy is better: mode="max". ASHA, too, stops the good ones otherwise.'
        return not_right(f"a best trial of accuracy {value:.2f}", f"{max(values):.2f}, which another one reached", hint)
    counted = _accuracy(_train(lr, int(best.metrics["training_iteration"])))
    if value > counted + 0.04:
        hint = "Count on held_out, after training on train."
        return not_right(f"val_accuracy {value:.2f}", f"about {counted:.2f}, which this lr reaches on held_out", hint)
    if value < ACCURACY:
        hint = "Train with train_epoch on batches(train), and with the lr of the config."
        return not_right(f"a best accuracy of {value:.2f}", f"at least {ACCURACY}", hint)
    _found["lr"] = lr
    return right(f"{spent} of {TRIALS * MAX_EPOCHS}; lr {lr:.4f} is the best, with accuracy {value:.2f}.")


# --- step 4: serve ----------------------------------------------------------------------------------------------------

DEFAULT_URL = "http://127.0.0.1:8000"
APPLICATION = "check"
CLIENTS = 8
FEW = 12  # requests that may fail when a replica is killed: those that it was working on
BAD: dict[str, Any] = {
    "nothing": None,
    "no text": {},
    "a number": {"text": 1813},
    "null": {"text": None},
    "an empty text": {"text": ""},
    "a text without a word": {"text": " ... 1813 !"},
    "a text of 100,000 characters": {"text": "nevermore " * 10_000},
    "a list": ["It is a truth universally acknowledged"],
}


@step(4, seconds=180)
def service(answer: Any, url: str | None = None) -> Verdict:
    """Step 4: two replicas behind HTTP, which stay polite, quick and there. Needs a running Serve, at the url."""
    if (problem := _no_deployment(answer)) is not None:
        return problem
    route = f"{url or DEFAULT_URL}/{APPLICATION}"
    with tempfile.TemporaryDirectory() as folder, LoadGenerator() as load:
        torch.save(_trained().state_dict(), Path(folder) / MODEL_FILE)
        try:
            serve.run(answer.bind(folder), name=APPLICATION, route_prefix=f"/{APPLICATION}")
            wrong = _wrong_answer(route) or _wrong_refusal(route) or _too_few_replicas()
            return wrong or _judge_under_load(load, route)
        finally:
            serve.delete(APPLICATION)


def _no_deployment(answer: Any) -> Verdict | None:
    """What keeps an answer from being deployed; raises NotImplementedError for a stub, which needs no replica."""
    if not isinstance(answer, serve.Deployment):
        return not_right(f"a {type(answer).__name__}", "a deployment", "Keep @serve.deployment above the class.")
    # serve.ingress makes a class of its own below that of the learner.
    classes = [kind for kind in answer.func_or_class.__mro__ if not kind.__module__.startswith("ray.")]
    functions = [value for kind in classes for value in vars(kind).values()]
    for code in (getattr(getattr(value, "__wrapped__", value), "__code__", None) for value in functions):
        if code is not None and "NotImplementedError" in code.co_names:
            raise NotImplementedError
    if float((answer.ray_actor_options or {}).get("num_cpus", 1)) > 1:
        return not_right("a replica of more than one CPU", "at most 1", "Two of them have to fit: num_cpus=0.5.")
    return without_ray()


@functools.cache
def _questions() -> list[tuple[str, str, float]]:
    """Texts of several lengths, with the answer of the check's own model to each: author and probability."""
    unseen = [text for text, _ in given.unseen_passages(25)]
    texts = [" ".join(unseen[i - 1 : i + 1]) if i % 3 == 2 else unseen[i] for i in range(len(unseen))]
    with torch.inference_mode():
        shares = [_trained()(torch.as_tensor(given.word_ids(text))[None]).softmax(1)[0].tolist() for text in texts]
    found = [(text, given.AUTHORS[int(np.argmax(s))], max(s)) for text, s in zip(texts, shares, strict=True)]
    shakespeare, austen = ([one for one in found if one[1] == author] for author in given.AUTHORS)
    return [one for pair in zip(austen, shakespeare, strict=False) for one in pair]  # the authors take turns


def _bodies() -> list[bytes]:
    return [json.dumps({"text": text}).encode() for text, _, _ in _questions()]


def _wrong_answer(route: str) -> Verdict | None:
    """The verdict on a few questions, one after the other."""
    for text, author, probability in _questions()[:6]:
        reply = requests.post(route, json={"text": text}, timeout=30)
        expected = {"author": author, "probability": round(probability, 3)}
        if reply.status_code != 200:
            hint = 'Answer @....post("/") with a typed argument, a class with BaseModel and the field text.'
            return not_right(f"{reply.status_code} for {text!r}", expected, hint)
        if (wrong := _unlike(reply.json(), author, probability)) is not None:
            return not_right(f"{reply.json()} for {text!r}", expected, wrong)
    return None


def _unlike(got: Any, author: str, probability: float) -> str | None:
    """A hint if an answer is not this author with this probability, else None."""
    if not isinstance(got, dict) or not {"author", "probability"} <= set(got):
        return "Return an object with author and probability."
    if got["author"] != author:
        return f"Load {MODEL_FILE} in __init__, and take the larger of the two numbers; AUTHORS has the names."
    value = as_number(got["probability"])
    if value is None or abs(value - probability) > 0.02:
        return "The probability is that of the author in the answer: softmax of the model's two numbers."
    return None


def _wrong_refusal(route: str) -> Verdict | None:
    for name, body in BAD.items():
        status = requests.post(route, json=body, timeout=30).status_code
        if status == 422:
            continue
        hint = "Say in the type what may come in, with Field: the longest text (2,000), and a pattern with a letter."
        if status == 500:
            hint = f"An error in your method is a 500, as if we had failed. {hint}"
        return not_right(f"{status} for {name}", "422", hint)
    return None


def _replicas() -> list[str]:
    from ray.util.state import list_actors

    actors = list_actors(filters=[("state", "=", "ALIVE")])
    return sorted(a.name for a in actors if a.class_name.startswith(f"ServeReplica:{APPLICATION}:"))


def _too_few_replicas() -> Verdict | None:
    count = len(_replicas())
    hint = "num_replicas=2 in @serve.deployment: when one dies, the other goes on."
    return None if count >= 2 else not_right(f"{count} replica", "2", hint)


def _judge_under_load(load: LoadGenerator, route: str) -> Verdict:
    rows = load.run(route, _bodies(), CLIENTS, 2)
    if (wrong := _mixed_up(rows)) is not None:
        return wrong
    # Refused requests go the same way, only without the model. They and good ones take turns.
    mixed = [body for good in _bodies() for body in (good, b'{"text": ""}')]
    turns = load.run_at_rate(route, mixed, rate=30, seconds=2)
    if (wrong := _too_slow(turns[turns["status"] == 200], turns[turns["status"] == 422])) is not None:
        return wrong
    before, running = _replicas(), load.start(route, _bodies(), CLIENTS, 4)
    time.sleep(1)
    ray.kill(ray.get_actor(before[0], namespace="serve"))
    killed = running.result()
    failed, p95 = int((killed["status"] != 200).sum()), summary(rows)["p95 ms"]
    last = killed["start"] > killed["start"].max() - 2
    if failed > FEW or not (killed[last]["status"] == 200).any():
        hint = "The second replica has to answer while a new one starts."
        return not_right(f"{failed} of {len(killed)} requests failed when a replica was killed", f"at most {FEW}", hint)
    if (wrong := _mixed_up(killed[killed["status"] == 200])) is not None:
        return wrong
    return right(f"p95 {p95:.0f} ms with {CLIENTS} clients; a replica was killed, {failed} of {len(killed)} failed.")


def _mixed_up(rows: pd.DataFrame) -> Verdict | None:
    """The verdict if clients that ask at the same time don't get what each of them would get alone."""
    questions = _questions()
    for place, status, got in zip(rows["body"], rows["status"], rows["answer"], strict=True):
        text, author, probability = questions[place]
        expected = {"author": author, "probability": round(probability, 3)}
        if status != 200:
            hint = "It answers one client at a time well: what differs when several ask at once?"
            return not_right(f"{status} for {text!r} with {CLIENTS} clients", expected, hint)
        if _unlike(got, author, probability) is not None:
            hint = "Clients get the answers of others: keep nothing of a request in self, and a batch in its order."
            return not_right(f"{got} for {text!r} with {CLIENTS} clients", expected, hint)
    return None


def _too_slow(good: pd.DataFrame, refused: pd.DataFrame) -> Verdict | None:
    if good.empty or refused.empty:
        return not_right("no answers when good and bad requests take turns", "both", "A bad request must not harm.")
    mine, theirs = summary(good), summary(refused)
    if all(mine[name] > 5 * theirs[name] + 100 for name in ("p50 ms", "p95 ms")):
        hint = "Load the model once, in __init__; don't sleep, and don't let a batch wait long for company."
        got = f"p95 {mine['p95 ms']:.0f} ms, and {theirs['p95 ms']:.0f} ms for requests that are refused"
        return not_right(got, "not many times as long", hint)
    return None


# --- step 5: all together ---------------------------------------------------------------------------------------------

FINAL_EPOCHS = 4
ROUTE = "author"
UNSEEN = 60  # passages of either author


@ray.remote(num_cpus=0)
class Epochs:
    """Notes which worker has done which epoch, and says once that a worker may be killed."""

    def __init__(self) -> None:
        self._epochs: list[tuple[int, int]] = []
        self._killed = False

    def add(self, rank: int, epoch: int) -> bool:
        """Note an epoch; returns whether it is the moment to die."""
        self._epochs.append((rank, int(epoch)))
        now = rank == 1 and epoch == DIES_AFTER and not self._killed
        self._killed = self._killed or now
        return now

    def all(self) -> tuple[list[tuple[int, int]], bool]:
        return self._epochs, self._killed


@dataclass(frozen=True)
class AfterEpoch:
    """What `config["after_epoch"]` is in step 5: notes each epoch, and kills the worker of rank 1 once, really.

    Args:
        epochs: an actor of the class Epochs.
        driver: the process of the notebook, which is never killed.
    """

    epochs: ray.actor.ActorHandle
    driver: int

    def __call__(self, epoch: int) -> None:
        if os.getpid() == self.driver:  # no worker calls it
            return
        rank = ray.train.get_context().get_world_rank()
        if ray.get(self.epochs.add.remote(rank, epoch)):
            time.sleep(1)  # the controller has the last report for sure
            os.kill(os.getpid(), signal.SIGKILL)


@step(5, seconds=400)
def pipeline(answer: Callable[[list[str], dict[str, Any], str], Any], url: str | None = None) -> Verdict:
    """Step 5: files, real workers of which one is killed, and a service for works that nobody has seen."""
    if (missing := without_ray()) is not None:
        return missing
    epochs = Epochs.remote()
    after_epoch = AfterEpoch(epochs, os.getpid())
    config = {"lr": _found.get("lr", 0.02), "epochs": FINAL_EPOCHS, "batch_size": 256, "after_epoch": after_epoch}
    with tempfile.TemporaryDirectory() as folder, _looks_often(), quiet_log("ray.data"):
        files = given.write_parts(Path(folder) / "parts")
        try:
            result = answer(files, config, str(Path(folder) / "runs"))
            done, killed = ray.get(epochs.all.remote())
            wrong = _wrong_run(result, done, killed) or _not_served()
            return wrong or _judge_unseen(f"{url or DEFAULT_URL}/{ROUTE}", result)
        except ray.train.TrainingFailedError as error:
            done, killed = ray.get(epochs.all.remote())
            if not killed:
                raise
            hint = "FailureConfig(max_failures=1) in the RunConfig allows one restart."
            return not_right(f"a run that ended with its worker ({described(error)})", "one that goes on", hint)
        finally:
            with contextlib.suppress(Exception):
                if ROUTE in serve.status().applications:
                    serve.delete(ROUTE)


@contextlib.contextmanager
def _looks_often() -> Iterator[None]:
    """Let Ray Train look after its workers twice a second, so that a lost one is soon noticed."""
    name = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    before = os.environ.get(name)
    os.environ[name] = before or "0.5"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _wrong_run(result: Any, done: list[tuple[int, int]], killed: bool) -> Verdict | None:
    if not isinstance(result, ray.train.Result):
        return not_right(f"a {type(result).__name__}", "a Result", "Return what TorchTrainer(...).fit() returns.")
    if not done:
        hint = "Pass train_author and train_loop_config=config to TorchTrainer."
        return not_right("no epoch", f"{FINAL_EPOCHS} in real workers", hint)
    if not killed:
        return not_right("a single worker", "two workers", "ScalingConfig(num_workers=2) says how many there are.")
    epochs, wanted = [epoch for rank, epoch in done if rank == 0], list(range(1, FINAL_EPOCHS + 1))
    if epochs.count(1) > 1:
        hint = "After the loss of a worker it began anew: does train_author load the checkpoint?"
        return not_right(f"the epochs {epochs}", f"{wanted}", hint)
    if sorted(set(epochs)) != wanted or as_number((result.metrics or {}).get("epoch")) != FINAL_EPOCHS:
        return not_right(f"the epochs {epochs}", f"{wanted}", "Train to the last epoch of the config.")
    return None


def _not_served() -> Verdict | None:
    applications = serve.status().applications
    if ROUTE in applications:
        return None
    hint = f'serve.run(Author.bind(folder), name="{ROUTE}", route_prefix="/{ROUTE}"), with the folder of a checkpoint.'
    return not_right(f"the applications {sorted(applications)}", f"one with the name {ROUTE}", hint)


def _judge_unseen(route: str, result: ray.train.Result) -> Verdict:
    questions = given.unseen_passages(UNSEEN)

    def ask(text: str) -> Any:
        reply = requests.post(route, json={"text": text}, timeout=60)
        return reply.json().get("author") if reply.status_code == 200 else reply.status_code

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [text for text, _ in questions]))
    correct = [got == given.AUTHORS[label] for got, (_, label) in zip(answers, questions, strict=True)]
    accuracy, promised = float(np.mean(correct)), as_number(result.metrics.get("val_accuracy"))
    if refused := [got for got in answers if not isinstance(got, str)]:
        return not_right(f"{len(refused)} answers with the status {refused[0]}", "200", "Is it at the route /author?")
    if accuracy < ACCURACY:
        hint = "Serve a checkpoint of this run, and shuffle what it trains on."
        return not_right(f"accuracy {accuracy:.2f} on three works", f"at least {ACCURACY}; {promised} promised", hint)
    return right(f"a worker died and no epoch was lost; {accuracy:.0%} right on Persuasion, Romeo and The Tempest.")
