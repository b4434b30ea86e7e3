"""Answers to the exercises of notebook 08."""

from __future__ import annotations

import math

import numpy as np
import torch

from helpers.exercises import serve_gptj


def top_p_where(stays, renormalised=True, sorted_back=True):
    """An answer to exercise 1 of notebook 08 that keeps a token if stays(sum before it, its own, p)."""

    def top_p(probabilities, p):
        values, order = probabilities.sort(descending=True)
        kept = torch.where(stays(values.cumsum(0) - values, values, p), values, 0.0)
        kept = kept / kept.sum() if renormalised else kept
        return torch.zeros_like(kept).index_copy(0, order, kept) if sorted_back else kept

    return top_p


def keeps_ties(probabilities, p):
    values, _ = probabilities.sort(descending=True)
    last = values[(values.cumsum(0) - values < p).sum() - 1]
    kept = torch.where(probabilities >= last, probabilities, 0.0)
    return kept / kept.sum()


def places_of_top_p(probabilities, p):
    values, order = probabilities.sort(descending=True)
    return order[values.cumsum(0) - values < p]


def looks_at_each_piece(pieces, stop):
    for piece in pieces:
        if stop in piece:
            yield piece.partition(stop)[0]
            return
        yield piece


def shows_the_beginning_of_the_stop(pieces, stop):
    seen = ""
    for piece in pieces:
        sent, seen = len(seen), seen + piece
        if stop in seen:
            if seen.index(stop) > sent:
                yield seen[sent : seen.index(stop)]
            return
        yield piece


def waits_for_the_end(pieces, stop):
    text = "".join(pieces).partition(stop)[0]
    if text:
        yield text


def holding(length, rest=True, all_pieces=False, with_stop=False):
    """An answer to exercise 2 of notebook 08 that keeps back length(kept, stop) characters."""

    def until(pieces, stop):
        kept, found = "", False
        for piece in pieces:
            kept += "" if found else piece
            if stop in kept and not found:
                kept, found = kept.partition(stop)[0] + (stop if with_stop else ""), True
            if found and not all_pieces:
                break
            if not found:
                ready, kept = kept[: len(kept) - length(kept, stop)], kept[len(kept) - length(kept, stop) :]
                if ready:
                    yield ready
        if kept and (rest or found):
            yield kept

    return until


def right_length(kept, stop):
    return max(n for n in range(len(stop)) if kept.endswith(stop[:n]))


def looks_from_the_end(pieces, stop):
    kept = ""
    for piece in pieces:
        kept += piece
        before, found, _ = kept.rpartition(stop)
        if found:
            yield from [before] if before else []
            return
        ready = len(kept) - right_length(kept, stop)
        if ready:
            yield kept[:ready]
        kept = kept[ready:]
    if kept:
        yield kept


def list_of_pieces(pieces, stop):
    return list(holding(right_length)(pieces, stop))


def slots_with(vectors=2, free=0.1, weights=True, least=0, rounded=int, of_weights=None):
    """An answer to exercise 3 of notebook 08, perhaps with something left out."""

    def slots(gpu_gb, parameters, layers, width, context, bytes_each=2):
        room = gpu_gb * 10**9 * (1 - free) - weights * parameters * (of_weights or bytes_each)
        rows = rounded(room / (vectors * layers * width * context * bytes_each))
        return rows if least is None else max(least, rows)

    return slots


def top_p_by_searching(probabilities, p):
    values, order = probabilities.sort(descending=True)
    last = (values.cumsum(0) >= p).nonzero()[0].item()
    kept = torch.zeros_like(probabilities)
    kept[order[: last + 1]] = values[: last + 1]
    return kept / kept.sum()


def top_p_divided_by_p(probabilities, p):
    return (
        right_top_p(probabilities, p) * 0
        + top_p_where(lambda b, own, p: b < p, renormalised=False)(probabilities, p) / p
    )


