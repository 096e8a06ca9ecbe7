"""Writing stores by Trainer.predict: whole, in several processes, after a kill, and never of something else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.transforms import v2

from lightning_saliency import ImageClassifier
from lightning_saliency.callbacks.saliency_writer import SaliencyWriter, describe_explainer, reduced, write_maps
from lightning_saliency.data import (
    DigitScenes,
    RoarKarDataModule,
    SaliencyGeometryError,
    SaliencyStore,
    SaliencyStoreError,
    whole_image_loaders,
    whole_images,
)
from lightning_saliency.data.masked.store import rank_levels
from lightning_saliency.explainers import RISE, SMOE, GradCAM
from lightning_saliency.networks import small_cnn, weights_fingerprint
from tests.callbacks.monitor.helpers import Module, SmallNet


def run(*callbacks, package=pl, **options):
    return package.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"devices": 1, **options},
    )


def pictures(count: int = 10, size: int = 16) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    return TensorDataset(torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % 4)


def loader(count: int = 10, batch_size: int = 4, **options) -> DataLoader:
    return DataLoader(whole_images(pictures(count), 16), batch_size=batch_size, **options)


class Predicts(Module):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch[0])


def explainer() -> SMOE:
    torch.manual_seed(4)
    return SMOE(SmallNet())


def test_every_row_is_the_map_of_its_image(tmp_path):
    own = explainer()
    writer = SaliencyWriter(tmp_path / "a", own, size=8)
    run(writer).predict(Predicts(), loader(shuffle=True), return_predictions=False)
    store = SaliencyStore.open(tmp_path / "a", {"weights": weights_fingerprint(own.model)})
    images = pictures().tensors[0]
    maps = own(images)
    assert (len(store), store.size) == (10, (8, 8))
    expected = rank_levels(nn.functional.avg_pool2d(maps[:, None], 2)[:, 0]).int()
    assert (store[:].int() - expected).abs().max() <= 4  # a rank or so, where the batch changes a last bit
    assert (store[:].int() == expected).float().mean() > 0.99


def test_a_name_explains_the_modules_own_network(tmp_path):
    module = Predicts(SmallNet())
    run(SaliencyWriter(tmp_path / "a", "grad_cam", size=None, model="net", targets="label")).predict(module, loader())
    store = SaliencyStore.open(tmp_path / "a")
    images, labels = pictures().tensors
    assert torch.equal(store[:4], rank_levels(GradCAM(module.net)(images[:4], labels[:4])))
    assert store.fingerprints["explainer"].startswith("GradCAM(")
    assert "targets=label" in store.fingerprints["explainer"]


def test_maps_are_written_by_an_explainer_in_any_form(tmp_path):
    network = SmallNet()
    forms = (GradCAM(network), "grad_cam", {"class_path": "grad_cam", "init_args": {"layer": None}}, GradCAM)
    for number, given in enumerate(forms):
        model = None if number == 0 else network
        write_maps(tmp_path / str(number), given, loader(), run(), model=model)
    stores = [SaliencyStore.open(tmp_path / str(number)) for number in range(4)]
    assert all(torch.equal(store[:], stores[0][:]) for store in stores)
    assert len({store.fingerprints["explainer"] for store in stores}) == 1
    for given, model in (("grad_cam", None), (GradCAM(network), network)):
        with pytest.raises(ValueError, match="with model=network"):
            write_maps(tmp_path / "none", given, loader(), run(), model=model)


def test_several_loaders_fill_several_stores(tmp_path):
    loaders = {"train": loader(9), "val": loader(5, shuffle=True)}
    write_maps(tmp_path, explainer(), loaders, run())
    alone = {name: SaliencyStore.open(tmp_path / name) for name in loaders}
    assert {name: len(store) for name, store in alone.items()} == {"train": 9, "val": 5}
    run(SaliencyWriter(tmp_path / "more", explainer())).predict(Predicts(), [loader(3), loader(2), loader(4)])
    assert [len(SaliencyStore.open(tmp_path / "more" / name)) for name in ("train", "val", "test")] == [3, 2, 4]
    with pytest.raises(ValueError, match=r"Got 2 loaders and stages=None. Allowed is a name for each"):
        write_maps(tmp_path / "other", explainer(), [loader(3), loader(2)], run())
    write_maps(tmp_path / "other", explainer(), [loader(3), loader(2)], run(), stages=("a", "b"))
    assert len(SaliencyStore.open(tmp_path / "other" / "b")) == 2


def test_from_the_images_to_masked_training(tmp_path):
    scenes = DigitScenes(12, 6, 6, size=32, batch_size=4)
    network = small_cnn()
    write_maps(tmp_path, SMOE(network), whole_image_loaders(scenes, 32), run())
    weights = {"weights": weights_fingerprint(network)}
    masked = RoarKarDataModule(scenes, tmp_path, "roar", 0.25, fill=0.0, fingerprints=weights)
    fit = run(max_epochs=1)
    fit.fit(ImageClassifier("small_cnn", 10), masked)
    fit.test(ImageClassifier("small_cnn", 10), masked, verbose=False)
    for stage in ("train", "val", "test"):
        batch = next(iter(getattr(masked, f"{stage}_dataloader")()))
        assert ((batch["image"] == 0).all(1).flatten(1).sum(1) == 256).all()
    other = RoarKarDataModule(scenes, tmp_path, "roar", 0.25, fingerprints={"weights": "another"})
    with pytest.raises(SaliencyStoreError, match="other weights"):
        other.train_dataloader()


def test_both_packages_of_lightning(tmp_path):
    class Other(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()

        def forward(self, images):
            return self.net(images)

        def predict_step(self, batch, batch_idx):
            return self(batch[0])

    run(SaliencyWriter(tmp_path / "a"), package=lightning.pytorch).predict(Other(), loader())
    assert len(SaliencyStore.open(tmp_path / "a")) == 10


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    run(SaliencyWriter(tmp_path / "a", explainer()), precision=precision).predict(Predicts(), loader())
    assert SaliencyStore.open(tmp_path / "a").fingerprints["explainer"].endswith(f"precision={precision}")
    with pytest.raises(SaliencyStoreError, match="begun for other explainer"):
        run(SaliencyWriter(tmp_path / "a", explainer())).predict(Predicts(), loader())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
@pytest.mark.usefixtures("_one_thread")
def test_two_processes_write_what_one_would(tmp_path):
    two = write_maps(tmp_path / "two", explainer(), loader(11, batch_size=1), run(strategy="ddp_fork", devices=2))
    one = write_maps(tmp_path / "one", explainer(), loader(11, batch_size=1), run())
    assert [path.with_name("one.npy") for path in two] == one
    assert torch.equal(SaliencyStore.open(tmp_path / "two")[:], SaliencyStore.open(tmp_path / "one")[:])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")
@pytest.mark.usefixtures("_one_thread")
def test_two_processes_tell_the_stores_of_several_loaders(tmp_path):
    several = {"images": loader(5), "features": DataLoader(TensorDataset(torch.rand(4, 7)), batch_size=2)}
    written = write_maps(tmp_path, explainer(), several, run(strategy="ddp_fork", devices=2))
    assert written == [tmp_path / "images.npy"]


def test_rows_that_are_there_are_not_explained_again(tmp_path):
    own = explainer()
    calls = []
    explain = own._explain_predicted
    own._explain_predicted = lambda images: calls.append(len(images)) or explain(images)
    with pytest.warns(UserWarning, match=r"incomplete: 2 of its 10 maps are missing"):
        write_maps(tmp_path / "a", own, loader(), run(limit_predict_batches=2))
    assert calls == [4, 4]
    write_maps(tmp_path / "a", own, loader(), run())
    assert calls == [4, 4, 2]
    write_maps(tmp_path / "b", own, loader(), run())
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], SaliencyStore.open(tmp_path / "b")[:])


def _explain_slowly(path: str, said: Any) -> None:
    own, batches = explainer(), []
    explain = own._explain_predicted

    def slowly(images):
        batches.append(len(images))
        said.send(len(images))
        time.sleep(60 if len(batches) == 5 else 0)
        return explain(images)

    own._explain_predicted = slowly
    write_maps(path, own, loader(24, batch_size=3), run())


@pytest.fixture
def _one_thread():
    """The number of threads decides in which order sums are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.usefixtures("_one_thread")
