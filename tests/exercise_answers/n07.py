"""Answers to the exercises of notebook 07."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import ray
import torch
from ray.data import ActorPoolStrategy

from helpers.exercises import finetune

# --- exercise 1: answers only -----------------------------------------------------------------------------------------


def tokens_of(row, tokenizer):
    return [tokenizer(row[name])["input_ids"] for name in ("prompt", "answer")]


def encoded(make):
    """An answer in which `make` returns the input_ids and labels of a pair, or None to drop it."""

    def answers_only(dataset, tokenizer, length):
        def encode(row):
            both = make(*tokens_of(row, tokenizer), tokenizer.eos_token_id, length)
            return [] if both is None else [{"input_ids": np.array(both[0]), "labels": np.array(both[1])}]

        return dataset.flat_map(encode)

    answers_only.__name__ = make.__name__
    return answers_only


def filled(prompt, answer, end, length):
    """The tokens of a full row, or None if they are too many."""
    tokens = prompt + answer + [end]
    return None if len(tokens) > length else tokens + [end] * (length - len(tokens))


def right_row(prompt, answer, end, length):
    padding = length - len(prompt) - len(answer) - 1
    labels = [-100] * len(prompt) + answer + [end] + [-100] * padding
    return None if padding < 0 else (filled(prompt, answer, end, length), labels)


def labels_everywhere(*pair):
    tokens = filled(*pair)
    return tokens and (tokens, tokens)


def padding_in_the_loss(prompt, *rest):
    tokens = filled(prompt, *rest)
    return tokens and (tokens, [-100] * len(prompt) + tokens[len(prompt) :])


def prompt_in_the_loss(prompt, *rest):
    both = right_row(prompt, *rest)
    return both and (both[0], prompt + both[1][len(prompt) :])


def end_lost_by_its_number(prompt, answer, end, length):
    tokens = filled(prompt, answer, end, length)
    labels = [-100 if token == end or place < len(prompt) else token for place, token in enumerate(tokens or [])]
    return tokens and (tokens, labels)


def end_and_prompts_by_number(prompt, answer, end, length):
    tokens = filled(prompt, answer, end, length)
    return tokens and (tokens, [-100 if token == end else token for token in tokens])


def end_lost_by_its_place(prompt, answer, end, length):
    tokens = filled(prompt, answer, end, length)
    return tokens and (tokens, [-100] * len(prompt) + answer + [-100] * (length - len(prompt) - len(answer)))


def prompt_by_its_tokens(prompt, *rest):
    both = right_row(prompt, *rest)
    return both and (both[0], [-100 if token in prompt else token for token in both[1]])


def up_to_the_first_end(prompt, answer, end, length):
    tokens = filled(prompt, answer, end, length)
    if tokens is None:
        return None
    first = tokens.index(end)
    return tokens, [token if len(prompt) <= place <= first else -100 for place, token in enumerate(tokens)]


def other_way_round(*pair):
    both = right_row(*pair)
    return both and (both[0], [-100 if label != -100 else token for token, label in zip(*both, strict=True)])


def shifted(*pair):
    both = right_row(*pair)
    return both and (both[0], both[1][1:] + [-100])


def shifted_to_the_right(*pair):
    both = right_row(*pair)
    return both and (both[0], np.roll(both[1], 1))


def zero_instead(*pair):
    both = right_row(*pair)
    return both and (both[0], [max(label, 0) for label in both[1]])


def minus_one_instead(*pair):
    both = right_row(*pair)
    return both and (both[0], [max(label, -1) for label in both[1]])


def in_place(*pair):
    """One array for both columns."""
    both = right_row(*pair)
    return both and (both[1], both[1])


def padded_on_the_left(prompt, answer, end, length):
    padding = length - len(prompt) - len(answer) - 1
    tokens, labels = prompt + answer + [end], [-100] * len(prompt) + answer + [end]
    return None if padding < 0 else ([end] * padding + tokens, [-100] * padding + labels)


def cut_instead_of_dropped(prompt, answer, end, length):
    padding = max(0, length - len(prompt) - len(answer) - 1)
    tokens = prompt + answer + [end] * (1 + padding)
    labels = [-100] * len(prompt) + answer + [end] + [-100] * padding
    return tokens[:length], labels[:length]


def end_not_counted(prompt, answer, end, length):
    if len(prompt) + len(answer) > length:
        return None
    return cut_instead_of_dropped(prompt, answer, end, length)


def full_rows_dropped(prompt, answer, end, length):
    return right_row(prompt, answer, end, length) if len(prompt) + len(answer) + 1 < length else None


def not_filled_up(prompt, answer, end, length):
    both = right_row(prompt, answer, end, length)
    size = len(prompt) + len(answer) + 1
    return both and (both[0][:size], both[1][:size])


def token_0_as_the_end(prompt, answer, end, length):
    return right_row(prompt, answer, 0, length)


def begins_with_an_end(prompt, answer, end, length):
    return right_row([end, *prompt], answer, end, length)


def as_floats(*pair):
    both = right_row(*pair)
    return both and (both[0], np.array(both[1], dtype=float))


def joined_before(dataset, tokenizer, length):
    """Prompt and answer are tokenized as one text; the prompt alone tells how long it is."""

    def encode(row):
        size = len(tokenizer(row["prompt"])["input_ids"])
        tokens = tokenizer(row["prompt"] + row["answer"])["input_ids"]
        both = right_row(tokens[:size], tokens[size:], tokenizer.eos_token_id, length)
        return [{"input_ids": np.array(both[0]), "labels": np.array(both[1])}] if both else []

    return dataset.flat_map(encode)


def rows_with_a_mask(dataset, tokenizer, length):
    def add(row):
        return {**row, "attention_mask": np.ones(length, int)}

    return encoded(right_row)(dataset, tokenizer, length).map(add)


def rows_taken(dataset, tokenizer, length):
    return encoded(right_row)(dataset, tokenizer, length).take_all()


def rows_made_in_the_notebook(dataset, tokenizer, length):
    pairs = [tokens_of(row, tokenizer) for row in dataset.take_all()]
    rows = [right_row(*pair, tokenizer.eos_token_id, length) for pair in pairs]
    return ray.data.from_items([{"input_ids": both[0], "labels": both[1]} for both in rows if both])


def some_rows(dataset, tokenizer, length):
    return encoded(right_row)(dataset.limit(2), tokenizer, length)


def mapped_and_filtered(dataset, tokenizer, length):
    """Too long rows go first; then each row is written over, a part at a time."""
    end = tokenizer.eos_token_id

    def fits(row):
        return sum(len(tokenizer.encode(row[name])) for name in ("prompt", "answer")) < length

    def encode(row):
        prompt, answer = (tokenizer.encode(row[name]) for name in ("prompt", "answer"))
        ids, labels = np.full(length, end), np.full(length, -100)
        ids[: len(prompt)] = prompt
        learned = slice(len(prompt), len(prompt) + len(answer) + 1)
        ids[learned] = labels[learned] = [*answer, end]
        return {"input_ids": ids, "labels": labels}

    return dataset.filter(fits).map(encode)


def whole_batches_in_torch(dataset, tokenizer, length):
    def encode(batch):
        end = torch.tensor([tokenizer.eos_token_id])
        prompts, answers = (tokenizer(batch[name].tolist())["input_ids"] for name in ("prompt", "answer"))
        sizes = torch.tensor([[len(p), len(a) + 1] for p, a in zip(prompts, answers, strict=True)])
        short = sizes.sum(dim=1) <= length
        rows = [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
        rows = [torch.cat([row, end.repeat(length)])[:length] for row in rows]
        ids, place = torch.stack(rows)[short], torch.arange(length)
        start, stop = sizes[short, :1], sizes[short].sum(dim=1, keepdim=True)
        return {"input_ids": ids, "labels": ids.masked_fill((place < start) | (place >= stop), -100)}

    return dataset.map_batches(encode)


def in_frames_of_lists(dataset, tokenizer, length):
    def encode(frame):
        pairs = [tokens_of(row, tokenizer) for _, row in frame.iterrows()]
        rows = [right_row(*pair, tokenizer.eos_token_id, length) for pair in pairs]
        return pd.DataFrame([row for row in rows if row], columns=["input_ids", "labels"])

    return dataset.map_batches(encode, batch_format="pandas")


class Encoder:
    """Pads with the tokenizer, which also knows where it did."""

    def __init__(self, tokenizer, length):
        self.tokenizer, self.length = tokenizer, length
        self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, row):
        prompt, answer = tokens_of(row, self.tokenizer)
        tokens = prompt + answer + [self.tokenizer.eos_token_id]
        limits = {"padding": "max_length", "max_length": self.length, "return_tensors": "np"}
        found = self.tokenizer.pad({"input_ids": [tokens]}, **limits)
        ids, learned = found["input_ids"][0], found["attention_mask"][0].astype(bool)
        learned[: len(prompt)] = False
        return {"input_ids": ids, "labels": np.where(learned, ids, -100)}


def padded_by_the_tokenizer(dataset, tokenizer, length):
    def fits(row):
        return len(row["input_ids"]) == length

    rows = dataset.map(Encoder, fn_constructor_args=[tokenizer, length], compute=ActorPoolStrategy(size=1))
    return rows.filter(fits)


# --- exercise 2: overall perplexity -----------------------------------------------------------------------------------


def measured(dataset, measure, batch_size=8):
    def report(batch):
        loss, tokens = measure(batch)
        return {"loss": [loss], "tokens": [tokens], "rows": [len(batch["input_ids"])]}

    return dataset.map_batches(report, batch_size=batch_size)


def from_reports(formula):
    """An answer that measures in tasks, and then has this formula for the losses, tokens and rows."""

    def overall_perplexity(dataset, measure):
        reports = measured(dataset, measure).take_all()
        return formula(*(np.array([report[name] for report in reports]) for name in ("loss", "tokens", "rows")))

    overall_perplexity.__name__ = formula.__name__
    return overall_perplexity


def mean_loss(losses, tokens, rows):
    return (losses * tokens).sum() / tokens.sum()


def not_weighted(losses, tokens, rows):
    return math.exp(losses.mean())


def mean_of_perplexities(losses, tokens, rows):
    return np.exp(losses).mean()


def weighted_perplexities(losses, tokens, rows):
    return (np.exp(losses) * tokens).sum() / tokens.sum()


def weighted_with_rows(losses, tokens, rows):
    return np.exp((losses * rows).sum() / rows.sum())


def power_of_two(*reports):
    return 2 ** mean_loss(*reports)


def with_a_minus(*reports):
    return np.exp(-mean_loss(*reports))


def one_batch(losses, tokens, rows):
    return np.exp(losses[0])


def sum_of_losses(losses, tokens, rows):
    return np.exp(losses.sum() / tokens.sum())


def divided_by_batches(losses, tokens, rows):
    return np.exp((losses * tokens).sum() / (10 * len(losses)))


def as_text(*reports):
    return f"{np.exp(mean_loss(*reports)):.2f}"


def measured_in_the_notebook(dataset, measure):
    reports = [measure(batch) for batch in dataset.iter_batches(batch_size=8)]
    return math.exp(sum(loss * tokens for loss, tokens in reports) / sum(tokens for _, tokens in reports))


def products(dataset, measure):
    def report(batch):
        loss, tokens = measure(batch)
        return {"loss": [loss * tokens], "tokens": [tokens]}

    return dataset.map_batches(report, batch_size=8)


def computed_twice(dataset, measure):
    reports = products(dataset, measure)
    return math.exp(reports.sum("loss") / reports.sum("tokens"))


def measured_twice(dataset, measure):
    def report(batch):
        return {"loss": [measure(batch)[0] * measure(batch)[1]], "tokens": [measure(batch)[1]]}

    reports = dataset.map_batches(report, batch_size=8).take_all()
    return math.exp(sum(r["loss"] for r in reports) / sum(r["tokens"] for r in reports))


def all_rows_at_once(dataset, measure):
    reports = measured(dataset.repartition(1), measure, batch_size=None).take_all()
    return math.exp(reports[0]["loss"])


def pairs_as_columns(dataset, measure):
    return dataset.map_batches(measure, batch_size=8).take_all()


def some_of_the_rows(dataset, measure):
    return from_reports(lambda *reports: np.exp(mean_loss(*reports)))(dataset.limit(20), measure)


def only_the_reports(dataset, measure):
    return measured(dataset, measure).materialize()


def never_measured(dataset, measure):
    return 11.5


def with_one_sum(dataset, measure):
    total = products(dataset, measure).sum(["loss", "tokens"])
    return math.exp(total["sum(loss)"] / total["sum(tokens)"])


def materialized_before(dataset, measure):
    reports = products(dataset, measure).materialize()
    return np.exp(reports.sum("loss") / reports.sum("tokens"))


def with_tasks_by_hand(dataset, measure):
    task = ray.remote(measure)
    reports = ray.get([task.remote(batch) for batch in dataset.iter_batches(batch_size=5)])
    losses, tokens = torch.tensor(reports, dtype=torch.float64).T
    return ((losses * tokens).sum() / tokens.sum()).exp()


def row_by_row(dataset, measure):
    """The geometric mean of all tokens' perplexities: a product instead of a sum."""

    def report(row):
        loss, tokens = measure({name: value[None] for name, value in row.items()})
        return {"perplexity": math.exp(loss), "tokens": tokens}

    reports = dataset.map(report).to_pandas()
    return math.prod(reports["perplexity"] ** (reports["tokens"] / reports["tokens"].sum()))


