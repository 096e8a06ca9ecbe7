"""What a comparison measures on each map, and how: one chunk of pairs of image and class at a time."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_choice, check_minimum, is_within
from lightning_saliency.data.sample import Objects
from lightning_saliency.explainers import Explainer
from lightning_saliency.explainers.mask_scoring.precisions import ScoringPrecision
from lightning_saliency.functional.class_scores import Score
from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve, target_scores
from lightning_saliency.functional.fills import NamedFill
from lightning_saliency.functional.localization import (
    bbox_score,
    energy_pointing_game,
    pointing_game,
    top_fraction_iou,
)
from lightning_saliency.functional.masking import keep_most_salient, resize_maps
from lightning_saliency.functional.scores import drop, increase
from lightning_saliency.metrics.base import scoring
from lightning_saliency.reports.tables import Column
from lightning_saliency.studies.costs import wait_for
from lightning_saliency.studies.passes import counted_passes

MetricName = Literal["ebpg", "miou", "bbox", "pointing_game", "drop", "increase", "insertion", "deletion", "overall"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)

#: Side in pixels at which maps are kept for the sheet of examples.
KEPT_SIDE = 56


@dataclass
class MetricConfig:
    """Which metrics, and their options; the defaults are the papers'.

    Args:
        names: Any of ``ebpg``, ``miou``, ``bbox``, ``pointing_game`` (against boxes or masks), ``drop``, ``increase``,
            ``insertion``, ``deletion`` and ``overall``, their difference (against the network). ``None``: all that
            can be measured.
        tolerances: Tolerances of the pointing game in pixels; each has its own column.
        top_fraction: Share of the pixels taken for ``miou``.
        kept_fraction: Share of the pixels left for ``drop`` and ``increase``.
        fill: What stands elsewhere for these two, see `lightning_saliency.functional.fills.fill_images`.
        steps: Number of steps of the insertion and deletion curves; with 100, each step is 1 % of the pixels.
        curve_fill: What stands elsewhere in these curves.
        score: Score of the network's output: ``softmax``, ``sigmoid`` or ``logit``.
        precision: ``bf16``, ``fp16``, or ``native``, the one in which the device is fastest, which is found out once
            for a study and kept with it: compute the curves, which cost most of the time, with a faster copy of the
            network in this precision, see `lightning_saliency.explainers.mask_scoring.fast_inference`. ``None``: with
            the network itself.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    names: list[MetricName] | None = None
    tolerances: tuple[float, ...] = (0, 15)
    top_fraction: float = 0.2
    kept_fraction: float = 0.15
    fill: NamedFill | float | tuple[float, ...] = "zero"
    steps: int = 100
    curve_fill: NamedFill | float | tuple[float, ...] = "blur"
    score: Score = "softmax"
    precision: ScoringPrecision | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names or ()) - set(METRIC_NAMES))
        if unknown or (self.names is not None and not self.names):
            raise ValueError(
                f"Got the metrics {list(self.names or ())}. Allowed are {', '.join(METRIC_NAMES)}; "
                "leave names out for all."
            )
        for name, share in (("top_fraction", self.top_fraction), ("kept_fraction", self.kept_fraction)):
            if not is_within(share, 0, 1):
                raise ValueError(
                    f"Got {name}={share!r}. Allowed are shares of the pixels in [0, 1]; divide per cent by 100."
                )
        check_minimum("steps", self.steps, 1)
        for pixels in self.tolerances:
            check_minimum("tolerances", pixels, 0, kind="numbers of pixels")
        for name, fill in (("fill", self.fill), ("curve_fill", self.curve_fill)):
            if isinstance(fill, str):
                check_choice(name, fill, get_args(NamedFill))
        check_choice("score", self.score, get_args(Score))
        check_choice("precision", self.precision, (None, *get_args(ScoringPrecision)))

    def columns(self, objects: Objects | None) -> list[Column]:
        """The columns of the table.

        Args:
            objects: Whether boxes or masks are there to measure against; ``None``: neither.

        Raises:
            ValueError: If there are none, and a metric was named that needs them.
        """
        chosen = [name for name in METRIC_NAMES if self.names is None or name in self.names]
        columns = []
        for name in chosen:
            title, better, against_objects, about = _TITLES[name]
            group = f"against the {objects if against_objects else 'network'}"
            if against_objects and objects is None:
                if self.names is not None:
                    needy = [name for name in chosen if _TITLES[name][2]]
                    raise ValueError(
                        f"Got the metrics {', '.join(needy)}, which need boxes or masks, and images of which some or "
                        "all have none. Give them for all classes of all images, or leave these metrics out."
                    )
                continue
            if name == "pointing_game":
                titles = {pixels: title + (f" {pixels:g} px" if pixels else "") for pixels in self.tolerances}
                columns += [
                    Column(f"pointing_{pixels:g}", titled, better, group, about=about)
                    for pixels, titled in titles.items()
                ]
            else:
                columns.append(Column(name, title, better, group, about=about))
        return columns

    def passes(self, objects: Objects | None) -> int:
        """How many images are scored for one map."""
        wanted = {column.key for column in self.columns(objects)}
        curves = sum(bool(wanted & {name, "overall"}) for name in ("insertion", "deletion"))
        return (2 if wanted & {"drop", "increase"} else 0) + curves * (self.steps + 1)