def top_p_in_place(probabilities, p):
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    probabilities[order[before >= p]] = 0
    return probabilities / probabilities.sum()


def above_a_threshold(probabilities, p):
    kept = torch.where(probabilities >= probabilities.max() * (1 - p), probabilities, 0.0)
    return kept / kept.sum()


def top_p_of_the_least_likely(probabilities, p):
    values, order = probabilities.sort()
    kept = torch.where(values.cumsum(0) - values < p, values, 0.0)
    kept = torch.zeros_like(kept).index_copy(0, order, kept)
    return kept / kept.sum()


right_top_p = top_p_where(lambda before, own, p: before < p)


def top_p_by_a_loop(probabilities, p):
    kept, total = [0.0] * len(probabilities), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i].item()):
        if total >= p:
            break
        kept[i] = probabilities[i].item()
        total += kept[i]
    return torch.tensor(kept) / total


def top_p_in_numpy(probabilities, p):
    values = probabilities.double().numpy()
    order = np.argsort(-values, kind="stable")
    count = np.searchsorted(values[order].cumsum(), p - 1e-7) + 1
    kept = np.zeros_like(values)
    kept[order[:count]] = values[order[:count]]
    return kept / kept.sum()


def top_p_scattered(probabilities, p):
    values, order = torch.sort(probabilities, descending=True, stable=True)
    out = torch.cat([torch.zeros(1), values.cumsum(0)[:-1]]) >= p
    kept = probabilities.masked_fill(torch.zeros_like(out).scatter(0, order, out), 0.0)
    return kept / kept.sum()


def keeps_only_the_piece_before(pieces, stop):
    """The stop is found in two pieces, but not in three."""
    before = ""
    for piece in pieces:
        both = before + piece
        if stop in both:
            text = both.partition(stop)[0]
            if text:
                yield text
            return
        if before:
            yield before
        before = piece
    if before:
        yield before


def keeps_the_shortest_end(kept, stop):
    return min((n for n in range(1, len(stop)) if kept.endswith(stop[:n])), default=0)


def begins_anew_after_a_miss(pieces, stop):
    """Character by character, without going back: overlapping beginnings of the stop are lost."""
    seen = 0
    for piece in pieces:
        ready = ""
        for letter in piece:
            if letter == stop[seen]:
                seen += 1
                if seen == len(stop):
                    if ready:
                        yield ready
                    return
            else:
                ready += stop[:seen] + letter
                seen = 0
        if ready:
            yield ready
    if seen:
        yield stop[:seen]


def yields_empty_pieces(pieces, stop):
    kept = ""
    for piece in pieces:
        kept += piece
        if stop in kept:
            yield kept.partition(stop)[0]
            return
        held = right_length(kept, stop)
        yield kept[: len(kept) - held]
        kept = kept[len(kept) - held :]
    yield kept


def forgets_what_it_kept(pieces, stop):
    kept = ""
    for piece in pieces:
        kept += piece
        if stop in kept:
            return
        held = right_length(kept, stop)
        if len(kept) > held:
            yield kept[: len(kept) - held]
        kept = kept[len(kept) - held :]
    if kept:
        yield kept


def until_letter_by_letter(pieces, stop):
    kept = ""
    for piece in pieces:
        for letter in piece:
            kept += letter
            if kept.endswith(stop):
                return
            while kept and not stop.startswith(kept):
                yield kept[0]
                kept = kept[1:]
    yield from kept


class Until:
    """An iterator instead of a generator."""

    def __init__(self, pieces, stop):
        self.ready = holding(right_length)(pieces, stop)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.ready)


def until_by_position(pieces, stop):
    text, sent = "", 0
    for piece in pieces:
        text += piece
        at = text.find(stop)
        end = at if at >= 0 else len(text) - right_length(text, stop)
        if end > sent:
            yield text[sent:end]
            sent = end
        if at >= 0:
            return
    if text[sent:]:
        yield text[sent:]


