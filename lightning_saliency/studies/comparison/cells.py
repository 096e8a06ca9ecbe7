"""One cell of a comparison: a network, an explainer, and a few images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.data.sample import Sample
from lightning_saliency.explainers import Explainer, ExplainerSpec
from lightning_saliency.explainers.mask_scoring.precisions import Precision, fixed_native_precision, native_precision
from lightning_saliency.functional.class_scores import class_scores
from lightning_saliency.functional.curves import target_scores
from lightning_saliency.metrics.base import scoring
from lightning_saliency.studies.comparison.measuring import MetricConfig, measure
from lightning_saliency.studies.costs import machine, map_cost, wait_for
from lightning_saliency.studies.engine.shared import cached
from lightning_saliency.studies.recipes import Recipe, device_of, key_of, network_from, samples_from


def explain_block(
    model: Recipe,
    row: str,
    explainer: ExplainerSpec,
    data: Recipe,
    span: tuple[int, int],
    metrics: MetricConfig,
    native: Precision | None,
    device: str,
) -> dict[str, Any]:
    """Explain every image of a block for each of its classes, and measure the maps.

    Args:
        model: The network.
        row: The explainer's name in the table.
        explainer: The explainer.
        data: The images.
        span: Index of the first image, and of the last one plus one.
        metrics: What is measured.
        native: The precision in which the device is taken to be fastest; ``None``: float32.
        device: Device that the network runs on; ``""``: the one it is on.

    Returns:
        ``rows``: one row for each pair of image and class, in order. ``machine``: what they were computed on.

    Raises:
        ValueError: If a score is not finite.
    """
    network, samples = network_from(model, device), samples_from(data)
    at = device_of(network)
    prepared = cached(
        f"block {key_of(model)} {key_of(data)} {span}",
        lambda: _prepared(network, [samples[index] for index in range(*span)], span[0]),
    )
    images, targets, origins, right, classes = prepared
    images, targets = images.to(at), targets.to(at)
    objects = torch.stack([sample.where(which) for _, sample, which in origins])
    with fixed_native_precision(at, native):
        built = _built(network, model, row, explainer, images, targets)
        measured = measure(built, images, targets, objects, metrics)
    for (_, sample, _), scores in zip(origins, measured.scores, strict=True):
        _check_finite(scores, sample.name, metrics)
    rows = [
        {
            "sample": index,
            "image": sample.name,
            "label": sample.labels[which],
            "target": int(target),
            "right": right[index],
            "classes": classes,
            "seconds": measured.seconds,
            "passes": measured.passes,
            "scores": scores,
            "curves": curves,
            "map": small,
        }
        for (index, sample, which), target, scores, curves, small in zip(
            origins, targets, measured.scores, measured.curves, measured.maps, strict=True
        )
    ]
    return {"rows": rows, "machine": machine(device or at)}


def fastest_precision(device: str) -> dict[str, Any]:
    """``precision``: the one in which a device is fastest, ``None`` for float32, see `native_precision`."""
    return {"precision": native_precision(device)}


def time_explainer(model: Recipe, explainer: ExplainerSpec, data: Recipe, device: str) -> dict[str, Any]:
    """What a map costs, see `map_cost`: ``passes`` and ``seconds``."""
    network = network_from(model, device)
    images, targets = _first_pair(network, model, data)
    cost = map_cost(explainer(network), images, targets, budget=0.1)
    return {"passes": cost.passes, "seconds": cost.seconds}


def time_scoring(model: Recipe, data: Recipe, metrics: MetricConfig, device: str) -> dict[str, Any]:
    """The cost of scoring one image for a metric: ``seconds``."""
    network = network_from(model, device)
    images, targets = _first_pair(network, model, data)
    images, targets, at = images.expand(4, -1, -1, -1), targets.expand(4), images.device
    with scoring(network, metrics.precision) as score_fn:
        for _ in range(2):
            wait_for(at)
            begin = perf_counter()
            target_scores(score_fn, images, targets, score=metrics.score)
            wait_for(at)
            seconds = perf_counter() - begin
    return {"seconds": seconds / len(images)}


def _first_pair(network: nn.Module, model: Recipe, data: Recipe) -> tuple[Tensor, Tensor]:
    """The image ``[1, C, H, W]`` and its class ``[1]`` on which everything is timed; found once per process."""
    images, targets, *_ = cached(
        f"first pair {key_of(model)} {key_of(data)}", lambda: _prepared(network, [samples_from(data)[0]], 0)
    )
    at = device_of(network)
    return images[:1].to(at), targets[:1].to(at)


def _check_finite(scores: Mapping[str, float], image: str, metrics: MetricConfig) -> None:
    for name, value in scores.items():
        if not math.isfinite(value):
            raise ValueError(
                f"Got {name}={value} for image {image} with precision={metrics.precision!r} and score="
                f"{metrics.score!r}. Allowed are finite scores: leave out the image, or the metric, or take "
                "precision=None, since the outputs of the network are infinite or NaN on what is left of the image."
            )


def _built(
    network: nn.Module, model: Recipe, row: str, explainer: ExplainerSpec, images: Tensor, targets: Tensor
) -> Explainer:
    """The explainer of a row, built once in each process; functions of two rows may look alike."""

    def build() -> Explainer:
        found = explainer(network)
        # A first map takes longer, and its own passes to find layers: they are not part of the cost.
        found(images[:1], targets[:1])
        return found

    return cached(f"explainer {key_of(model)} {row} {json.dumps(explainer.plain(), sort_keys=True)}", build)


def _prepared(
    network: nn.Module, chosen: Sequence[Sample], first: int
) -> tuple[Tensor, Tensor, list[tuple[int, Sample, int]], dict[int, bool | None], int]:
    """Images ``[P, C, H, W]`` and targets ``[P]`` of pairs of image and class, and where each is from.

    Then of each image whether the network predicts one of its classes (``None`` where none is known), and the number of
    the network's classes.
    """
    images = torch.stack([sample.image for sample in chosen]).to(device_of(network))
    with scoring(network) as score_fn:
        logits = class_scores(score_fn(images), "logit").cpu()
    pairs = [(place, which) for place, sample in enumerate(chosen) for which in range(len(sample.labels))]
    targets = []
    for place, which in pairs:
        candidates = list(chosen[place].candidates[which]) or list(range(logits.shape[1]))
        if not 0 <= min(candidates) <= max(candidates) < logits.shape[1]:
            raise ValueError(
                f"Got the classes {candidates} for {chosen[place].labels[which]!r}, but the network has "
                f"{logits.shape[1]}: 0 to {logits.shape[1] - 1}. Map the names to its classes."
            )
        targets.append(candidates[int(logits[place, candidates].argmax())])
    origins = [(first + place, chosen[place], which) for place, which in pairs]
    known = [{index for candidates in sample.candidates for index in candidates} for sample in chosen]
    predicted = logits.argmax(1).tolist()
    right = {first + place: predicted[place] in own if own else None for place, own in enumerate(known)}
    return images[[place for place, _ in pairs]].cpu(), torch.tensor(targets), origins, right, logits.shape[1]
