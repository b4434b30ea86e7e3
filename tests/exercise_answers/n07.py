"""Answers to the exercises of notebook 07."""

from __future__ import annotations

import fractions
import math

import numpy as np
import torch

from helpers.exercises import finetune


def labels_by_token(input_ids, attention_mask, end=50256):
    return input_ids.masked_fill(input_ids == end, -100)


def labels_in_place(input_ids, attention_mask):
    input_ids[attention_mask == 0] = -100
    return input_ids


def labels_shifted(input_ids, attention_mask):
    return torch.roll(input_ids.masked_fill(attention_mask == 0, -100), -1, dims=1)


def mean_of_perplexities(reports):
    return sum(math.exp(r["loss"]) for r in reports) / len(reports)


def weighted_mean_of_perplexities(reports):
    return sum(math.exp(r["loss"]) * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)


def unweighted_perplexity(reports):
    return math.exp(sum(r["loss"] for r in reports) / len(reports))


def mean_loss(reports):
    return sum(r["loss"] * r["tokens"] for r in reports) / sum(r["tokens"] for r in reports)


def gpus(whole=2, divided=14, rounding=math.ceil, none=None, free=True):
    """An answer to exercise 3 of notebook 07, with a mistake or without."""

    def answer(parameters, card_gb, free_gb):
        room = (card_gb - (free_gb if free else 0)) * 10**9 - whole * parameters
        return max(1, rounding(divided * parameters / room)) if room > 0 else none

    return answer


def counts_to_16(parameters, card_gb, free_gb):
    answer = counts_up(parameters, card_gb, free_gb)
    return answer if answer is not None and answer <= 16 else None


def perplexity_with_numpy(reports):
    losses, tokens = zip(*[(report["loss"], report["tokens"]) for report in reports], strict=True)
    return np.exp(np.average(losses, weights=tokens))


def counts_up(parameters, card_gb, free_gb):
    for n in range(1, 1000):
        if 2 * parameters + 14 * parameters / n <= (card_gb - free_gb) * 1e9:
            return n
    return None


def labels_by_the_first_token(input_ids, attention_mask):
    return labels_by_token(input_ids, attention_mask, end=0)


def labels_that_change_the_mask(input_ids, attention_mask):
    attention_mask -= 1
    return input_ids * (attention_mask + 1) + 100 * attention_mask


def labels_by_subtraction(input_ids, attention_mask):
    return input_ids - 100 * (1 - attention_mask)


def labels_by_product(input_ids, attention_mask):
    return input_ids * attention_mask


def labels_of_the_left_padding(input_ids, attention_mask):
    """Only padding on the right is found."""
    labels = input_ids.clone()
    for row, length in enumerate(attention_mask.sum(dim=1).tolist()):
        labels[row, length:] = -100
    return labels


def labels_row_by_row(input_ids, attention_mask):
    rows = zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
    return torch.tensor([[token if keep else -100 for token, keep in zip(*row, strict=True)] for row in rows])


def labels_in_a_copy(input_ids, attention_mask):
    labels = input_ids.detach().clone()
    labels[~attention_mask.bool()] = -100
    return labels


def labels_by_arithmetic(input_ids, attention_mask):
    return input_ids * attention_mask - 100 * (1 - attention_mask)


def perplexity_by_product(reports):
    """The geometric mean, weighted: without any sum of losses."""
    tokens = sum(r["tokens"] for r in reports)
    return math.prod(math.exp(r["loss"]) ** (r["tokens"] / tokens) for r in reports)


def perplexity_in_torch(reports):
    losses = torch.tensor([r["loss"] for r in reports], dtype=torch.float64)
    tokens = torch.tensor([r["tokens"] for r in reports])
    return ((losses * tokens).sum() / tokens.sum()).exp()


