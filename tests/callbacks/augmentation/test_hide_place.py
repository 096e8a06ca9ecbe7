"""A transform that hides one place of every image, and how it finds the place."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_saliency import HidePlace
from lightning_saliency.callbacks import NoPlaceError
from lightning_saliency.explainers import Explainer

SIDE = 16


def corner(side=SIDE, rows=4, columns=6):
    place = torch.zeros(side, side, dtype=torch.bool)
    place[:rows, :columns] = True
    return place


def marked(count=200, classes=2, seed=0):
    """Noise, with the colour of the class in the corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    images[:, :, :4, :6] = ((labels + 1) / classes)[:, None, None, None]
    return images, labels


class Pointing(Explainer):
    """Maps that point to the corner."""

    class_specific = False

    def _explain(self, images, targets):
        maps = torch.rand(len(images), SIDE, SIDE, generator=torch.Generator().manual_seed(len(images)))
        maps[:, :4, :6] += 1
        return maps.to(images)


class PointingByClass(Pointing):
    """The same, for classes 0 and 1."""

    class_specific = True

    def _explain(self, images, targets):
        assert bool((targets >= 0).all())
        return super()._explain(images, targets)


def literal(image, place, fill=None):
    """Pixel by pixel: the place in the mean colour of the rest, or in that of the fill."""
    found = image.clone().double()
    for channel in range(len(image)):
        rest = [float(image[channel, row, column]) for row, column in (~place).nonzero().tolist()]
        for row, column in place.nonzero().tolist():
            found[channel, row, column] = sum(rest) / len(rest) if fill is None else fill[channel]
    return found


@pytest.mark.parametrize("fill", [None, (0.1, 0.2, 0.3)])
def test_the_place_is_hidden_and_nothing_else(fill):
    image = torch.rand(3, SIDE, SIDE)
    hide = HidePlace(corner()) if fill is None else HidePlace(corner(), fill)
    torch.testing.assert_close(hide(image).double(), literal(image, corner(), fill), atol=1e-6, rtol=0)
    batch = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(hide(batch)[1], hide(batch[1]))


def test_nothing_of_the_mark_is_left_in_its_colour():
    image = torch.rand(3, SIDE, SIDE)
    other = image.clone()
    other[:, :4, :6] = 7.0
    assert torch.equal(HidePlace(corner())(image), HidePlace(corner())(other))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_pil_images_keep_their_mode(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, len(mode)), dtype=np.uint8).squeeze()
    hidden = HidePlace(corner())(Image.fromarray(pixels, mode))
    assert hidden.mode == mode
    image = torch.from_numpy(pixels.reshape(SIDE, SIDE, -1)).permute(2, 0, 1)
    expected = literal(image, corner()).round()
    assert np.array_equal(np.asarray(hidden).reshape(SIDE, SIDE, -1), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_type(dtype):
    image = (torch.rand(3, SIDE, SIDE) * 200).to(dtype)
    hidden = HidePlace(corner())(image)
    assert hidden.dtype == dtype
    assert torch.equal(hidden[:, 4:], image[:, 4:])
    torch.testing.assert_close(hidden.double(), literal(image, corner()), atol=0.5, rtol=0.01)


def test_what_lies_beside_the_image_stays():
    boxes = tv_tensors.BoundingBoxes([[0, 0, 4, 4]], format="XYXY", canvas_size=(SIDE, SIDE))
    mask = tv_tensors.Mask(torch.ones(1, SIDE, SIDE, dtype=torch.uint8))
    sample = {"image": tv_tensors.Image(torch.rand(3, SIDE, SIDE)), "boxes": boxes, "mask": mask, "label": 3}
    hidden = HidePlace(corner(), 0.0)(sample)
    assert isinstance(hidden["image"], tv_tensors.Image)
    assert not hidden["image"][:, :4, :6].any()
    assert hidden["boxes"] is boxes
    assert hidden["mask"] is mask
    assert hidden["label"] == 3
    video = tv_tensors.Video(torch.rand(5, 3, SIDE, SIDE))
    assert not HidePlace(corner(), 0.0)(video)[..., :4, :6].any()
    image, label = HidePlace(corner(), 0.0)(torch.rand(3, SIDE, SIDE), torch.tensor(1))
    assert not image[:, :4, :6].any()
    assert label == 1


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8), (5, 5), (3, 50), (224, 112)])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_images_of_another_size_lose_the_place_and_a_margin(size, rows):
    hidden = HidePlace(corner(rows=rows), 0.0)(torch.ones(1, *size))[0] == 0
    edges = []
    for count, length in ((rows, size[0]), (6, size[1])):
        # What touches the place is hidden, and what lies more than a cell beside it and half a pixel is not.
        edges.append((math.ceil(count * length / SIDE), math.ceil((count + 1) * length / SIDE)))
    (most_rows, all_rows), (most_columns, all_columns) = edges
    assert hidden[:most_rows, :most_columns].all()
    assert not hidden[all_rows:].any()
    assert not hidden[:, all_columns:].any()


