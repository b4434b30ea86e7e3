"""Make the shipped copy of the model that notebook 04 trains.

    python data/fashion_mnist_resnet18/ship.py

Run notebook 04 first: it leaves the model in results/fashion_mnist_resnet18.
The convolutions are stored as float8 (e4m3) and the rest as float16, so that the
file is a quarter of its size; the script prints the test accuracy of the
shipped weights beside that of the trained ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.datasets import FashionMNIST
from torchvision.models import resnet18

from helpers import data

HERE = Path(__file__).parent


def test_accuracy(weights: dict[str, torch.Tensor]) -> float:
    """Share of the 2,000 shipped test pictures that the model classifies correctly."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    model.load_state_dict(weights)
    model.eval()
    raw = FashionMNIST(data.fashion_mnist_root(), train=False)
    pictures = (raw.data.unsqueeze(1) / 255 - 0.286) / 0.353
    with torch.inference_mode():
        predicted = torch.cat([model(part).argmax(dim=1) for part in pictures.split(250)])
    return (predicted == raw.targets).float().mean().item()


def smaller(value: torch.Tensor) -> torch.Tensor:
    """Kernels of convolutions, nearly all of the weights, as float8; other floats as float16; counters as they are."""
    if not value.is_floating_point():
        return value
    return value.to(torch.float8_e4m3fn if value.dim() == 4 else torch.float16)


def main() -> None:
    source = data.results_dir("fashion_mnist_resnet18")
    trained = load_file(source / "model.safetensors")
    small = {name: smaller(value) for name, value in trained.items()}
    before, after = test_accuracy(trained), test_accuracy(small)
    print(f"test accuracy: {before:.4f} as trained, {after:.4f} as shipped")
    save_file(small, HERE / "model.safetensors")
    about = json.loads((source / "model.json").read_text())
    about["test_accuracy"] = round(after, 4)
    about["sha256"] = hashlib.sha256((HERE / "model.safetensors").read_bytes()).hexdigest()
    (HERE / "model.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
