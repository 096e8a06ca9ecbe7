"""Batches as they are: which images are augmented where loaders, tensors and collections are of many kinds."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

from lightning_saliency.callbacks import AugmentationConfigurationError
from tests.callbacks.augmentation.helpers import Watching, fit, originals, quiet, ready_made

LABELS = torch.arange(8) % 4
IMAGES, EXTRA = originals(8), originals(16)[8:]


class Sums(Watching):
    """Trains on the sum of its outputs of all images in a batch, and keeps the images as they were given."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        found = list(_images(batch))
        self.given.append([image.detach().as_subclass(torch.Tensor).clone() for image in found])
        return sum((self(image.as_subclass(torch.Tensor)).sum() for image in found), self.net.head[2].weight.sum())


def _images(value: Any):
    if isinstance(value, torch.Tensor):
        if value.ndim >= 3:
            yield value if value.ndim == 4 else value[None].expand(2, -1, -1, -1)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _images(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _images(item)
    elif isinstance(value, SimpleNamespace):
        yield from _images(vars(value))


def _changed(given: list[torch.Tensor]) -> list[bool]:
    known = torch.cat([IMAGES, EXTRA])
    return [not all(any(torch.equal(image, one) for one in known) for image in images) for images in given]


def _loader(*tensors: torch.Tensor, **options: Any) -> DataLoader:
    return DataLoader(tensors[0] if len(tensors) == 1 else TensorDataset(*tensors), 4, **options)


def _named(samples):
    return {
        "picture": torch.stack([image for image, _ in samples]),
        "label": torch.tensor([int(y) for _, y in samples]),
    }


@pytest.mark.parametrize(
    "loaders",
    [
        lambda: {"extra": _loader(EXTRA), "labelled": _loader(IMAGES, LABELS)},
        lambda: [DataLoader(TensorDataset(EXTRA), 4), _loader(IMAGES, LABELS, collate_fn=_named)],
        lambda: [{"texts": _loader(torch.rand(8, 5), LABELS), "more": _loader(EXTRA)}, _loader(IMAGES, LABELS)],
        lambda: {
            "target": _loader(EXTRA),
            "texts": _loader(torch.rand(8, 7), LABELS),
            "a": _loader(IMAGES, LABELS),
        },
    ],
)
def test_of_several_loaders_the_images_whose_labels_are_known_are_augmented(tmp_path, loaders):
    module = Sums(learning_rate=0)
    fit(tmp_path, quiet(), module, loaders())
    assert [_changed(given) for given in module.given] == [[False, True]] * 2


@pytest.mark.parametrize(
    ("other", "note"),
    [
        ((torch.rand(4, 5), LABELS[:4]), "without images"),
        ({"ids": torch.ones(4, 7).long(), "label": LABELS[:4]}, "without images"),
        (["one text", "another text"], "without images"),
        (EXTRA[:4], "without labels"),
        ({"image": EXTRA[:4], "name": ["a", "b", "c", "d"]}, "without labels"),
    ],
)
def test_later_batches_without_images_or_labels_are_passed_over(tmp_path, caplog, recwarn, other, note):
    module, labelled = Sums(learning_rate=0), (IMAGES, LABELS)
    with caplog.at_level(logging.INFO):
        fit(tmp_path, quiet(), module, ready_made([labelled, other, other, labelled]), epochs=2)
    unchanged = [False] if note == "without labels" else []
    assert [_changed(given) for given in module.given] == [[True], unchanged, unchanged, [True]] * 2
    said = [*caplog.messages, *(str(warning.message) for warning in recwarn.list)]
    assert sum(note in message for message in said) == 1


def test_batches_that_are_passed_over_are_no_failures(tmp_path):
    module, labelled = Sums(learning_rate=0), (IMAGES[:2], LABELS[:2])
    fit(tmp_path, quiet(), module, ready_made([labelled, *[EXTRA[:1]] * 12, labelled]))
    assert [_changed(given) for given in module.given] == [[True], *[[False]] * 12, [True]]


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_the_modes_of_a_combined_loader(tmp_path, mode):
    module = Sums(learning_rate=0)
    loaders = {"extra": _loader(EXTRA), "labelled": _loader(IMAGES[:4], LABELS[:4])}
    fit(tmp_path, quiet(), module, CombinedLoader(loaders, mode))
    both = [[False, True]]
    assert [_changed(given) for given in module.given] == {
        "min_size": both,
        "max_size": [*both, [False]],
        "max_size_cycle": both * 2,
    }[mode]


def test_a_loader_that_ends_before_the_others_leaves_nothing_to_augment(tmp_path):
    module = Sums(learning_rate=0)
    loaders = {"texts": _loader(torch.rand(16, 5)), "a": _loader(IMAGES, LABELS), "extra": _loader(EXTRA)}
    fit(tmp_path, quiet(), module, CombinedLoader(loaders, "max_size"))
    assert [_changed(given) for given in module.given] == [[True, False]] * 2 + [[]] * 2


class OwnTensor(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "batch",
    [
        lambda: [tv_tensors.Image(IMAGES.clone()), LABELS],
        lambda: {"image": IMAGES.clone().as_subclass(OwnTensor), "label": LABELS.as_subclass(OwnTensor)},
        lambda: [list(IMAGES.clone()), LABELS],
        lambda: ([tv_tensors.Image(image) for image in IMAGES.clone()], LABELS.tolist()),
        lambda: SimpleNamespace(image=IMAGES.clone(), target=LABELS),
    ],
)
def test_images_of_many_kinds_are_augmented_for_the_step_alone(tmp_path, batch):
    module, given = Sums(learning_rate=0), batch()
    before = [image.as_subclass(torch.Tensor).clone() for image in _images(given)]
    kinds = [type(image) for image in _images(given)]
    fit(tmp_path, quiet(), module, ready_made([given]))
    seen = module.given[0]
    plainly = Sums(learning_rate=0)
    fit(tmp_path, quiet(), plainly, ready_made([(IMAGES.clone(), LABELS)]))
    assert any(_changed(seen))
    shown = torch.cat([image[:1] if len(before) > 1 else image for image in seen])
    assert torch.equal(shown, plainly.given[0][0])
    after = list(_images(given))
    assert [type(image) for image in after] == kinds
    assert all(torch.equal(image.as_subclass(torch.Tensor), was) for image, was in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((IMAGES.movedim(1, -1), LABELS), r"\[B, H, W, C\].*permute"),
        (([*IMAGES[:2], torch.rand(3, 20, 16)], LABELS[:3]), "different sizes.*collate_fn"),
        ({"images": [torch.rand(3, 8, 8), torch.rand(3, 9, 8)], "label": LABELS[:2]}, "different sizes.*batch_size=1"),
        ([{"image": torch.rand(3, 8, side), "label": 1} for side in (8, 9)], "different sizes"),
    ],
)
def test_images_that_cannot_be_augmented_end_the_run_before_its_first_step(tmp_path, batch, message):
    module = Sums(learning_rate=0)
    with pytest.raises(AugmentationConfigurationError, match=message):
        fit(tmp_path, quiet(), module, ready_made([batch]))
    assert not module.given
