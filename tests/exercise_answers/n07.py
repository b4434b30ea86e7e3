"""Answers to the exercises of notebook 07."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import ray
import torch
from ray.data import ActorPoolStrategy

from helpers.exercises import finetune, zero

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


# --- exercise 2: Adam divided among actors ----------------------------------------------------------------------------


@ray.remote
class Part:
    """Keeps one part of the weights, and its optimizer."""

    def __init__(self, weights, make_optimizer):
        self.weights = weights
        self.optimizer = make_optimizer([self.weights])

    def step(self, gradient):
        self.weights.grad = gradient
        self.optimizer.step()
        return self.weights


@ray.remote
class MaybeLate:
    """As Part; the process of one part takes long to start."""

    def __init__(self, weights, make_optimizer, seconds):
        time.sleep(seconds)
        self.weights = weights
        self.optimizer = make_optimizer([self.weights])

    def step(self, gradient):
        self.weights.grad = gradient
        self.optimizer.step()
        return self.weights


def one_starts_late(weights, gradients, workers, make_optimizer):
    parts = enumerate(weights.tensor_split(workers))
    actors = [MaybeLate.remote(part, make_optimizer, 12.0 * (rank == 1)) for rank, part in parts]
    for gradient in gradients:
        joined = ray.get(stepped(actors, gradient))
    return torch.cat(joined)


def parts_of(weights, workers, make_optimizer):
    return [Part.remote(part, make_optimizer) for part in weights.tensor_split(workers)]


def stepped(actors, gradient):
    return [actor.step.remote(part) for actor, part in zip(actors, gradient.tensor_split(len(actors)), strict=True)]


def all_in_the_notebook(weights, gradients, workers, make_optimizer):
    weights = weights.clone()
    optimizer = make_optimizer([weights])
    for weights.grad in gradients:
        optimizer.step()
    return weights


def all_in_one_actor(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, 1, make_optimizer)
    for gradient in gradients:
        parts = ray.get(stepped(actors, gradient))
    return torch.cat(parts)


def everything_in_each(weights, gradients, workers, make_optimizer):
    """As without ZeRO: every worker keeps Adam's numbers of all weights."""
    actors = [Part.remote(weights, make_optimizer) for _ in range(workers)]
    for gradient in gradients:
        copies = ray.get([actor.step.remote(gradient) for actor in actors])
    return copies[0]


@ray.remote
class Forgetful:
    def __init__(self, weights, make_optimizer):
        self.weights, self.make_optimizer = weights, make_optimizer

    def step(self, gradient):
        optimizer = self.make_optimizer([self.weights])
        self.weights.grad = gradient
        optimizer.step()
        return self.weights


def new_optimizer_in_each_step(weights, gradients, workers, make_optimizer):
    actors = [Forgetful.remote(part, make_optimizer) for part in weights.tensor_split(workers)]
    for gradient in gradients:
        parts = ray.get(stepped(actors, gradient))
    return torch.cat(parts)


def one_after_the_other(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, workers, make_optimizer)
    for gradient in gradients:
        parts = []
        for actor, part in zip(actors, gradient.tensor_split(workers), strict=True):
            parts.append(ray.get(actor.step.remote(part)))
    return torch.cat(parts)


def tasks_instead_of_actors(weights, gradients, workers, make_optimizer):
    @ray.remote
    def step(weights, gradient):
        optimizer = make_optimizer([weights])
        weights.grad = gradient
        optimizer.step()
        return weights

    parts = list(weights.tensor_split(workers))
    for gradient in gradients:
        pairs = zip(parts, gradient.tensor_split(workers), strict=True)
        parts = ray.get([step.remote(part, its) for part, its in pairs])
    return torch.cat(parts)


def equal_parts_only(weights, gradients, workers, make_optimizer):
    return divided(weights, gradients, workers, make_optimizer, lambda t: list(t.view(workers, -1)))


