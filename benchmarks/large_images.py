"""Large images in tiles: memory and time as the image grows, and how far the map is from the whole image's.

Of memory two numbers are told: what the process took beyond what it held, which includes what the C library keeps of
freed memory, and the most that tensors took at once ("tensors"). The overview is `tiled_scales(..., size=)`.

A mosaic of photographs as the large image, where the folder of real data lies beside the project (else noise), kept as
bytes and prepared tile by tile.

    python -m benchmarks.large_images [--quick] [--model mobilenet_v2] [--sizes 512 1024 2048 4096]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks._shared_data import network, photographs
from benchmarks._timing import PeakResidentMemory, print_table, write_results
from lightning_saliency.deployment import explain_tiled, tiled_scales
from lightning_saliency.explainers import SMOE
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION
from lightning_saliency.studies.timing import peak_extra_bytes

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_NORMALIZATION)


def mosaic(size: int, side: int = 256) -> Tensor:
    """``[3, size, size]`` uint8."""
    images = photographs(100, side)
    if images is None:
        return torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    pixels = ((images * STD + MEAN) * 255).round().clamp(0, 255).to(torch.uint8)
    rows = math.ceil(size / side)
    order = torch.randperm(rows * rows, generator=torch.Generator().manual_seed(0)) % len(pixels)
    cells = pixels[order].view(rows, rows, 3, side, side)
    return cells.permute(2, 0, 3, 1, 4).reshape(3, rows * side, rows * side)[:, :size, :size].contiguous()


def prepare(tile: Tensor) -> Tensor:
    return (tile / 255 - MEAN) / STD


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of two maps."""
    ranks = [each.flatten().argsort().argsort().double() for each in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--whole", type=int, default=2048, help="largest side explained whole, for comparison")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64, help="for time and memory")
    parser.add_argument("--overview", type=int, default=512, help="side of the smaller map, for time and memory")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 32, 64, 128])
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.whole, options.tile = [256, 320], 320, 128
        options.overlap, options.overlaps, options.overview = 32, [0, 32], 64
    model, trained = network(options.model)
    smoe = SMOE(model)
    growth = []
    smoe(prepare(mosaic(options.tile))[None])  # finds the scales
    common = {"tile": options.tile, "overlap": options.overlap, "prepare": prepare}
    smaller = (options.overview, options.overview)
    for size in options.sizes:
        image = mosaic(size)
        row: list[float | None] = [size]
        for function in (
            lambda image=image: explain_tiled(smoe, image, **common),
            lambda image=image: tiled_scales(smoe, image, size=smaller, **common).lovi(),
        ):
            row += [*_measured(function), peak_extra_bytes(function) / 1e6]
        whole = _measured(lambda image=image: smoe(prepare(image)[None])) if size <= options.whole else (None, None)
        growth.append((*row, *whole))
    of_map = ("s", "MB", "tensors")
    header = ("side", *(f"{what}, {one}" for what in ("tiled", "overview") for one in of_map), "whole, s", "whole, MB")
    print_table(f"Beyond the image: {options.model}, tiles of {options.tile}", header, growth)
    size = max(size for size in options.sizes if size <= options.whole)
    image = mosaic(size)
    expected = smoe(prepare(image)[None])[0]
    seams = []
    for overlap in options.overlaps:
        map_ = explain_tiled(smoe, image, tile=options.tile, overlap=overlap, prepare=prepare)
        difference = (map_ - expected).abs()
        seams.append((overlap, float(difference.mean()), float(difference.max()), rank_correlation(map_, expected)))
    print_table(f"Difference from the map of the whole {size}²", ("overlap", "mean", "largest", "rank corr."), seams)
    if not options.quick:
        results = {
            "model": options.model,
            "trained": trained,
            "tile": options.tile,
            "overview": options.overview,
            "columns": header,
            "growth": growth,
            "seams": seams,
        }
        path = write_results("large_images", results)
        print(f"Written to {path.relative_to(path.parents[2])}.")


def _measured(function: Callable[[], object]) -> tuple[float, float]:
    begun = time.perf_counter()
    with PeakResidentMemory() as memory:
        function()
    return time.perf_counter() - begun, memory.extra_bytes / 1e6


if __name__ == "__main__":
    main()
