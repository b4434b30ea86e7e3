"""Checks of the exercises of notebook 08."""

from __future__ import annotations

import itertools
import numbers
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right


@exercise_check
def top_p(answer: Callable[[Any, float], Any]) -> Verdict:
    """Exercise 1: the smallest set of likeliest tokens whose probabilities add up to at least p."""
    import torch

    cases = [
        ([0.1, 0.5, 0.05, 0.3, 0.05], 0.75),
        ([0.2, 0.2, 0.6], 0.5),
        ([0.25, 0.5, 0.25], 0.5),
        ([0.125, 0.5, 0.25, 0.125], 1.0),
        ([0.05, 0.9, 0.05], 0.01),
        ([0.25, 0.25, 0.25, 0.25], 0.5),
    ]
    for values, p in cases:
        probabilities = torch.tensor(values)
        got = as_list(answer(probabilities.clone(), p))
        kept = _kept(values, p)
        total = sum(values[i] for i in kept)
        expected = [round(value / total, 4) if i in kept else 0.0 for i, value in enumerate(values)]
        if got is None or len(got) != len(values) or not all(isinstance(value, float) for value in got):
            return not_right(repr(got), "a tensor of the same length", "Return the probabilities, not their places.")
        rounded = [round(value, 4) for value in got]
        # Of equal ones, any may stay.
        compared = (sorted(rounded), sorted(expected)) if len(set(values)) == 1 else (rounded, expected)
        if all(abs(a - b) < 2e-4 for a, b in zip(*compared, strict=True)):
            continue
        found = [i for i, value in enumerate(got) if value > 0]
        hint = "Sort, add up, and keep tokens until the sum reaches p."
        if not found:
            hint = "The likeliest token always stays, also where p is smaller than its probability."
        elif sorted(found) == sorted(kept):
            hint = "The right tokens: divide what is left by its sum, so that it adds up to 1 again."
        elif sorted(rounded) == sorted(expected):
            hint = "The right values in other places: put each back where its token stands."
        elif len(found) == len(kept) - 1 and set(found) < set(kept):
            hint = "The token that brings the sum over p belongs to the set."
        elif set(found) > set(kept) and len(set(values)) == 1:
            hint = "Of equally likely tokens, only as many stay as are needed."
        elif set(found) > set(kept):
            hint = "The smallest set: no token more once the sum has reached p."
        return not_right(f"{rounded} for {values} and p = {p}", expected, hint)
    return right("few tokens where the model is sure, many where it is not.")


def _kept(values: list[float], p: float) -> list[int]:
    order = sorted(range(len(values)), key=lambda i: -values[i])
    sums = itertools.accumulate(values[i] for i in order)
    return order[: 1 + next(i for i, total in enumerate(sums) if total >= p - 1e-6)]


@exercise_check
def until(answer: Callable[[Iterable[str], str], Iterable[str]]) -> Verdict:
    """Exercise 2: text up to a stop that may come in several pieces, each part as early as possible."""
    cases = [
        (["To be", ", or\n", "\nHAM", "LET"], "\n\n"),
        (["a\n", "b\n", "c"], "\n\n"),
        (["to", "day", " END of"], "END"),
        (["the E", "N", "d, the E", "ND", "!"], "END"),
        (["aa", "ab", "x"], "aab"),
        (["stop E"], "END"),
        (["x", "END"], "END"),
        (["a END b END c"], "END"),
        (["To be. ", "Or"], "."),
    ]
    for pieces, stop in cases:
        taken = [0]

        def come(pieces: list[str] = pieces, taken: list[int] = taken) -> Iterator[str]:
            for piece in pieces:
                taken[0] += 1
                yield piece

        given = f"the pieces {pieces} and the stop {stop!r}"
        answered = answer(come(), stop)
        if not isinstance(answered, types.GeneratorType):
            hint = "Use yield, so that the client need not wait for the end."
            return not_right(type(answered).__name__, "a generator", hint)
        got = [(taken[0], text) for text in itertools.islice(answered, 20)]
        wrong = _wrong_stream(got, pieces, stop, taken[0], given)
        if wrong is not None:
            return wrong
    return right("no part of the stop is seen, and nothing waits longer than it must.")


