"""The embedded data set: handwritten digits on photographs, with exact boxes, rendered in seconds, no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_saliency.checks import is_within
from lightning_saliency.data.modules._scenes import (
    SPLITS,
    Split,
    chunks,
    crop_backgrounds,
    load_glyphs,
    load_photographs,
    paint,
    plant_marks,
    render_digits,
    split_glyphs,
    tight_boxes,
)
from lightning_saliency.data.modules._split_data import SplitDataModule, check_min

# Over the 6,000 training scenes of seed 0.
MEAN, STD = (0.43, 0.37, 0.33), (0.27, 0.23, 0.23)


@dataclass(frozen=True)
class Scenes:
    """One split, rendered: N scenes of H×W pixels.

    Attributes:
        images: `[N, 3, H, W]` uint8, RGB.
        labels: `[N]` int64, the digit 0 to 9.
        boxes: `[N, 1, 4]` float32, (x1, y1, x2, y2) in pixels, x2 and y2 exclusive: the tight box of the digit's
            visible pixels.
        glyphs: `[N]` int64, which of the 1797 handwritten digits was drawn.
        photographs: `[N]` int64, index into `PHOTOGRAPHS`.
        marked: `[N]` bool, whether the corner mark that gives the class away was planted.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    glyphs: Tensor
    photographs: Tensor
    marked: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]


def render_scenes(
    split: Split,
    count: int,
    size: int,
    seed: int,
    digit_scale: tuple[float, float],
    shortcut: float = 0.0,
    background_shift: bool = False,
) -> Scenes:
    """Render a split. The same arguments give the same scenes; the mark changes no pixel outside its corner.

    Args:
        split: "train", "val" or "test".
        count: Number of scenes N; the ten classes come equally often, to within one.
        size: Side in pixels.
        seed: Seed of the scenes, a non-negative integer.
        digit_scale: Minimum and maximum side of a digit's square, as a share of the image's side.
        shortcut: Share of the images, in [0, 1], whose corner mark gives the class away.
        background_shift: Whether the test split has its own photographs.

    Returns:
        The scenes.
    """
    stream = 2 * (len(SPLITS) * seed + SPLITS.index(split))
    generator = torch.Generator().manual_seed(stream)
    intensities, classes = load_glyphs()
    own = split_glyphs(len(classes), split)
    labels = torch.randperm(count, generator=generator) % 10
    matches = (classes[own] == labels[:, None]).float()
    glyphs = own[torch.multinomial(matches, 1, generator=generator)[:, 0]] if count else own[:0]

    images, photographs = crop_backgrounds(load_photographs(split, background_shift), count, size, generator)
    # A stream of its own, so that the scenes are the same with and without marks.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stream + 1))
    marked = torch.zeros(count, dtype=torch.bool)
    marked[order[: round(shortcut * count)]] = True
    plant_marks(images, labels, marked)
    boxes = torch.empty(count, 1, 4)
    for part in chunks(count):
        opacity = render_digits(intensities[glyphs[part]], size, digit_scale, generator)
        images[part] = paint(images[part], opacity, generator)
        boxes[part, 0] = tight_boxes(opacity > 0)
    return Scenes(images, labels, boxes, glyphs, photographs, marked)


class ScenesDataset(Dataset[dict[str, Tensor]]):
    """Rendered scenes as samples: what a batch of `DigitScenes` holds, one scene at a time.

    Args:
        scenes: The rendered split, kept as `scenes`.
        transform: From uint8 images `[..., 3, H, W]` to what the network gets.
    """

    def __init__(self, scenes: Scenes, transform: v2.Transform) -> None:
        self.scenes = scenes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}. Allowed are those of {len(self)} scenes.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The samples at several indices; PyTorch's loaders call it, and a batch is then transformed at once."""
        where = torch.as_tensor(indices, dtype=torch.int64)
        images = self.transform(self.scenes.images[where])
        parts = zip(images, self.scenes.labels[where], self.scenes.boxes[where], where, strict=True)
        return [
            {"image": image, "label": label, "boxes": boxes, "index": index} for image, label, boxes, index in parts
        ]


