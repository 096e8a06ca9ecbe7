"""Batches whose objects know each other, as an image and its annotations do."""

from types import SimpleNamespace

import pytest
import torch

from lightning_saliency.batches import BatchError, BatchReader, tree

IMAGES = torch.rand(4, 3, 16, 20)
LABELS = torch.tensor([3, 1, 0, 2])


def _annotated():
    """An image and its annotations, each of which knows its image."""
    image = SimpleNamespace(name="a", annotations=[])
    image.annotations += [SimpleNamespace(image=image, box=[0, 0, 4, 4]) for _ in range(2)]
    return image


@pytest.mark.parametrize("image_key", [None, "image"])
def test_objects_that_refer_back_to_their_owner_end(image_key):
    batch = {"image": IMAGES, "label": LABELS, "annotations": [_annotated() for _ in range(4)]}
    content = BatchReader(image_key=image_key).read(batch)
    assert content.images is IMAGES
    assert content.labels() is LABELS


def test_objects_that_know_each_other_are_looked_at_once(monkeypatch):
    several = [SimpleNamespace(number=torch.tensor(number)) for number in range(14)]
    for one in several:
        for number, other in enumerate(several):
            setattr(one, f"other{number}", other)
        one.all = several
    # The images lie behind the last of them, which is met deep inside the first before it is met in the batch.
    several[-1].image, several[-1].label = IMAGES, LABELS
    looked, original = [], tree.fields
    monkeypatch.setattr(tree, "fields", lambda value: looked.append(1) or original(value))
    content = BatchReader().read({"first": several[0], "last": several[-1]})
    assert content.images is IMAGES
    assert content.labels() is LABELS
    assert len(looked) < 100_000


def test_a_batch_that_refers_to_a_whole_data_set_is_refused(monkeypatch):
    monkeypatch.setattr(tree, "_MOST_OBJECTS", 50)
    owner = SimpleNamespace(**{f"sample{number}": SimpleNamespace(number=number) for number in range(60)})
    with pytest.raises(BatchError, match=r"more than 50 objects.*leave out"):
        BatchReader().read({"image": IMAGES, "label": LABELS, "owner": owner})