WRONG = {
    (1, serve_gptj.top_p): [
        (top_p_where(lambda before, own, p: (before < p) & (own <= p)), "always stays"),
        (top_p_where(lambda before, own, p: before + own <= p), "belongs to the set"),
        (top_p_where(lambda before, own, p: before <= p), "The smallest set"),
        (top_p_where(lambda before, own, p: before < p, renormalised=False), "divide what is left"),
        (top_p_where(lambda before, own, p: before < p, sorted_back=False), "where its token stands"),
        (places_of_top_p, "not their places"),
        (keeps_ties, "as many stay as are needed"),
        (top_p_by_searching, "Rounding can keep the sum"),
        (top_p_divided_by_p, "not by p"),
        (above_a_threshold, "set"),
        (top_p_of_the_least_likely, "The smallest set"),
        (lambda probabilities, p: None, "Return the probabilities"),
        (lambda probabilities, p: probabilities, "The smallest set"),
    ],
    (2, serve_gptj.until): [
        (looks_at_each_piece, "split over several pieces"),
        (shows_the_beginning_of_the_stop, "the beginning of the stop"),
        (waits_for_the_end, "Keep back only an end"),
        (holding(lambda kept, stop: min(len(kept), len(stop) - 1)), "Keep back only an end"),
        (holding(lambda kept, stop: keeps_the_shortest_end(kept, stop)), "longest end"),
        (holding(right_length, rest=False), "what you kept back is text"),
        (holding(right_length, with_stop=True), "does not belong to the answer"),
        (holding(right_length, all_pieces=True), "Return when the stop has come"),
        (list_of_pieces, "Use yield"),
        (lambda pieces, stop: iter(list_of_pieces(pieces, stop)), "Keep back only an end"),
        (looks_from_the_end, "The first stop ends it"),
        (keeps_only_the_piece_before, "Keep back only an end"),
        (begins_anew_after_a_miss, "split over several pieces"),
        (yields_empty_pieces, "only if there is something"),
        (forgets_what_it_kept, "The text before the stop"),
        (lambda pieces, stop: "".join(pieces).partition(stop)[0], "Use yield"),
    ],
    (3, serve_gptj.slots): [
        (slots_with(vectors=1), "two vectors"),
        (slots_with(free=0), "A tenth of the card"),
        (slots_with(free=0.9), "not nine tenths"),
        (slots_with(weights=False), "The weights take"),
        (slots_with(least=None, rounded=math.floor), "not fewer"),
        (slots_with(rounded=math.ceil), "round down"),
        (slots_with(rounded=round), "not to the nearest"),
        (slots_with(least=1), "At least one row"),
        (slots_with(rounded=lambda rows: float(int(rows))), "makes it whole"),
        (slots_with(rounded=lambda rows: rows), "Rows are a whole number"),
        (slots_with(of_weights=4), "not always 4"),
        (slots_with(of_weights=2), "not always 2"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * (g * 1e9 - p * b)) // (2 * n * w * c * b)), "of the whole card"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * g * 2**30 - p * b) // (2 * n * w * c * b)), "2**30"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * g * 1e9 - p * b) // (2 * n * w * c * 2)), "bytes_each for each"),
    ],
}
RIGHT = {
    (1, serve_gptj.top_p): [right_top_p, top_p_in_place, top_p_by_a_loop, top_p_in_numpy, top_p_scattered],
    (2, serve_gptj.until): [holding(right_length), until_letter_by_letter, Until, until_by_position],
    (3, serve_gptj.slots): [
        slots_with(),
        lambda g, p, n, w, c, bytes_each=2: max(0, (g * 9 * 10**8 - p * bytes_each) // (2 * n * w * c * bytes_each)),
        lambda g, p, n, w, c, b=2: np.int64(max(0, np.floor((g * 0.9e9 - p * b) / b / (2 * n * w * c)))),
    ],
}
