"""Masking by stored maps: each goes through the same transforms as its image, to the pixel."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.datasets.vision import VisionDataset
from torchvision.transforms import v2

from lightning_saliency.data import (
    ArrayImagesDataModule,
    DigitScenes,
    ImageFolderDataModule,
    RoarKarDataModule,
    SaliencyGeometryError,
    SaliencyStore,
    SaliencyStoreError,
    whole_image_loaders,
)
from lightning_saliency.data.masked.moving import MaskedDataset, Masking
from lightning_saliency.data.masked.open_stores import stores_of
from lightning_saliency.data.masked.whole_images import data_fingerprint
from lightning_saliency.data.modules._image_tensors import ImageTensors
from lightning_saliency.functional.masking import top_fraction

SIDE = 16  # 256 pixels, so that each has a rank of its own in a byte
TO_TENSOR = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))


def grey_images(count: int) -> Tensor:
    """Images whose pixels are all 256 grey values in another order: each is its own rank map."""
    generator = torch.Generator().manual_seed(7)
    orders = torch.stack([torch.randperm(SIDE * SIDE, generator=generator) for _ in range(count)])
    return orders.view(count, 1, SIDE, SIDE).to(torch.uint8)


class Pictures(VisionDataset):
    """Like torchvision's data sets: PIL images, `transform` and `transforms`."""

    def __init__(self, count: int = 6, transform=None, transforms=None) -> None:
        super().__init__("", transform=transform, transforms=transforms)
        self.images = grey_images(count)
        self.targets = list(range(count))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = Image.fromarray(self.images[index, 0].numpy())
        if self.transforms is not None:
            return self.transforms(image, self.targets[index])
        return image, self.targets[index]


def stored(path, images: Tensor, dataset=None) -> SaliencyStore:
    """A store whose maps are the images' own grey values."""
    fingerprints = {} if dataset is None else {"data": data_fingerprint(dataset)}
    store = SaliencyStore.create(path, len(images), tuple(images.shape[2:]), fingerprints)
    store.write(range(len(images)), images[:, 0].float())
    return SaliencyStore.open(path)


def check_masked(image: Tensor, plain: Tensor, mode: str, fraction: float, fill: float = -1.0) -> None:
    """The mask is the one that the transformed image's own grey values give."""
    chosen = top_fraction(plain[0], fraction)
    hidden = chosen if mode == "roar" else ~chosen
    assert torch.equal(image[0] == fill, hidden)
    assert torch.equal(image[0][~hidden], plain[0][~hidden])


GEOMETRIES = {
    "flip": [v2.RandomHorizontalFlip(1.0)],
    "crop": [v2.RandomCrop(9)],
    "crop and flip": [v2.RandomCrop((10, 7)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()],
    "centre": [v2.CenterCrop(11)],
    "turn": [v2.RandomChoice([v2.RandomRotation((90, 90)), v2.RandomRotation((180, 180))])],
    "enlarge": [v2.Resize(32, interpolation=v2.InterpolationMode.NEAREST), v2.RandomCrop(20)],
    "in parts": [v2.RandomApply([v2.Compose([v2.RandomCrop(12), v2.RandomVerticalFlip(1.0)])], p=1.0)],
    "nothing": [v2.Identity()],
}


@pytest.mark.parametrize("mode", ["roar", "kar"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_map_goes_with_its_image_to_the_pixel(tmp_path, geometry, mode):
    transform = v2.Compose([*GEOMETRIES[geometry], *TO_TENSOR])
    data = Pictures(transform=transform)
    masked = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking(mode, 0.3, -1.0))
    for index in range(len(data)):
        state = torch.get_rng_state()
        image, target = masked[index]
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        plain, _ = data[index]
        assert torch.equal(torch.get_rng_state(), after)
        assert target == index
        check_masked(image, plain, mode, 0.3)
    assert data.transform is transform


@pytest.mark.parametrize("augment", [False, True])
def test_a_map_goes_with_an_image_that_is_cropped_in_a_batch(tmp_path, augment):
    images = grey_images(6).expand(-1, 3, -1, -1)
    data = ImageTensors(images, torch.arange(6), 11, v2.Normalize([0.0] * 3, [1.0] * 3), augment)
    masked = MaskedDataset(data, stored(tmp_path / "a", images), Masking("roar", 0.3, -1.0))
    torch.manual_seed(3)
    plain = data.__getitems__([4, 0, 5])
    torch.manual_seed(3)
    for (image, target), (whole, label) in zip(masked.__getitems__([4, 0, 5]), plain, strict=True):
        assert target == label
        check_masked(image, whole, "roar", 0.3)


def test_transforms_of_tensors_in_several_places(tmp_path):
    geometry = v2.Compose([v2.RandomCrop(9), v2.RandomHorizontalFlip()])
    for name, transform in (
        ("after", v2.Compose([*TO_TENSOR, geometry])),
        ("pure", v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), geometry, v2.ToPureTensor()])),
        ("nested", v2.Compose([v2.Compose([v2.Compose([geometry])]), *TO_TENSOR])),
    ):
        data = Pictures(transform=transform)
        masked = MaskedDataset(data, stored(tmp_path / name, data.images), Masking("roar", 0.2, -1.0))
        torch.manual_seed(1)
        image, _ = masked[3]
        torch.manual_seed(1)
        check_masked(image, data[3][0], "roar", 0.2)


