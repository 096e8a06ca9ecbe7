"""What a sanity check found: similarities, their intervals, verdicts, and the files they are kept in."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_saliency.files import write_atomically

Mode = Literal["cascading", "independent"]
MODES: tuple[Mode, ...] = ("cascading", "independent")
#: The similarities by the names that results use, and as a person reads them.
MEASURES = {"spearman": "Spearman", "ssim": "SSIM", "hog": "HOG"}
#: Maps in [0, 1] that differ by less anywhere are the same picture: a quarter of an 8-bit grey level is 1e-3.
_SAME = 1e-4
#: Where random networks' maps are more alike than this, that is said beside the verdict.
_HIGH = 0.5

#: One row a network (or pair), one number an image; ``None`` where there is none.
Rows = tuple[tuple[float | None, ...], ...]


class Interval(NamedTuple):
    """A mean over images and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_interval(values: Sequence[float] | Rows, seed: int = 0, resamples: int = 2000) -> Interval:
    """The mean of values and its 95 % interval by the percentile bootstrap.

    Args:
        values: One for each image; a single one has an interval without width. Or rows of them, one a random network
            (or a pair of them), which are resampled as the images are; ``None`` where an image has no value.
        seed: Of the resampling.
        resamples: How many means the percentiles 2.5 and 97.5 are taken of.

    Raises:
        ValueError: If there is no value.

    Example:
        >>> print(bootstrap_interval([0.0, 1.0, 0.0, 1.0] * 8))
        0.50 [0.31, 0.66]
    """
    given = np.atleast_2d(np.asarray(values, dtype=np.float64))
    valued = ~np.isnan(given)
    if not valued.any():
        raise ValueError("Got no value. Give at least one image's.")
    networks, images = given.shape
    generator = np.random.default_rng(seed)
    # How often each is drawn; the mean of a resample is then a quotient of two weighted sums.
    of_images = generator.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
    of_networks = generator.multinomial(networks, np.full(networks, 1 / networks), resamples).astype(np.float64)
    sums = np.einsum("ri,rn,ni->r", of_images, of_networks, np.where(valued, given, 0.0))
    counts = np.einsum("ri,rn,ni->r", of_images, of_networks, valued.astype(np.float64))
    means = sums[counts > 0] / counts[counts > 0]
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(given[valued].mean()), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Maps of a randomised network against those of the original.

    Args:
        layers: The name of the layers that were randomised last (cascading) or alone (independent).
        similarity: For each of ``MEASURES``, the similarity of each image compared.
        constant: How many of all maps are constant (or not finite): they show nothing.
        change: The largest absolute difference of a pixel of a map, in [0, 1].
    """

    layers: str
    similarity: dict[str, tuple[float, ...]]
    constant: int
    change: float


@dataclass(frozen=True)
class Verdict:
    """Whether an explainer's maps depend on what the network has learnt.

    Args:
        kind: ``"fallen"``: with all weights random, no similarity to the original map lies above the level of
            random-weights networks' maps among each other; ``"above"``: one does, by intervals that do not overlap;
            ``"independent"``: the maps never change; ``"undecided"``: there are no maps to compare.
        line: The same in a sentence, with numbers.
    """

    kind: Literal["fallen", "above", "independent", "undecided"]
    line: str


@dataclass(frozen=True)
class ExplainerCheck:
    """The sanity check of one explainer.

    Args:
        name: The explainer's.
        fingerprint: Of everything that the result depends on.
        seed: Of the random weights and of the intervals.
        images: How many images there were.
        compared: Those whose original map is not constant. The others are in no similarity.
        cascading: One comparison a step, from the top layer randomised to all of them.
        independent: One comparison a layer, the others being the original ones.
        random: For each of ``MEASURES``, the similarity of the original maps with those of each fully randomised
            network: R rows, the first is the last of ``cascading``.
        level: For each of ``MEASURES``, the similarity of the maps of two fully randomised networks of different seeds:
            a row a pair, ``None`` where one of the maps is constant.
        level_constant: How many maps of the fully randomised networks are constant.
        level_maps: Of how many.
        pictures: uint8 maps of the first P images, ``[1 + L, P, H, W]`` for each mode, the original first; empty where
            none were kept. They are neither compared nor written to JSON.
    """

    name: str
    fingerprint: str
    seed: int
    images: int
    compared: tuple[int, ...]
    cascading: tuple[Comparison, ...]
    independent: tuple[Comparison, ...]
    random: dict[str, Rows]
    level: dict[str, Rows]
    level_constant: int
    level_maps: int
    pictures: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def shown(self) -> int:
        """How many images have pictures."""
        return min((maps.shape[1] for maps in self.pictures.values()), default=0)

    def steps(self, mode: Mode) -> tuple[Comparison, ...]:
        """The comparisons of a mode, top to bottom."""
        return self.cascading if mode == "cascading" else self.independent

    def intervals(self, mode: Mode, measure: str) -> list[Interval]:
        """The similarity after each step; empty where no image can be compared."""
        if not self.compared:
            return []
        return [bootstrap_interval(step.similarity[measure], self.seed) for step in self.steps(mode)]

    def random_level(self, measure: str) -> Interval | None:
        """The similarity of random-weights networks' maps; ``None`` where no pair of them can be compared."""
        values = self.level[measure]
        return bootstrap_interval(values, self.seed) if self._pairs(values) else None

    def fully_random(self, measure: str) -> Interval | None:
        """The similarity of the original maps with the random-weights networks'; ``None`` without original maps."""
        return bootstrap_interval(self.random[measure], self.seed) if self.compared else None

    @staticmethod
    def _pairs(values: Rows) -> int:
        return sum(value is not None for row in values for value in row)

    def verdict(self) -> Verdict:
        """Whether the similarity has fallen to the random-weights level once all weights are random.

        It has where the 95 % intervals (over images and random networks) overlap or it lies below; it stays above where
        its interval begins above the level's end. All three similarities must have fallen. A level that is itself
        high is mentioned: the image alone, whatever the weights, then makes much of these maps.
        """
        if not self.compared:
            return Verdict("undecided", f"undecided: all {self.images} maps of the original network are constant")
        if all(step.change <= _SAME for step in self.cascading):
            return Verdict("independent", "does not depend on the weights at all: the maps never change")
        notes = self._notes()
        last = {measure: bootstrap_interval(self.random[measure], self.seed) for measure in MEASURES}
        above, fallen = [], []
        for measure, label in MEASURES.items():
            level = self.random_level(measure)
            if level is None:
                fallen.append(f"{label} {last[measure]}")
            elif last[measure].low > level.high:
                above.append(f"{label} by {last[measure].mean - level.mean:.2f} ({last[measure]}, level {level})")
            else:
                fallen.append(f"{label} {last[measure]} (level {level})")
        if above:
            rest = f"; fallen: {', '.join(fallen)}" if fallen else ""
            return Verdict("above", f"stays above the random-weights level: {', '.join(above)}{rest}{notes}")
        if not any(self._pairs(values) for values in self.level.values()):
            return Verdict(
                "fallen", f"depends on the weights: no map is left once they are random: {', '.join(fallen)}{notes}"
            )
        return Verdict("fallen", f"has fallen to the random-weights level: {', '.join(fallen)}{notes}")

    def _notes(self) -> str:
        parts = ["one image only: no intervals"] if len(self.compared) == 1 else []
        if len(self.compared) < self.images:
            parts.append(f"{self.images - len(self.compared)} of {self.images} original maps are constant and left out")
        if self.cascading[-1].constant:
            parts.append(
                f"{self.cascading[-1].constant} of {self.images} maps are constant once all weights are random"
            )
        levels = {label: self.random_level(measure) for measure, label in MEASURES.items()}
        high = [label for label, level in levels.items() if level is not None and level.mean > _HIGH]
        if high:
            parts.append(f"the level itself is high in {', '.join(high)}: much of these maps is the image's alone")
        if self.level_constant:
            parts.append(f"{self.level_constant} of the level's {self.level_maps} maps are constant")
        return f" ({'; '.join(parts)})" if parts else ""

    def to_json(self) -> str:
        """As JSON, without the pictures; numbers keep all their digits."""
        content = {key: value for key, value in asdict(self).items() if key != "pictures"}
        return json.dumps({**content, "verdict": asdict(self.verdict())}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ExplainerCheck:
        """What ``to_json`` wrote.

        Raises:
            ValueError: If the text is something else.
        """
        try:
            content: dict[str, Any] = dict(json.loads(text))
            del content["verdict"]
            content["compared"] = tuple(content["compared"])
            for key in ("random", "level"):
                content[key] = {measure: tuple(tuple(row) for row in rows) for measure, rows in content[key].items()}
            for mode in MODES:
                content[mode] = tuple(
                    Comparison(**{**step, "similarity": _tuples(step["similarity"])}) for step in content[mode]
                )
            return cls(**content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"Got a text that is no result of a sanity check ({error}). Delete the file.") from error

    def rows(self) -> Iterator[dict[str, object]]:
        """The intervals as rows of a table: one for each mode, step and measure, then the level's."""
        for mode in MODES:
            for measure in MEASURES:
                for number, (step, interval) in enumerate(
                    zip(self.steps(mode), self.intervals(mode, measure), strict=False), start=1
                ):
                    yield self._row(mode, number, step.layers, measure, interval, step.constant)
        for measure in MEASURES:
            for kind, level in (("fully_random", self.fully_random(measure)), ("level", self.random_level(measure))):
                if level is not None:
                    yield self._row(kind, "", "", measure, level, self.level_constant)

    def _row(
        self, mode: str, step: int | str, layers: str, measure: str, interval: Interval, constant: int
    ) -> dict[str, object]:
        return {
            "explainer": self.name,
            "mode": mode,
            "step": step,
            "layers": layers,
            "measure": measure,
            **{key: round(value, 6) for key, value in interval._asdict().items()},
            "images": len(self.compared),
            "constant_maps": constant,
        }


def _tuples(lists: dict[str, list[float]]) -> dict[str, tuple[float, ...]]:
    return {key: tuple(values) for key, values in lists.items()}


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    stem = re.sub(r"[^A-Za-z0-9.=-]+", "_", name)
    return folder / "explainers" / f"{stem}.json", folder / "explainers" / f"{stem}.npz"


def read_check(folder: Path, name: str, fingerprint: str) -> ExplainerCheck | None:
    """The result that was kept, if it is whole and depends on the same."""
    result, pictures = _files(folder, name)
    if not result.is_file() or not pictures.is_file():
        return None
    try:
        check = ExplainerCheck.from_json(result.read_text(encoding="utf-8"))
    except ValueError:
        # Of another version of this file's format, or damaged: made anew.
        return None
    if check.fingerprint != fingerprint:
        return None
    with np.load(pictures) as arrays:
        return replace(check, pictures={mode: arrays[mode] for mode in MODES})


def keep_check(folder: Path, check: ExplainerCheck) -> None:
    """Keep a result, with its pictures, in the place of an earlier one."""
    result, pictures = _files(folder, check.name)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **check.pictures)  # type: ignore[arg-type]
    # Where there is a result, its pictures are there too.
    result.unlink(missing_ok=True)
    write_atomically(pictures, arrays.getvalue())
    write_atomically(result, check.to_json().encode())
