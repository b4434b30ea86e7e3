"""Checks of the exercises of notebook 07. None of them needs Ray."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right

END = 0  # the token that ends a text and, in many models, also fills up a block
OUT_OF_THE_LOSS = -100


@exercise_check
def padded_labels(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Verdict:
    """Exercise 1: labels that leave padding out of the loss, but not the end of the text."""
    input_ids = torch.tensor([[5, 6, 7, END, END, END], [8, END, 9, 4, 3, END], [END, END, END, 4, 5, END]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    expected = input_ids.masked_fill(mask == 0, OUT_OF_THE_LOSS)
    given = input_ids.clone()
    got = answer(given, mask.clone())
    if not isinstance(got, torch.Tensor) or got.shape != expected.shape:
        return not_right(_shown(got), f"a tensor of shape {tuple(expected.shape)}", "Return one label for each token.")
    if not torch.equal(given, input_ids):
        hint = "The model still needs the tokens as they were: change a copy, for example with masked_fill."
        return not_right("changed input_ids", "input_ids as they were", hint)
    if got.dtype != torch.long:
        return not_right(f"labels of type {got.dtype}", "whole numbers (torch.long)", "The loss takes no other labels.")
    if torch.equal(got, expected):
        return right("padding is out of the loss, and the end of the text is in it.")
    return not_right(got.tolist(), expected.tolist(), _labels_hint(got, input_ids, mask))


def _labels_hint(got: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor) -> str:
    if torch.equal(got, input_ids):
        return "Padding still has labels, so it is in the loss."
    if torch.equal(got, input_ids.masked_fill(input_ids == END, OUT_OF_THE_LOSS)):
        return "The end of a text has the same number as padding, and it is lost here: go by the attention mask."
    if torch.equal(got[:, :-1], input_ids.masked_fill(mask == 0, OUT_OF_THE_LOSS)[:, 1:]):
        return "The model itself shifts the labels by one: leave them in place."
    return "Labels are the tokens, and -100 where the attention mask is 0."


def _shown(got: object) -> str:
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else f"a {type(got).__name__}"


@exercise_check
def overall_perplexity(answer: Callable[[list[dict[str, float]]], float]) -> Verdict:
    """Exercise 2: the perplexity over all tokens, from mean losses of unequal batches."""
    equal = [{"loss": 2.0, "tokens": 100}, {"loss": 4.0, "tokens": 100}]
    unequal = [{"loss": 2.0, "tokens": 900}, {"loss": 6.0, "tokens": 100}]
    for reports in (equal, unequal):
        tokens = sum(report["tokens"] for report in reports)
        loss = sum(report["loss"] * report["tokens"] for report in reports) / tokens
        got = float(answer([dict(report) for report in reports]))
        if not math.isclose(got, math.exp(loss), rel_tol=1e-6):
            hint = f"The reports were {reports}. {_perplexity_hint(got, reports, loss)}"
            return not_right(got, math.exp(loss), hint)
    return right("the losses are averaged over tokens, and the exponential comes last.")


def _perplexity_hint(got: float, reports: list[dict[str, float]], loss: float) -> str:
    tokens = sum(report["tokens"] for report in reports)
    each = [math.exp(report["loss"]) for report in reports]
    weighted = sum(p * report["tokens"] for p, report in zip(each, reports, strict=True)) / tokens
    if any(math.isclose(got, wrong, rel_tol=1e-6) for wrong in (sum(each) / len(each), weighted)):
        return "Average the losses first and take the exponential once: the mean of perplexities is another number."
    if math.isclose(got, loss, rel_tol=1e-6):
        return "This is the mean loss: the perplexity is its exponential."
    if math.isclose(got, math.exp(sum(r["loss"] for r in reports) / len(reports)), rel_tol=1e-6):
        return "A report with more tokens counts more: weigh each loss with its tokens."
    if math.isclose(got, 2**loss, rel_tol=1e-6):
        return "The loss is in natural units: use math.exp, not a power of 2."
    return "Weigh each loss with its tokens, divide by all tokens, and take the exponential."


@exercise_check
def gpus_needed(answer: Callable[[int, float, float], int | None]) -> Verdict:
    """Exercise 3: the smallest number of GPUs that hold a model with ZeRO stage 2, without offloading."""
    cases = [(6_050_882_784, 48, 20), (6_050_882_784, 80, 10), (1_300_000_000, 24, 2), (6_050_882_784, 16, 5)]
    cases += [(1_000_000_000, 20, 4), (1_000_000_000, 9, 0), (1_000_000_000, 2, 0), (6_050_882_784, 16, 3.5)]
    for parameters, card_gb, free_gb in cases:
        expected = _gpus(parameters, card_gb, free_gb)
        got = answer(parameters, card_gb, free_gb)
        if got != expected or isinstance(got, bool):
            hint = f"For {parameters:,} parameters, {card_gb} GB and {free_gb} GB free: "
            return not_right(got, expected, hint + _gpus_hint(got, parameters, card_gb, free_gb))
    return right("every GPU holds all weights and its part of the other 14 bytes.")


def _gpus(parameters: int, card_gb: float, free_gb: float, whole: int = 2, divided: int = 14) -> int | None:
    room = (card_gb - free_gb) * 10**9 - whole * parameters
    return max(1, math.ceil(divided * parameters / room)) if room > 0 else None


def _gpus_hint(got: object, parameters: int, card_gb: float, free_gb: float) -> str:
    expected = _gpus(parameters, card_gb, free_gb)
    if expected is None:
        return "the weights alone do not fit, and stage 2 does not divide them: return None."
    if got is None:
        return "it fits: the weights take 2 bytes per parameter, and the other 14 are divided."
    if got == _gpus(parameters, card_gb, free_gb, whole=0, divided=16):
        return "stage 2 divides Adam's numbers and the gradients (14 bytes), but not the weights (2 bytes)."
    if got == _gpus(parameters, card_gb, free_gb, whole=4, divided=12):
        return "stage 2 divides the gradients as well."
    if got == _gpus(parameters, card_gb, 0):
        return "some memory has to stay free."
    if not isinstance(got, int):
        return "return a whole number of GPUs."
    if isinstance(expected, int) and got == expected - 1:
        return "round up: with one GPU less it does not fit."
    return "2 bytes per parameter are on every GPU, and the other 14 are divided by the number of GPUs."