def test_pixels_that_a_transform_adds_are_least_salient_whatever_they_are_filled_with(tmp_path):
    for fill in (0, 128, 255):
        data = Pictures(
            transform=v2.Compose([v2.Pad(8, fill=fill), v2.RandomAffine(0, (0.2, 0.2), fill=fill), *TO_TENSOR])
        )
        store = stored(tmp_path / str(fill), data.images)
        image, _ = MaskedDataset(data, store, Masking("kar", 0.1, -1.0))[0]
        kept = (image[0] != -1).nonzero()
        assert len(kept) == round(0.1 * 32 * 32)
        assert (image[0][image[0] != -1] > 0.4).all()
        assert len(torch.unique(image[0][image[0] != -1])) == len(kept)


def test_coarse_maps_are_spread_over_larger_images(tmp_path):
    store = SaliencyStore.create(tmp_path / "a", 1, (4, 4), {})
    coarse = torch.zeros(1, 4, 4)
    coarse[0, 1, 2] = 1
    store.write([0], coarse)
    data = Pictures(1, transform=v2.Compose([v2.RandomHorizontalFlip(1.0), *TO_TENSOR]))
    image, _ = MaskedDataset(data, store, Masking("kar", 4 / 256, -1.0))[0]
    rows, columns = (image[0] != -1).nonzero().unbind(1)
    assert set(rows.tolist()) <= {4, 5, 6, 7}
    assert set(columns.tolist()) <= {4, 5, 6, 7}


def test_joint_transforms_of_image_and_target(tmp_path):
    joint = v2.Compose([v2.RandomCrop(9), *TO_TENSOR])
    data = Pictures(transforms=joint)
    masked = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 0.3, -1.0))
    torch.manual_seed(4)
    image, target = masked[2]
    torch.manual_seed(4)
    plain, _ = data[2]
    assert target == 2
    check_masked(image, plain, "roar", 0.3)


def test_samples_that_are_dictionaries(tmp_path):
    class Records(Dataset):
        def __init__(self):
            self.images = grey_images(3)
            self.transform = v2.Compose([v2.RandomCrop(9), v2.ToDtype(torch.float32, scale=True)])

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return self.transform({"label": index, "image": self.images[index]})

    data = Records()
    masked = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 0.3, -1.0))
    torch.manual_seed(4)
    sample = masked[1]
    torch.manual_seed(4)
    assert sample["label"] == 1
    check_masked(sample["image"], data[1]["image"], "roar", 0.3)


