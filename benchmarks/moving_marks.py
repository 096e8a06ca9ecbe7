"""A shortcut cured where training crops and mirrors its images at random, so that the mark moves: `HidePlace`.

Digits of which 95 % carry a mark in the corner, in training and validation; the training images are then cropped at
random places (4 pixels beyond the edge) and mirrored. From the network that has learnt the mark, training goes on with

- ``plain``: nothing else;
- ``MaskTune``: ``maps="shortcut"``, which looks for the place in the moved images;
- ``HidePlace``: the place found in the validation images, hidden before the crops: the arm that was named beforehand,
  with the number *accuracy on unmarked test images*;
- ``HidePlace, opposite``: a control, the same place mirrored to the opposite corner;
- ``HidePlace, untrained``: a control, the place to which a network of random weights points, where it finds one;
- ``the mark``: exactly the mark, what a perfect place would be;

and, from a network that never saw a mark, ``honest``: nothing else. What lies in the folder is not trained again.

    python -m benchmarks.moving_marks [--seeds 200 201 …] [--folder runs/moving_marks] [--quick]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks._cures import EPOCHS, SHOWN, Cures, hush
from benchmarks._timing import machine, print_table
from lightning_saliency import DigitScenes, HidePlace, ImageClassifier, MaskTune
from lightning_saliency.callbacks import NoPlaceError
from lightning_saliency.data import CornerMark, PlantedShortcut
from lightning_saliency.data.masked.loaders import with_dataset
from lightning_saliency.files import write_atomically
from lightning_saliency.studies.estimates import mean_interval

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "shortcut" / "moving_marks.json"
SIDE, MARK = 32, 4
PLAIN, NAMED = "plain", "HidePlace"


class Moved(Dataset[Any]):
    """The items of a data set, their images changed by a transform."""

    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        return {**item, "image": self.transform(item["image"])}


class MovedMarks(PlantedShortcut):
    """Marked digits; those for training are cropped and mirrored at random, after what comes before."""

    before: tuple[HidePlace, ...] = ()

    def train_dataloader(self) -> DataLoader[Any]:
        """The training images, moved."""
        loader = super().train_dataloader()
        moves = (v2.RandomCrop(SIDE, padding=MARK), v2.RandomHorizontalFlip())
        return with_dataset(loader, Moved(loader.dataset, v2.Compose([*self.before, *moves])))


def data_of(seed: int, quick: bool, share: float = 0.95, hide: HidePlace | None = None) -> MovedMarks:
    """The data of a seed, with a place hidden or none."""
    sizes = (300, 300, 64) if quick else (3000, 1000, 1000)
    digits = DigitScenes(*sizes, size=SIDE, batch_size=64, seed=seed)
    data = MovedMarks(digits, CornerMark(MARK / SIDE), share=share, seed=seed)
    data.before = () if hide is None else (hide,)
    return data


def run(folder: Path, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """All trainings of a seed."""
    plain = data_of(seed, quick)
    cures = Cures(folder / f"marked-{seed}.json", plain, seed, 1 if quick else EPOCHS)

    def hiding(hide: HidePlace) -> tuple[MovedMarks, list[Any]]:
        return data_of(seed, quick, hide=hide), []

    def found(network: Any) -> HidePlace:
        plain.setup("fit")
        return HidePlace.find(network, plain.val_dataloader())

    mark = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mark[:MARK, :MARK] = True
    cures.run(PLAIN, lambda: (plain, []))
    cures.run("MaskTune", lambda: (plain, [MaskTune("smoe", maps="shortcut", name=None)]))
    cures.run("the mark", lambda: hiding(HidePlace(mark)))
    try:
        cures.run(NAMED, lambda: hiding(found(cures.module)))
        cures.run(f"{NAMED}, opposite", lambda: hiding(HidePlace(found(cures.module).place.flip(0, 1))))
    except NoPlaceError:
        if not quick:  # a network of one epoch has learnt no mark yet
            raise
    try:
        cures.run(f"{NAMED}, untrained", lambda: hiding(found(ImageClassifier("small_cnn", num_classes=10))))
    except NoPlaceError:  # such a network hides nothing: training is the plain one
        cures.results[f"{NAMED}, untrained"] = cures.results[PLAIN]
    honest = data_of(seed, quick, share=0.0)
    others = Cures(folder / f"honest-{seed}.json", honest, seed, 1 if quick else EPOCHS)
    others.run("honest", lambda: (honest, []))
    return {**cures.results, "honest": others.results["honest"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(200, 210)))
    parser.add_argument("--folder", type=Path, default=Path("runs/moving_marks"), help="where results are kept")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    hush()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.folder
        folder.mkdir(parents=True, exist_ok=True)
        results = {seed: run(folder, seed, options.quick) for seed in options.seeds}
    arms = list(next(iter(results.values())))
    rows = [(arm, *(_told([100 * seed[arm][key] for seed in results.values()]) for key in SHOWN)) for arm in arms]
    rows += [
        (
            f"{first} − {second}",
            *(_told([100 * (each[first][key] - each[second][key]) for each in results.values()]) for key in SHOWN),
        )
        for first, second in [(NAMED, arm) for arm in arms if arm != NAMED]
        if first in arms
    ]
    print_table("Training on with random crops and flips, in %", ("", *SHOWN.values()), rows)
    if not options.quick:
        write_atomically(RESULTS, json.dumps({"machine": machine(), "seeds": results}, indent=1).encode())


def _told(values: list[float]) -> str:
    """Mean and Student's interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    estimate = mean_interval(values, 0.95)
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


if __name__ == "__main__":
    main()
