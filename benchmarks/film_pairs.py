"""Ten pairs of films, a trained network's and an untrained one's of the same images: can a reader tell which is which?

    python -m benchmarks.film_pairs --folder runs/film_pairs             # pictures and, in key.json, the answers
    python -m benchmarks.film_pairs --folder runs/film_pairs --read ABBABAABAB

Each picture shows the film's page as it opens, once as A and once as B; which is which, and the order of the pairs, is
drawn anew each time. There are no predictions, curves or epochs on it, which would give the answer away: the maps alone
are left. `--read` takes what a reader said to be the trained one, pair by pair, and counts. Needs Chromium, and the
photographs and weights of ../shared/data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from benchmarks._shared_data import SHARED_DATA
from lightning_saliency import DigitScenes, FilmRecorder, ScaleTaps, find_scales
from lightning_saliency.data.image_files import read_image
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, text_font

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT, SHOWN = 800, 1560, 6


@dataclass(frozen=True)
class Images:
    """What a network is trained on and shown.

    Attributes:
        shown: `[6, 3, H, W]`, normalised by `colours`, (mean, std).
        train: Images and labels; none where the weights come from a file.
        test: Images and labels that training does not see.
    """

    shown: Tensor
    colours: tuple[Sequence[float], Sequence[float]]
    train: tuple[Tensor, Tensor] | None = None
    test: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Pair:
    """A network, untrained, its images, and what trains it: epochs, or a file of weights."""

    network: Callable[[], nn.Module]
    images: Callable[[], Images]
    training: int | str


@cache
def digits(seed: int) -> Images:
    data = DigitScenes(train_size=2000, val_size=100, size=48, seed=seed)
    data.setup("fit")
    splits = []
    for loader, count in ((data.train_dataloader(), 2000), (data.val_dataloader(), 100)):
        items = [loader.dataset[number] for number in range(count)]
        labels = torch.tensor([int(item["label"]) for item in items])
        splits.append((torch.stack([item["image"] for item in items]), labels))
    return Images(splits[1][0][:SHOWN], (data.normalize.mean, data.normalize.std), *splits)


@cache
def cifar() -> Images:
    with np.load(SHARED_DATA / "cifar10" / "cifar10_subset.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    train, test = (_normalized(arrays[name].permute(0, 3, 1, 2) / 255) for name in ("x_train", "x_test"))
    return Images(
        test[:: len(test) // SHOWN][:SHOWN],  # they are sorted by class
        IMAGENET_NORMALIZATION,
        (train, arrays["y_train"].long()),
        (test, arrays["y_test"].long()),
    )


def photographs(first: int) -> Images:
    files = sorted((SHARED_DATA / "coco128_boxes" / "images").iterdir())[first : first + SHOWN]
    return Images(_normalized(torch.stack([read_image(path, 256, 224) for path in files])), IMAGENET_NORMALIZATION)


def _normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION)
    return (images - mean) / std


def _cifar_resnet(depth: int) -> nn.Module:
    spec = importlib.util.spec_from_file_location("cifar_resnet", SHARED_DATA / "cifar_resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.CifarResNet(depth)
    return network


PAIRS = {
    "small_cnn on digits": Pair(lambda: build_network("small_cnn", 10), lambda: digits(0), 6),
    "small_cnn on other digits": Pair(lambda: build_network("small_cnn", 10), lambda: digits(1), 3),
    "ResNet-18 on digits": Pair(lambda: build_network("resnet18", 10), lambda: digits(2), 4),
    "timm's ResNet-10-T on digits": Pair(lambda: build_network("timm/resnet10t", 10), lambda: digits(3), 4),
    "small_cnn on CIFAR-10": Pair(lambda: build_network("small_cnn", 10), cifar, 4),
    "ResNet-20 on CIFAR-10": Pair(lambda: _cifar_resnet(20), cifar, "cifar10_resnet20.pth"),
    "ResNet-44 on CIFAR-10": Pair(lambda: _cifar_resnet(44), cifar, "cifar10_resnet44.pth"),
    "ResNet-56 on CIFAR-10": Pair(lambda: _cifar_resnet(56), cifar, "cifar10_resnet56.pth"),
    "SqueezeNet on COCO photographs": Pair(
        lambda: build_network("squeezenet1_0", 1000), lambda: photographs(0), "squeezenet1_0_imagenet.pth"
    ),
    "MobileNetV2 on COCO photographs": Pair(
        lambda: build_network("mobilenet_v2", 1000), lambda: photographs(40), "mobilenet_v2_imagenet.pth"
    ),
}


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train by AdamW in batches of 32."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    network.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(images)), 32):
            loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that a network has right."""
    network.eval()
    guesses = torch.cat([network(part).argmax(1) for part in torch.split(images, 100)])
    return float((guesses == labels).float().mean())


