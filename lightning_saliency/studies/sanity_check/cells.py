"""One cell of a sanity check: an explainer on a few images, while the network's weights are randomised step by step."""

from __future__ import annotations

import base64
import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_saliency.explainers import Explainer, ExplainerSpec
from lightning_saliency.explainers.base import unwrap
from lightning_saliency.functional.similarity import hog_similarity, pearson, spearman, ssim
from lightning_saliency.randomness import randomize
from lightning_saliency.studies.costs import map_cost
from lightning_saliency.studies.recipes import Recipe, device_of, network_from, samples_from
from lightning_saliency.studies.sanity_check.randomization import Layers, OriginalWeights

SIMILARITIES = {"spearman": spearman, "ssim": ssim, "hog": hog_similarity}
#: Those once all weights are random, where one more tells how much of a map stays.
LAST_SIMILARITIES = {"pearson": pearson, **SIMILARITIES}


@dataclass(frozen=True)
class Randomization:
    """How the weights are randomised.

    Args:
        layers: The groups of layers, top to bottom.
        random_networks: Number of fully randomised networks.
        seed: Seed of the weights.
    """

    layers: tuple[Layers, ...]
    random_networks: int
    seed: int


def check_block(
    model: Recipe,
    explainer: ExplainerSpec,
    data: Recipe,
    targets: Sequence[int],
    span: tuple[int, int],
    randomization: Randomization,
    pictures: int,
    device: str,
) -> dict[str, Any]:
    """Explain a block of images with the original weights and after each step of the randomisation.

    Args:
        model: The network; a copy of it is changed.
        explainer: The explainer.
        data: The images.
        targets: The class that is explained for each image of the block.
        span: Index of the first image, and of the last one plus one.
        randomization: The steps.
        pictures: Number of the block's first images whose maps are returned.
        device: Device that the network runs on; ``""``: the one it is on.

    Returns:
        ``constant``: whether each image's original map is constant. ``cascading`` and ``independent``: for each step
        the similarities of each image, whether its map is constant, and the largest change of a pixel. ``random`` and
        ``level``: a row for each fully random network and for each pair of them. ``random_constant``: in the same form,
        whether the maps are constant. ``pictures``: the maps as text, see `decoded_maps`.
    """
    network = copy.deepcopy(unwrap(network_from(model, device)))
    samples, at = samples_from(data), device_of(network)
    images = torch.stack([samples[index].image for index in range(*span)]).to(at)
    classes = torch.tensor(list(targets), device=at)
    return explain_steps(explainer(network), images, classes, randomization, pictures)


def explain_steps(
    explainer: Explainer, images: Tensor, targets: Tensor, randomization: Randomization, pictures: int
) -> dict[str, Any]:
    """As `check_block`, for images ``[B, C, H, W]`` and their targets ``[B]``; the explainer's network is changed."""
    network = explainer.model
    trained = OriginalWeights(network)
    everything = [module for layer in randomization.layers for module in layer.modules]

    def explain() -> Tensor:
        maps = explainer(images, targets).float()
        return torch.where(maps.isfinite().flatten(1).all(1)[:, None, None], maps, torch.zeros_like(maps))

    original = explain()
    steps: dict[str, list[dict[str, Any]]] = {"cascading": [], "independent": []}
    kept = {mode: [original[:pictures]] for mode in steps}

    def note(mode: str, maps: Tensor) -> None:
        change = float((maps - original).abs().max())
        steps[mode].append(
            {**_similar(original, maps, SIMILARITIES), "constant": _constant(maps).tolist(), "change": change}
        )
        kept[mode].append(maps[:pictures])

    maps = original
    for number, layer in enumerate(randomization.layers):
        randomize(network, layer.modules, randomization.seed)
        maps = explain()
        note("cascading", maps)
        if number == 0:
            # With the top layer alone, both ways are the same network.
            note("independent", maps)
    random = [maps]
    for layer in randomization.layers[1:]:
        trained.restore()
        randomize(network, layer.modules, randomization.seed)
        note("independent", explain())
    for number in range(1, randomization.random_networks):
        trained.restore()
        randomize(network, everything, randomization.seed + number)
        random.append(explain())
    return {
        "constant": _constant(original).tolist(),
        **steps,
        "random": [_similar(original, maps, LAST_SIMILARITIES) for maps in random],
        "level": [_similar(a, b, LAST_SIMILARITIES, without_constant=True) for a, b in combinations(random, 2)],
        "random_constant": [_constant(maps).tolist() for maps in random],
        "pictures": {mode: _encoded(torch.stack(maps)) for mode, maps in kept.items()} if pictures else {},
    }


def time_map(model: Recipe, explainer: ExplainerSpec, data: Recipe, target: int, device: str) -> dict[str, Any]:
    """What a map costs, see `map_cost`: ``passes`` and ``seconds``."""
    network = network_from(model, device)
    at = device_of(network)
    images = samples_from(data)[0].image[None].to(at)
    cost = map_cost(explainer(network), images, torch.tensor([target], device=at), budget=0.25)
    return {"passes": cost.passes, "seconds": cost.seconds}


def decoded_maps(text: str, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The maps that a cell keeps, uint8 of the shape ``[1 + L, P, H, W]``, the original first."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(shape)


def _encoded(maps: Tensor) -> dict[str, Any]:
    levels = (maps * 255).round().to(torch.uint8).cpu().numpy()
    return {"maps": base64.b64encode(zlib.compress(levels.tobytes())).decode(), "shape": list(levels.shape)}


def _constant(maps: Tensor) -> Tensor:
    """Which maps ``[B, H, W]`` show nothing: ``[B]`` bool."""
    return maps.flatten(1).amax(1) == maps.flatten(1).amin(1)


def _similar(
    first: Tensor,
    second: Tensor,
    measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    without_constant: bool = False,
) -> dict[str, list[float | None]]:
    """The similarities of each image's maps; ``None`` where a map is constant, if such maps are left out."""
    left_out = ((_constant(first) | _constant(second)) & without_constant).tolist()
    return {
        measure: [None if out else value for value, out in zip(function(first, second).tolist(), left_out, strict=True)]
        for measure, function in measures.items()
    }
