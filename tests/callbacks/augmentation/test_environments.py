"""The augmentation under mixed precision, compilation, several processes, the other package, and beside the monitor."""

from __future__ import annotations

import sys

import lightning.pytorch
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import (
    AugmentationConfigurationError,
    GroupCAMAugmentation,
    KeepAugment,
    MaskTune,
    SaliencyAugmentation,
    SaliencyMonitor,
)
from lightning_saliency.callbacks.augmentation.options import batch_generator
from lightning_saliency.pictures.film import Film
from tests.callbacks.augmentation.helpers import Watching, equal, fit, originals, quiet
from tests.callbacks.monitor.helpers import Recorder, SmallNet, loader, trainer


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    module = Watching()
    seen = []
    module.net.features[0].register_forward_hook(lambda m, _, out: seen.append(out.dtype) if not m.training else None)
    run = fit(tmp_path, GroupCAMAugmentation(groups=4), module, precision=precision)
    assert 0 < run.callback_metrics["group_cam/kept_share"] < 1
    assert set(seen) == {torch.float64 if precision == "64-true" else torch.bfloat16}
    assert not torch.equal(torch.cat(module.given).float(), originals())


def test_queries_in_half_precision_beside_training_in_single(tmp_path):
    module = Watching()
    seen = {True: set(), False: set()}
    module.net.features[0].register_forward_hook(lambda m, _, out: seen[m.training].add(out.dtype))
    guide = {"class_path": "group_cam", "init_args": {"groups": 4, "precision": "bf16"}}
    fit(tmp_path, SaliencyAugmentation(guide, film=False), module)
    # The layer itself is read in single precision, the masked images are scored in half.
    assert seen == {True: {torch.float32}, False: {torch.float32, torch.bfloat16}}


@pytest.mark.parametrize(
    ("monitors", "augmentations", "said"),
    [("auto", "auto", True), ("imagenet", "auto", False), ("auto", [[0.5], [0.2]], False), ("none", "imagenet", False)],
)
def test_a_film_that_is_not_told_how_images_were_normalised_asks_the_others(
    tmp_path, recwarn, monitors, augmentations, said
):
    data = [{"image": 3 * image - 1, "label": label} for image, label in map(loader().dataset.__getitem__, range(8))]
    monitor = SaliencyMonitor(num_images=2, denormalize=monitors)
    augmentation = SaliencyAugmentation("smoe", film={"denormalize": augmentations})
    run = trainer(tmp_path, monitor, augmentation, epochs=1)
    run.fit(Watching(), DataLoader(data, 4), DataLoader(data, 4))
    warned = [str(one.message) for one in recwarn if "stretche" in str(one.message)]
    assert len(warned) == (2 if said else 0)


CURE = {"explainer": "smoe", "action": "hide", "guide_network": "start", "reuse_epochs": "all", "start_epoch": 1}


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("action", ["hide", "mix"])
def test_a_fixed_guide_pairs_and_sharp_statistics_under_precisions(tmp_path, precision, action):
    settings = {**CURE, "action": action, "keep_original": True, "batch_norm": "original"}
    module = Watching()
    run = fit(
        tmp_path,
        SaliencyAugmentation(**settings),
        module,
        loader(form="dict"),
        precision=precision,
        accumulate_grad_batches=2,
        epochs=3,
    )
    assert [len(given) for given in module.given] == [4] * 4 + [8] * 8
    assert 0 < run.callback_metrics["smoe/kept_share"] < 1
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert run.global_step == 6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
def test_a_fixed_guide_in_two_processes(tmp_path):
    settings = {**CURE, "keep_original": True, "batch_norm": "original"}
    run = trainer(tmp_path, SaliencyAugmentation(**settings), strategy="ddp_fork", devices=2, epochs=3)
    run.fit(_Noting(tmp_path), loader(16, form="dict"))
    became: dict[bytes, list[torch.Tensor]] = {}
    for rank in range(2):
        given = torch.load(tmp_path / f"given{rank}.pt")
        assert [len(images) for images in given] == [4] * 2 + [8] * 4
        for images in given[2:]:
            for image, changed in zip(images[:4], images[4:], strict=True):
                assert (image != changed).any(0).sum() == 26
                became.setdefault(image.numpy().tobytes(), []).append(changed)
    # The learning rate is zero: an image has one map, in each epoch and on either process.
    assert [len(each) for each in became.values()] == [2] * 16
    assert all(torch.equal(*each) for each in became.values())
    assert run.callback_metrics["smoe/augmented"] == 1