class DigitScenes(SplitDataModule):
    """Ten classes of handwritten digits, each at a random size, place and colour on a crop of a real photograph.

    The digits are scikit-learn's 1797, the photographs those inside scikit-image and scikit-learn. No handwritten digit
    and no part of a photograph is shared between two splits, whatever the seed. A digit's box covers about 14 % of its
    image, so a saliency map that looks at the digits is easily distinguished from one that does not.

    Batches are dictionaries: `image` float32 `[B, 3, size, size]`, normalised; `label` int64 `[B]`; `boxes` float32
    `[B, 1, 4]`, (x1, y1, x2, y2) in pixels with x2 and y2 exclusive, tight around the digit's visible pixels; `index`
    int64 `[B]`.

    Args:
        train_size: Number of training scenes.
        val_size: Number of validation scenes.
        test_size: Number of test scenes.
        size: Side of the images in pixels, at least 16.
        batch_size: Scenes in a batch.
        num_workers: Loading processes; the scenes lie in memory, so 0 is usually fastest.
        seed: Seed of the scenes. The order of the training images comes from the global generator instead.
        shortcut: Share of the training images, in [0, 1], that carry in their upper left corner a small mark whose
            colour reveals the class. A network trained on them learns the mark instead of the digit, which a saliency
            map shows and training accuracy hides. The test split never has any.
        shortcut_in_validation: Plant the marks in the same share of the validation images too: the usual case in
            practice, where validation data come from the same source and hide the problem.
        digit_scale: Minimum and maximum side of a digit's square as a share of the image's side, in (0, 0.8].
        background_shift: Lay the test scenes on four photographs that training and validation then never see.

    Attributes:
        classes: The names of the classes.
        num_classes: 10.
        normalize: The `torchvision.transforms.v2.Normalize` applied to images in [0, 1].
        transform: What turns uint8 images into the network's input; ends in `normalize`.
        datasets: The `ScenesDataset` of each split that has been set up, by "train", "val", "test"; its `scenes` hold
            everything about them, such as which scenes carry the mark.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: In `setup`, if scikit-learn or scikit-image is not installed.

    Example:
        >>> scenes = DigitScenes(train_size=20, val_size=10, test_size=10, batch_size=4)
        >>> scenes.setup("fit")
        >>> batch = next(iter(scenes.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'image': (4, 3, 64, 64), 'label': (4,), 'boxes': (4, 1, 4), 'index': (4,)}
    """

    def __init__(
        self,
        train_size: int = 6000,
        val_size: int = 1000,
        test_size: int = 1000,
        size: int = 64,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        shortcut: float = 0.0,
        shortcut_in_validation: bool = False,
        digit_scale: tuple[float, float] = (0.3, 0.6),
        background_shift: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_min(
            {
                "train_size": (train_size, 1),
                "val_size": (val_size, 1),
                "test_size": (test_size, 1),
                "size": (size, 16),
                "seed": (seed, 0),
            }
        )
        if not is_within(shortcut, 0, 1):
            raise ValueError(f"Got shortcut={shortcut!r}. Allowed is a share of the images in [0, 1]; give one.")
        if (
            not isinstance(digit_scale, Sequence)
            or len(digit_scale) != 2
            or not all(is_within(share, 0, 0.8) for share in digit_scale)
            or not 0 < digit_scale[0] <= digit_scale[1]
        ):
            raise ValueError(
                f"Got digit_scale={digit_scale}. Allowed are (minimum, maximum) with 0 < minimum <= maximum <= 0.8, so "
                "that a digit fits into its image; give two such shares of the image's side."
            )
        self.save_hyperparameters()
        self.sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self.shortcuts: dict[Split, float] = {
            "train": shortcut,
            "val": shortcut if shortcut_in_validation else 0.0,
            "test": 0.0,
        }
        self.size = size
        self.seed = seed
        self.digit_scale = (float(digit_scale[0]), float(digit_scale[1]))
        self.background_shift = background_shift
        self.classes = [str(digit) for digit in range(10)]
        self.num_classes = len(self.classes)
        self.normalize = v2.Normalize(mean=list(MEAN), std=list(STD))
        self.transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), self.normalize])

    def setup(self, stage: str | None = None) -> None:
        """Render the splits that a stage needs; a split already rendered is kept."""
        wanted = {"fit": SPLITS[:2], "validate": SPLITS[1:2], "test": SPLITS[2:], "predict": SPLITS[2:]}
        for split in SPLITS if stage is None else wanted[stage]:
            if split not in self.datasets:
                scenes = render_scenes(
                    split,
                    self.sizes[split],
                    self.size,
                    self.seed,
                    self.digit_scale,
                    self.shortcuts[split],
                    self.background_shift,
                )
                self.datasets[split] = ScenesDataset(scenes, self.transform)
