"""Small networks that learned a planted mark, and honest ones, with the maps of their validation images.

Each is trained by a plain loop in a process's one thread; what `train` returns is kept by `benchmarks.position_bias`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks._shared_data import SHARED_DATA
from lightning_saliency import DigitScenes, ScaleTaps, find_scales
from lightning_saliency.data.modules._scenes import load_glyphs, split_glyphs
from lightning_saliency.data.shortcuts import class_colors
from lightning_saliency.networks import build_network
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION
from lightning_saliency.scales.maps import combined_statistics

Arm = Literal["honest", "shortcut"]
#: What is trained on: digits anywhere on photographs with a mark in the upper left corner, the same with the digit in
#: the middle, digits that fill the image, a mark at a random place, photographs of CIFAR-10 with a mark in the corner.
TASKS = ("corner", "centred", "aligned", "moving", "cifar")
SIZE, MARK, SHARE, BATCH = 32, 4, 0.95, 64
#: Maps are kept on a grid of so many cells a side.
GRID = 16

Pictures = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trained:
    """What is kept of a training.

    Attributes:
        frames: By epoch, -1 before training: the combined maps ``[N, 16, 16]`` float16, all scales alike, of the
            validation images.
        accuracy: By epoch, on the validation images.
        test: The accuracy after the last epoch on images without a mark.
        images: The validation images ``[N, 3, 32, 32]`` uint8.
        labels: ``[N]``.
    """

    frames: dict[int, Tensor]
    accuracy: dict[int, float]
    test: float
    images: Tensor
    labels: Tensor


def has_data(task: str) -> bool:
    """Whether a task's data are there."""
    return task != "cifar" or (SHARED_DATA / "cifar10").is_dir()