def rest_is_dropped(weights, gradients, workers, make_optimizer):
    def cut(tensor):
        return list(tensor[: len(tensor) // workers * workers].view(workers, -1))

    return divided(weights, gradients, workers, make_optimizer, cut)


def rest_to_the_last(weights, gradients, workers, make_optimizer):
    def cut(tensor):
        size = len(tensor) // workers
        return [tensor[i * size : (i + 1) * size if i < workers - 1 else None] for i in range(workers)]

    return divided(weights, gradients, workers, make_optimizer, cut)


def divided(weights, gradients, workers, make_optimizer, cut):
    actors = [Part.remote(part, make_optimizer) for part in cut(weights)]
    for gradient in gradients:
        parts = ray.get([actor.step.remote(its) for actor, its in zip(actors, cut(gradient), strict=True)])
    return torch.cat(parts)


def joined_backwards(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, workers, make_optimizer)
    for gradient in gradients:
        parts = ray.get(stepped(actors, gradient))
    return torch.cat(parts[::-1])


def first_step_only(weights, gradients, workers, make_optimizer):
    return torch.cat(ray.get(stepped(parts_of(weights, workers, make_optimizer), gradients[0])))


def references_returned(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, workers, make_optimizer)
    for gradient in gradients:
        refs = stepped(actors, gradient)
    return refs


def first_part_returned(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, workers, make_optimizer)
    for gradient in gradients:
        parts = ray.get(stepped(actors, gradient))
    return parts[0]


def weights_from_before(weights, gradients, workers, make_optimizer):
    actors = parts_of(weights, workers, make_optimizer)
    for gradient in gradients:
        ray.get(stepped(actors, gradient))
    return weights


def gradients_of_the_first_part(weights, gradients, workers, make_optimizer):
    """Every actor takes the first part of the gradient, as far as there is one."""
    actors, lengths = parts_of(weights, workers, make_optimizer), [len(p) for p in weights.tensor_split(workers)]
    for gradient in gradients:
        parts = ray.get([actor.step.remote(gradient[:n]) for actor, n in zip(actors, lengths, strict=True)])
    return torch.cat(parts)


def no_optimizer(weights, gradients, workers, make_optimizer):
    return weights - 0.05 * sum(gradients)


def all_steps_sent_at_once(weights, gradients, workers, make_optimizer):
    """An actor takes its calls in their order, so nobody has to wait between the steps."""
    actors = parts_of(weights, workers, make_optimizer)
    steps = [stepped(actors, gradient) for gradient in gradients]
    return torch.cat(ray.get(steps[-1]))


@ray.remote
class Trains:
    """Cuts out its part itself, and takes all steps in one call."""

    def __init__(self, rank, workers):
        self.cut = lambda tensor: tensor.tensor_split(workers)[rank]

    def train(self, weights, gradients, make_optimizer):
        part = torch.nn.Parameter(self.cut(weights).clone())
        optimizer = make_optimizer([part])
        for gradient in gradients:
            part.grad = self.cut(gradient)
            optimizer.step()
        return part.detach().numpy()


def one_call_for_all_steps(weights, gradients, workers, make_optimizer):
    actors = [Trains.remote(rank, workers) for rank in range(workers)]
    shared = [ray.put(weights), ray.put(gradients)]
    parts = ray.get([actor.train.remote(*shared, make_optimizer) for actor in actors])
    return torch.from_numpy(np.concatenate(parts))


@ray.remote
class Async:
    def __init__(self, weights, make_optimizer):
        self.weights = torch.tensor(weights, requires_grad=True)
        self.optimizer = make_optimizer([{"params": [self.weights]}])

    async def step(self, gradient):
        self.optimizer.zero_grad()
        self.weights.grad = torch.tensor(gradient)
        self.optimizer.step()
        return self.weights.tolist()


def lists_of_every_nth_weight(weights, gradients, workers, make_optimizer):
    """Parts need not lie beside each other."""
    actors = [Async.remote(weights[rank::workers].tolist(), make_optimizer) for rank in range(workers)]
    whole = torch.empty(len(weights))
    for gradient in gradients:
        refs = [actor.step.remote(gradient[rank::workers].tolist()) for rank, actor in enumerate(actors)]
        for rank, part in enumerate(ray.get(refs)):
            whole[rank::workers] = torch.tensor(part)
    return whole


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
    (2, zero.divided_adam): [
        (one_after_the_other, "before you wait"),
        (all_in_the_notebook, "make it in an actor"),
        (all_in_one_actor, "as many actors as there are workers"),
        (everything_in_each, "its own part of the weights only"),
        (new_optimizer_in_each_step, "make one, in __init__"),
        (tasks_instead_of_actors, "make it in an actor"),
        (equal_parts_only, "invalid for input of size"),
        (rest_is_dropped, "a tensor of 7 weights"),
        (joined_backwards, "in the order in which they were cut"),
        (first_step_only, "after the first step"),
        (references_returned, "torch.cat(parts)"),
        (first_part_returned, "torch.cat(parts)"),
        (weights_from_before, "return those that the actors have"),
        (gradients_of_the_first_part, "its own part of each gradient"),
        (no_optimizer, "Call make_optimizer([part])"),
    ],
}
RIGHT = {
    (1, finetune.answers_only): [
        mapped_and_filtered,
        whole_batches_in_torch,
        in_frames_of_lists,
        padded_by_the_tokenizer,
    ],
    (2, zero.divided_adam): [
        all_steps_sent_at_once,
        one_call_for_all_steps,
        lists_of_every_nth_weight,
        rest_to_the_last,
    ],
}