def page_of(network: nn.Module, images: Images, folder: Path) -> Path:
    """The film of one frame, without predictions."""
    network.eval()
    with torch.no_grad(), ScaleTaps(network, find_scales(network, images.shown)) as taps:
        taps.start()
        network(images.shown)
        film = FilmRecorder(folder, taps.scales, denormalize=images.colours)
        film.add(images.shown, taps.take(), epoch=0, step=0)
    return Path(str(film.page()))


def screenshot(page: Path, file: Path) -> Image.Image:
    """The page as it opens, without a window."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit(f"There is no browser. One of {', '.join(BROWSERS)} takes the pictures; install one.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        size = ["--virtual-time-budget=20000", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={file}"]
        subprocess.run([program, *options, *size, page.resolve().as_uri()], check=True, capture_output=True)
    return Image.open(file).convert("RGB")


def make(folder: Path, seed: int | None, chosen: Sequence[str]) -> None:
    """Train, and write the pictures and the key."""
    draw = random.Random(seed)
    names = draw.sample(chosen, len(chosen))
    key = []
    for number, name in enumerate(names, start=1):
        pair, trained = PAIRS[name], draw.choice("AB")
        images = pair.images()
        torch.manual_seed(number)
        untrained, network = pair.network(), pair.network()
        if isinstance(pair.training, str):
            load_weights(network, SHARED_DATA / "weights" / pair.training)
        elif images.train is not None:
            train(network, *images.train, pair.training)
        picture = Image.new("RGB", (2 * WIDTH + 10, HEIGHT + 30), "white")
        for side, letter in enumerate("AB"):
            with tempfile.TemporaryDirectory() as place:
                page = page_of(network if letter == trained else untrained, images, Path(place) / letter)
                picture.paste(screenshot(page, Path(place) / "page.png"), (side * (WIDTH + 10), 30))
            ImageDraw.Draw(picture).text((side * (WIDTH + 10) + 12, 5), letter, fill="black", font=text_font(20))
        file = folder / f"pair_{number:02}.png"
        picture.save(file)
        reached = None if images.test is None else round(accuracy(network, *images.test), 3)
        key.append({"pair": number, "what": name, "trained": trained, "accuracy": reached})
        print(file, flush=True)
    (folder / "key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def count(folder: Path, said: str) -> None:
    """Compare what a reader said with the key."""
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    if len(said) != len(key) or set(said) - {"A", "B"}:
        raise SystemExit(f"Got --read {said}. Allowed are {len(key)} letters A or B; give one for each pair.")
    for one, letter in zip(key, said, strict=True):
        reached = "" if one["accuracy"] is None else f", trained to {one['accuracy']:.1%}"
        print(f"{one['pair']:2}  {'right' if letter == one['trained'] else 'WRONG'}  {one['what']}{reached}")
    print(f"{sum(one['trained'] == letter for one, letter in zip(key, said, strict=True))} of {len(key)} right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/film_pairs"))
    parser.add_argument("--read", metavar="LETTERS", help="what a reader says to be the trained one, as ABBABAABAB")
    parser.add_argument("--seed", type=int, help="of what is drawn; without it, another each time")
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="pairs to make")
    options = parser.parse_args()
    if options.read:
        count(options.folder, options.read.upper())
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        make(options.folder, options.seed, options.only)


if __name__ == "__main__":
    main()