def test_a_killed_run_goes_on_to_the_same_end(tmp_path):
    context = multiprocessing.get_context("fork")
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=_explain_slowly, args=(str(tmp_path / "a"), said))
    process.start()
    for _ in range(5):
        heard.recv()
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with pytest.raises(SaliencyStoreError, match=r"incomplete: 12 of its 24"):
        SaliencyStore.open(tmp_path / "a")
    for path in ("a", "b"):
        write_maps(tmp_path / path, explainer(), loader(24, batch_size=3), run())
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], SaliencyStore.open(tmp_path / "b")[:])


def test_another_model_or_data_set_is_refused(tmp_path):
    write_maps(tmp_path / "a", explainer(), loader(), run())
    torch.manual_seed(9)
    with pytest.raises(SaliencyStoreError, match="begun for other weights than"):
        write_maps(tmp_path / "a", SMOE(SmallNet()), loader(), run())
    with pytest.raises(SaliencyStoreError, match="begun for other explainer than"):
        write_maps(tmp_path / "a", SMOE(explainer().model, weights="ramp"), loader(), run())
    shifted = whole_images(Subset(pictures(), [*range(1, 10), 0]), 16)
    with pytest.raises(SaliencyStoreError, match="begun for other data than"):
        write_maps(tmp_path / "a", explainer(), DataLoader(shifted, batch_size=4), run())


