"""The data and the model of the capstone: who wrote these twenty words, Austen or Shakespeare?

Nothing in here is Ray. A work comes in parts, a part is cut into passages of WORDS words, and a word becomes a number.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers import data

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTHORS = ("William Shakespeare", "Jane Austen")  # the place of an author is the label
WORDS = 20  # in a passage
BUCKETS = 2**14  # a word's number is below this
CORPORA = dict(zip(AUTHORS, ("shakespeare", "austen"), strict=True))
PLAYS = (
    "AS YOU LIKE IT",
    "HAMLET, PRINCE OF DENMARK",
    "JULIUS CAESAR",
    "MUCH ADO ABOUT NOTHING",
    "THE LIFE OF KING HENRY V",
    "THE MERCHANT OF VENICE",
    "THE TRAGEDY OF KING LEAR",
    "THE WINTER'S TALE",
)  # of the split for training; of the others all works are taken
MOST_WORDS = 40_000  # of one work: a novel is far longer than a play
PART_WORDS = 2000
FILES = 4
DAMAGED = "\ufffd"  # what a decoder leaves of bytes that are no text


def works(splits: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The works of these splits: title, author and lines of each.

    Source: data/text/README.md; public domain.
    """
    for author, corpus in CORPORA.items():
        for split in splits:
            lines = pq.read_table(data.text_file(corpus, split))["text"].to_pylist()
            for title, count in data.text_works(corpus, split).items():
                of_work, lines = lines[:count], lines[count:]
                if author == "Jane Austen" or split != "train" or title in PLAYS:
                    yield title, author, of_work


def parts_of_works() -> list[dict[str, Any]]:
    """All parts, also a few broken ones, which are copies of whole ones.

    Returns:
        A dict with "work", "author", "part" (a number) and "text" for each part. A broken part has no text (None), a
        text with DAMAGED in it, or an author who is none of AUTHORS.

    Source: written for this course.
    """
    return [dict(part) for part in _parts()]


@functools.cache
def _parts() -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for title, author, lines in works(("train", "validation")):
        texts = _cut(lines)[: MOST_WORDS // PART_WORDS]
        parts += [{"work": title, "author": author, "part": i, "text": text} for i, text in enumerate(texts)]
    copies = [dict(part) for part in parts[7::31][:6]]
    for place, part in enumerate(copies):
        if place % 3 == 0:
            part["text"] = None
        elif place % 3 == 1:
            part["text"] = part["text"][:4000] + DAMAGED * 40 + part["text"][4040:]
        else:
            part["author"] = "unknown"
        parts.insert(31 * (place + 1), part)
    return parts


def _cut(lines: list[str]) -> list[str]:
    """The text in pieces of at least PART_WORDS words, but for the last one."""
    pieces: list[list[str]] = [[]]
    size = 0
    for line in lines:
        if size >= PART_WORDS:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line.split())
    return ["\n".join(piece) for piece in pieces]


def write_parts(folder: str | Path) -> list[str]:
    """Write the parts into Parquet files, those of one work into many files, and return their paths.

    Args:
        folder: where the files go; it is made.

    Source: written for this course; the texts are those of data/text.
    """
    folder, parts = Path(folder), parts_of_works()
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(folder / f"parts-{number}.parquet") for number in range(FILES)]
    for number, name in enumerate(names):
        pq.write_table(pa.Table.from_pylist(parts[number::FILES]), name)
    return names


def unseen_passages(count: int) -> list[tuple[str, int]]:
    """Passages of works that are in no part: the text and the label of each, as many of either author.

    Args:
        count: how many there are of each author.

    Source: the test works of data/text.
    """
    texts: dict[int, list[str]] = {0: [], 1: []}
    for _, author, lines in works(("test",)):
        words = " ".join(lines).split()[200:]  # the title page names the author
        texts[AUTHORS.index(author)] += [" ".join(words[i : i + WORDS]) for i in range(0, len(words) - WORDS, WORDS)]
    return [(text, label) for label, all_ in texts.items() for text in all_[:: len(all_) // count][:count]]


@functools.lru_cache(maxsize=100_000)
def _number(word: str) -> int:
    return zlib.crc32(word.encode()) % BUCKETS


def word_ids(text: str) -> np.ndarray:
    """A number for each word of a text, in their order; the same word has the same number in every process.

    Args:
        text: of any length. Capitals, digits and punctuation don't count.

    Source: the hashing trick, as in scikit-learn's HashingVectorizer.
    """
    return np.array([_number(word) for word in re.findall(r"[a-z][a-z']*", text.lower())], dtype=np.int64)


def build_model() -> nn.EmbeddingBag:
    """A linear model: each word has a weight for either author, and a text has the sums of its words.

    Returns:
        A model that makes two numbers, one for each of AUTHORS, of each row of ids (integers of shape (texts, words)).

    Source: PyTorch's EmbeddingBag.
    """
    import torch

    model = torch.nn.EmbeddingBag(BUCKETS, len(AUTHORS), mode="sum")
    torch.nn.init.zeros_(model.weight)
    return model


def batches(rows: Mapping[str, Any], size: int = 128) -> Iterator[dict[str, torch.Tensor]]:
    """Cut arrays into batches of tensors, in a new order each time.

    Args:
        rows: "ids" and "label", arrays of equal length.
        size: how many rows a batch has.

    Source: written for this course.
    """
    import torch

    ids, labels = torch.as_tensor(rows["ids"]), torch.as_tensor(rows["label"])
    for picked in torch.randperm(len(labels)).split(size):
        yield {"ids": ids[picked], "label": labels[picked]}


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Mapping[str, torch.Tensor]]
) -> int:
    """Go through the batches once, with one step for each, and return how many rows they had.

    Args:
        model: from build_model, or what `ray.train.torch.prepare_model` made of it.
        optimizer: of its parameters.
        batches: each with the tensors "ids" and "label".

    Source: a plain training loop of PyTorch.
    """
    from torch.nn.functional import cross_entropy

    rows = 0
    for batch in batches:
        loss = cross_entropy(model(batch["ids"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows += len(batch["label"])
    return rows


def count_right(model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]) -> tuple[int, int]:
    """Let the model guess, and count.

    Args:
        model: as in train_epoch.
        batches: as in train_epoch.

    Returns:
        How many guesses were right, and how many there were.

    Source: written for this course.
    """
    import torch

    right, total = 0, 0
    with torch.no_grad():
        for batch in batches:
            right += int((model(batch["ids"]).argmax(dim=1) == batch["label"]).sum())
            total += len(batch["label"])
    return right, total
