"""Frames a second of a network with and without its map, on a GIF or a folder of frames."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageSequence
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from lightning_saliency.deployment import SaliencyModule
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, to_uint8


def frames_of(source: Path, size: int) -> Iterator[Tensor]:
    """Frames ``[1, 3, size, size]`` in [0, 1], one after the other."""
    if source.is_dir():
        pictures = (Image.open(path) for path in sorted(source.iterdir()))
    else:
        pictures = ImageSequence.Iterator(Image.open(source))
    for picture in pictures:
        yield F.to_dtype(F.pil_to_tensor(picture.convert("RGB").resize((size, size))), torch.float32, scale=True)[None]


def moving_disc(path: Path, frames: int = 24, side: int = 160) -> Path:
    """A GIF of its own: a disc that goes round on a grey ground."""
    pictures = []
    for number in range(frames):
        picture = Image.new("RGB", (side, side), (90, 100, 110))
        angle = 2 * math.pi * number / frames
        x, y = (side / 2 + side / 3 * function(angle) for function in (math.cos, math.sin))
        ImageDraw.Draw(picture).ellipse((x - 12, y - 12, x + 12, y + 12), fill=(220, 60, 40))
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, loop=0)
    return path


def main(
    source: str | None = None,
    model: str = "mobilenet_v3_large",
    checkpoint: str | None = None,
    size: int = 224,
    output: str | None = None,
) -> dict[str, float]:
    """Stream the frames once with the network alone and once with the map, in turns frame by frame."""
    with tempfile.TemporaryDirectory() as folder:
        frames = list(frames_of(Path(source) if source else moving_disc(Path(folder) / "disc.gif"), size))
    network = build_network(model, num_classes=1000).eval()
    if checkpoint:
        load_weights(network, checkpoint)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION)
    inputs = [(frame - mean) / std for frame in frames]
    seconds, maps = stream(network, SaliencyModule(network, inputs[0]), inputs)
    rates = {name: len(frames) / total for name, total in seconds.items()}
    print(f"{model}, {len(frames)} frames of {size}×{size}, one at a time, {torch.get_num_threads()} threads")
    for name, rate in rates.items():
        print(f"{name:<12} {rate:6.1f} frames a second")
    if output:
        pictures = [to_uint8(overlay(frame, heatmap(map_))[0]) for frame, map_ in zip(frames, maps, strict=True)]
        images = [Image.fromarray(picture) for picture in pictures]
        images[0].save(output, save_all=True, append_images=images[1:], duration=40, loop=0)
        print(f"maps over the frames in {output}")
    return rates


@torch.inference_mode()
def stream(network: nn.Module, module: SaliencyModule, inputs: list[Tensor]) -> tuple[dict[str, float], list[Tensor]]:
    """Seconds for all frames by each, and the maps."""
    seconds, maps = {"without maps": 0.0, "with maps": 0.0}, []
    network(inputs[0]), module(inputs[0])
    for images in inputs:
        begun = time.perf_counter()
        network(images)
        between = time.perf_counter()
        maps.append(module(images)[1])
        seconds["without maps"] += between - begun
        seconds["with maps"] += time.perf_counter() - between
    return seconds, maps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="a GIF or a folder of frames; by default a disc that goes round")
    parser.add_argument("--model", default="mobilenet_v3_large", help="as in lightning-saliency explain")
    parser.add_argument("--checkpoint", help="file of its weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--output", help="a GIF of the maps over the frames")
    main(**vars(parser.parse_args()))