def test_images_that_are_not_whole_are_refused(tmp_path):
    class Cropped(TensorDataset):
        pass

    scenes = DigitScenes(4, 4, 4, size=32)
    scenes.setup("fit")
    data = scenes.datasets["train"]
    data.transform = v2.Compose([v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(SaliencyGeometryError, match="wrap it in whole_images"):
        write_maps(tmp_path / "a", explainer(), DataLoader(data, batch_size=2), run())
    assert not (tmp_path / "a.npy").exists()


def test_what_cannot_be_counted_is_refused(tmp_path):
    def doubled(samples):
        return [torch.stack([image for image, _ in samples] * 2), 0]

    with pytest.raises(ValueError, match="Got 8 images in a batch of 4 samples"):
        write_maps(tmp_path / "a", explainer(), loader(collate_fn=doubled), run())
    with pytest.raises(ValueError, match="does not say which images it loads"):
        write_maps(tmp_path / "b", explainer(), DataLoader(whole_images(pictures(), 16), batch_size=None), run())


def test_wrong_arguments_are_refused(tmp_path):
    for options, message in (
        ({"explainer": "gradcam"}, "Got the explainer 'gradcam'. Allowed are smoe"),
        ({"explainer": explainer(), "model": "net"}, "Got model='net' with a SMOE that already has a network"),
        ({"targets": "true"}, "Allowed are 'predicted' and 'label'"),
        ({"size": 0}, "Got size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            SaliencyWriter(tmp_path, **options)


def test_descriptions_tell_options_apart_and_nothing_else():
    net = SmallNet()
    assert describe_explainer(SMOE(net)) == describe_explainer(SMOE(SmallNet()))
    assert describe_explainer(SMOE(net, "std")) != describe_explainer(SMOE(net))
    assert describe_explainer(RISE(net, masks=8)) == describe_explainer(RISE(net, masks=8, batch_size=2))
    assert describe_explainer(RISE(net, masks=8)) != describe_explainer(RISE(net, masks=9))
    output = describe_explainer(SMOE(net, output=test_wrong_arguments_are_refused))
    assert "test_wrong_arguments_are_refused" in output
    assert "0x" not in output


def test_maps_are_averaged_down():
    maps = torch.rand(2, 9, 12)
    assert torch.allclose(reduced(maps, (3, 4))[1, 2, 1], maps[1, 6:9, 3:6].mean())
    assert reduced(maps, (9, 12)) is maps


TEXTS = [{"ids": torch.arange(5), "length": 5}] * 6


@pytest.mark.parametrize(
    ("other", "kind"),
    [(TensorDataset(torch.rand(6, 5)), "TensorDataset"), (TEXTS, "list"), (["a text"] * 6, "list")],
)
@pytest.mark.parametrize("first", [True, False])
def test_loaders_without_images_are_passed_over(tmp_path, caplog, other, kind, first):
    class Some(Predicts):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return None

    loaders = {"texts": DataLoader(other, 4), "pictures": loader()}
    writer = SaliencyWriter(tmp_path, explainer(), size=16)
    with caplog.at_level("INFO", "pytorch_lightning"):
        run(writer).predict(Some(), loaders if first else dict(reversed(loaders.items())))
    assert writer.paths == [tmp_path / "pictures.npy"]
    assert SaliencyStore.open(tmp_path / "pictures").complete
    assert sorted(path.name for path in tmp_path.glob("texts*")) == []
    assert [message for message in caplog.messages if "passes over" in message] == [
        f"SaliencyWriter passes over a loader of {kind}: no images."
    ]


def test_the_classes_of_maps_may_be_named(tmp_path):
    images = pictures()[:][0]
    wrong, right = torch.zeros(10, dtype=torch.int64), torch.arange(10) % 4
    torch.manual_seed(4)
    network = SmallNet().eval()
    stored = {}
    for name, data, key in (
        ("named", TensorDataset(images, wrong, right), 2),
        ("alone", TensorDataset(images, right), None),
    ):
        writer = SaliencyWriter(tmp_path / name, GradCAM(network, layer="features.3"), targets="label", label_key=key)
        run(writer).predict(Predicts(network), DataLoader(whole_images(data, 16), 4), return_predictions=False)
        stored[name] = SaliencyStore.open(tmp_path / name)[:]
    assert torch.equal(stored["named"], stored["alone"])
