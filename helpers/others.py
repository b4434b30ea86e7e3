"""What notebook 11 needs of other tools and is not its lesson: tables of words, and a quiet start of Spark."""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from helpers import data

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def write_words(folder: str | Path, times: int = 1) -> list[str]:
    """Write every word of both corpora, in their order, into Parquet files.

    A file that is there already with the right number of rows is kept.

    Args:
        folder: where the files go; it is made if it is missing.
        times: how often each corpus is repeated, each time in a file of its own.

    Returns:
        The paths of the files. Their columns are `author` and `word`, both strings; a word is in lower case.

    Raises:
        ValueError: `times` is less than 1.

    Source: the training texts, see data/text/README.md; public domain.
    """
    if times < 1:
        raise ValueError(f"write_words expected times of at least 1, but got {times}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for author in data.TEXT_CORPORA:
        text = "\n".join(pq.read_table(data.text_file(author, "train"))["text"].to_pylist())
        words = re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())
        table = pa.table({"author": [author] * len(words), "word": words})
        for number in range(times):
            path = folder / f"{author}-{number}.parquet"
            if not path.is_file() or pq.read_metadata(path).num_rows != len(words):
                unfinished = path.with_suffix(f".{os.getpid()}")
                pq.write_table(table, unfinished)
                unfinished.replace(path)
            paths.append(str(path))
    return paths


def start_spark(cores: int = 2) -> SparkSession | None:
    """Start Spark on this machine, reachable from this machine only, or say why that is not possible.

    What Spark's JVM reports goes into the file `results/others/spark.log`.

    Args:
        cores: how many it uses, and into how many parts it divides a table that it sorts into groups.

    Returns:
        The session, the running one if there is one; None where Spark or Java is missing.

    Raises:
        ValueError: `cores` is less than 1.

    Source: SparkSession.builder, as Spark's own documentation uses it.
    """
    if cores < 1:
        raise ValueError(f"start_spark expected at least one core, but got {cores}.")
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        print("Without Spark: it is not installed. `make spark` does it, and then restart the kernel.")
        return None
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        print("Without Spark: it needs Java 17 or newer, and there is no `java` on this machine.")
        return None
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName("ray-course").master(f"local[{cores}]")
    builder = builder.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", str(cores))
    with _messages_into(data.results_dir("others") / "spark.log"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the version of pandas, which is not used here
        return builder.getOrCreate()


@contextmanager
def _messages_into(path: Path) -> Iterator[None]:
    """Let the programs that are started meanwhile write their messages into a file, for as long as they run."""
    sys.stderr.flush()
    before = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
