"""Answers to the exercises of notebook 04."""

from __future__ import annotations

import fractions
import math

import numpy as np
import torch

from helpers.exercises import train


def mean_of_accuracies(reports):
    accuracies = [r["correct"] / r["count"] for r in reports]
    return sum(accuracies) / len(accuracies)


def first_worker_only(reports):
    return reports[0]["correct"] / reports[0]["count"]


def ignores_the_workers(pictures, workers, batch):
    return math.ceil(pictures / batch)


def drops_the_last_batch(pictures, workers, batch):
    return math.ceil(pictures / workers) // batch


def rounds_the_share_down(pictures, workers, batch):
    return math.ceil((pictures // workers) / batch)


def strips_letters(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.lstrip("module."): value for name, value in state.items()}, strict=False)  # noqa: B005


def replaces_everywhere(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.replace("module.", ""): value for name, value in state.items()}, strict=False)


def forgets_the_buffers(path, model):
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"module.{name}"])


def loads_nothing(path, model):
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)


def loads_anything(path, model):
    state = torch.load(path, weights_only=False)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def keeps_the_prefix(path, model):
    model.load_state_dict(torch.load(path, weights_only=True))


def takes_what_fits(path, model):
    state = {name.removeprefix("module."): v for name, v in torch.load(path, weights_only=True).items()}
    model.load_state_dict(state, strict=False)


def copies_the_names_that_fit(path, model):
    own = model.state_dict()
    for name, value in torch.load(path, weights_only=True).items():
        if name.removeprefix("module.") in own:
            own[name.removeprefix("module.")].copy_(value)


def copies_what_the_model_has(path, model):
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(state[f"module.{name}"])


def hides_the_errors(path, model):
    try:
        load_right(path, model)
    except Exception as error:
        print(error)


def makes_another_model(path, model):
    other = train._small_model()
    load_right(path, other)
    return other


def cuts_seven_letters_off_some(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.split(".")[-2] + "." + name.split(".")[-1]: v for name, v in state.items()})
    model.norm.reset_running_stats()


def load_right(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    return model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def load_into_a_wrapper(path, model):
    torch.nn.ModuleDict({"module": model}).load_state_dict(torch.load(path, weights_only=True))


def load_with_torchs_own_function(path, model):
    state = torch.load(path)  # safe by default since PyTorch 2.6
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    model.load_state_dict(state, assign=True)


def load_and_compare_names(path, model):
    state = {name[len("module.") :]: v for name, v in torch.load(path, weights_only=True).items()}
    own = model.state_dict()
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise ValueError("the file does not fit the model")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def accuracy_of(reports):
    return sum(r["correct"] for r in reports) / sum(r["count"] for r in reports)


WRONG = {
    (1, train.overall_accuracy): [
        (mean_of_accuracies, "divide once"),
        (first_worker_only, "first worker alone"),
        (lambda reports: accuracy_of(reports[-1:]), "last worker alone"),
        (lambda reports: max(r["correct"] / r["count"] for r in reports), "best worker"),
        (lambda reports: 100 * accuracy_of(reports), "multiply by 100"),
        (lambda reports: round(accuracy_of(reports), 2), "rounded"),
        (lambda reports: sum(r["correct"] for r in reports), "divide once"),
        (lambda reports: f"{accuracy_of(reports):.3f}", "Return a number"),
        (lambda reports: None, "a return on every way"),
        (lambda reports: sum(r["correct"] for r in reports) // sum(r["count"] for r in reports), "divide once"),
        (lambda reports: reports.pop() and 0.5, "divide once"),
    ],
    (2, train.steps_per_epoch): [
        (ignores_the_workers, "one worker alone"),
        (drops_the_last_batch, "is a step as well"),
        (rounds_the_share_down, "rounded up"),
        (lambda pictures, workers, batch: pictures // workers // batch, "Round up twice"),
        (lambda pictures, workers, batch: round(pictures / workers / batch), "not to the nearest"),
        (lambda pictures, workers, batch: pictures / workers / batch, "Steps are whole"),
        (
            lambda pictures, workers, batch: workers * math.ceil(math.ceil(pictures / workers) / batch),
            "batches of all workers together",
        ),
        (lambda pictures, workers, batch: math.ceil(pictures / workers) // batch + 1, "no step when"),
        (lambda pictures, workers, batch: pictures // (workers * batch), "Round up twice"),
        (lambda pictures, workers, batch: max(2, math.ceil(pictures / workers / batch)), "rounded up"),
        (lambda pictures, workers, batch: None, "a return on every way"),
    ],
    (3, train.load_wrapped): [
        (loads_nothing, "remove the prefix"),
        (loads_anything, "weights_only=True"),
        (keeps_the_prefix, "raised"),
        (strips_letters, "at the start"),
        (replaces_everywhere, "at the start"),
        (forgets_the_buffers, "did not change"),
        (takes_what_fits, "let load_state_dict be strict"),
        (copies_the_names_that_fit, "let load_state_dict be strict"),
        (copies_what_the_model_has, "let load_state_dict be strict"),
        (hides_the_errors, "let load_state_dict be strict"),
        (makes_another_model, "the model you were given"),
        (cuts_seven_letters_off_some, "Buffers"),
        (lambda path, model: None, "the model you were given"),
    ],
}
RIGHT = {
    (1, train.overall_accuracy): [
        lambda reports: torch.tensor(accuracy_of(reports)),
        lambda reports: np.average(
            [r["correct"] / r["count"] for r in reports], weights=[r["count"] for r in reports]
        ).astype(np.float32),
        lambda reports: fractions.Fraction(sum(r["correct"] for r in reports), sum(r["count"] for r in reports)),
    ],
    (2, train.steps_per_epoch): [
        lambda n, workers, batch: len(range(0, len(range(0, n, workers)), batch)),
        lambda n, workers, batch: np.ceil(np.ceil(n / workers) / batch),
        lambda n, workers, batch: -(-n // (workers * batch)),
        lambda n, workers, batch: torch.tensor((n + workers * batch - 1) // (workers * batch)),
    ],
    (3, train.load_wrapped): [
        load_right,
        load_into_a_wrapper,
        load_with_torchs_own_function,
        load_and_compare_names,
    ],
}
