"""What the maps of explainers cost: for one's own network and size of images."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_saliency import __version__
from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers import ExplainerSpec, parse_explainers
from lightning_saliency.scales.find import find_scales
from lightning_saliency.studies.method_costs.measuring import measure_costs
from lightning_saliency.studies.method_costs.results import CostResult
from lightning_saliency.studies.recipes import chosen_device


def run_costs(
    network: nn.Module,
    explainers: Any = ("smoe", "fast_cam", "grad_cam", "group_cam"),
    *,
    name: str | None = None,
    size: tuple[int, int] = (224, 224),
    channels: int = 3,
    batch_size: int = 8,
    rounds: int = 10,
    budget: float = 10.0,
    device: str = "auto",
) -> CostResult:
    """Count and measure what a map costs by each explainer, beside the forward pass.

    Counted for one map: images passed forward through the network, FLOPs, and which share of them are gradients.
    Measured for a batch of noise: seconds, all in turn, their ratio to the forward pass's, and memory.

    Args:
        network: The network; it is put into eval mode and moved to the device.
        explainers: Name in the table -> explainer, or a list of names, see
            `lightning_saliency.explainers.parse_explainers`.
        name: The network's name in the table; ``None``: its class's.
        size: Height and width of the images in pixels.
        channels: Channels of the images.
        batch_size: Number of images.
        rounds: Timed calls of each.
        budget: Seconds that an explainer's maps of the batch may take in each round; one that takes longer is timed
            over some of its masked images, and marked.
        device: ``auto``, ``cpu``, ``cuda``, …

    Returns:
        The result: ``print(result.table().rich())``, ``result.save(folder)``.

    Raises:
        TypeError: If an explainer has no such option.
        ValueError: If a number is out of range, a name unknown, or no scales are found in the network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(),
        ...                         nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> result = run_costs(network, ["smoe"], size=(32, 32), batch_size=2, rounds=1, device="cpu")
        >>> result.costs["smoe"].passes, result.costs["smoe"].backward
        (1.0, 0.0)
    """
    sides = [("size", side) for side in size]
    for option, value in (("batch_size", batch_size), ("rounds", rounds), ("channels", channels), *sides):
        check_minimum(option, value, 1)
    specs: Mapping[str, ExplainerSpec] = parse_explainers(explainers)
    place = chosen_device(device)
    network = network.to(place).eval()
    images = torch.rand(batch_size, channels, *size, generator=torch.Generator().manual_seed(0)).to(place)
    scales = [(scale.channels, scale.grid[0], scale.grid[1]) for scale in find_scales(network, images)]
    costs = measure_costs(network, specs, images, rounds, budget)
    machine = {
        "images": f"{batch_size} of {channels}×{size[0]}×{size[1]}",
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if place.startswith("cuda") else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightning_saliency": __version__,
    }
    return CostResult(name or type(network).__name__, costs, scales, machine)
