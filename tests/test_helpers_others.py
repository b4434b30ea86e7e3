"""The words of notebook 11, and Spark where it is there and where it is not."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from helpers import data, others


@pytest.mark.fast
def test_words_of_both(tmp_path: Path) -> None:
    files = others.write_words(tmp_path / "words", times=2)
    assert [Path(file).name for file in files] == [f"{name}-{i}.parquet" for name in data.TEXT_CORPORA for i in (0, 1)]
    table = pq.read_table(files[0])
    assert table.column_names == ["author", "word"]
    assert set(table["author"].to_pylist()) == {"austen"}
    words = table["word"].to_pylist()
    assert all(word == word.lower() and word.strip("'") == word for word in words[:10_000])
    text = "\n".join(pq.read_table(data.text_file("austen", "train"))["text"].to_pylist())
    assert words[:5] == ["".join(c for c in word.lower() if c.isalpha()) for word in text.split()[:5]]
    assert pq.read_metadata(files[1]).num_rows == len(words)


@pytest.mark.fast
def test_words_are_written_once(tmp_path: Path) -> None:
    (file, *_) = others.write_words(tmp_path)
    before = Path(file).stat().st_mtime_ns
    others.write_words(tmp_path)
    assert Path(file).stat().st_mtime_ns == before
    pq.write_table(pq.read_table(file).slice(0, 3), file)
    others.write_words(tmp_path)
    assert pq.read_metadata(file).num_rows > 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


@pytest.mark.fast
def test_no_repeats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="times of at least 1, but got 0"):
        others.write_words(tmp_path, times=0)


@pytest.mark.fast
def test_no_cores() -> None:
    with pytest.raises(ValueError, match="at least one core, but got 0"):
        others.start_spark(cores=0)


@pytest.mark.fast
def test_without_spark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    assert others.start_spark() is None
    assert "make spark" in capsys.readouterr().out


@pytest.mark.fast
@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="Spark is not installed (make spark)")
def test_without_java(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert others.start_spark() is None
    assert "Java" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="Spark is not installed (make spark)")
@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
def test_spark_listens_on_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd) -> None:
    monkeypatch.setenv("RAY_COURSE_RESULTS", str(tmp_path))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    spark = others.start_spark(cores=1)
    assert spark is not None
    try:
        assert spark.range(10).count() == 10
        assert spark.sparkContext.defaultParallelism == 1
        java = [p for p in psutil.Process().children(recursive=True) if "java" in p.name()]
        assert java
        listening = [c for p in java for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {socket.gethostbyname("localhost")}
        assert (tmp_path / "others" / "spark.log").stat().st_size > 0
    finally:
        spark.stop()
    print("heard", file=sys.stderr)
    assert "heard" in capfd.readouterr().err