def train(task: str, arm: Arm, seed: int, quick: bool = False) -> Trained:
    """Train one network, and read its maps before, and after each epoch.

    Args:
        task: A name in `TASKS`.
        arm: With marks in 95 % of the training and validation images, or without.
        seed: Of data, weights and order.
        quick: Train on few images, for a test.
    """
    count, epochs, rate = (2000, 3, 0.1) if task == "cifar" else (3000, 6, 4e-3)
    sizes = (128, 64, 64) if quick else (count, 600, 400)
    pictures, normalize = _pictures(task, SHARE if arm == "shortcut" else 0.0, seed, sizes)
    (images, labels), (shown, classes), (unmarked, truth) = pictures
    inputs, watched, clean = (normalize(each.float() / 255) for each in (images, shown, unmarked))
    torch.manual_seed(seed)
    network = _cifar_resnet() if task == "cifar" else build_network("small_cnn", 10, options={"width": 8})
    optimizer: Any = (
        torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
        if task == "cifar"
        else torch.optim.AdamW(network.parameters(), lr=rate)
    )
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * epochs)
    frames, accuracy = {}, {}
    for epoch in range(-1, epochs):
        if epoch >= 0:
            order = torch.randperm(len(images))
            for chosen in order[: steps * BATCH].split(BATCH):
                loss = F.cross_entropy(network(inputs[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        frames[epoch], predicted = _maps(network, watched)
        accuracy[epoch] = float((predicted == classes).float().mean())
    with torch.no_grad():
        test = float((network.eval()(clean).argmax(1) == truth).float().mean())
    return Trained(frames, accuracy, test, shown, classes)


def _maps(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The maps on the grid, and the predicted classes."""
    network.eval()
    maps, predicted = [], []
    with torch.no_grad(), ScaleTaps(network, find_scales(network, images[:2]), "smoe_scale") as taps:
        for batch in images.split(100):
            taps.start()
            predicted.append(network(batch).argmax(1))
            maps.append(F.adaptive_avg_pool2d(combined_statistics(taps.take())[:, None], GRID)[:, 0].half())
    network.train()
    return torch.cat(maps), torch.cat(predicted)


def _pictures(task: str, share: float, seed: int, sizes: tuple[int, int, int]) -> tuple[list[Pictures], v2.Normalize]:
    """Training, validation and unmarked test images ``[N, 3, 32, 32]`` uint8 with labels, and their normalisation."""
    normalize = v2.Normalize(*IMAGENET_NORMALIZATION)
    if task == "cifar":
        splits = _cifar(seed, sizes)
    elif task == "aligned":
        splits = [_filling(split, count, seed) for split, count in zip(("train", "val", "test"), sizes, strict=True)]
    else:
        centred = task == "centred"
        data = DigitScenes(
            *sizes, size=2 * SIZE if centred else SIZE, seed=seed, digit_scale=(0.25, 0.4) if centred else (0.3, 0.6)
        )
        data.setup()
        scenes = [data.datasets[split].scenes for split in ("train", "val", "test")]  # type: ignore[attr-defined]
        splits = [(_around(each.images, each.boxes) if centred else each.images, each.labels) for each in scenes]
        normalize = data.normalize
    marked = []
    for number, (images, labels) in enumerate(splits):
        generator = torch.Generator().manual_seed(10 * seed + number)
        copies = images.clone()
        colors = (255 * class_colors(10)).round().byte()
        for index in torch.randperm(len(copies), generator=generator)[
            : round(share * len(copies)) if number < 2 else 0
        ]:
            free = SIZE - MARK + 1 if task == "moving" else 1
            row, column = torch.randint(free, (2,), generator=generator).tolist()
            copies[index, :, row : row + MARK, column : column + MARK] = colors[labels[index], :, None, None]
        marked.append((copies, labels))
    return marked, normalize


def _around(images: Tensor, boxes: Tensor) -> Tensor:
    """The 32×32 pixels around the middle of each image's box."""
    middle = ((boxes[:, 0, :2] + boxes[:, 0, 2:]) / 2).round().long()
    padded = F.pad(images.float(), (SIZE // 2,) * 4, mode="reflect").byte()
    rows, columns = (middle[:, axis, None] + torch.arange(SIZE) for axis in (1, 0))
    index = torch.arange(len(images))[:, None, None, None]
    return padded[index, torch.arange(3)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def _filling(split: Any, count: int, seed: int) -> Pictures:
    """Handwritten digits as they are, grey and as large as the image: the same pixels tell the classes apart."""
    glyphs, classes = load_glyphs()
    own = split_glyphs(len(classes), split)
    chosen = own[torch.randint(len(own), (count,), generator=torch.Generator().manual_seed(seed))]
    images = F.interpolate(glyphs[chosen][:, None], SIZE, mode="bilinear").clamp(0, 1)
    return (images * 255).byte().expand(-1, 3, -1, -1), classes[chosen]


def _cifar(seed: int, sizes: tuple[int, int, int]) -> list[Pictures]:
    with np.load(SHARED_DATA / "cifar10" / "cifar10_subset.npz") as arrays:
        images = {name: torch.from_numpy(arrays[f"x_{name}"]).permute(0, 3, 1, 2) for name in ("train", "test")}
        labels = {name: torch.from_numpy(arrays[f"y_{name}"]).long() for name in ("train", "test")}
    generator = torch.Generator().manual_seed(seed)
    order = {name: torch.randperm(len(each), generator=generator) for name, each in images.items()}
    parts = (
        ("train", order["train"][: sizes[0]]),
        ("test", order["test"][: sizes[1]]),
        ("test", order["test"][sizes[1] : sum(sizes[1:])]),
    )
    return [(images[name][chosen], labels[name][chosen]) for name, chosen in parts]


def _cifar_resnet() -> nn.Module:
    """The pre-trained ResNet-20."""
    file = SHARED_DATA / "cifar_resnet.py"
    spec = importlib.util.spec_from_file_location("cifar_resnet", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"There is no {file}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.CifarResNet(20)
    network.load_state_dict(torch.load(SHARED_DATA / "weights" / "cifar10_resnet20.pth", weights_only=True))
    return network
