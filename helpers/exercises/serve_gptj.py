"""Checks of the exercises of notebook 08. None of them needs Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, as_list, described, exercise_check, not_right, right


def _distributions() -> list[tuple[Any, float]]:
    """Probabilities and p. None of the sums is p but for rounding, except where it is p exactly."""
    import torch

    cases = [
        ([0.1, 0.5, 0.05, 0.3, 0.05], 0.75),
        ([0.2, 0.2, 0.6], 0.5),
        ([0.25, 0.5, 0.25], 0.5),
        ([0.125, 0.5, 0.25, 0.125], 1.0),
        ([0.05, 0.9, 0.05], 0.01),
        ([0.25, 0.25, 0.25, 0.25], 0.5),
        ([0.3, 0.06, 0.3, 0.04, 0.3], 0.5),  # any two of three equal ones
        ([1.0], 0.9),
    ]
    generator = torch.Generator().manual_seed(8)
    # A model's probabilities: their sum is 1 but for rounding, above it or below it.
    drawn = [torch.softmax(2 * torch.randn(size, generator=generator), dim=0) for size in (7, 50, 50, 300)]
    return [(torch.tensor(values), p) for values, p in cases] + [(d, p) for d in drawn for p in (0.3, 0.9, 1.0)]


@exercise_check
def top_p(answer: Callable[[Any, float], Any]) -> Verdict:
    """Exercise 1: the smallest set of likeliest tokens whose probabilities add up to at least p."""
    for probabilities, p in _distributions():
        values = probabilities.tolist()
        try:
            got = as_list(answer(probabilities.clone(), p))
        except (IndexError, StopIteration) as error:
            hint = "Rounding can keep the sum of all probabilities just below p = 1: then all tokens stay."
            return not_right(f"{described(error)}, for {_rounded(values)} and p = {p}", "probabilities", hint)
        if got is None or len(got) != len(values) or not all(isinstance(value, float) for value in got):
            hint = "Return the probabilities, not their places."
            return not_right(repr(got), f"a tensor of {len(values)} probabilities", hint)
        kept = _kept(values, p)
        if not _right_share(got, values, kept):
            total = sum(values[i] for i in kept)
            expected = [round(value / total, 4) if i in kept else 0.0 for i, value in enumerate(values)]
            shown = [round(value, 4) for value in got]
            return not_right(f"{shown} for {_rounded(values)} and p = {p}", expected, _top_p_hint(got, values, kept, p))
    return right("few tokens where the model is sure, many where it is not.")


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _kept(values: list[float], p: float) -> list[int]:
    """Places of the tokens that stay; all of them where rounding keeps their sum below p."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    sums = itertools.accumulate(values[i] for i in order)
    return order[: next((i + 1 for i, total in enumerate(sums) if total >= p - 1e-6), len(values))]


def _right_share(got: list[float], values: list[float], kept: list[int]) -> bool:
    """Whether as many tokens stay as are needed, the likeliest ones, each with its share; of equal ones, any."""
    found = [i for i, value in enumerate(got) if value != 0]
    if sorted(values[i] for i in found) != sorted(values[i] for i in kept):
        # With p = 1, the least of many may stay or go: the sum before it is 1 but for rounding.
        if abs(sum(values[i] for i in found) - sum(values[i] for i in kept)) > 1e-6:
            return False
    total = sum(values[i] for i in kept)
    return all(abs(got[i] - values[i] / total) < 2e-5 for i in found)


def _top_p_hint(got: list[float], values: list[float], kept: list[int], p: float) -> str:
    found = [i for i, value in enumerate(got) if value != 0 and not math.isnan(value)]
    total = sum(values[i] for i in kept)
    least = min(values[i] for i in kept)
    if not found:
        return "The likeliest token always stays, also where p is smaller than its probability."
    if sorted(_rounded(got)) == sorted(_rounded([values[i] / total for i in kept] + [0.0] * (len(values) - len(kept)))):
        return "The right values in other places: put each back where its token stands."
    if sorted(found) == sorted(kept):
        if all(abs(got[i] - values[i] / p) < 1e-4 for i in found):
            return "Divide by the sum of what is left, not by p: the sum is mostly more than p."
        return "The right tokens: divide what is left by its sum, so that it adds up to 1 again."
    if len(found) > len(kept) and all(values[i] >= least for i in found):
        return "Of equally likely tokens, only as many stay as are needed."
    if set(found) < set(kept):
        return "The token that brings the sum over p belongs to the set."
    if set(found) > set(kept):
        return "The smallest set: no token more once the sum has reached p."
    return "Sort, add up, and keep the likeliest tokens until the sum reaches p."