def test_subsets_and_concatenations_are_followed(tmp_path):
    crop = v2.Compose([v2.RandomCrop(9), *TO_TENSOR])
    first, second = Pictures(6, transform=crop), Pictures(4, transform=v2.Compose([v2.CenterCrop(9), *TO_TENSOR]))
    joined = ConcatDataset([Subset(first, [5, 1, 3]), second])
    data = Subset(Subset(joined, [6, 0, 2, 4]), [3, 2, 0])
    images = torch.cat([first.images[[5, 1, 3]], second.images])[[6, 0, 2, 4]][[3, 2, 0]]
    masked = MaskedDataset(data, stored(tmp_path / "a", images), Masking("roar", 0.3, -1.0))
    for index in range(3):
        torch.manual_seed(index)
        image, target = masked[index]
        torch.manual_seed(index)
        plain, same = data[index]
        assert target == same
        check_masked(image, plain, "roar", 0.3)
    assert first.transform is crop
    assert data.dataset.dataset is joined
    assert masked.indices == [3, 2, 0]


def test_a_transform_in_a_wrapper_round_the_data(tmp_path):
    class Wrapped(Dataset):
        def __init__(self, dataset, transform):
            self.dataset, self.transform = dataset, transform

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            image, target = self.dataset[index]
            return self.transform(image), target

    crop = v2.Compose([v2.RandomCrop(9), *TO_TENSOR])
    data = Wrapped(Subset(Pictures(), [2, 0]), crop)
    masked = MaskedDataset(data, stored(tmp_path / "a", grey_images(6)[[2, 0]]), Masking("roar", 0.3, -1.0))
    torch.manual_seed(1)
    image, _ = masked[1]
    torch.manual_seed(1)
    check_masked(image, data[1][0], "roar", 0.3)
    with pytest.raises(SaliencyGeometryError, match="Only one can be followed"):
        MaskedDataset(
            Wrapped(Pictures(transform=crop), crop), stored(tmp_path / "b", grey_images(6)), Masking("roar", 0.3, 0)
        )


def test_data_without_transforms_are_masked_as_they_come(tmp_path):
    images = grey_images(3).float() / 255
    data = TensorDataset(images, torch.arange(3))
    masked = MaskedDataset(data, stored(tmp_path / "a", images), Masking("kar", 0.3, -1.0))
    for index in range(3):
        image, label = masked[index]
        check_masked(image, images[index], "kar", 0.3)
        assert label == index
    assert images.min() == 0


def test_bytes_stay_bytes(tmp_path):
    data = Pictures(transform=v2.Compose([v2.ToImage(), v2.RandomCrop(9)]))
    image, _ = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 1.0, 12.6))[0]
    assert image.dtype == torch.uint8
    assert image.unique().tolist() == [13]


@pytest.mark.parametrize(("fill", "filled"), [(300.0, 255), (-40.0, 0)])
def test_bytes_are_filled_in_their_range(tmp_path, fill, filled):
    data = Pictures(transform=v2.Compose([v2.ToImage()]))
    image, _ = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 0.5, fill))[0]
    hidden = top_fraction(data.images[0, 0].float(), 0.5)
    assert image[0][hidden].unique().tolist() == [filled]
    assert torch.equal(image[0][~hidden], data.images[0, 0][~hidden])


@pytest.mark.parametrize("sizes", [(SIDE, SIDE), (SIDE, 12)], ids=["one size", "two sizes"])
def test_images_that_do_not_move_are_masked_batch_by_batch(tmp_path, sizes):
    images = grey_images(4).float() / 255
    items = [(images[n][:, : sizes[n % 2]], n) for n in range(4)]
    masked = MaskedDataset(items, stored(tmp_path / "a", images), Masking("kar", 0.3, -1.0), fixed=True)
    batch = next(iter(DataLoader(masked, batch_size=3, collate_fn=list)))
    assert [label for _, label in batch] == [0, 1, 2]
    for index, (image, _) in enumerate(batch):
        assert torch.equal(image, masked[index][0])


class _Remembered(ImageTensors):
    """Its samples of several indices were transformed long ago."""

    def __getitems__(self, indices):
        return [(torch.zeros(1, 4, 4), 0) for _ in indices]


def test_batches_that_pass_by_their_transform_are_refused(tmp_path):
    data = _Remembered(grey_images(4), torch.arange(4), SIDE, v2.Normalize([0.0], [1.0]))
    masked = MaskedDataset(data, stored(tmp_path / "a", grey_images(4)), Masking("roar", 0.3, 0.0))
    with pytest.raises(SaliencyGeometryError, match="called for 0"):
        masked.__getitems__([0, 1])


