"""The sanity check of one explainer: its similarities, their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.estimates import bootstrap_excess, bootstrap_rows
from lightning_saliency.studies.sanity_check.cells import decoded_maps
from lightning_saliency.studies.sanity_check.verdict import LastSimilarity, Verdict, verdict_of

RandomizationMode = Literal["cascading", "independent"]


RANDOMIZATION_MODES: tuple[RandomizationMode, ...] = ("cascading", "independent")


#: The similarities by the names that results use, and as a person reads them.
MEASURES = {"spearman": "Spearman", "ssim": "SSIM", "hog": "HOG"}
#: Those once all weights are random; the first tells how much of a map stays.
LAST_MEASURES = {"pearson": "Pearson", **MEASURES}
#: What each asks of two maps; all are 1 for equal ones.
MEASURED = {
    "pearson": "how much of the map stays (correlation of the pixels)",
    "spearman": "whether the pixels have the same order, from the least salient to the most (rank correlation)",
    "ssim": "whether the maps look alike in small windows (structural similarity)",
    "hog": "whether edges run the same way (correlation of the histograms of oriented gradients)",
}


#: Maps in [0, 1] that differ by less anywhere are the same picture: a quarter of an 8-bit grey level is 1e-3.
_SAME = 1e-4


#: Where random networks' maps are more alike than this, the verdict mentions it.
_HIGH = 0.5


#: One row per network (or pair of networks), one number per image; ``None`` where there is none.
SimilarityRows = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class SimilarityStep:
    """Maps of a randomised network against those of the original.

    Args:
        layers: Name of the layers that were randomised last (cascading) or alone (independent).
        similarity: For each of ``MEASURES``, the similarity of each image compared.
        constant: Number of maps that are constant (or not finite): they show nothing.
        change: The largest absolute difference of a pixel of a map, in [0, 1].
    """

    layers: str
    similarity: dict[str, tuple[float, ...]]
    constant: int
    change: float


@dataclass(frozen=True)
class ExplainerCheck:
    """The sanity check of one explainer.

    Args:
        name: The explainer's name.
        seed: Seed of the random weights and of the intervals.
        images: Number of images.
        compared: The images whose original map is not constant. The others have no similarities.
        cascading: One step for each group of layers, from the top layer randomised to all of them.
        independent: One step for each group of layers, the others being the original ones.
        random: For each of ``LAST_MEASURES``, the similarity of the original maps with those of each fully randomised
            network: R rows, the first is the last of ``cascading``.
        level: For each of ``LAST_MEASURES``, the similarity of the maps of two fully randomised networks of different
            seeds: one row per pair, ``None`` where one of the maps is constant.
        level_constant: Number of constant maps of the fully randomised networks.
        level_maps: Total number of these maps.
        pictures: uint8 maps of the first P images, ``[1 + L, P, H, W]`` for each mode, the original first; empty if
            none were kept. They are only shown, not compared.
    """

    name: str
    seed: int
    images: int
    compared: tuple[int, ...]
    cascading: tuple[SimilarityStep, ...]
    independent: tuple[SimilarityStep, ...]
    random: dict[str, SimilarityRows]
    level: dict[str, SimilarityRows]
    level_constant: int
    level_maps: int
    pictures: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def gather(cls, name: str, blocks: Sequence[Mapping[str, Any]], layers: Sequence[str], seed: int) -> ExplainerCheck:
        """Put the blocks of images together, see `check_block`."""
        constant = [one for block in blocks for one in block["constant"]]
        compared = tuple(index for index, one in enumerate(constant) if not one)

        def rows(key: str, measure: str) -> SimilarityRows:
            count = len(blocks[0][key])
            joined = [[value for block in blocks for value in block[key][row][measure]] for row in range(count)]
            return tuple(tuple(row[index] for index in compared) for row in joined)

        def steps(mode: str) -> tuple[SimilarityStep, ...]:
            found = []
            for number, layer in enumerate(layers):
                parts = [block[mode][number] for block in blocks]
                values = {measure: [value for part in parts for value in part[measure]] for measure in MEASURES}
                similarity = {measure: tuple(own[index] for index in compared) for measure, own in values.items()}
                shown_nothing = sum(sum(part["constant"]) for part in parts)
                found.append(SimilarityStep(layer, similarity, shown_nothing, max(part["change"] for part in parts)))
            return tuple(found)

        pictures: dict[str, npt.NDArray[np.uint8]] = {
            mode: np.concatenate(
                [
                    decoded_maps(block["pictures"][mode]["maps"], block["pictures"][mode]["shape"])
                    for block in blocks
                    if block["pictures"]
                ],
                axis=1,
            )
            for mode in RANDOMIZATION_MODES
            if blocks[0]["pictures"]
        }
        random_constant = [row for block in blocks for row in block["random_constant"]]
        return cls(
            name=name,
            seed=seed,
            images=len(constant),
            compared=compared,
            cascading=steps("cascading"),
            independent=steps("independent"),
            random={measure: rows("random", measure) for measure in LAST_MEASURES},
            level={measure: rows("level", measure) for measure in LAST_MEASURES},
            level_constant=sum(sum(row) for row in random_constant),
            level_maps=sum(len(row) for row in random_constant),
            pictures=pictures,
        )

    @property
    def shown(self) -> int:
        """Number of images that have pictures."""
        return min((maps.shape[1] for maps in self.pictures.values()), default=0)

    def steps(self, mode: RandomizationMode) -> tuple[SimilarityStep, ...]:
        """The steps of a mode, top to bottom."""
        return self.cascading if mode == "cascading" else self.independent

    def intervals(self, mode: RandomizationMode, measure: str) -> list[Estimate]:
        """The similarity after each step; empty where no image can be compared."""
        if not self.compared:
            return []
        return [bootstrap_rows(step.similarity[measure], self.seed) for step in self.steps(mode)]

    def random_level(self, measure: str) -> Estimate | None:
        """The similarity of random-weights networks' maps; ``None`` where no pair of them can be compared."""
        values = self.level[measure]
        return bootstrap_rows(values, self.seed) if self._pairs(values) else None

    def fully_random(self, measure: str) -> Estimate | None:
        """The similarity of the original maps with the random-weights networks'; ``None`` without original maps."""
        return bootstrap_rows(self.random[measure], self.seed) if self.compared else None

    @staticmethod
    def _pairs(values: SimilarityRows) -> int:
        return sum(value is not None for row in values for value in row)

    def last_similarities(self) -> list[LastSimilarity]:
        """The similarities once all weights are random, beside the level; none without maps to compare."""
        if not self.compared:
            return []
        found = []
        for measure, label in LAST_MEASURES.items():
            original, level = bootstrap_rows(self.random[measure], self.seed), self.random_level(measure)
            excess = level and bootstrap_excess(self.random[measure], self.level[measure], self.seed)
            found.append(LastSimilarity(label, original, level, excess, shares=measure == "pearson"))
        return found

    def verdict(self) -> Verdict:
        """Whether the maps have changed, and fallen to the random-weights level, once all weights are random.

        See `verdict_of`. A high level is mentioned.
        """
        if not self.compared:
            return Verdict("undecided", f"undecided: all {self.images} maps of the original network are constant")
        if all(step.change <= _SAME for step in self.cascading):
            return Verdict("insensitive", "does not depend on the weights at all: the maps never change")
        found = self.last_similarities()
        if all(one.level is None for one in found) and self.level_constant < self.level_maps:
            return Verdict(
                "undecided", f"undecided: no two random networks have a map of the same image{self._notes()}"
            )
        return verdict_of(found, len(self.compared), self._notes())

    def _notes(self) -> str:
        parts = []
        if len(self.compared) < self.images:
            parts.append(f"{self.images - len(self.compared)} of {self.images} original maps are constant and left out")
        if self.cascading[-1].constant:
            parts.append(
                f"{self.cascading[-1].constant} of {self.images} maps are constant once all weights are random"
            )
        levels = {label: self.random_level(measure) for measure, label in LAST_MEASURES.items()}
        high = [label for label, level in levels.items() if level is not None and level.value > _HIGH]
        if high:
            parts.append(f"the level itself is high in {', '.join(high)}: random networks' maps are alike, too")
        if self.level_constant:
            parts.append(f"{self.level_constant} of the level's {self.level_maps} maps are constant")
        return f" ({'; '.join(parts)})" if parts else ""

    def as_dict(self) -> dict[str, Any]:
        """All similarities, counts and the verdict as plain values, without the pictures."""
        content = {key: value for key, value in asdict(self).items() if key != "pictures"}
        return {**content, "verdict": asdict(self.verdict())}

    def rows(self) -> Iterator[dict[str, object]]:
        """The intervals as rows of a table: one for each mode, step and measure, then the level's."""
        for mode in RANDOMIZATION_MODES:
            for measure in MEASURES:
                for number, (step, interval) in enumerate(
                    zip(self.steps(mode), self.intervals(mode, measure), strict=False), start=1
                ):
                    yield self._row(mode, number, step.layers, measure, interval, step.constant)
        for measure in LAST_MEASURES:
            for kind, level in (("fully_random", self.fully_random(measure)), ("level", self.random_level(measure))):
                if level is not None:
                    yield self._row(kind, "", "", measure, level, self.level_constant)

    def _row(
        self, mode: str, step: int | str, layers: str, measure: str, interval: Estimate, constant: int
    ) -> dict[str, object]:
        return {
            "explainer": self.name,
            "mode": mode,
            "step": step,
            "layers": layers,
            "measure": measure,
            "mean": round(interval.value, 6),
            "low": round(interval.low, 6),
            "high": round(interval.high, 6),
            "images": len(self.compared),
            "constant_maps": constant,
        }
