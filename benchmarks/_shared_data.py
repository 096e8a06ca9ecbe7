"""Trained networks and photographs from the folder of real data beside the project, where it exists."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms import v2

from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TRAINED = ("squeezenet1_0", "mobilenet_v2")


def network(name: str) -> tuple[nn.Module, bool]:
    """The torchvision network in eval mode, and whether its weights are trained ones or random (seed 0)."""
    torch.manual_seed(0)
    model = get_model(name, weights=None)
    weights = SHARED_DATA / "weights" / f"{name}_imagenet.pth"
    if weights.is_file():
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval(), weights.is_file()


def photographs(count: int, size: int = 224) -> Tensor | None:
    """The first photographs of the NIPS 2017 development set, ``[count, 3, size, size]``, normalised as ImageNet's.

    ``None`` where there are none.
    """
    folder = SHARED_DATA / "imagenet_nips17"
    if not (folder / "labels.csv").is_file():
        return None
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)][:count]
    resize = round(size * 256 / 224)
    transform = v2.Compose(
        [
            v2.Resize(resize),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET_NORMALIZATION),
        ]
    )
    return torch.stack([transform(Image.open(folder / name).convert("RGB")) for name in names])