def gpus_in_gib(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 1024**3 - 2 * parameters
    return max(1, math.ceil(14 * parameters / room)) if room > 0 else None


def gpus_that_hold_all_together(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 10**9
    return max(1, math.ceil(16 * parameters / room)) if room > 2 * parameters else None


def gpus_below_0(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 10**9 - 2 * parameters
    return math.ceil(14 * parameters / room) if room else None


def gpus_exactly(parameters, card_gb, free_gb):
    room = (fractions.Fraction(card_gb) - fractions.Fraction(free_gb)) * 10**9 - 2 * parameters
    return None if room <= 0 else -int(-14 * parameters // room)


def gpus_in_numpy(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 1e9 - 2 * parameters
    return np.int64(np.ceil(14 * parameters / room)) if room > 0 else None


WRONG = {
    (1, finetune.padded_labels): [
        (lambda input_ids, attention_mask: input_ids, "still has labels"),
        (labels_by_token, "go by the attention mask"),
        (labels_by_the_first_token, "still has labels"),
        (lambda input_ids, attention_mask: input_ids.masked_fill(attention_mask == 0, -1), "-100 where"),
        (lambda input_ids, attention_mask: input_ids.masked_fill(attention_mask == 1, -100), "other way round"),
        (labels_in_place, "change a copy"),
        (labels_that_change_the_mask, "the mask as it was"),
        (labels_by_subtraction, "exactly -100"),
        (labels_by_product, "exactly -100"),
        (labels_shifted, "shifts the labels by one"),
        (labels_of_the_left_padding, "-100 where"),
        (lambda input_ids, attention_mask: input_ids[attention_mask == 1], "one label for each token"),
        (lambda ids, mask: ids.masked_fill(mask == 0, -100).float(), "whole numbers"),
        (lambda ids, mask: labels_row_by_row(ids, mask).tolist(), "one label for each token"),
    ],
    (2, finetune.overall_perplexity): [
        (mean_of_perplexities, "take the exponential once"),
        (weighted_mean_of_perplexities, "take the exponential once"),
        (unweighted_perplexity, "weigh each loss"),
        (mean_loss, "its exponential"),
        (lambda reports: 2 ** mean_loss(reports), "not a power of 2"),
        (lambda reports: math.exp(-mean_loss(reports)), "minus sign"),
        (lambda reports: math.exp(reports[0]["loss"]), "first report alone"),
        (lambda reports: math.exp(min(700, mean_loss(reports) * sum(r["tokens"] for r in reports))), "Weigh each"),
        (lambda reports: str(math.exp(mean_loss(reports))), "Return a number"),
        (lambda reports: None, "a return on every way"),
    ],
    (3, finetune.gpus_needed): [
        (gpus(whole=0, divided=16), "but not the weights"),
        (gpus(whole=4, divided=12), "divides the gradients as well"),
        (gpus(whole=2, divided=12), "14 are divided"),
        (gpus(rounding=math.floor), "Round up"),
        (gpus(rounding=round), "not to the nearest"),
        (gpus(free=False), "has to stay free"),
        (gpus(none=0), "return None"),
        (gpus(rounding=lambda exact: exact), "a whole number of GPUs"),
        (gpus(rounding=lambda exact: float(math.ceil(exact))), "a float"),
        (gpus(rounding=lambda exact: int(exact) + 1), "exact fit"),
        (gpus_in_gib, "10**9"),
        (gpus_that_hold_all_together, "subtract them from every card"),
        (lambda parameters, card_gb, free_gb: None, "It fits"),
        (counts_to_16, "the other 14"),
        (gpus_below_0, "below 0"),
    ],
}
RIGHT = {
    (1, finetune.padded_labels): [
        lambda ids, mask: torch.where(mask.bool(), ids, -100),
        labels_row_by_row,
        labels_in_a_copy,
        labels_by_arithmetic,
    ],
    (2, finetune.overall_perplexity): [perplexity_with_numpy, perplexity_by_product, perplexity_in_torch],
    (3, finetune.gpus_needed): [counts_up, gpus_exactly, gpus_in_numpy],
}
