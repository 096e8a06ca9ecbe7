"""The network and the images of a study: described as plain data, or shared by the process that has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.functional.class_scores import class_count
from lightning_saliency.studies.engine.shared import Shared, cached
from lightning_saliency.studies.isolation import seeded
from lightning_saliency.studies.samples import Samples, Targets, as_samples, build_samples
from lightning_saliency.studies.specs import as_spec, build_module

#: A network or images: described, or shared.
Recipe = Mapping[str, Any] | Shared
Share = Callable[[str, Any], Shared]


def model_recipe(model: Any, name: str, share: Share) -> Recipe:
    """How cells get a network.

    Args:
        model: A network; a mapping of `ImageClassifier`'s arguments; or ``{"class_path": ..., "init_args": {...}}``.
        name: Name of the network.
        share: See `lightning_saliency.studies.engine.shared.sharing`.

    Raises:
        TypeError: If it is something else.
        ValueError: If a class cannot be imported.
    """
    return share(name, model) if isinstance(model, nn.Module) else as_spec(model, ImageClassifier)


def data_recipe(data: Any, targets: Targets, limit: int | None, seed: int, share: Share) -> tuple[Recipe, Samples]:
    """How cells get the images, and the images.

    Args:
        data: ``{"class_path": ..., "init_args": {...}}``, or whatever `as_samples` takes.
        targets: The class of each image, where the data carry none, see `OwnImages`; ``None``: the predicted ones.
        limit: Number of images; ``None``: all.
        seed: Seed of the choice of images.
        share: See `lightning_saliency.studies.engine.shared.sharing`.
    """
    if isinstance(data, Mapping) and "class_path" in data:
        listed = targets.tolist() if isinstance(targets, Tensor) else targets
        recipe = {"spec": as_spec(data), "limit": limit, "seed": seed, "targets": listed}
        return recipe, samples_from(recipe)
    samples = as_samples(data, targets, limit, seed)
    return share("data", samples), samples


def network_from(recipe: Recipe, device: str = "") -> nn.Module:
    """The network of a recipe, built once in each process, with the same random numbers in all of them.

    Args:
        recipe: See `model_recipe`. Of an `ImageClassifier` the network inside it.
        device: Device that it is moved to; ``""``: it is not moved.
    """

    def build() -> nn.Module:
        if isinstance(recipe, Shared):
            shared: nn.Module = recipe.get()
            return shared
        # Weights that no checkpoint gives are then the same in every process, and when a study is resumed.
        with seeded(0):
            module: nn.Module = build_module(recipe).eval()
        return module.model if isinstance(module, ImageClassifier) else module

    network = cached(f"network {key_of(recipe)}", build)
    return network.to(device) if device else network


def samples_from(recipe: Recipe) -> Samples:
    """The images of a recipe, looked through once in each process."""
    if isinstance(recipe, Shared):
        samples: Samples = recipe.get()
        return samples
    return cached(f"samples {key_of(recipe)}", lambda: build_samples(**recipe))


def device_of(network: nn.Module) -> torch.device:
    """The device of a network; the CPU if it has no parameters."""
    found = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
    return found or torch.device("cpu")


def chosen_device(device: str) -> str:
    """A device by its name, ``"auto"`` being a GPU where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def check_classes(samples: Samples, logits: Tensor, network: str) -> None:
    """Raise a ValueError if the images show classes that a network with such logits does not have."""
    count = class_count(logits)
    unknown = sorted(index for index in samples.classes if not 0 <= index < count)
    if unknown:
        raise ValueError(
            f"Got the classes {unknown}, but {network} has {count}: 0 to {count - 1}. Map the names to its classes."
        )


def key_of(recipe: Recipe) -> str:
    """Different for different recipes of one process."""
    return recipe.key if isinstance(recipe, Shared) else json.dumps(recipe, sort_keys=True, default=str)
