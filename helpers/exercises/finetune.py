"""Checks of the exercises of notebook 07. None of them needs Ray."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right

OUT_OF_THE_LOSS = -100


def _batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Padded batches with several shapes and ends of a text; the same token ends a text and fills up a row."""
    end = 50256
    ids = [[5, 6, 7, end, end, end], [8, end, 9, 4, 3, end], [end, end, end, 4, 5, end]]
    mask = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    batches = [(torch.tensor(ids), torch.tensor(mask))]
    batches.append((torch.tensor([[9, 2, 7, 7]]), torch.tensor([[1, 1, 1, 0]])))
    batches.append((torch.tensor([[0, 4], [3, 0], [0, 0]]), torch.tensor([[1, 1], [1, 0], [1, 0]])))  # END is 0
    return batches


@exercise_check
def padded_labels(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Verdict:
    """Exercise 1: labels that leave padding out of the loss, but not the end of the text."""
    results = []
    for input_ids, mask in _batches():
        ids_given, mask_given = input_ids.clone(), mask.clone()
        got = answer(ids_given, mask_given)
        if not isinstance(got, torch.Tensor) or got.shape != input_ids.shape:
            hint = "Return one label for each token."
            return not_right(_shown(got), f"a tensor of shape {tuple(input_ids.shape)}", hint)
        if not torch.equal(ids_given, input_ids):
            hint = "The model still needs the tokens as they were: change a copy, for example with masked_fill."
            return not_right("changed input_ids", "input_ids as they were", hint)
        if not torch.equal(mask_given, mask):
            hint = "The model still needs the mask as it was: change nothing that you are given."
            return not_right("a changed attention_mask", "the mask as it was", hint)
        if got.dtype != torch.long:
            hint = "The loss takes no other labels."
            return not_right(f"labels of type {got.dtype}", "whole numbers (torch.long)", hint)
        results.append(got)
    for got, (input_ids, mask) in zip(results, _batches(), strict=True):
        expected = input_ids.masked_fill(mask == 0, OUT_OF_THE_LOSS)
        if not torch.equal(got, expected):
            return not_right(got.tolist(), expected.tolist(), _labels_hint(got, input_ids, mask))
    return right("padding is out of the loss, and the end of the text is in it.")


def _labels_hint(got: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor) -> str:
    expected = input_ids.masked_fill(mask == 0, OUT_OF_THE_LOSS)
    end = input_ids[mask == 0][0]  # the token that pads
    if torch.equal(got, input_ids):
        return "Padding still has labels, so it is in the loss."
    if torch.equal(got, input_ids.masked_fill(input_ids == end, OUT_OF_THE_LOSS)):
        return "The end of a text has the same number as padding, and it is lost here: go by the attention mask."
    if torch.equal(got, input_ids.masked_fill(mask == 1, OUT_OF_THE_LOSS)):
        return "The other way round: -100 where the attention mask is 0."
    if torch.equal(got[:, :-1], expected[:, 1:]):
        return "The model itself shifts the labels by one: leave them in place."
    if torch.equal(got, input_ids - 100 * (1 - mask)) or torch.equal(got, input_ids * mask):
        return "Padding must become exactly -100, whatever token stands there: replace it, do not add or multiply."
    return "Labels are the tokens, and -100 where the attention mask is 0."


def _shown(got: object) -> str:
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else f"a {type(got).__name__}"


Reports = list[dict[str, float]]


def _mean_loss(reports: Reports) -> float:
    return sum(r["loss"] * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)


def _perplexity(reports: Reports) -> float:
    return math.exp(_mean_loss(reports))


@exercise_check
def overall_perplexity(answer: Callable[[Reports], float]) -> Verdict:
    """Exercise 2: the perplexity over all tokens, from mean losses of unequal batches."""
    batches = [
        [(2.0, 100), (4.0, 100)],
        [(2.0, 900), (6.0, 100)],
        [(3.1, 70)],
        [(5.5, 10), (1.25, 300), (2.75, 45)],
        [(0.5, 7), (0.75, 8), (0.0, 30), (1.5, 1)],
    ]
    cases = [{"reports": [{"loss": loss, "tokens": tokens} for loss, tokens in batch]} for batch in batches]
    once = "Average the losses first and take the exponential once: the mean of perplexities is another number."
    mistakes: dict[str, Callable[[Reports], float]] = {
        once: lambda reports: sum(math.exp(r["loss"]) for r in reports) / len(reports),
        f"{once} Weighing them does not help.": lambda reports: (
            sum(math.exp(r["loss"]) * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)
        ),
        "This is the mean loss: the perplexity is its exponential.": _mean_loss,
        "A report with more tokens counts more: weigh each loss with its tokens.": lambda reports: math.exp(
            sum(r["loss"] for r in reports) / len(reports)
        ),
        "The loss is in natural units: use math.exp, not a power of 2.": lambda reports: 2 ** _mean_loss(reports),
        "The loss is in natural units: use math.exp, not a power of 10.": lambda reports: 10 ** _mean_loss(reports),
        "This is the first report alone: take all of them.": lambda reports: _perplexity(reports[:1]),
        "Divide by the tokens of all reports, not by their number.": lambda reports: math.exp(
            sum(r["loss"] * r["tokens"] for r in reports) / len(reports)
        ),
        "A loss is a mean over tokens: weigh it with its tokens, then divide by all of them.": lambda reports: math.exp(
            sum(r["loss"] for r in reports) / sum(r["tokens"] for r in reports)
        ),
        "The perplexity is the exponential of the loss, without a minus sign.": lambda reports: (
            1 / _perplexity(reports)
        ),
    }
    hint = "Weigh each loss with its tokens, divide by all tokens, and take the exponential."
    wrong = judge_formula(answer, _perplexity, cases, mistakes, hint)
    return wrong or right("the losses are averaged over tokens, and the exponential comes last.")


def _gpus(
    parameters: int,
    card_gb: float,
    free_gb: float,
    whole: int = 2,
    divided: int = 14,
    gb: int = 10**9,
    none: int | None = None,
    up: Callable[[float], int] = math.ceil,
    least: int = 1,
) -> int | None:
    """The GPUs that stage 2 needs, or what one of the common mistakes gives."""
    room = (card_gb - free_gb) * gb - whole * parameters
    return max(least, up(divided * parameters / room)) if room > 0 else none


def _negative_gpus(parameters: int, card_gb: float, free_gb: float) -> int | None:
    room = (card_gb - free_gb) * 10**9 - 2 * parameters
    return math.ceil(14 * parameters / room) if room else None


@exercise_check
def gpus_needed(answer: Callable[[int, float, float], int | None]) -> Verdict:
    """Exercise 3: the smallest number of GPUs that hold a model with ZeRO stage 2, without offloading."""
    gptj = 6_050_882_784
    numbers = [(gptj, 48, 20), (gptj, 80, 10), (1_300_000_000, 24, 2), (gptj, 16, 5), (1_000_000_000, 20, 4)]
    numbers += [(1_000_000_000, 9, 0), (1_000_000_000, 2, 0), (gptj, 16, 3.5), (350_000_000, 24, 0.5), (gptj, 14.5, 2)]
    cases = [{"parameters": p, "card_gb": c, "free_gb": f} for p, c, f in numbers]
    mistakes: dict[str, Callable[..., int | None]] = {
        "Stage 2 divides Adam's numbers and the gradients (14 bytes), but not the weights (2 bytes).": lambda p, c, f: (
            _gpus(p, c, f, whole=0, divided=16)
        ),
        "Stage 2 divides the gradients as well: 14 of the 16 bytes.": lambda p, c, f: _gpus(
            p, c, f, whole=4, divided=12
        ),
        "All in all there are 16 bytes: 2 are on every GPU, and 14 are divided, not 12.": lambda p, c, f: _gpus(
            p, c, f, divided=12
        ),
        "Some memory has to stay free: subtract free_gb.": lambda p, c, f: _gpus(p, c, 0),
        "A GB is 10**9 bytes here: 2**30 bytes are more than the card has.": lambda p, c, f: _gpus(p, c, f, gb=2**30),
        "Round up: with one GPU less it does not fit.": lambda p, c, f: _gpus(p, c, f, up=math.floor),
        "Round up, not to the nearest: with one GPU less it may not fit.": lambda p, c, f: _gpus(p, c, f, up=round),
        "An exact fit needs no further GPU: use math.ceil.": lambda p, c, f: _gpus(
            p, c, f, up=lambda exact: math.floor(exact) + 1
        ),
        "The weights alone do not fit, and stage 2 does not divide them: return None.": lambda p, c, f: _gpus(
            p, c, f, none=0
        ),
        "A number below 0 means that the weights alone do not fit: return None.": _negative_gpus,
        "Return a whole number of GPUs: round up.": lambda p, c, f: _gpus(p, c, f, up=lambda exact: exact),
        "Each GPU holds the weights: subtract them from every card, not once from all.": lambda p, c, f: (
            max(1, math.ceil(16 * p / ((c - f) * 1e9))) if (c - f) * 1e9 > 2 * p else None
        ),
        "It fits, if not on few GPUs: the weights take 2 bytes per parameter, and the other 14 are divided "
        "by any number of GPUs.": lambda p, c, f: None,
    }
    hint = "2 bytes per parameter are on every GPU, and the other 14 are divided by the number of GPUs."
    wrong = judge_formula(answer, _gpus, cases, mistakes, hint, whole=True)
    return wrong or right("every GPU holds all weights and its part of the other 14 bytes.")
