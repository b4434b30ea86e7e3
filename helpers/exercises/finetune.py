"""Checks of the exercises of notebook 07. Ray must be running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from helpers import data
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, without_ray

OUT_OF_THE_LOSS = -100

# Exercise 1: the end token and the length of a row. The second tokenizer has an end token that is not number 0.
ROUNDS = (("<|endoftext|>", 24), ("<|end|>", 18))
SONG = "Sing of the sea:"  # what is sung is one token, " sea", any number of times


@dataclass(frozen=True)
class _Pair:
    """The tokens of a prompt and of its answer, and the row that they become.

    Attributes:
        prompt, answer: the tokens of the two texts.
        end: the end token.
        length: how many tokens the row has.
    """

    prompt: list[int]
    answer: list[int]
    end: int
    length: int

    @property
    def padding(self) -> int:
        """How many tokens fill up the row; below 0 if the pair is too long for it."""
        return self.length - len(self.prompt) - len(self.answer) - 1

    def tokens(self) -> list[int]:
        return self.prompt + self.answer + [self.end] * (1 + self.padding)

    def labels(self, prompt: bool = False, answer: bool = True, end: bool = True, padding: bool = False) -> list[int]:
        """The labels if these parts of the row are in the loss."""
        parts = [(prompt, len(self.prompt)), (answer, len(self.answer)), (end, 1), (padding, self.padding)]
        counts = [learned for learned, size in parts for _ in range(size)]
        return [token if learned else OUT_OF_THE_LOSS for token, learned in zip(self.tokens(), counts, strict=True)]


@exercise_check
def answers_only(answer: Callable[[Any, Any, int], Any]) -> Verdict:
    """Exercise 1: rows of prompt and answer, of which the answer and its end are learned."""
    if (missing := without_ray()) is not None:
        return missing
    from transformers import AutoTokenizer

    folder = data.tiny_gptj()
    for end, length in ROUNDS:
        tokenizer = AutoTokenizer.from_pretrained(folder, eos_token=end, pad_token=end)
        if (wrong := _judge_instructions(answer, tokenizer, length)) is not None:
            return wrong
    return right("the model learns the answers, and where they end, and nothing else.")


def _judge_instructions(answer: Callable[[Any, Any, int], Any], tokenizer: Any, length: int) -> Verdict | None:
    import ray.data

    texts = _instructions(tokenizer, length)
    rows = [{"prompt": prompt, "answer": reply} for prompt, reply in texts]
    dataset = ray.data.from_items(rows, override_num_blocks=1)
    with _texts_tokenized_here(tokenizer) as here:
        result = answer(dataset, tokenizer, length)
        if not isinstance(result, ray.data.Dataset):
            hint = "Return what flat_map, map or map_batches returns."
            return not_right(f"a {type(result).__name__}", "a dataset", hint)
        got = result.take_all()
    pairs = [
        _Pair(tokenizer(prompt)["input_ids"], tokenizer(reply)["input_ids"], tokenizer.eos_token_id, length)
        for prompt, reply in texts
    ]
    fitting = [pair for pair in pairs if pair.padding >= 0]
    wrong = _wrong_rows(got, len(fitting), len(pairs)) or _wrong_arrays(got, length)
    if wrong is not None:
        return wrong
    tokens = [np.asarray(row["input_ids"]).tolist() for row in got]
    labels = [np.asarray(row["labels"]).tolist() for row in got]
    joined = [tokenizer("".join(text))["input_ids"] for text in texts]
    wrong = _judge_tokens(tokens, fitting, joined) or _judge_labels(tokens, labels, fitting)
    if wrong is None and any(prompt in text for prompt, _ in texts for text in here):
        hint = "Tokenize in the function that you give to the dataset: Ray runs it in tasks, on all CPUs."
        return not_right("texts that were tokenized in the notebook", "work that is done in tasks of Ray", hint)
    return wrong


def _instructions(tokenizer: Any, length: int) -> list[tuple[str, str]]:
    """Prompts and answers, of which the last three are too long for a row; the one before them just fits."""
    end, room = tokenizer.eos_token, length - len(tokenizer(SONG)["input_ids"]) - 1
    return [
        ("Is it late? ", "Yes."),  # joined, " Yes" has other tokens
        ("Say no.", "Say no."),  # the same tokens, of which half are learned
        (f"Yes{end}No{end}", "Perhaps"),
        ("Who is Emma?\n", "A young lady, handsome, clever and rich."),
        (SONG, " sea" * room),
        (SONG, " sea" * (room + 1)),  # too long by its end token
        (SONG, " sea" * (2 * length)),
        (" sea" * length, "Yes."),
    ]


@contextmanager
def _texts_tokenized_here(tokenizer: Any) -> Iterator[list[str]]:
    """The texts that this kind of tokenizer gets in this process, and not in the processes of Ray."""
    kind, seen = type(tokenizer), []

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, text: Any = None, *others: Any, **options: Any) -> Any:
            several = text if isinstance(text, (list, tuple)) else [text]
            seen.extend(one for one in several if isinstance(one, str))
            return method(self, text, *others, **options)

        return noted

    with mock.patch.object(kind, "__call__", noting(kind.__call__)):
        with mock.patch.object(kind, "encode", noting(kind.encode)):
            yield seen


def _wrong_rows(got: list[dict[str, Any]], fitting: int, all_pairs: int) -> Verdict | None:
    """The verdict if the columns are not the two, or if there are not as many rows as pairs that fit."""
    columns = sorted({name for row in got for name in row})
    if got and columns != ["input_ids", "labels"]:
        return not_right(f"the columns {columns}", "input_ids and labels", "Return these two columns and no others.")
    if len(got) == fitting:
        return None
    hint = "Return one row for each pair that fits; `length` counts tokens, with the end token."
    if len(got) == all_pairs:
        hint = "Drop a pair that is longer than `length`: cut off, its answer would have no end."
    elif len(got) == fitting + 1:
        hint = "The end token needs a place, too: a pair fits if its tokens and the end token are at most `length`."
    elif len(got) == fitting - 1:
        hint = "A pair that just fills the row with its end token fits as well: nothing else needs a place."
    return not_right(f"{len(got)} rows", f"{fitting} for {all_pairs} pairs, of which some are too long", hint)


def _wrong_arrays(got: list[dict[str, Any]], length: int) -> Verdict | None:
    """The verdict if a row does not consist of `length` whole numbers."""
    for row in got:
        for name, value in sorted(row.items()):
            array = np.asarray(value)
            if array.shape != (length,):
                hint = "Fill up each row to `length` tokens, whatever the others need."
                return not_right(f"{name} of shape {array.shape}", f"({length},)", hint)
            if array.dtype.kind not in "iu":
                hint = "The loss takes no other labels, and the model no other tokens."
                return not_right(f"{name} of type {array.dtype}", "whole numbers", hint)
    return None


def _judge_tokens(got: list[list[int]], pairs: list[_Pair], joined: list[list[int]]) -> Verdict | None:
    expected = [pair.tokens() for pair in pairs]
    if sorted(got) == sorted(expected):
        return None
    hint = "A row is the tokens of its prompt, those of its answer, and the end token until the row is full."
    if any(OUT_OF_THE_LOSS in row for row in got):
        hint = "The model still needs the tokens where there is no label: labels have to be a copy of them."
    elif sorted(got) == sorted([pair.end] * pair.padding + pair.tokens()[: -pair.padding or None] for pair in pairs):
        hint = "Fill up on the right: a row begins with its prompt."
    elif all(any(row[: len(start)] == start for start in (p.prompt + p.answer for p in pairs)) for row in got):
        hint = "The end token of this tokenizer is tokenizer.eos_token_id; it comes once after the answer and fills up."
    elif all(any(row[: len(start)] == start for start in joined) for row in got):
        hint = "Tokenize the prompt and the answer separately: joined, the first word of the answer has other tokens."
    both = list(zip(got, expected, strict=True))
    wrong = [(row, wanted) for row, wanted in both if row not in expected] or both
    row, wanted = next((row, wanted) for row, wanted in wrong if row != wanted)
    return not_right(f"input_ids {row}", wanted, hint)


def _by_value(pair: _Pair, unwanted: list[int], labels: list[int]) -> list[int]:
    return [OUT_OF_THE_LOSS if token in unwanted else label for token, label in zip(pair.tokens(), labels, strict=True)]


def _to_the_first_end(pair: _Pair) -> list[int]:
    """The answer is taken to end at the first end token, although a prompt may hold one."""
    tokens = pair.tokens()
    learned = range(len(pair.prompt), tokens.index(pair.end) + 1)
    return [token if place in learned else OUT_OF_THE_LOSS for place, token in enumerate(tokens)]


END_IS_LEARNED = (
    "The end token after the answer has to be learned, or the model never stops. Padding has the same number, so go by "
    "the place in the row, not by the number."
)
LABEL_MISTAKES: list[tuple[str, Callable[[_Pair], list[int]]]] = [
    (
        "All tokens are in the loss: put -100 on the prompt and on the padding.",
        lambda pair: pair.labels(prompt=True, padding=True),
    ),
    ("Padding is still in the loss: put -100 there, too.", lambda pair: pair.labels(padding=True)),
    ("The prompt is still in the loss: put -100 there, too.", lambda pair: pair.labels(prompt=True)),
    (END_IS_LEARNED, lambda pair: pair.labels(end=False)),
    (END_IS_LEARNED, lambda pair: pair.labels(prompt=True, end=False)),
    (END_IS_LEARNED, lambda pair: _by_value(pair, [pair.end], pair.tokens())),
    (
        "It is the other way round: the answer and its end are learned, the prompt and the padding are not.",
        lambda pair: pair.labels(prompt=True, answer=False, end=False, padding=True),
    ),
    (
        "A token of the prompt may come in the answer as well: go by the number of tokens in the prompt.",
        lambda pair: _by_value(pair, pair.prompt, pair.labels()),
    ),
    (
        "A prompt may hold the end token as well, so the first one need not be the end: count tokens instead.",
        _to_the_first_end,
    ),
]


def _judge_labels(tokens: list[list[int]], labels: list[list[int]], pairs: list[_Pair]) -> Verdict | None:
    by_tokens = {tuple(pair.tokens()): pair for pair in pairs}
    rows = [(by_tokens[tuple(ids)], got) for ids, got in zip(tokens, labels, strict=True)]
    wrong = [(pair, got) for pair, got in rows if got != pair.labels()]
    if not wrong:
        return None
    hint = "Labels are the tokens of the answer and its end token, each in its place, and -100 everywhere else."
    for text, mistake in LABEL_MISTAKES:
        if all(got == mistake(pair) for pair, got in rows):
            hint = text
            break
    else:
        if any(all(got[a:b] == pair.labels()[c:d] for pair, got in rows) for a, b, c, d in SHIFTS):
            hint = "The model itself shifts the labels by one: leave each in the place of its token."
        elif all(_same_where_learned(pair, got) for pair, got in rows):
            hint = "Only the label -100 is left out of the loss: any other number is taken for a token."
    pair, got = wrong[0]
    return not_right(f"labels {got} for input_ids {pair.tokens()}", pair.labels(), hint)


SHIFTS = ((None, -1, 1, None), (1, None, None, -1))  # to the left, to the right


def _same_where_learned(pair: _Pair, got: list[int]) -> bool:
    """Whether the labels are right but for what stands where there should be -100: one other number."""
    expected = pair.labels()
    others = {label for label, wanted in zip(got, expected, strict=True) if wanted == OUT_OF_THE_LOSS}
    learned = [label for label, wanted in zip(got, expected, strict=True) if wanted != OUT_OF_THE_LOSS]
    return len(others) == 1 and learned == [wanted for wanted in expected if wanted != OUT_OF_THE_LOSS]
