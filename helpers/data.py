"""What the notebooks read: FashionMNIST, two corpora of text, and trained models; verified before they are used."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = REPOSITORY / "data" / "fashion_mnist"
SOURCE_VARIABLE = "RAY_COURSE_FASHION_MNIST"
TEXT = REPOSITORY / "data" / "text"
TINY_GPTJ = REPOSITORY / "data" / "gptj_tiny"
FINE_TUNED_GPTJ = REPOSITORY / "data" / "gptj_shakespeare"
DATA_VARIABLE = "RAY_COURSE_DATA"
RESULTS_VARIABLE = "RAY_COURSE_RESULTS"

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TEXT_CORPORA = ("austen", "shakespeare")
TEXT_SPLITS = ("train", "validation", "test")


class DataError(RuntimeError):
    """A data file is missing, truncated or altered; the message says which and how to mend it."""


def fashion_mnist_root(
    full: bool = False,
    source: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """Return a folder that `torchvision.datasets.FashionMNIST(root=...)` reads.

    The files are verified against `data/fashion_mnist/checksums.json` and
    unpacked once. Several processes may call this at the same time.

    Args:
        full: False for the shipped subset (10,000 training and 2,000 test
            images of 28 x 28 pixels), True for all 60,000 + 10,000.
        source: with full=True, a local folder with the four original IDX
            files, gzipped or not. Default: the environment variable
            RAY_COURSE_FASHION_MNIST. If neither is given, torchvision
            downloads them.
        cache: where the unpacked files are kept. Default: the environment
            variable RAY_COURSE_DATA, else `data/.cache` in the repository.

    Raises:
        DataError: a file is missing, truncated or altered, or the download failed.

    Source of the data: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; MIT licence.
    """
    kind = "full" if full else "subset"
    cache = Path(cache or os.environ.get(DATA_VARIABLE) or REPOSITORY / "data" / ".cache")
    root = cache / f"fashion_mnist_{kind}"
    raw = root / "FashionMNIST" / "raw"
    expected = _expected(kind)
    if all(_is_intact(raw / name, entry) for name, entry in expected.items()):
        return root
    cache.mkdir(parents=True, exist_ok=True)
    # Everything is made beside its final place and moved there in one step, so
    # that an interruption leaves nothing half-written.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as folder:
        made = Path(folder) / "root"
        (made / "FashionMNIST" / "raw").mkdir(parents=True)
        origin = _origin(full, source, Path(folder))
        for name, entry in expected.items():
            content = _verified(origin, name, entry, kind)
            (made / "FashionMNIST" / "raw" / name).write_bytes(content)
        _move_into_place(made, root, expected)
    return root


def results_dir(name: str, shared: bool = False) -> Path:
    """Return (and make) the folder where a notebook leaves what a later one reads.

    Args:
        name: name of the folder, for example "fashion_mnist_resnet18".
        shared: whether all machines of a cluster have to find it. The
            repository is on this machine only, so the variable must be set.

    Returns:
        `results/<name>` in the repository, or below the folder that the
        environment variable RAY_COURSE_RESULTS names (shared storage on a cluster).

    Raises:
        DataError: the folder has to be shared, and the variable names none.

    Source: written for this course.
    """
    if shared and not os.environ.get(RESULTS_VARIABLE):
        raise DataError(
            f"{RESULTS_VARIABLE} is not set: on a cluster it names the folder for results that all machines see under "
            f"one path. Set it before you start Jupyter, for example: export {RESULTS_VARIABLE}=/mnt/shared/ray_course"
        )
    folder = Path(os.environ.get(RESULTS_VARIABLE) or REPOSITORY / "results") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def repeat_files(files: Iterable[str | os.PathLike[str]], times: int, folder: str | os.PathLike[str]) -> list[str]:
    """Copy files several times, to try out a larger data set, and return the paths of all copies.

    A longer list of the same paths is no larger data set: Ray Data's default
    reader of Parquet reads a path once, however often it is listed in one go.

    Args:
        files: the files; their names must differ.
        times: how many copies of each.
        folder: where they go; it is made. Copies of an earlier call are replaced.

    Raises:
        ValueError: `times` is less than 1, or two files have one name.

    Source: written for this course.
    """
    files = [Path(file) for file in files]
    names = {file.name for file in files}
    if times < 1 or len(names) != len(files):
        raise ValueError(
            f"repeat_files needs at least one copy and files with different names, but got {times} copies "
            f"of {len(files)} files with {len(names)} names."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [str(shutil.copyfile(file, folder / f"{i:03}-{file.name}")) for i in range(times) for file in files]


def trained_model(name: str = "fashion_mnist_resnet18") -> Path:
    """Return the folder of a trained model: your own, if its notebook has run here, else the shipped one.

    Args:
        name: name of the folder, as in `results_dir`.

    Returns:
        A folder with `model.safetensors` (the weights) and `model.json`
        (what they are). The shipped weights are float8 and float16, a quarter
        of the size; `load_state_dict` converts them to the model's number type.

    Raises:
        DataError: there is no such model, or the shipped one is altered.

    Source: notebook 04 trains and saves it; data/fashion_mnist_resnet18/README.md tells about the shipped one.
    """
    own = Path(os.environ.get(RESULTS_VARIABLE) or REPOSITORY / "results") / name
    if all((own / file).is_file() for file in ("model.safetensors", "model.json")):
        return own
    shipped = REPOSITORY / "data" / name
    if not (shipped / "model.json").is_file():
        raise DataError(
            f"There is no trained model in {own}, and none is shipped as {shipped}: "
            "expected model.safetensors and model.json. Run the notebook that trains it."
        )
    expected = json.loads((shipped / "model.json").read_text())["sha256"]
    weights = shipped / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
    if found != expected:
        raise DataError(
            f"{weights} is altered: expected SHA-256 {expected}, found {found}. "
            f"Restore it with 'git checkout data/{name}'."
        )
    return shipped


def text_file(corpus: str, split: str) -> Path:
    """Return the Parquet file with one split of a corpus; its only column is `text`, a row for each paragraph or line.

    The file is verified against `data/text/checksums.json`.

    Args:
        corpus: "austen" (six novels, a row for each paragraph) or
            "shakespeare" (plays and poems, a row for each line).
        split: "train", "validation" or "test". No work is in two of them.

    Raises:
        DataError: there is no such corpus or split, or a file is missing, truncated or altered.

    Source: data/text/README.md; public domain.
    """
    expected = _text_manifest(corpus, split)
    path = TEXT / corpus / f"{split}.parquet"
    _verify(path, expected["sha256"], "data/text")
    return path


def text_works(corpus: str, split: str) -> dict[str, int]:
    """Return the works of a split in the order of its file, and how many rows each has.

    Args:
        corpus: as in `text_file`.
        split: as in `text_file`.

    Raises:
        DataError: there is no such corpus or split, or the list is missing or damaged.

    Source: data/text/README.md; public domain.
    """
    return {title: work["rows"] for title, work in _text_manifest(corpus, split)["works"].items()}


def tiny_gptj() -> Path:
    """Return the folder of the small GPT-J, in the layout that `from_pretrained` reads.

    Returns:
        A folder with the weights (safetensors, float8 and bfloat16), the configuration,
        the tokenizer and `model.json`, which says how it was made and how
        well it does. Model and tokenizer are verified against it.

    Raises:
        DataError: a file is missing or altered.

    Source: data/gptj_tiny/README.md; MIT licence.
    """
    for name, expected in _read_manifest(TINY_GPTJ / "model.json", "data/gptj_tiny", "sha256").items():
        _verify(TINY_GPTJ / name, expected, "data/gptj_tiny")
    return TINY_GPTJ


def fine_tuned_gptj() -> Path:
    """Return the folder of the GPT-J that was fine-tuned on Shakespeare: your own, else the shipped one.

    Returns:
        A folder in the layout of `tiny_gptj`. Its `model.json` gives, among
        others, `eval_loss` (mean loss per token over the validation text) and
        `block` (the number of tokens in each block of that text).

    Raises:
        DataError: there is no own model, and a shipped file is missing or altered.

    Source: notebook 07 makes it; data/gptj_shakespeare/README.md tells about the shipped one.
    """
    own = Path(os.environ.get(RESULTS_VARIABLE) or REPOSITORY / "results") / "gptj_shakespeare"
    if all((own / file).is_file() for file in ("model.safetensors", "tokenizer.json", "model.json")):
        return own
    return shipped_gptj()


def shipped_gptj() -> Path:
    """Return the folder of the fine-tuned GPT-J that comes with the course, whether or not you have one of your own.

    Returns:
        A folder as of `fine_tuned_gptj`.

    Raises:
        DataError: a file is missing or altered.

    Source: data/gptj_shakespeare/README.md.
    """
    expected = _read_manifest(FINE_TUNED_GPTJ / "model.json", "data/gptj_shakespeare", "sha256")
    for name, digest in expected.items():
        _verify(FINE_TUNED_GPTJ / name, digest, "data/gptj_shakespeare")
    return FINE_TUNED_GPTJ


def _text_manifest(corpus: str, split: str) -> dict:
    """What checksums.json says about one split."""
    for kind, name, known in (("corpus", corpus, TEXT_CORPORA), ("split", split, TEXT_SPLITS)):
        if name not in known:
            raise DataError(f"There is no {kind} {name!r}: expected one of {', '.join(map(repr, known))}.")
    return _read_manifest(TEXT / "checksums.json", "data/text", corpus, split)


def _read_manifest(path: Path, folder: str, *keys: str) -> dict:
    """The entry below the keys of a JSON file that is shipped in the folder."""
    mend = f"Restore it with 'git checkout {folder}'."
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the file, found none. {mend}")
    try:
        entry = json.loads(path.read_text())
        for key in keys:
            entry = entry[key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: expected {' / '.join(keys)} in JSON, found {error}. {mend}") from error
    return entry


def _verify(path: Path, expected: str, folder: str) -> None:
    """Raise a DataError unless the shipped file is there with this SHA-256."""
    mend = f"Restore it with 'git checkout {folder}'."
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the file, found none. {mend}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(f"{path} is altered: expected SHA-256 {expected}, found {found}. {mend}")


def _is_intact(path: Path, entry: dict) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _expected(kind: str) -> dict[str, dict]:
    manifest = SHIPPED / "checksums.json"
    if not manifest.is_file():
        raise DataError(
            f"{manifest} is missing: expected the course's repository around the helpers package. "
            "Clone the repository and install it with 'make lab' (or 'pip install -e .'), on every machine."
        )
    try:
        return json.loads(manifest.read_text())[kind]
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{manifest} is damaged: expected the checksums of the {kind} set as JSON, found {error}. "
            "Restore it with 'git checkout data/fashion_mnist'."
        ) from error


def _origin(full: bool, source: str | os.PathLike[str] | None, scratch: Path) -> Path:
    """The folder with the packed files: shipped, named by the reader, or just downloaded."""
    if not full:
        return SHIPPED
    named = source or os.environ.get(SOURCE_VARIABLE)
    if named:
        return Path(named)
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(root=scratch / "download", download=True)
    except Exception as error:
        raise DataError(
            f"FashionMNIST could not be downloaded ({error}). Without internet, name a folder with its four "
            f"original files in the environment variable {SOURCE_VARIABLE}, or stay with the laptop size."
        ) from error
    return scratch / "download" / "FashionMNIST" / "raw"


def _verified(folder: Path, name: str, entry: dict, kind: str) -> bytes:
    """The unpacked content of one file, or a DataError that says what is wrong with it."""
    mend = (
        "Restore it with 'git checkout data/fashion_mnist'."
        if kind == "subset"
        else f"Get the original file again, or name another folder in {SOURCE_VARIABLE}."
    )
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / name}.gz is missing: expected the file, found none. {mend}")
    packed = path.read_bytes()
    try:
        content = gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged: expected a whole gzip file, found {len(packed):,} bytes "
            f"that do not unpack ({error}). {mend}"
        ) from error
    if len(content) != entry["bytes"]:
        raise DataError(f"{path} has the wrong size: expected {entry['bytes']:,} bytes, found {len(content):,}. {mend}")
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise DataError(f"{path} is altered: expected SHA-256 {entry['sha256']}, found {found}. {mend}")
    return content


def _move_into_place(made: Path, root: Path, expected: dict[str, dict]) -> None:
    try:
        made.rename(root)
        return
    except OSError:
        pass  # the folder exists: another process was faster, or it is an old and broken one
    for name in expected:
        target = root / "FashionMNIST" / "raw" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made / "FashionMNIST" / "raw" / name, target)