@pytest.mark.parametrize("explainer", [Pointing, PointingByClass])
@pytest.mark.parametrize("training", [True, False])
def test_the_place_is_found_and_the_network_stays_as_it_was(explainer, training):
    images, labels = marked()
    labels = torch.cat([torch.full((8,), -1), labels])  # without a class
    images = torch.cat([torch.rand(8, 3, SIDE, SIDE), images])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train(
        training
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loader = DataLoader(TensorDataset(images, labels), batch_size=48)
    hide = HidePlace.find(network, loader, explainer, fill=0.5)
    assert torch.equal(hide.place, corner())
    assert hide.fill == 0.5
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Module(pl.LightningModule):
    """Defines no forward; its network is its only child."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_of_a_module_its_network_is_taken():
    images, labels = marked()
    loader = [{"pixels": images, "which": labels}]
    hide = HidePlace.find(Module(), loader, Pointing, image_key="pixels", label_key="which")
    assert torch.equal(hide.place, corner())


class Served(Dataset):
    """Marked images with a transform, as torchvision's data sets have."""

    def __init__(self, transform):
        self.images, self.labels = marked(24)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def test_in_front_of_flips_and_crops_in_workers():
    hide = HidePlace(corner(), -1.0)
    transform = v2.Compose([hide, v2.RandomCrop(SIDE, padding=2), v2.RandomHorizontalFlip()])
    images = torch.cat([each for each, _ in DataLoader(Served(transform), batch_size=8, num_workers=2)])
    # The mark's colours are those of whole images alone; whatever the crop, none is left.
    assert not bool(((images == 0.5) | (images == 1.0)).any())
    assert bool((images == -1.0).flatten(1).any(1).all())
    again = pickle.loads(pickle.dumps(hide))
    assert torch.equal(again.place, hide.place)
    assert "of the image, fill=-1.0" in repr(again)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images, labels: (images.flip(-1), labels), "no one place"),
        (lambda images, labels: (images[:6], labels[:6]), "too few images"),
        (lambda images, labels: (((labels + 1) / 2)[:, None, None, None].expand_as(images), labels), "all over"),
        (lambda images, labels: (images, torch.full_like(labels, -1)), "the loader is empty"),
    ],
)
def test_where_there_is_no_place_the_reason_is_said(change, said):
    with pytest.raises(NoPlaceError, match=said):
        HidePlace.find(nn.Conv2d(3, 2, 1), [change(*marked())], Pointing)


def test_labels_are_needed():
    for batch in (marked()[0], (marked()[0], torch.rand(200))):
        with pytest.raises(ValueError, match="without classes"):
            HidePlace.find(nn.Conv2d(3, 2, 1), [batch], Pointing)


@pytest.mark.parametrize(
    ("place", "fill", "said"),
    [
        (torch.ones(4, 4), "mean", r"a place of \[4, 4\] torch.float32"),
        ([[True]], "mean", "a place of list"),
        (torch.zeros(4, 4, dtype=torch.bool), "mean", "holds nothing"),
        (torch.ones(4, 4, dtype=torch.bool), "mean", "holds all"),
        (corner(), "blur", "fill='blur'"),
    ],
)
def test_what_cannot_be_hidden_is_refused(place, fill, said):
    with pytest.raises(ValueError, match=said):
        HidePlace(place, fill)


def test_a_fill_or_image_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 numbers for an image of 3 channels"):
        HidePlace(corner(), (0.1, 0.2))(torch.rand(3, SIDE, SIDE))
    with pytest.raises(ValueError, match="indices of colours"):
        HidePlace(corner())(Image.new("P", (SIDE, SIDE)))