class Measurer:
    def __init__(self, measure):
        self.measure = measure

    def __call__(self, frame):
        return pd.DataFrame([self.measure(frame)], columns=["loss", "tokens"])


def in_a_pool(dataset, measure):
    options = {"fn_constructor_args": [measure], "compute": ActorPoolStrategy(size=2)}
    reports = dataset.map_batches(Measurer, batch_size=7, batch_format="pandas", **options).to_pandas()
    return np.exp(np.average(reports["loss"], weights=reports["tokens"]))


WRONG = {
    (1, finetune.answers_only): [
        (encoded(end_lost_by_its_number), "go by the place"),
        (encoded(cut_instead_of_dropped), "Drop a pair that is longer"),
        (encoded(labels_everywhere), "on the prompt and on the padding"),
        (encoded(padding_in_the_loss), "Padding is still in the loss"),
        (encoded(prompt_in_the_loss), "The prompt is still in the loss"),
        (encoded(end_and_prompts_by_number), "go by the place"),
        (encoded(end_lost_by_its_place), "never stops"),
        (encoded(prompt_by_its_tokens), "number of tokens in the prompt"),
        (encoded(up_to_the_first_end), "A prompt may hold the end token"),
        (encoded(other_way_round), "other way round"),
        (encoded(shifted), "shifts the labels by one"),
        (encoded(shifted_to_the_right), "shifts the labels by one"),
        (encoded(zero_instead), "Only the label -100"),
        (encoded(minus_one_instead), "Only the label -100"),
        (encoded(in_place), "a copy"),
        (encoded(padded_on_the_left), "Fill up on the right"),
        (encoded(end_not_counted), "The end token needs a place"),
        (encoded(full_rows_dropped), "fits as well"),
        (encoded(not_filled_up), "Fill up each row"),
        (encoded(token_0_as_the_end), "tokenizer.eos_token_id"),
        (encoded(begins_with_an_end), "nothing else needs a place"),
        (encoded(as_floats), "whole numbers"),
        (joined_before, "separately"),
        (rows_with_a_mask, "these two columns"),
        (rows_taken, "Return what flat_map, map or map_batches returns"),
        (rows_made_in_the_notebook, "in tasks"),
        (some_rows, "one row for each pair"),
    ],
    (2, finetune.overall_perplexity): [
        (from_reports(not_weighted), "weigh each loss"),
        (from_reports(mean_of_perplexities), "take the exponential once"),
        (measured_in_the_notebook, "give map_batches a function"),
        (computed_twice, "computed anew"),
        (measured_twice, "once for each batch"),
        (from_reports(weighted_perplexities), "Take the exponential once"),
        (from_reports(weighted_with_rows), "that measure returns"),
        (from_reports(mean_loss), "its exponential"),
        (from_reports(power_of_two), "not a power of 2"),
        (from_reports(with_a_minus), "without a minus sign"),
        (from_reports(one_batch), "one batch alone"),
        (from_reports(sum_of_losses), "multiply it by its tokens"),
        (from_reports(divided_by_batches), "Weigh each loss"),
        (from_reports(as_text), "a number"),
        (all_rows_at_once, "batch_size=8"),
        (pairs_as_columns, "returns columns"),
        (some_of_the_rows, "whole dataset"),
        (only_the_reports, "Return the perplexity"),
        (never_measured, "calls measure with its batch"),
    ],
}
RIGHT = {
    (1, finetune.answers_only): [
        mapped_and_filtered,
        whole_batches_in_torch,
        in_frames_of_lists,
        padded_by_the_tokenizer,
    ],
    (2, finetune.overall_perplexity): [
        with_one_sum,
        with_tasks_by_hand,
        materialized_before,
        row_by_row,
        in_a_pool,
    ],
}