@pytest.mark.parametrize("form", ["wrapped", "in place"])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.slow
def test_compiled_networks(tmp_path, form, fast):
    torch._dynamo.reset()
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    module = Watching()
    if form == "in place":
        module.net.compile(backend=backend)
    else:
        module.net = torch.compile(module.net, backend=backend)
    fit(tmp_path, quiet(fast=fast), module, epochs=3)
    assert len(compiled) == 1  # the queries cause no second compilation
    eager = Watching()
    fit(tmp_path, quiet(fast=fast), eager, epochs=3)
    torch.testing.assert_close(torch.cat(module.given), torch.cat(eager.given), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_module(tmp_path):
    class Plain(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch._dynamo.reset()
    module = torch.compile(Plain(), backend="eager")
    callback = GroupCAMAugmentation(groups=4)
    run = trainer(tmp_path, callback, package=lightning.pytorch, epochs=2, logger=False)
    run.fit(module, loader())
    assert run.global_step == 8
    assert 0 < run.callback_metrics["group_cam/kept_share"] < 1
    torch._dynamo.reset()


class _Noting(Watching):
    """Leaves what each process was given in a file."""

    def __init__(self, folder):
        super().__init__(learning_rate=0.0)
        self.folder = folder

    def on_train_end(self):
        torch.save(self.given, self.folder / f"given{self.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
def test_two_processes(tmp_path):
    callback = GroupCAMAugmentation(groups=4, probability=0.5)
    run = trainer(tmp_path, callback, strategy="ddp_fork", devices=2, epochs=2)
    run.fit(_Noting(tmp_path), loader(16, form="dict"))
    given = torch.stack([torch.cat(torch.load(tmp_path / f"given{rank}.pt")) for rank in range(2)])
    # Two processes, two epochs of eight images each; which ones are left as they are is each process's own affair.
    same = (given[:, :, None] == originals()).flatten(3).all(-1)
    replaced = ~same.any(-1)
    assert 0 < replaced.float().mean() < 1
    for rank in range(2):
        draws = [torch.rand(4, generator=batch_generator(0, rank, number)) < 0.5 for number in range(4)]
        assert not (replaced[rank] & ~torch.cat(draws)).any()
    assert run.callback_metrics["group_cam/augmented"] == pytest.approx(replaced[:, 8:].float().mean().item())
    assert 0 < run.callback_metrics["group_cam/kept_share"] < 1
    frames = Film(tmp_path / "recorder" / "v" / "group_cam").frames("augmentation")
    assert [frame.epoch for frame in frames] == [-1, 0, 1]


class _Labelled(_Noting):
    """Even images, which the first process gets, have one class, odd ones two."""

    def training_step(self, batch, batch_idx):
        self.given.append(batch[0].clone())
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def on_train_end(self):
        torch.save(self.trainer.callbacks[0].state_dict(), self.folder / f"state{self.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
def test_two_processes_agree_whether_classes_exclude_each_other(tmp_path):
    labels = torch.eye(4)[torch.arange(8) % 4]
    labels[1::2, 2] = 1
    data = DataLoader(TensorDataset(originals(8), labels), batch_size=2)
    run = trainer(tmp_path, quiet(), strategy="ddp_fork", devices=2, epochs=1)
    run.fit(_Labelled(tmp_path), data)
    assert [torch.load(tmp_path / f"state{rank}.pt")["multi_label"] for rank in range(2)] == [True, True]


def test_statistics_of_compiled_networks_cannot_be_watched(tmp_path):
    module = Watching()
    module.net = torch.compile(module.net, backend="eager")
    with pytest.raises(AugmentationConfigurationError, match="batch_norm='original' for a network that is compiled"):
        fit(tmp_path, SaliencyAugmentation("smoe", action="hide", batch_norm="original"), module)


def test_sharded_strategies_are_refused_with_a_reason(tmp_path):
    class FSDPStrategy:
        pass

    class Run:
        strategy = FSDPStrategy()
        is_global_zero = True

    with pytest.raises(AugmentationConfigurationError, match="FSDPStrategy spreads"):
        quiet().setup(Run(), Watching(), "fit")


def test_the_lightning_package(tmp_path):
    class Other(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()
            self.given = []

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            self.given.append(batch["image"].clone())
            return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class OtherRecorder(lightning.pytorch.loggers.Logger):
        name, version, save_dir = "recorder", "v", str(tmp_path)

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, *args, **kwargs):
            pass

    module = Other()
    run = trainer(tmp_path, GroupCAMAugmentation(groups=4), logger=OtherRecorder(), package=lightning.pytorch, epochs=1)
    run.fit(module, loader(form="dict"))
    assert 0 < run.callback_metrics["group_cam/kept_share"] < 1
    assert not torch.equal(torch.cat(module.given), originals())


@pytest.mark.parametrize("first", ["monitor", "augmentation"])
def test_the_monitor_of_training_does_not_record_the_queries(tmp_path, first):
    records = []

    class Keeping(SaliencyMonitor):
        def end_epoch(self, run, module, stage):
            if stage == "train":
                records.append(dict(self._sample.records))
            super().end_epoch(run, module, stage)

    module = Watching(learning_rate=0.0)
    monitor, augmentation = Keeping(stage="train", num_images=4), quiet()
    callbacks = [monitor, augmentation] if first == "monitor" else [augmentation, monitor]
    inputs = []
    module.net.features[0].register_forward_pre_hook(
        lambda m, args: inputs.append(args[0].detach().clone()) if m.training else None
    )
    fit(tmp_path, None, module, callbacks=callbacks)
    given = module.given[0]
    assert len(inputs) == 4
    assert torch.equal(inputs[0], given)
    # The maps are those of the training pass over the augmented images, whoever came first.
    from lightning_saliency.functional.statistics import STATISTICS

    module.net.features[1].train()
    with torch.no_grad():
        expected = STATISTICS["smoe_scale"](module.net.features[:3](given))
    for slot in range(4):
        torch.testing.assert_close(records[0][slot].statistics[0], expected[slot], rtol=1e-4, atol=1e-5)
        if first == "augmentation":
            assert torch.equal(records[0][slot].image, given[slot])


def test_two_augmentations_in_one_run(tmp_path):
    def blobs(area):
        return {"class_path": "random_blobs", "init_args": {"area": area}}

    recorder = Recorder(tmp_path)
    first = SaliencyAugmentation(blobs(0.2), probability=0.3, seed=1)
    second = SaliencyAugmentation(blobs(0.7), probability=0.3, seed=2, name="large")
    module = Watching(learning_rate=0.0)
    fit(tmp_path, None, module, callbacks=[first, second], logger=recorder)
    assert recorder.values("random_blobs/kept_share")[0][1] == pytest.approx(0.2, abs=0.01)
    assert recorder.values("large/kept_share")[0][1] == pytest.approx(0.7, abs=0.01)
    plain = Watching(learning_rate=0.0)
    fit(tmp_path, None, plain, epochs=1)
    assert equal(plain.given, list(originals().view(4, 4, 3, 16, 16)))


class Generator(Watching):
    """Its own forward makes images of noise; the critic is what takes images."""

    def forward(self, noise):
        return noise @ torch.ones(8, 12)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


def test_a_forward_that_takes_something_else_is_told_of_model(tmp_path):
    with pytest.raises(AugmentationConfigurationError, match=r"cannot augment this run.*name the network.*model="):
        fit(tmp_path, GroupCAMAugmentation(groups=4, film=False), Generator())
    fit(tmp_path, GroupCAMAugmentation(groups=4, film=False, model="net"), Generator())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [quiet, MaskTune, KeepAugment])
def test_a_step_that_converts_the_images_itself(tmp_path, dtype, make):
    class Converts(Watching):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0].to(dtype), batch[1]]

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            self.given.append(batch[0].detach().clone())
            return torch.nn.functional.cross_entropy(self(batch[0].float()), batch[1])

        def validation_step(self, batch, batch_idx):
            self(batch[0].float())

    module = Converts()
    fit(tmp_path, make(**({"start_epoch": 0} if make is MaskTune else {})), module)
    assert module.given[0].dtype == dtype
    assert not torch.equal(torch.cat(module.given), originals().to(dtype))