def test_noise_is_the_images_own(tmp_path):
    data = Pictures(transform=v2.Compose([*TO_TENSOR]))
    store = stored(tmp_path / "a", data.images)
    first, second = (MaskedDataset(data, store, Masking("roar", 0.5, "noise", seed=2)) for _ in range(2))
    state = torch.get_rng_state()
    assert torch.equal(first[1][0], second[1][0])
    assert torch.equal(torch.get_rng_state(), state)
    other = MaskedDataset(data, store, Masking("roar", 0.5, "noise", seed=3))
    assert not torch.equal(first[1][0], other[1][0])
    noise = [masked[index][0][0][top_fraction(data[index][0][0], 0.5)] for index, masked in ((0, first), (1, first))]
    assert not torch.equal(*noise)


REFUSED = {
    "v1": (v1.Compose([v1.RandomCrop(9), v1.ToTensor()]), r"v1 transforms.*torchvision\.transforms\.v2"),
    "v1 inside": (v2.Compose([v1.RandomCrop(9), *TO_TENSOR]), r"RandomCrop, one of torchvision's v1 transforms"),
    "function": (v2.Compose([lambda image: image, *TO_TENSOR]), "function, no v2 transform"),
    "lambda": (v2.Compose([v2.Lambda(lambda image: image), *TO_TENSOR]), "applied to the map's values too"),
    "auto": (v2.Compose([v2.RandAugment(), *TO_TENSOR]), r"RandAugment, which refuses tv_tensors\.Mask"),
    "pure": (v2.Compose([*TO_TENSOR, v2.ToPureTensor(), v2.RandomCrop(9)]), "ToPureTensor before other transforms"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_transforms_that_cannot_carry_a_map_are_refused(tmp_path, which):
    transform, message = REFUSED[which]
    data = Pictures(transform=transform)
    store = stored(tmp_path / "a", data.images)
    with pytest.raises(SaliencyGeometryError, match=message):
        MaskedDataset(data, store, Masking("roar", 0.3, 0.0))


def test_v1_transforms_that_move_nothing_are_allowed_by_word(tmp_path):
    data = Pictures(transform=v1.Compose([v1.ToTensor()]))
    masked = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 0.3, -1.0), fixed=True)
    check_masked(masked[2][0], data[2][0], "roar", 0.3)


class _Doubling(v2.Transform):
    def transform(self, inpt, params):
        return inpt * 2


def test_what_shows_only_when_it_runs_is_refused_then(tmp_path):
    store = stored(tmp_path / "a", grey_images(6))
    masking = Masking("roar", 0.3, 0.0)
    for transform, message in (
        (v2.Compose([*TO_TENSOR, _Doubling()]), "changed the values"),
        (v2.Compose([v2.Resize(8)]), "Allowed is a tensor"),
        (v2.Compose([v2.FiveCrop(8)]), "not supported by FiveCrop"),
    ):
        with pytest.raises(SaliencyGeometryError, match=message):
            MaskedDataset(Pictures(transform=transform), store, masking)[0]

    class Cached(Pictures):
        def __getitem__(self, index):
            return torch.zeros(1, 4, 4), 0

    with pytest.raises(SaliencyGeometryError, match="called for 0"):
        MaskedDataset(Cached(transform=v2.Compose([*TO_TENSOR])), store, masking)[0]


def test_hidden_geometry_is_refused(tmp_path):
    class Secret(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return grey_images(6)[index].float(), index

    store, masking = stored(tmp_path / "a", grey_images(6)), Masking("roar", 0.3, -1.0)
    with pytest.raises(SaliencyGeometryError, match=r"Got Secret without .*how it moves its images.*geometry='fixed'"):
        MaskedDataset(Secret(), store, masking)
    check_masked(MaskedDataset(Secret(), store, masking, fixed=True)[4][0], Secret()[4][0], "roar", 0.3)
    with pytest.raises(SaliencyGeometryError, match="some parts have image transforms"):
        MaskedDataset(
            ConcatDataset([Secret(), Pictures(transform=v2.Identity())]),
            stored(tmp_path / "b", grey_images(12)),
            masking,
        )

    class Stream(IterableDataset):
        def __len__(self):
            return 6

        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="data sets with indices"):
        MaskedDataset(Stream(), store, masking)
    with pytest.raises(ValueError, match=r"6 maps .* for 5 images"):
        MaskedDataset(Pictures(5, transform=v2.Identity()), store, masking)