SIMPLE_STREAMS = [
    (["To be", ", or\n", "\nHAM", "LET"], "\n\n"),
    (["a\n", "b\n", "c"], "\n\n"),
    (["to", "day", " END of"], "END"),
    (["the E", "N", "d, the E", "ND", "!"], "END"),
    (["the end E", "N", "D", "!"], "END"),
    (["aa", "ab", "x"], "aab"),
    (["stop E"], "END"),
    (["x", "END"], "END"),
    (["a END b END c"], "END"),
    (["To be. ", "Or"], "."),
    (["", "To ", "", "E", "", "ND", "b"], "END"),
    ([], "END"),
]
# Each of these texts comes in all its splits: stops in one, two and more pieces, stops that overlap
# themselves, beginnings of a stop that go on otherwise, and ends with which no stop can begin.
SPLIT_TEXTS = [
    ("aEND b", "END"),
    ("ENEND.", "END"),
    ("ababac", "abac"),
    ("aaaab-", "aab"),
    ("a\n\n\nb", "\n\n"),
    ("xabxab", "abab"),
    ("NDE EN", "END"),
    ("a.b.c", "."),
    ("ENDEND", "END"),
]


@exercise_check
def until(answer: Callable[[Iterable[str], str], Iterable[str]]) -> Verdict:
    """Exercise 2: text up to a stop that may come in several pieces, each part as early as possible."""
    streams = [*SIMPLE_STREAMS, *((pieces, stop) for text, stop in SPLIT_TEXTS for pieces in _splits(text))]
    for pieces, stop in streams:
        taken = [0]

        def come(pieces: list[str] = pieces, taken: list[int] = taken) -> Iterator[str]:
            for piece in pieces:
                taken[0] += 1
                yield piece

        answered = answer(come(), stop)
        if not isinstance(answered, Iterator):
            hint = "Use yield, so that the client need not wait for the end."
            return not_right(f"a {type(answered).__name__}", "a generator", hint)
        got = [(taken[0], text) for text in itertools.islice(answered, 100)]
        wrong = _wrong_stream(got, pieces, stop, taken[0])
        if wrong is not None:
            return wrong
    return right("no part of the stop is seen, and nothing waits longer than it must.")


def _splits(text: str) -> Iterator[list[str]]:
    """All ways to cut a text into pieces."""
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(text)]
        yield [text[a:b] for a, b in itertools.pairwise(places)]


def _wrong_stream(got: list[tuple[int, Any]], pieces: list[str], stop: str, taken: int) -> Verdict | None:
    given = f"the pieces {pieces} and the stop {stop!r}"
    whole = "".join(pieces)
    text = whole.partition(stop)[0]
    for _, piece in got:
        if not isinstance(piece, str):
            return not_right(f"{piece!r} for {given}", "text", "Yield pieces of text, one after the other.")
    said = "".join(piece for _, piece in got)
    if said != text:
        return not_right(f"{said!r} for {given}", repr(text), _stream_hint(said, text, whole, stop))
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


def _stream_hint(said: str, text: str, whole: str, stop: str) -> str:
    if said == whole:
        return (
            "The stop can be split over several pieces: look in what you have kept and the new piece together, "
            "and keep the longest end with which it could begin."
        )
    if said == text + stop:
        return "The stop itself does not belong to the answer."
    if stop in said:
        return "The first stop ends it, not the last."
    if said == text + stop[: len(said) - len(text)]:
        return "That shows the beginning of the stop: keep back an end that the stop could begin with."
    if text.startswith(said) and stop not in whole:
        return "When the pieces end without the stop, what you kept back is text: yield it."
    if text.startswith(said):
        return "The text before the stop is yielded as well, also what you had kept back when the stop came."
    if said.startswith(text):
        return "The stop was missed: keep back the longest end with which it could begin, however many pieces it takes."
    return "Each character of the text is yielded once, in its order: keep what is not sent yet in one string."