# Title, which is better, whether it is against boxes or masks, and what it asks.
_TITLES: dict[MetricName, tuple[str, Literal["high", "low"], bool, str]] = {
    "ebpg": (
        "EBPG",
        "high",
        True,
        "how much of the map's energy lies on the object (energy-based pointing game, SISE)",
    ),
    "miou": (
        "mIoU",
        "high",
        True,
        "the area that the most salient pixels and the object share, of all that they cover together (SISE)",
    ),
    "bbox": (
        "Bbox",
        "high",
        True,
        "of as many most salient pixels as the object has, how many lie on it (SISE)",
    ),
    "pointing_game": (
        "Pointing",
        "high",
        True,
        "how often the map's highest point lies on the object, or so many pixels beside it (Group-CAM, Sec. 4.4)",
    ),
    "drop": ("Drop%", "low", False, "how much of the class's score is lost if only the salient pixels are left (SISE)"),
    "increase": ("Increase%", "high", False, "for how many images the score rises then (SISE)"),
    "insertion": (
        "Insertion",
        "high",
        False,
        "how early the class's score rises as the most salient pixels are shown first (Group-CAM, Sec. 4.3)",
    ),
    "deletion": (
        "Deletion",
        "low",
        False,
        "how early it falls as the most salient pixels are hidden first; low is early (Group-CAM, Sec. 4.3)",
    ),
    "overall": ("Over-all", "high", False, "insertion less deletion (Group-CAM, Sec. 4.3)"),
}


@dataclass
class Measured:
    """What was measured on one chunk: one entry per map, scores in per cent; ``seconds`` and ``passes`` per map."""

    scores: list[dict[str, float]]
    curves: list[dict[str, list[float]]]
    maps: list[str]
    seconds: float
    passes: float


def measure(
    explainer: Explainer,
    images: Tensor,
    targets: Tensor,
    objects: Tensor,
    config: MetricConfig,
) -> Measured:
    """Explain a chunk of pairs of image and class, and measure the maps.

    Args:
        explainer: Explainer whose network the maps are measured against.
        images: ``[B, C, H, W]``, one for each pair.
        targets: ``[B]`` int64.
        objects: ``[B, H, W]`` bool, where the class's objects lie; nowhere, where it is not known.
        config: What to measure.

    Returns:
        The scores, curves and small maps of each pair, and what a map cost.
    """
    wait_for(images.device)
    with counted_passes((images.shape[2], images.shape[3])) as passes:
        begin = time.perf_counter()
        maps = explainer(images, targets)
        wait_for(images.device)
        seconds = time.perf_counter() - begin
    if not bool(maps.isfinite().all()):
        raise ValueError(
            f"Got maps that are not finite from {type(explainer).__name__}. The network's activations or gradients are "
            "infinite or NaN on one of these images; leave it out, or look for the cause in the weights."
        )
    scores: list[dict[str, float]] = [{} for _ in range(len(images))]
    curves: list[dict[str, list[float]]] = [{} for _ in range(len(images))]
    wanted = set(METRIC_NAMES if config.names is None else config.names)
    _measure_network(explainer.model, images, maps, targets, config, wanted, scores, curves)
    _measure_objects(maps, objects, config, wanted, scores)
    small = resize_maps(maps, (KEPT_SIDE, KEPT_SIDE)).mul(255).round().to(torch.uint8).cpu().numpy()
    return Measured(
        scores,
        curves,
        [base64.b64encode(one.tobytes()).decode() for one in small],
        seconds / len(images),
        passes[0] / len(images),
    )


def _measure_network(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    config: MetricConfig,
    wanted: set[MetricName],
    scores: list[dict[str, float]],
    curves: list[dict[str, list[float]]],
) -> None:
    found: dict[str, Tensor] = {}
    if wanted & {"drop", "increase"}:
        with scoring(model) as score_fn:
            masked = keep_most_salient(images, maps, config.kept_fraction, config.fill)
            before = target_scores(score_fn, images, targets, score=config.score)
            after = target_scores(score_fn, masked, targets, score=config.score)
            found["drop"], found["increase"] = drop(before, after), increase(before, after)
    if wanted & {"insertion", "deletion", "overall"}:
        found |= _measure_curves(model, images, maps, targets, config, wanted, curves)
    if "overall" in wanted:
        found["overall"] = found["insertion"] - found["deletion"]
    for name in set(found) & wanted:
        for row, value in zip(scores, found[name].tolist(), strict=True):
            row[name] = value


def _measure_curves(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    config: MetricConfig,
    wanted: set[MetricName],
    curves: list[dict[str, list[float]]],
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with scoring(model, config.precision) as score_fn:
        for name, curve_of in (("insertion", insertion_curve), ("deletion", deletion_curve)):
            if wanted & {name, "overall"}:
                curve = curve_of(
                    score_fn,
                    images,
                    maps,
                    targets,
                    steps=config.steps,
                    fill=config.curve_fill,
                    score=config.score,
                )
                found[name] = 100 * auc(curve)
                for drawn, values in zip(curves, curve.tolist(), strict=True):
                    drawn[name] = [round(value, 6) for value in values]
    return found


def _measure_objects(
    maps: Tensor,
    objects: Tensor,
    config: MetricConfig,
    wanted: set[MetricName],
    scores: list[dict[str, float]],
) -> None:
    # As in `lightning_saliency.metrics`, an image on which they cover nothing is not counted.
    known = objects.flatten(1).any(1).nonzero()[:, 0].tolist()
    if not known:
        return
    chosen, masks = maps[known], objects[known].to(maps.device)
    found: dict[str, Tensor] = {}
    if "ebpg" in wanted:
        found["ebpg"] = energy_pointing_game(chosen, masks)
    if "miou" in wanted:
        found["miou"] = top_fraction_iou(chosen, masks, config.top_fraction)
    if "bbox" in wanted:
        found["bbox"] = bbox_score(chosen, masks)
    if "pointing_game" in wanted:
        found |= {f"pointing_{pixels:g}": pointing_game(chosen, masks, pixels) for pixels in config.tolerances}
    for name, values in found.items():
        for index, value in zip(known, values.tolist(), strict=True):
            scores[index][name] = 100 * value