class Folder(pl.LightningDataModule):
    """Loaders over pictures, in whatever form."""

    def __init__(self, transform=None, **options) -> None:
        super().__init__()
        crop = v2.Compose([v2.RandomCrop(12), v2.RandomHorizontalFlip(), *TO_TENSOR])
        self.train = Pictures(9, transform=crop if transform is None else transform)
        self.val = Pictures(5, transform=v2.Compose([v2.CenterCrop(12), *TO_TENSOR]))
        self.options = {"batch_size": 4, **options}

    def train_dataloader(self):
        return DataLoader(self.train, shuffle=True, **self.options)

    def val_dataloader(self):
        return [DataLoader(self.val, **self.options), DataLoader(Subset(self.val, [1, 4]), **self.options)]

    def test_dataloader(self):
        return DataLoader(self.val, **self.options)

    def stores(self, path) -> dict:
        images = self.val.images
        return {
            "train": stored(path / "train", self.train.images, self.train),
            "val": [stored(path / "val0", images), path / "val1.npy"],
            "test": str(path / "val0"),
        }


def masked_folder(path, mode="roar", fraction=0.3, **options) -> RoarKarDataModule:
    base = Folder(**options)
    stored(path / "val1", base.val.images[[1, 4]])
    return RoarKarDataModule(base, base.stores(path), mode, fraction, fill=-1.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_of_masked_images(tmp_path, workers):
    data = masked_folder(tmp_path, num_workers=workers, drop_last=True)
    torch.manual_seed(2)
    masked = [*data.train_dataloader()]
    torch.manual_seed(2)
    plain = [*data.base.train_dataloader()]
    assert len(masked) == len(plain) == 2
    for (images, targets), (originals, same) in zip(masked, plain, strict=True):
        assert torch.equal(targets, same)
        for image, original in zip(images, originals, strict=True):
            check_masked(image, original, "roar", 0.3)
    for loader, base in zip(data.val_dataloader(), data.base.val_dataloader(), strict=True):
        for (images, _), (originals, _) in zip(loader, base, strict=True):
            for image, original in zip(images, originals, strict=True):
                check_masked(image, original, "roar", 0.3)


def _state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_masked_is_the_bases_own_run(tmp_path, workers):
    data = masked_folder(tmp_path, num_workers=workers)
    runs = []
    for module in (data.base, RoarKarDataModule(data.base, data.saliency, "roar", 0.0), data):
        pl.seed_everything(3, verbose=False)
        batches = [batch for _ in range(2) for batch in module.train_dataloader()]
        runs.append((batches, _state()))
    assert runs[0][1] == runs[1][1] == runs[2][1]
    for (left, labels), (right, same), (masked, others) in zip(*(run[0] for run in runs), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(labels, same)
        assert torch.equal(labels, others)
        assert torch.equal(left[masked != -1], masked[masked != -1])


def test_whatever_else_a_loader_is_made_of_is_kept(tmp_path):
    class Own(DataLoader):
        def __init__(self, dataset, extra, **options):
            super().__init__(dataset, **options)
            self.extra = extra

    class Other(Folder):
        def train_dataloader(self):
            def collate(samples):
                return {"pixels": torch.stack([image for image, _ in samples]), "count": len(samples)}

            return Own(self.train, "more", batch_size=2, collate_fn=collate, generator=self.generator, shuffle=True)

    base = Other()
    base.generator = torch.Generator().manual_seed(6)
    data = RoarKarDataModule(base, base.stores(tmp_path), "roar", 0.3, fill=-1.0)
    loader = data.train_dataloader()
    assert (type(loader), loader.extra) == (Own, "more")
    assert loader.generator is base.generator
    assert {batch["pixels"].shape for batch in loader} == {(2, 1, 12, 12), (1, 1, 12, 12)}
    assert [type(one) for one in (loader.dataset, base.train_dataloader().dataset)] == [MaskedDataset, Pictures]


class Sink(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.test = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.layer(batch[0].mean().view(1, 1)).sum()

    def test_step(self, batch, batch_idx):
        self.test.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def _trainer(path, **options):
    return pl.Trainer(
        default_root_dir=path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_in_a_trainer_that_replaces_samplers(tmp_path):
    data, sink = masked_folder(tmp_path), Sink()
    with pytest.warns(UserWarning, match="overfit"):
        _trainer(tmp_path, overfit_batches=2).fit(sink, data)
    assert len(sink.seen) == 2
    assert all(((images == -1).flatten(1).sum(1) == round(0.3 * 144)).all() for images, _ in sink.seen)
    _trainer(tmp_path).test(sink, data, verbose=False)
    assert all(((images == -1).flatten(1).sum(1) == round(0.3 * 144)).all() for images, _ in sink.test)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.distributed, "is_available"), reason="no processes")
def test_in_two_processes(tmp_path):
    class Checks(Sink):
        def training_step(self, batch, batch_idx):
            if not ((batch[0] == -1).flatten(1).sum(1) == round(0.3 * 144)).all():
                raise AssertionError("a batch is not masked")
            return super().training_step(batch, batch_idx)

    _trainer(tmp_path, strategy="ddp_fork", devices=2, limit_val_batches=0).fit(Checks(), masked_folder(tmp_path))


def test_digit_scenes_are_masked_batch_by_batch(tmp_path):
    scenes = DigitScenes(12, 6, 6, size=32, batch_size=5)
    scenes.setup("fit")
    grey = scenes.datasets["train"].scenes.images.float().mean(1, keepdim=True)
    stored(tmp_path / "train", grey, scenes.datasets["train"])
    data = RoarKarDataModule(scenes, tmp_path, "roar", 0.25)
    batch = next(iter(data.train_dataloader()))
    rank = SaliencyStore.open(tmp_path / "train")[batch["index"]]
    chosen = top_fraction(rank, 0.25)
    filled = batch["image"] == torch.tensor(data.data_mean)[:, None, None]
    assert torch.equal(filled.all(1), chosen)
    single = data.train_dataloader().dataset[int(batch["index"][0])]
    assert torch.equal(single["image"], batch["image"][0])
    with pytest.raises(SaliencyStoreError, match="no store"):
        data.val_dataloader()


def test_image_folders(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                picture = np.random.default_rng(number).integers(0, 255, (24, 20, 3)).astype(np.uint8)
                Image.fromarray(picture).save(tmp_path / "data" / split / name / f"{number}.png")
    base = ImageFolderDataModule(tmp_path / "data", image_size=16, batch_size=4)
    base.setup("fit")
    stores = {}
    for split, count in (("train", 8), ("val", 4)):
        fingerprint = {"data": data_fingerprint(base.datasets[split])}
        stores[split] = SaliencyStore.create(tmp_path / split, count, (6, 6), fingerprint)
        stores[split].write(range(count), torch.rand(count, 6, 6))
    data = RoarKarDataModule(base, stores, "kar", 0.25, fill=-9.0)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        images, _ = next(iter(loader))
        assert ((images != -9).any(1).flatten(1).sum(1) == 64).all()
    with pytest.raises(SaliencyStoreError, match=r"Got stores for train, val, but none for 'test'"):
        stores_of(stores, "test")
    swapped = RoarKarDataModule(base, {"train": stores["val"], "val": stores["train"]}, "kar", 0.25)
    with pytest.raises(SaliencyStoreError, match=r"other images than those of ImageFolder"):
        swapped.train_dataloader()
    wanted = RoarKarDataModule(base, stores, "kar", 0.25, fingerprints={"weights": "w"})
    with pytest.raises(SaliencyStoreError, match="maps of other weights"):
        wanted.train_dataloader()
    assert isinstance(base.train_dataloader().dataset, ImageFolder)


@pytest.mark.parametrize("mode", ["roar", "kar"])
def test_a_map_goes_with_an_image_of_an_archive_that_is_shifted_and_mirrored(tmp_path, mode):
    pictures = grey_images(12)[:, 0].numpy()
    parts = {"x": pictures, "y": np.arange(12) % 2}
    content = {f"{name}_{split}": part for split in ("train", "val", "test") for name, part in parts.items()}
    np.savez(tmp_path / "images.npz", **content)
    base = ArrayImagesDataModule(tmp_path / "images.npz", 12, mean=(0, 0, 0), std=(1, 1, 1), padding=5)
    base.setup()
    # The maps are of the images that a study explains.
    whole = torch.cat([images for images, _ in whole_image_loaders(base, SIDE, stages=("train",))["train"]])
    assert torch.equal((whole[:, 0] * 255).round().byte(), grey_images(12)[:, 0])
    stored(tmp_path / "train", whole, base.datasets["train"])
    data = RoarKarDataModule(base, tmp_path, mode, 0.3, fill=-1.0)
    for seed in range(5):
        torch.manual_seed(seed)
        (images, labels), *_ = data.train_dataloader()
        torch.manual_seed(seed)
        (plain, same), *_ = base.train_dataloader()
        assert torch.equal(labels, same)
        assert ((plain == 0).all(1).flatten(1).sum(1) > 1).any()
        for image, original in zip(images, plain, strict=True):
            check_masked(image, original, mode, 0.3)


def test_what_comes_in_from_the_border_of_an_archives_image_is_least_salient(tmp_path):
    images = grey_images(6).expand(-1, 3, -1, -1)
    plain = v2.Normalize([0.0] * 3, [1.0] * 3)
    data = ImageTensors(images, torch.arange(6), SIDE, plain, augment=True, padding=4)
    masked = MaskedDataset(data, stored(tmp_path / "a", 255 - images[:, :1]), Masking("kar", 0.5, -1.0))
    for _ in range(5):
        for image, _ in masked.__getitems__(range(6)):
            kept = image[0][image[0] != -1]
            # At least (12/16)² of the pixels are the image's own, of which no two are alike; the darkest are kept.
            assert len(kept) == len(kept.unique()) == 128


def test_images_moved_before_their_transform_are_refused(tmp_path):
    class Early(Pictures):
        def __getitem__(self, index):
            image = Image.fromarray(self.images[index, 0].roll(int(torch.randint(16, ())), 0).numpy())
            return self.transform(image), 0

    base = Folder()
    base.train = Early(9, transform=v2.Compose([*TO_TENSOR]))
    store = SaliencyStore.create(tmp_path / "train", 9, (4, 4), {"data": "x"})
    store.write(range(9), torch.rand(9, 4, 4))
    with pytest.raises(SaliencyGeometryError, match="Early changes its images before its transform gets them"):
        RoarKarDataModule(base, tmp_path, fill=0.0).train_dataloader()


def test_stores_of_another_form_are_refused(tmp_path):
    base = Folder()
    stores = base.stores(tmp_path)
    for value, message in (
        (stores["train"], "Allowed is a list of 2"),
        ({"a": 1}, r"keys \['a'\]"),
        ([1, 2], "of type int"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            RoarKarDataModule(base, {"val": value}, fill=0.0).val_dataloader()
    base.train_dataloader = lambda: [[1, 2]]
    with pytest.raises(TypeError, match="loader of type int"):
        RoarKarDataModule(base, {"train": [[1, 2]]}, fill=0.0).train_dataloader()


def test_the_mean_of_stored_runs_is_that_of_the_data_sets_images(tmp_path):
    data = masked_folder(tmp_path, transform=v2.Compose([*TO_TENSOR]))
    data.fill = "data_mean"
    state = _state()
    data.val_dataloader()
    assert _state() == state
    assert data.data_mean == pytest.approx([127.5 / 255], rel=1e-5)


def test_a_masked_data_set_can_be_copied_and_sent(tmp_path):
    import pickle

    data = Pictures(transform=v2.Compose([v2.CenterCrop(9), *TO_TENSOR]))
    masked = MaskedDataset(data, stored(tmp_path / "a", data.images), Masking("roar", 0.3, -1.0))
    for again in (pickle.loads(pickle.dumps(masked)), copy.deepcopy(masked)):
        assert torch.equal(again[1][0], masked[1][0])
        assert again.targets == data.targets
    with pytest.raises(AttributeError):
        MaskedDataset.__new__(MaskedDataset).targets  # noqa: B018  # as pickle makes one
