"""Make the shipped subset of FashionMNIST from the full set.

    python data/fashion_mnist/make_subset.py FOLDER_WITH_THE_FULL_SET

The folder holds the four original IDX files, gzipped or not; on Debian the
package dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist.
The same input always gives the same pictures, in the same order.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SEED = 2017
PER_CLASS = {"train": 1000, "t10k": 200}
KINDS = {"images": "idx3", "labels": "idx1"}


def read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dimensions = raw[3]
    shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    """IDX: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, the sizes, the data."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def main(source: Path) -> None:
    random = np.random.default_rng(SEED)
    described: dict[str, dict[str, dict[str, object]]] = {"subset": {}, "full": {}}
    for split, per_class in PER_CLASS.items():
        full = {}
        for kind, idx in KINDS.items():
            name = f"{split}-{kind}-{idx}-ubyte"
            full[kind] = read_idx(next(p for p in (source / f"{name}.gz", source / name) if p.exists()))
            described["full"][name] = describe(idx_bytes(full[kind]))
        chosen = [random.choice(np.flatnonzero(full["labels"] == c), per_class, replace=False) for c in range(10)]
        rows = random.permutation(np.concatenate(chosen))
        for kind, idx in KINDS.items():
            name = f"{split}-{kind}-{idx}-ubyte"
            content = idx_bytes(full[kind][rows])
            described["subset"][name] = describe(content)
            (HERE / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    (HERE / "checksums.json").write_text(json.dumps(described, indent=2) + "\n")


def describe(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
