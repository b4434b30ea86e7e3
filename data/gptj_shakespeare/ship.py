"""Make the shipped copy of the model that notebook 07 fine-tunes.

    python data/gptj_shakespeare/ship.py

Run notebook 07 first: it leaves the model in results/gptj_shakespeare.
Matrices are stored as float8 (e4m3) and the rest as bfloat16: half the size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers import data

HERE = Path(__file__).parent
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    source = data.results_dir(HERE.name)
    for name in FILES:
        shutil.copyfile(source / name, HERE / name)
    weights = load_file(HERE / "model.safetensors")
    # The notebook's own weights have 32 bits where the processor is slow at bfloat16.
    small = {
        name: value.to(torch.float8_e4m3fn if value.dim() == 2 else torch.bfloat16) for name, value in weights.items()
    }
    save_file(small, HERE / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((HERE / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (HERE / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    about = json.loads((source / "model.json").read_text())
    about["sha256"] = {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in FILES}
    (HERE / "model.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
