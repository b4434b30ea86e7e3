"""Train the tokenizer of the small GPT-J: byte-level BPE, from the training texts of both corpora.

    python data/gptj_tiny/make_tokenizer.py

It knows both authors' words, so that fine-tuning on the other one needs no new
tokenizer. Validation and test texts are not used. The same texts give the same
files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers import data

HERE = Path(__file__).parent
VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"


def training_rows() -> Iterator[str]:
    for corpus in data.TEXT_CORPORA:
        for row in pq.read_table(data.text_file(corpus, "train"))["text"].to_pylist():
            yield row + "\n"


def main(folder: Path = HERE) -> None:
    tokenizer = Tokenizer(models.BPE())
    # No space is put before the first word, so that decoding gives back exactly what was encoded.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        # All 256 bytes, so that any text can be encoded.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_rows(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