def _wrong_stream(got: list[tuple[int, str]], pieces: list[str], stop: str, taken: int, given: str) -> Verdict | None:
    whole = "".join(pieces)
    text = whole.partition(stop)[0]
    said = "".join(piece for _, piece in got)
    expected, hint = repr(text), "Keep what is not sent yet in one string, and look for the stop in it."
    if said != text:
        if stop in whole and said == text + stop:
            hint = "The stop itself does not belong to the answer."
        elif stop in said and said != whole:
            hint = "The first stop ends it, not the last."
        elif said == whole:
            hint = "The stop can be split over two pieces: look in what you have kept and the new piece together."
        elif text.startswith(said) and stop not in whole:
            hint = "When the pieces end without the stop, what you kept back is text: yield it."
        elif said.startswith(text) and stop.startswith(said[len(text) :][: len(stop) - 1]):
            hint = "That shows the beginning of the stop: keep back an end that the stop could begin with."
        return not_right(f"{said!r} for {given}", expected, hint)
    if any(not piece for _, piece in got):
        return not_right(f"an empty piece for {given}", "none", "Yield only if there is something to send.")
    wanted = _early(pieces, stop)
    for count in range(1, len(pieces) + 1):
        sent = "".join(piece for number, piece in got if number <= count)
        if len(sent) < wanted[count - 1]:
            late = f"{sent!r} after {count} pieces, for {given}"
            hint = "Keep back only an end with which the stop could begin; all before it can go."
            return not_right(late, repr(whole[: wanted[count - 1]]), hint)
    needed = next((n for n in range(1, len(pieces) + 1) if stop in "".join(pieces[:n])), len(pieces))
    if taken > needed:
        hint = "Return when the stop has come: each further piece is work for the model that nobody reads."
        return not_right(f"{taken} pieces taken, for {given}", needed, hint)
    return None


def _early(pieces: list[str], stop: str) -> list[int]:
    """How many characters can be sent after each piece."""
    lengths, so_far = [], ""
    for piece in pieces:
        so_far += piece
        text, found, _ = so_far.partition(stop)
        held = 0 if found else max(n for n in range(len(stop)) if text.endswith(stop[:n]))
        lengths.append(len(text) - held)
    return lengths


@exercise_check
def slots(answer: Callable[..., int]) -> Verdict:
    """Exercise 3: rows of full context that fit beside the weights."""
    gptj = {"parameters": 6_050_882_784, "layers": 28, "width": 4096}
    small = {"parameters": 6_831_104, "layers": 6, "width": 256}
    cases: list[dict[str, Any]] = [
        {"gpu_gb": 80, **gptj, "context": 2048},
        {"gpu_gb": 24, **gptj, "context": 2048},
        {"gpu_gb": 16, **gptj, "context": 512},
        {"gpu_gb": 12, **gptj, "context": 2048},
        {"gpu_gb": 40, **gptj, "context": 2048, "bytes_each": 4},
        {"gpu_gb": 1, **small, "context": 256, "bytes_each": 4},
    ]
    for case in cases:
        got = answer(**case)
        each = case.get("bytes_each", 2)
        room = 0.9 * case["gpu_gb"] * 1e9 - case["parameters"] * each
        row = 2 * case["layers"] * case["width"] * case["context"] * each
        expected = max(0, int(room // row))
        if got == expected and isinstance(got, numbers.Integral):
            continue
        hint = "Room: gpu_gb * 10**9 * 0.9 less the weights. A row: 2 * layers * width * context * bytes_each."
        wholly = case["gpu_gb"] * 1e9 - case["parameters"] * each
        mistakes = {
            "It is right, but a float: // of floats is one, int() makes it whole.": expected,
            "Not even the weights fit: that is 0 rows, not fewer.": int(room // row),
            "A key and a value: two vectors for each token and layer.": max(0, int(room // (row / 2))),
            "A tenth of the card stays free.": max(0, int(wholly // row)),
            "The weights take parameters * bytes_each from the same memory.": int(0.9 * case["gpu_gb"] * 1e9 // row),
            "Half a row is none: round down.": max(0, -int(-room // row)),
            "Each number takes bytes_each bytes, in the weights and in the memory.": max(
                0, int((0.9 * case["gpu_gb"] * 1e9 - case["parameters"]) // (row / each))
            ),
        }
        hint = next((text for text, value in mistakes.items() if got == value), hint)
        given = ", ".join(f"{name}={value:,}" for name, value in case.items())
        return not_right(f"{got!r} for {given}", expected, hint)
    return right("a card holds the weights once, and memory for each row: that is what limits a batch.")
