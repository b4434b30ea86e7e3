"""The data and the model of the capstone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers import passages
from helpers.passages import AUTHORS, DAMAGED, FILES, WORDS, word_ids

pytestmark = pytest.mark.fast


def test_a_word_is_a_number() -> None:
    ids = word_ids("To be, or NOT to be: 1603!\n'tis")
    assert ids.dtype == np.int64 and len(ids) == 7
    assert ids[0] == ids[4] and ids[1] == ids[5] and len(set(ids)) == 5
    assert word_ids("to be").tolist() == [4804, 3597]  # the same in every process, and on every machine
    assert len(word_ids(" ... 1603 ' ")) == 0


def test_parts_are_written_with_a_few_broken_ones(tmp_path: Path) -> None:
    files = passages.write_parts(tmp_path / "parts")
    assert len(files) == FILES
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert sum(row["text"] is None for row in rows) == 2
    assert sum(DAMAGED in (row["text"] or "") for row in rows) == 2
    assert sum(row["author"] not in AUTHORS for row in rows) == 2
    whole = [row for row in rows if row["text"] and DAMAGED not in row["text"] and row["author"] in AUTHORS]
    assert len(whole) == len({(row["work"], row["part"]) for row in whole}) == len(rows) - 6
    assert all(len(word_ids(row["text"])) >= WORDS for row in whole)
    # Parts of a work lie in many files, so a split by files would leak, too.
    assert len({file for file in files if "EMMA" in pq.read_table(file)["work"].to_pylist()}) == FILES


def test_unseen_passages_are_of_other_works() -> None:
    unseen = passages.unseen_passages(50)
    assert sorted({label for _, label in unseen}) == [0, 1] and len(unseen) == 100
    assert all(len(text.split()) == WORDS for text, _ in unseen)
    known = " ".join(" ".join((part["text"] or "").split()) for part in passages.parts_of_works())
    assert not any(text in known for text, _ in unseen)


def test_the_model_learns() -> None:
    torch.manual_seed(0)
    rows = {"ids": torch.randint(0, 50, (400, WORDS)).numpy()}
    rows["label"] = (rows["ids"] < 25).sum(axis=1) > WORDS / 2
    rows["label"] = rows["label"].astype(int)
    model = passages.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(10):
        assert passages.train_epoch(model, optimizer, passages.batches(rows, 50)) == 400
    right, total = passages.count_right(model, passages.batches(rows, 64))
    assert total == 400 and right > 360
