"""Masking online: the hooks passed through, what is masked, and what stays as it was."""

from __future__ import annotations

import copy
import inspect
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_saliency import ImageClassifier
from lightning_saliency.batches import BatchError, NoImagesError
from lightning_saliency.data import DigitScenes, RoarKarDataModule
from lightning_saliency.data.masked import channel_mean
from lightning_saliency.data.masked.online import replace_tensor
from lightning_saliency.explainers import SMOE, Explainer, GradCAM
from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.networks import small_cnn


class Grey(Explainer):
    """The map is the image's own grey value."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__(nn.Flatten() if model is None else model)
        self.calls: list[tuple[int, Tensor | None]] = []

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        self.calls.append((len(images), targets))
        return images.mean(1)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        self.calls.append((len(images), None))
        return images.mean(1)


class Base(pl.LightningDataModule):
    """Tells which of its hooks were called."""

    classes = ("a", "b")

    def __init__(self, count: int = 10, **options) -> None:
        super().__init__()
        self.called: list[str] = []
        self.options = options
        self.images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.data = TensorDataset(self.images, torch.arange(count) % 2)

    @property
    def num_classes(self) -> int:
        return 2

    def prepare_data(self):
        self.called.append("prepare_data")

    def setup(self, stage):
        self.called.append(f"setup {getattr(stage, 'value', stage)}")

    def teardown(self, stage):
        self.called.append(f"teardown {getattr(stage, 'value', stage)}")

    def on_exception(self, exception):
        self.called.append(f"on_exception {exception}")

    def _loader(self, **options):
        return DataLoader(self.data, batch_size=4, **self.options, **options)

    def train_dataloader(self):
        return self._loader(shuffle=True)

    def val_dataloader(self):
        return self._loader()

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.called.append("on_before_batch_transfer")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.called.append("transfer_batch_to_device")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.called.append(f"on_after_batch_transfer {dataloader_idx}")
        return batch

    def state_dict(self):
        return {"seen": 7}

    def load_state_dict(self, state_dict):
        self.called.append(f"load_state_dict {state_dict}")


class Plain(pl.LightningDataModule):
    """Nothing but training data."""

    def __init__(self, loaders=None, transform=None) -> None:
        super().__init__()
        images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.data = TensorDataset(images, torch.arange(10) % 2)
        self.loaders = loaders

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True) if self.loaders is None else self.loaders


class Module(pl.LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
        self.net(torch.rand(1, 3, 8, 8))
        self.seen: dict[str, list] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        images = batch[0] if isinstance(batch, (list, tuple)) else batch["left"][0]
        return self.net(images).sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch)
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer(folder, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **options}
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **options
    )


def expected(images: Tensor, fraction: float, mode: str, fill: float = 0.0) -> Tensor:
    chosen = top_fraction(images.mean(1), fraction)[:, None]
    return torch.where(chosen if mode == "roar" else ~chosen, torch.tensor(fill), images)


@pytest.mark.parametrize("mode", ["roar", "kar"])
def test_every_stage_is_masked_by_the_maps_of_its_own_images(tmp_path, mode):
    base, module = Base(), Module()
    data = RoarKarDataModule(base, Grey(), mode, 0.3, fill=0.0)
    run = trainer(tmp_path, num_sanity_val_steps=0)
    run.fit(module, data)
    run.test(module, data)
    run.predict(module, data)
    masked = expected(base.images, 0.3, mode)
    for stage in ("val", "test", "predict"):
        assert torch.equal(torch.cat([batch[0] for batch in module.seen[stage]]), masked), stage
    trained = torch.cat([batch[0] for batch in module.seen["train"]])
    order = [int((masked == image).flatten(1).all(1).nonzero()[0]) for image in trained]
    assert sorted(order) == list(range(10))
    assert order != list(range(10))
    assert torch.equal(base.data.tensors[0], base.images)


def test_the_bases_hooks_run_and_its_attributes_are_seen(tmp_path):
    base = Base()
    data = RoarKarDataModule(base, Grey(), fraction=0.3)
    assert (data.num_classes, data.classes, data.prepare_data_per_node) == (2, ("a", "b"), True)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = data.nothing_like_it
    run = trainer(tmp_path, num_sanity_val_steps=0, limit_val_batches=0, limit_train_batches=1)
    run.fit(Module(), data)
    assert base.trainer is run
    assert data.trainer is run
    # The mean of the images is taken once, of ten images in batches of four.
    assert base.called[:2] == ["prepare_data", "setup fit"]
    hooks = ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer 0"]
    assert base.called[2:-1] == hooks * 4
    assert base.called[-1] == "teardown fit"
    data.on_exception(RuntimeError("oh"))
    assert base.called[-1] == "on_exception oh"


def test_what_the_base_lacks_is_lacking():
    from pytorch_lightning.utilities.model_helpers import is_overridden

    hidden = ("val_dataloader", "test_dataloader", "predict_dataloader", "prepare_data", "transfer_batch_to_device")
    for data in (RoarKarDataModule(Plain(), Grey()), copy.deepcopy(RoarKarDataModule(Plain(), Grey()))):
        assert is_overridden("train_dataloader", data)
        assert is_overridden("on_after_batch_transfer", data)
        assert not any(is_overridden(hook, data) for hook in hidden)
    assert all(is_overridden(hook, RoarKarDataModule(Base(), Grey())) for hook in hidden)


def test_a_base_without_validation_is_fitted_without_validation(tmp_path):
    module = Module()
    trainer(tmp_path).fit(module, RoarKarDataModule(Plain(), Grey(), fraction=0.5, fill=0.0))
    assert module.seen["val"] == []
    assert all((batch[0] == 0).all(1).sum() == 32 * len(batch[0]) for batch in module.seen["train"])


def test_the_modules_own_hooks_serve_where_the_base_has_none(tmp_path):
    class Hooked(Module):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return [batch[0] * 2, batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 100, batch[1]]

    module = Hooked()
    with pytest.warns(UserWarning, match="overridden"):
        trainer(tmp_path).fit(module, RoarKarDataModule(Plain(), Grey(), fraction=0.5, fill=0.0))
    images = torch.cat([batch[0] for batch in module.seen["train"]])
    assert images[images != 0].min() >= 100
    assert images.max() > 101
    assert (images == 0).all(1).sum() == 32 * 10


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["roar", "kar"])
def test_fractions_are_exact_under_ties(mode, fraction):
    data = RoarKarDataModule(Base(), Grey(), mode, fraction, fill=-1.0)
    images = (torch.rand(5, 3, 9, 7) * 2).floor()
    images[0] = 1
    masked = data.on_after_batch_transfer([images, torch.zeros(5)], 0)[0]
    hidden = (masked == -1).all(1).flatten(1).sum(1)
    count = round(fraction * 63)
    assert hidden.tolist() == [count if mode == "roar" else 63 - count] * 5


def test_an_image_has_the_same_mask_in_any_batch():
    data = RoarKarDataModule(DigitScenes(8, 8, 8), SMOE(small_cnn()), "roar", 0.3, fill=-9.0)
    images = torch.rand(7, 3, 32, 32)
    together = data.on_after_batch_transfer({"image": images}, 0)["image"]
    alone = [data.on_after_batch_transfer({"image": image[None]}, 0)["image"] for image in images]
    reversed_ = data.on_after_batch_transfer({"image": images.flip(0)[:4]}, 0)["image"]
    assert torch.equal(together.eq(-9), torch.cat(alone).eq(-9))
    assert torch.equal(together.flip(0)[:4].eq(-9), reversed_.eq(-9))


def _train(data, epochs: int = 2, folder=None) -> tuple[Module, list]:
    pl.seed_everything(5, verbose=False)
    module = Module()
    trainer(folder, max_epochs=epochs).fit(module, data)
    state = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    return module, state


@pytest.mark.parametrize(("mode", "fraction"), [("roar", 0.0), ("kar", 1.0)])
def test_nothing_masked_is_the_bases_own_run(tmp_path, mode, fraction):
    plain, plain_state = _train(Base(), folder=tmp_path)
    masked, masked_state = _train(RoarKarDataModule(Base(), Grey(), mode, fraction), folder=tmp_path)
    for (left, _), (right, _) in zip(plain.seen["train"], masked.seen["train"], strict=True):
        assert torch.equal(left, right)
    assert torch.equal(plain.net[1].weight, masked.net[1].weight)
    assert torch.equal(plain_state[0], masked_state[0])
    assert plain_state[1:] == masked_state[1:]


@pytest.mark.parametrize("fill", ["data_mean", "noise", "blur"])
def test_masking_draws_no_random_number_and_keeps_the_order(tmp_path, fill):
    plain, plain_state = _train(Base(), folder=tmp_path)
    data = RoarKarDataModule(Base(), SMOE(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.ReLU()), layers=["2"]))
    data.fill = fill
    masked, masked_state = _train(data, folder=tmp_path)
    for (left, labels), (right, others) in zip(plain.seen["train"], masked.seen["train"], strict=True):
        same = (left == right).all(1)
        assert (~same).sum() == round(0.1 * 64) * len(left)
        assert torch.equal(labels, others)
    assert torch.equal(plain_state[0], masked_state[0])
    assert plain_state[1:] == masked_state[1:]


def test_the_mean_is_that_of_the_training_images():
    base = Base()
    data = RoarKarDataModule(base, Grey(), fraction=0.5)
    assert data.data_mean is None
    before = torch.get_rng_state()
    data.val_dataloader()
    assert torch.equal(torch.get_rng_state(), before)
    assert data.data_mean == pytest.approx(base.images.mean((0, 2, 3)).tolist(), rel=1e-5)
    masked = data.on_after_batch_transfer([base.images[:2].clone(), 0], 0)[0]
    chosen = top_fraction(base.images[:2].mean(1), 0.5)
    assert torch.allclose(masked.movedim(1, -1)[chosen], torch.tensor(data.data_mean))


def test_the_mean_is_that_of_the_images_as_they_are_masked():
    class Brighter(Base):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 10, batch[1]]

    base = Brighter()
    data = RoarKarDataModule(base, Grey(), fraction=0.5)
    data.train_dataloader()
    assert data.data_mean == pytest.approx((base.images.mean((0, 2, 3)) + 10).tolist(), rel=1e-5)


def test_the_mean_of_normalised_data_is_their_own():
    scenes = DigitScenes(12, 8, 8, batch_size=4)
    scenes.setup("fit")
    data = RoarKarDataModule(scenes, Grey(), fraction=0.5)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    images = torch.stack([sample["image"] for sample in scenes.datasets["train"]])
    assert data.data_mean == pytest.approx(images.double().mean((0, 2, 3)).tolist(), abs=1e-6)
    assert max(map(abs, data.data_mean)) > 0.01
    filled = batch["image"] == torch.tensor(data.data_mean)[:, None, None]
    assert (filled.all(1).flatten(1).sum(1) == 2048).all()


class Augmented(Dataset):
    """Images that come out of a transform, some of them of another size."""

    def __init__(self, transform, count: int = 12, wide: int = 0) -> None:
        self.transform = transform
        generator = torch.Generator().manual_seed(2)
        self.images = [
            torch.randint(60, 256, (3, 8, 8 + wide * (n % 2)), dtype=torch.uint8, generator=generator)
            for n in range(count)
        ]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), index % 2


def augmented_mean(transform, **options) -> tuple[float, ...]:
    data = RoarKarDataModule(Plain(), Grey(), fraction=0.5)
    workers = options.pop("num_workers", 0)
    data.base.loaders = DataLoader(Augmented(transform, **options), batch_size=4, shuffle=True, num_workers=workers)
    data.train_dataloader()
    return data.data_mean


STATISTICS = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


class _Dimmed(v2.Transform):
    def transform(self, inpt, params):
        return inpt.float() * torch.rand(())


NORMALIZED = (v2.ToDtype(torch.float32, scale=True), v2.Normalize(*STATISTICS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.RandomCrop(8, padding=4), v2.RandomHorizontalFlip(), *NORMALIZED]),
        v2.Compose([v2.Compose([v2.Pad(3), v2.RandomCrop(8)]), v2.ColorJitter(0.9), *NORMALIZED, v2.RandomErasing(1)]),
        v1.Compose([v1.ToPILImage(), v1.RandomCrop(8, padding=4), v1.ToTensor(), v1.Normalize(*STATISTICS)]),
    ],
    ids=["crop", "nested", "v1"],
)
def test_the_mean_is_that_of_the_images_without_augmentation(transform, workers):
    state = torch.get_rng_state()
    found = augmented_mean(transform, num_workers=workers)
    assert torch.equal(torch.get_rng_state(), state)
    raw = torch.stack(Augmented(None).images) / 255
    expected = (raw.mean((0, 2, 3)) - torch.tensor(STATISTICS[0])) / torch.tensor(STATISTICS[1])
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_mean_of_images_of_several_sizes_is_that_of_whole_ones():
    transform = v2.Compose([v2.RandomResizedCrop(6), v2.ToDtype(torch.float32, scale=True)])
    whole = [v2.functional.resize(image / 255, [6, 6]) for image in Augmented(None, wide=5).images]
    expected = torch.stack(whole).mean((0, 2, 3)).tolist()
    assert augmented_mean(transform, wide=5) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_random_for_another_reason_draws_the_same_in_any_process(own):
    # Without its random step, the second one's images would have another type.
    transform = _Dimmed() if own else v2.RandomApply([v2.ToDtype(torch.float32, scale=True)], p=1.0)
    torch.manual_seed(1)
    first = augmented_mean(transform)
    torch.manual_seed(2)
    assert augmented_mean(transform, num_workers=2) == first
    if not own:
        raw = torch.stack(Augmented(None).images) / 255
        assert first == pytest.approx(raw.mean((0, 2, 3)).tolist(), rel=1e-5)


def test_the_mean_of_many_images_is_taken_of_some_evenly_spread(monkeypatch):
    monkeypatch.setattr(channel_mean, "MAX_IMAGES", 4)
    seen: list[int] = []

    class Counting(Augmented):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    data = Counting(v2.Compose([*NORMALIZED]), count=10)
    mean = channel_mean.channel_mean([DataLoader(data, batch_size=3)], lambda batch: batch, None)
    assert seen[-4:] == [0, 2, 5, 7]
    expected = torch.stack([data[n][0] for n in (0, 2, 5, 7)]).mean((0, 2, 3))
    assert mean == pytest.approx(expected.tolist(), abs=1e-6)


def test_batches_that_a_data_set_makes_itself_have_a_mean():
    batches = [torch.rand(2, 3, 4, 4), torch.rand(5, 3, 4, 4)]
    mean = channel_mean.channel_mean(DataLoader(batches, batch_size=None), lambda batch: batch, None)
    assert mean == pytest.approx(torch.cat(batches).mean((0, 2, 3)).tolist(), abs=1e-6)


def test_the_mean_travels_in_checkpoints(tmp_path):
    base = Base()
    data = RoarKarDataModule(base, Grey(), fraction=0.5)
    run = trainer(tmp_path, num_sanity_val_steps=0)
    module = Module()
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = RoarKarDataModule(Base(), Grey(), fraction=0.5)
    again.base.train_dataloader = None
    # Lightning 2.5 has no such argument, and loads everything.
    whole = {"weights_only": False} if "weights_only" in inspect.signature(pl.Trainer.test).parameters else {}
    trainer(tmp_path).test(module, again, ckpt_path=tmp_path / "a.ckpt", **whole)
    assert "load_state_dict {'seen': 7}" in again.base.called
    assert again.data_mean == data.data_mean
    assert not any("model" in key or "Grey" in key for key in torch.load(tmp_path / "a.ckpt", weights_only=False))


def test_a_mean_that_is_loaded_takes_the_place_of_one_that_was_taken():
    data = RoarKarDataModule(Base(), Grey(), "roar", 1.0)
    images = torch.rand(2, 3, 8, 8)
    taken = data.on_after_batch_transfer([images, 0], 0)[0][0, :, 0, 0]
    assert taken.tolist() == pytest.approx(data.data_mean)
    data.load_state_dict({"base": {}, "data_mean": [7.0, 8.0, 9.0]})
    assert data.on_after_batch_transfer([images, 0], 0)[0][0, :, 0, 0].tolist() == [7.0, 8.0, 9.0]


def test_a_run_that_only_tests_takes_the_mean_of_the_training_data_where_it_can(tmp_path):
    trained = RoarKarDataModule(DigitScenes(12, 8, 8, batch_size=4), Grey(), "kar", 0.5)
    trained.setup("fit")
    trained.train_dataloader()
    tested, module = RoarKarDataModule(DigitScenes(12, 8, 8, batch_size=4), Grey(), "kar", 0.5), Module()
    trainer(tmp_path).test(module, tested, verbose=False)
    assert tested.data_mean == trained.data_mean
    assert len(module.seen["test"]) == 2


def test_a_run_that_only_tests_cannot_know_the_mean(tmp_path):
    class Test(Base):
        def train_dataloader(self):
            raise RuntimeError("not set up")

    with pytest.raises(RuntimeError, match=r"not known in a run without training data .*not set up.* fill="):
        trainer(tmp_path).test(Module(), RoarKarDataModule(Test(), Grey()))


@pytest.mark.parametrize("fill", ["zero", "mean", "noise", "blur", 0.25, (0.1, 0.2, 0.3)])
def test_other_fills(fill):
    data = RoarKarDataModule(Base(), Grey(), "kar", 0.25, fill, seed=3)
    images = torch.rand(4, 3, 8, 8)
    masked = data.on_after_batch_transfer((images, 1), 0)[0]
    kept = top_fraction(images.mean(1), 0.25)[:, None].expand_as(images)
    assert torch.equal(masked[kept], images[kept])
    assert not torch.equal(masked, images)
    again = RoarKarDataModule(Base(), Grey(), "kar", 0.25, fill, seed=3).on_after_batch_transfer((images, 1), 0)[0]
    assert torch.equal(masked, again)


def test_targets_are_the_predicted_classes_or_the_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([1, 0, 1, 1])
    for targets, seen in (("predicted", None), ("label", labels)):
        grey = Grey()
        data = RoarKarDataModule(Base(), grey, fraction=0.2, fill=0.0, targets=targets)
        data.on_after_batch_transfer((images, labels), 0)
        ((count, given),) = grey.calls
        assert count == 4
        assert given is None if seen is None else torch.equal(given, seen)
    with pytest.raises(ValueError, match=r"no integer labels \[4\].* use targets='predicted'"):
        data.on_after_batch_transfer((images,), 0)


def test_collections_of_loaders(tmp_path):
    class Many(Base):
        def train_dataloader(self):
            return {"left": self._loader(), "right": [DataLoader(TensorDataset(self.images[:3]), batch_size=2)]}

        def val_dataloader(self):
            return [self._loader(), self._loader()]

    module = Module()
    trainer(tmp_path, num_sanity_val_steps=0).fit(module, RoarKarDataModule(Many(), Grey(), "roar", 0.25, fill=0.0))
    for batch in module.seen["train"]:
        for part in (batch["left"], batch["right"][0]):
            assert ((part[0] == 0).all(1).flatten(1).sum(1) == 16).all()
    assert len(module.seen["val"]) == 6
    assert all(((batch[0] == 0).all(1).flatten(1).sum(1) == 16).all() for batch in module.seen["val"])


def test_the_frozen_network_stays_out_of_the_module_and_as_it_was(tmp_path):
    network = small_cnn(2)
    before = copy.deepcopy(network.state_dict())
    module = ImageClassifier("small_cnn", 2)
    trainer(tmp_path).fit(module, RoarKarDataModule(Base(), GradCAM(network), fraction=0.2))
    assert network.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not {id(one) for one in network.parameters()} & {id(one) for one in module.parameters()}


def test_a_network_that_is_trained_itself_is_refused(tmp_path):
    module = ImageClassifier("small_cnn", 2)
    with pytest.raises(ValueError, match=r"is part of the ImageClassifier .* copy\.deepcopy"):
        trainer(tmp_path).fit(module, RoarKarDataModule(Base(), SMOE(module.model), fraction=0.2))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    module = ImageClassifier("small_cnn", 2)
    data = RoarKarDataModule(Base(), SMOE(small_cnn(2)), fraction=0.25)
    trainer(tmp_path, precision=precision).fit(module, data)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_workers_and_samplers_are_the_bases(tmp_path):
    weights = torch.utils.data.WeightedRandomSampler([0.0] * 5 + [1.0] * 5, 10)

    class Sampled(Base):
        def train_dataloader(self):
            return DataLoader(self.data, batch_size=4, sampler=weights, num_workers=2)

    base, module = Sampled(), Module()
    trainer(tmp_path, limit_val_batches=0).fit(module, RoarKarDataModule(base, Grey(), "kar", 0.3, fill=0.0))
    masked = expected(base.images, 0.3, "kar")
    found = torch.cat([batch[0] for batch in module.seen["train"]])
    assert all(any(torch.equal(image, one) for one in masked[5:]) for image in found)


def test_a_wrapper_may_be_wrapped_again():
    once = RoarKarDataModule(Base(), Grey(), "roar", 0.25, fill=0.0)
    twice = RoarKarDataModule(once, Grey(), "roar", 0.25, fill=-1.0)
    masked = twice.on_after_batch_transfer((torch.rand(2, 3, 8, 8), 1), 0)[0]
    assert ((masked == 0).all(1).flatten(1).sum(1) == 16).all()
    assert ((masked == -1).all(1).flatten(1).sum(1) == 16).all()
    assert twice.num_classes == 2


def test_what_is_logged_and_saved_as_hyperparameters():
    scenes = DigitScenes(8, 8, 8)
    data = RoarKarDataModule(scenes, Grey(), "kar", 0.3, (0.1, 0.2, 0.3))
    assert data.hparams["train_size"] == 8
    assert data.hparams["roar_kar"] == {"mode": "kar", "fraction": 0.3, "fill": pytest.approx([0.1, 0.2, 0.3])}


def test_an_explainer_in_any_form_is_built_round_the_network_given():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    forms = ("grad_cam", {"class_path": "grad_cam", "init_args": {"layer": "1"}}, GradCAM, lambda net: GradCAM(net))
    masked = [RoarKarDataModule(Base(), GradCAM(network), "kar", 0.25, fill=0.0)]
    masked += [RoarKarDataModule(Base(), form, "kar", 0.25, fill=0.0, model=network) for form in forms]
    batches = [data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)[0] for data in masked]
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    assert (batches[0] != 0).any(1).sum() == 4 * 16
    with pytest.raises(TypeError, match="already built round a network"):
        RoarKarDataModule(Base(), GradCAM(network), model=network)
    for form in (forms[1], GradCAM):
        with pytest.raises(TypeError, match="with model=network an explainer's name"):
            RoarKarDataModule(Base(), form)
    for name in ("grad_cam", "edges", "smoe"):
        with pytest.raises(TypeError, match=f"Got saliency='{name}', the name of an explainer, without model"):
            RoarKarDataModule(Base(), name)


def test_wrong_arguments_are_refused():
    for arguments, error, message in (
        ((DataLoader([1]), Grey()), TypeError, "Allowed is a LightningDataModule"),
        ((Module(), Grey()), TypeError, "Allowed is a LightningDataModule"),
        ((Base(), lambda images: images), TypeError, "Allowed are an Explainer, stores by stage"),
        ((Base(), Grey(), "road"), ValueError, "mode='road'. Allowed are 'kar', 'roar'"),
        ((Base(), Grey(), "roar", 30), ValueError, "divide per cent by 100"),
        ((Base(), Grey(), "roar", 0.3, "gray"), ValueError, "fill='gray'. Allowed are 'data_mean', 'zero'"),
    ):
        with pytest.raises(error, match=message):
            RoarKarDataModule(*arguments)
    with pytest.raises(ValueError, match="targets='true'"):
        RoarKarDataModule(Base(), Grey(), targets="true")


def test_a_batch_without_images_says_so():
    with pytest.raises(ValueError, match=r"Found no images \[B, C, H, W\]"):
        RoarKarDataModule(Base(), Grey(), fill=0.0).on_after_batch_transfer(torch.rand(3, 4), 0)
    with pytest.raises(ValueError, match="image_key='x'"):
        RoarKarDataModule(Base(), Grey(), fill=0.0, image_key="x").on_after_batch_transfer({"image": 1}, 0)


def test_images_are_exchanged_in_any_container_and_the_batch_is_not_changed():
    class Record:
        def __init__(self, image: Tensor) -> None:
            self.image, self.other = image, [1]

    from collections import OrderedDict, UserDict, namedtuple

    Pair = namedtuple("Pair", ["image", "label"])
    old, new = torch.zeros(1), torch.ones(1)
    for batch in (Pair(old, 1), OrderedDict(image=old), UserDict(image=old), Record(old), [(old, {"a": old})]):
        exchanged = replace_tensor(batch, old, new)
        assert type(exchanged) is type(batch)
        assert exchanged is not batch
    assert exchanged[0][1]["a"] is new
    assert replace_tensor(Record(old), old, new).image is new
    untouched = {"image": new}
    assert replace_tensor(untouched, old, new) is untouched


def test_data_without_a_mean_say_so():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    for loaders, given in (([[1, 2]], "int"), (DataLoader(Stream()), "Stream")):
        data = RoarKarDataModule(Plain(loaders=loaders), Grey())
        with pytest.raises(
            TypeError, match=rf"of type {given}\. Allowed is a DataLoader to take the mean of.* give fill="
        ):
            data.train_dataloader()


class _Texts(Base):
    """Loaders of texts or of features before the one of images, or alone."""

    def __init__(self, others, alone=False):
        super().__init__()
        self.others, self.alone = others, alone

    def _loader(self, **options):
        items = {"texts": [("some words", 1)] * 4, "features": [(torch.rand(5), 1)] * 4}[self.others]
        return [DataLoader(items, batch_size=2), *([] if self.alone else [super()._loader(**options)])]


@pytest.mark.parametrize("others", ["texts", "features"])
@pytest.mark.parametrize("stage", ["train", "val"])
def test_of_several_loaders_those_without_images_are_passed_over(others, stage):
    base = _Texts(others)
    masked = RoarKarDataModule(base, Grey(), fraction=0.5)
    loaders = getattr(masked, f"{stage}_dataloader")()
    masked._stage = lambda: stage
    batches = [next(iter(loader)) for loader in loaders]
    if stage == "train":
        after = masked.on_after_batch_transfer(batches, 0)
    else:
        after = [masked.on_after_batch_transfer(batch, place) for place, batch in enumerate(batches)]
    assert after[0] is batches[0]
    assert 0.4 < (after[1][0] != batches[1][0]).any(1).float().mean() <= 0.5
    assert masked.data_mean == pytest.approx(tuple(base.images.mean((0, 2, 3)).tolist()))


@pytest.mark.parametrize("others", ["texts", "features"])
@pytest.mark.parametrize("fill", ["data_mean", 0.0])
def test_loaders_without_any_images_are_refused(others, fill):
    masked = RoarKarDataModule(_Texts(others, alone=True), Grey(), fill=fill)
    with pytest.raises(NoImagesError, match="Found no images"):
        masked.on_after_batch_transfer(next(iter(masked.val_dataloader()[0])), 0)


def test_images_that_image_key_does_not_name_are_not_left_unmasked():
    class Two(Base):
        def _loader(self, **options):
            named = [{"image": image, "label": 1} for image in self.images]
            other = [{"photo": image, "label": 1} for image in self.images]
            return [DataLoader(named, batch_size=4), DataLoader(other, batch_size=4)]

    masked = RoarKarDataModule(Two(), Grey(), fill=0, image_key="image")
    batches = [next(iter(loader)) for loader in masked.val_dataloader()]
    masked._stage = lambda: "val"
    masked.on_after_batch_transfer(batches[0], 0)
    with pytest.raises(BatchError, match="under image_key"):
        masked.on_after_batch_transfer(batches[1], 1)


@pytest.mark.parametrize("fill", ["data_mean", 0.0])
def test_lists_of_images_of_different_sizes_are_refused_with_what_helps(fill):
    class Detection(Base):
        def _loader(self, batch_size=2, **options):
            items = [(torch.rand(3, 8, 8 + place % 2), {"labels": torch.tensor([1])}) for place in range(4)]
            return DataLoader(
                items, batch_size=self.options.get("size", 2), collate_fn=lambda few: [*zip(*few, strict=True)]
            )

    masked = RoarKarDataModule(Detection(), Grey(), fill=fill)
    with pytest.raises(BatchError, match=r"different sizes .* use batch_size=1"):
        masked.on_after_batch_transfer(next(iter(masked.train_dataloader())), 0)
    base = Detection(size=1)
    masked = RoarKarDataModule(base, Grey(), fill=fill)
    images, targets = masked.on_after_batch_transfer(batch := next(iter(base.train_dataloader())), 0)
    assert images[0].shape == batch[0][0].shape
    assert not torch.equal(images[0], batch[0][0])
    assert targets is batch[1] or targets == batch[1]
