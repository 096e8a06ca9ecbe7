"""The plan of a ROAR and KAR study on machines that are not here, from rates that were measured there."""

from __future__ import annotations

import math

import torch

from lightning_saliency.studies.costs import map_cost
from lightning_saliency.studies.engine.plan import Plan, PlanRow
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.grid import training_of
from lightning_saliency.studies.retraining.training import network_of
from lightning_saliency.studies.roar_kar.config import PlanRates, RoarKarConfig
from lightning_saliency.studies.specs import build_module

# The number of passes that a map takes does not depend on the images' size, so a small one is tried first; nor on the
# budget.
_SIDE, _BUDGET = 64, 0.25


def plan_by_rates(config: RoarKarConfig, rates: PlanRates) -> Plan:
    """The plan of a study of which nothing is done yet. The data are not looked at, and nothing is trained or timed.

    A cell trains on ``epochs · train_images`` images and tests ``test_images``; a map takes as many forward passes as
    were counted here, each at the rate of a test.

    Args:
        config: The study.
        rates: What was measured.
    """
    parameters, passes = _counted(config, rates)
    images = config.epochs * rates.train_images + rates.test_images
    training = config.epochs * rates.train_images / rates.train + rates.test_images / rates.test

    def row(part: str, cells: int, epochs: int, each: float, storage: int, seconds: float) -> PlanRow:
        return PlanRow(part, cells, 0, cells * epochs, cells * each, cells * storage, cells * seconds, measured=False)

    seeds = len(config.seeds)
    rows = [row("networks on whole images", seeds, config.epochs, images, 4 * parameters, training)]
    pixels = rates.pixels if config.map_size is None else min(config.map_size**2, rates.pixels)
    networks = seeds if config.checkpoint is None else 1
    for name in filter(config.stored, config.explainers):
        for stage, count in (("train", rates.train_images), ("test", rates.test_images)):
            part = f"maps of {name}, {stage} images"
            rows.append(row(part, networks, 0, count * passes[name], count * pixels, count * passes[name] / rates.test))
    cells = seeds * len(config.modes) * len(config.fractions)
    for name in config.explainers:
        stored = config.stored(name)
        each = 0.0 if stored else passes[name]
        part = f"networks masked by {name}" + (", stored maps" if stored else "")
        seconds = training + images * each / rates.test
        rows.append(row(part, cells, config.epochs, images * (1 + each), 0, seconds))
    return Plan(rows, config.plan_workers(), rates=True)


def _counted(config: RoarKarConfig, rates: PlanRates) -> tuple[int, dict[str, float]]:
    """The network's number of parameters, and the forward passes of each explainer's map."""
    training = training_of(config)
    with quiet(), seeded(0):
        network = network_of(build_module(training.model), training.network).eval().requires_grad_(False)
        images = torch.rand(1, rates.channels, _SIDE, _SIDE)
        try:
            network(images)
        except (AssertionError, RuntimeError, ValueError):  # a network of one image size alone
            side = math.isqrt(rates.pixels)
            images = torch.rand(1, rates.channels, side, side)
        passes = {}
        for name, spec in config.explainers.items():
            explainer = spec(network)
            # The first time, layers are looked for by passes that no other map takes; of an expensive one they are few.
            if not spec.expensive:
                explainer(images)
            passes[name] = map_cost(explainer, images, budget=_BUDGET).passes
    return sum(parameter.numel() for parameter in network.parameters()), passes