def _early(pieces: list[str], stop: str) -> list[int]:
    """How many characters can be sent after each piece."""
    lengths, so_far = [], ""
    for piece in pieces:
        so_far += piece
        text, found, _ = so_far.partition(stop)
        held = 0 if found else max(n for n in range(len(stop)) if text.endswith(stop[:n]))
        lengths.append(len(text) - held)
    return lengths


def _slots(
    gpu_gb: float,
    parameters: int,
    layers: int,
    width: int,
    context: int,
    bytes_each: int = 2,
    free: float = 0.1,
    weights: int = 1,
    vectors: int = 2,
    gb: int = 10**9,
    up: Callable[[float], float] = math.floor,
    least: float = 0,
    weight_bytes: int | None = None,
) -> float:
    """Rows beside the weights, or what one of the common mistakes gives."""
    room = gpu_gb * gb * (1 - free) - weights * parameters * (bytes_each if weight_bytes is None else weight_bytes)
    return max(least, up(room / (vectors * layers * width * context * bytes_each)))


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
        {"gpu_gb": 14, **gptj, "context": 2048},  # the weights fit, and less than one row
        {"gpu_gb": 40, **gptj, "context": 2048, "bytes_each": 4},
        {"gpu_gb": 40, **gptj, "context": 300, "bytes_each": 1},
        {"gpu_gb": 1, **small, "context": 256, "bytes_each": 4},
    ]
    variants: dict[str, dict[str, Any]] = {
        "Not even the weights fit: that is 0 rows, not fewer.": {"least": -math.inf},
        "A key and a value: two vectors for each token and layer.": {"vectors": 1},
        "A tenth of the card stays free.": {"free": 0},
        "A tenth of the whole card stays free, not nine tenths.": {"free": 0.9},
        "The weights take parameters * bytes_each from the same memory.": {"weights": 0},
        "Half a row is none: round down.": {"up": math.ceil},
        "Half a row is none: round down, not to the nearest.": {"up": round},
        "Rows are a whole number: round down.": {"up": lambda rows: rows},
        "At least one row is no answer: where none fits, it is 0.": {"least": 1},
        "A GB is 10**9 bytes here, not 2**30.": {"gb": 2**30},
        "Each number takes bytes_each bytes, in the weights as in the memory.": {"weight_bytes": 1},
        "Each number takes bytes_each bytes, in the weights as well: not always 2.": {"weight_bytes": 2},
        "Each number takes bytes_each bytes, in the weights as well: not always 4.": {"weight_bytes": 4},
    }
    mistakes = {hint: _with(changed) for hint, changed in variants.items()}
    mistakes["A tenth of the whole card stays free, not of what the weights leave."] = _tenth_of_the_rest
    mistakes["The memory of a row takes bytes_each for each number, too."] = _rows_of_two_bytes
    hint = "Room: gpu_gb * 10**9 * 0.9 less the weights. A row: 2 * layers * width * context * bytes_each."
    wrong = judge_formula(answer, _slots, cases, mistakes, hint, whole=True)
    return wrong or right("a card holds the weights once, and memory for each row: that is what limits a batch.")


def _with(changed: dict[str, Any]) -> Callable[..., float]:
    return lambda *arguments: _slots(*arguments, **changed)


def _tenth_of_the_rest(gpu_gb: float, parameters: int, layers: int, width: int, context: int, each: int = 2) -> int:
    room = 0.9 * (gpu_gb * 10**9 - parameters * each)
    return max(0, math.floor(room / (2 * layers * width * context * each)))


def _rows_of_two_bytes(gpu_gb: float, parameters: int, layers: int, width: int, context: int, each: int = 2) -> int:
    room = 0.9 * gpu_gb * 10**9 - parameters * each
    return max(0, math.floor(room / (2 * layers * width * context * 2)))
