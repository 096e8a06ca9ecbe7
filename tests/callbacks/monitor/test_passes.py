"""Which pass is read, however the module runs its network, and copies of the network made meanwhile."""

import copy
import io
import pickle
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyAugmentation, SaliencyMonitor
from lightning_saliency.functional.statistics import STATISTICS
from tests.callbacks.monitor.helpers import Module, Pictures, SmallNet, loader, trainer


def _fit(tmp_path, module, *callbacks, train=None, val=None, **options):
    pl.seed_everything(1, workers=True)
    run = trainer(tmp_path, *callbacks, **options)
    run.fit(module, train or loader(), val or loader())
    return run


def _records(tmp_path, module, val=None, **options):
    """The sample of the last epoch, taken before it is closed."""
    kept = []
    monitor = SaliencyMonitor(num_images=4, **options)
    end = monitor._sample.end
    monitor._sample.end = lambda: kept.append(dict(monitor._sample.records)) or end()
    _fit(tmp_path, module, monitor, val=val)
    return [kept[-1][slot] for slot in range(4)]


def _expected(module, images):
    module.eval()
    with torch.no_grad():
        return STATISTICS["smoe_scale"](module.net.features[:3](images))


class Mirrored(Module):
    """A flipped pass before and a noisy one behind: test-time augmentation."""

    def validation_step(self, batch, batch_idx):
        images, _ = batch
        self(images.flip(-1))
        logits = self(images)
        self(images + torch.rand_like(images))
        return {"logits": logits}


class Chunks(Module):
    def validation_step(self, batch, batch_idx):
        return {"logits": torch.cat([self(chunk) for chunk in batch[0].split(3)])}


class Teacher(Module):
    """The watched network holds a frozen copy of itself that runs first."""

    def __init__(self):
        super().__init__()
        self.teacher = SmallNet().requires_grad_(False)

    def validation_step(self, batch, batch_idx):
        self.teacher(batch[0])
        return {"logits": self(batch[0])}


class TwoViews(Module):
    def validation_step(self, batch, batch_idx):
        both = self(torch.cat([batch[0], batch[0].flip(-2)]))
        return {"logits": both[: len(batch[0])]}


class Checkpointed(Module):
    def forward(self, x):
        return self.net.head(checkpoint(self.net.features, x, use_reentrant=False))


@pytest.mark.parametrize("kind", [Mirrored, Chunks, Teacher, TwoViews, Checkpointed])
def test_maps_belong_to_the_pass_over_the_batch(tmp_path, kind):
    module = kind()
    records = _records(tmp_path, module, **({"model": "net"} if kind is Teacher else {}))
    images = torch.stack([Pictures()[index][0] for index in range(4)])
    expected = _expected(module, images)
    for index, record in enumerate(records):
        torch.testing.assert_close(record.image, images[index])
        torch.testing.assert_close(record.statistics[0], expected[index], rtol=1e-4, atol=1e-5)


class MirroredAlone(Module):
    def seen(self, images):
        return images.flip(-1)

    def validation_step(self, batch, batch_idx):
        images, labels = self._images_and_labels(batch)
        logits = self(self.seen(images))
        self.log("val/loss", nn.functional.cross_entropy(logits, labels))


class Rotated(MirroredAlone):
    def seen(self, images):
        return images.rot90(1, (-2, -1))


class MirroredInChunks(MirroredAlone):
    def validation_step(self, batch, batch_idx):
        for chunk in self._images_and_labels(batch)[0].flip(-1).split(2):
            self(chunk)


class WrittenTo(MirroredAlone):
    """Its first layer writes into what it is given."""

    def forward(self, x):
        return self.net(x.mul_(0.5))


@pytest.mark.parametrize("kind", [MirroredAlone, Rotated, MirroredInChunks, WrittenTo])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_what_the_step_made_of_the_images_is_shown_with_its_maps(tmp_path, recwarn, kind, form):
    module = kind()
    records = _records(tmp_path, module, val=loader(form=form))
    images = module.seen(torch.stack([Pictures()[index][0] for index in range(4)]))
    expected = _expected(module, images * 0.5 if kind is WrittenTo else images)
    for index, record in enumerate(records):
        torch.testing.assert_close(record.image, images[index])
        torch.testing.assert_close(record.statistics[0], expected[index], rtol=1e-4, atol=1e-5)
    assert len([each for each in recwarn if "as they entered the network" in str(each.message)]) == 1
    assert "saliency/energy_in_box" not in module.trainer.callback_metrics


class Crops(Module):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return {"crops": torch.stack([images.flip(-1), images], 1), "image": images, "label": labels}

    def _images_and_labels(self, batch):
        return batch["crops"].flatten(0, 1), batch["label"].repeat_interleave(2)


def test_crops_beside_the_image(tmp_path, recwarn):
    module = Crops()
    images = torch.stack([Pictures()[index][0] for index in range(4)])
    records = _records(tmp_path, module, image_key="image")
    for index, record in enumerate(records):
        torch.testing.assert_close(record.statistics[0], _expected(module, images)[index], rtol=1e-4, atol=1e-5)
    _fit(tmp_path / "crops", Crops(), SaliencyMonitor(image_key="crops", log_at_start=False), num_sanity_val_steps=0)
    assert [each for each in recwarn if "say where with image_key=" in str(each.message)]


class WholeBatch(Module):
    def forward(self, batch):
        return self.net(batch[0])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(batch)}


class TwoInputs(Module):
    def forward(self, x, scale):
        return self.net(x) * scale

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0], 0.5), batch[1])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(scale=0.5, x=batch[0])}


class Bytes(Module):
    """The network gets floats, the batch holds uint8."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return (batch[0] * 255).to(torch.uint8), batch[1]

    def forward(self, x):
        return self.net(x.float() / 255)


class ChannelsLast(Module):
    """The batch holds images [B, H, W, C]."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch[0].movedim(1, -1), batch[1]

    def forward(self, x):
        return self.net(x.movedim(-1, 1))


@pytest.mark.parametrize("kind", [WholeBatch, TwoInputs, Bytes, ChannelsLast])
def test_however_the_network_is_called(tmp_path, kind):
    module = kind()
    records = _records(tmp_path, module)
    images = torch.stack([Pictures()[index][0] for index in range(4)])
    expected = _expected(module, (images * 255).to(torch.uint8) / 255 if kind is Bytes else images)
    for index, record in enumerate(records):
        torch.testing.assert_close(record.statistics[0], expected[index], rtol=1e-4, atol=1e-5)


class _Copies(pl.Callback):
    """Somebody else copies and saves the network, between the steps and, listed first, before the hooks are off."""

    def _copy(self, module):
        twin = copy.deepcopy(module.net)
        buffer = io.BytesIO()
        torch.save(module.net, buffer)
        pickle.loads(pickle.dumps(module.net))
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
        images = torch.rand(3, 3, 16, 16)
        with torch.no_grad():
            twin.eval()(images), again.eval()(images)

    def on_validation_batch_end(self, run, module, outputs, batch, batch_idx, dataloader_idx=0):
        self._copy(module)

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        self._copy(module)

    def on_validation_end(self, run, module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(module.net)


@pytest.mark.parametrize("first", [True, False])
def test_copies_carry_no_live_hook(tmp_path, first):
    monitors = [SaliencyMonitor(num_images=3), SaliencyMonitor(stage="train", name="training")]
    callbacks = [_Copies(), *monitors] if first else [*monitors, _Copies()]
    run = _fit(tmp_path, Module(), *callbacks)
    assert run.callback_metrics["saliency/drift"] < 1


@pytest.mark.parametrize("make", [SaliencyMonitor, lambda: SaliencyMonitor(stage="train"), GroupCAMAugmentation])
def test_callbacks_pickle_before_and_after_a_run(tmp_path, make):
    callback = make()
    pickle.loads(pickle.dumps(callback))
    _fit(tmp_path, Module(), callback)
    again = pickle.loads(pickle.dumps(callback))
    _fit(tmp_path / "again", Module(), again)
    copy.deepcopy(callback)


def test_a_layer_that_is_replaced_is_found_again(tmp_path):
    class Replaces(pl.Callback):
        def on_train_epoch_start(self, run, module):
            if run.current_epoch == 1:
                module.net.features[3] = nn.AvgPool2d(2)
            if run.current_epoch == 2:
                module.net = SmallNet()

    monitor = SaliencyMonitor(num_images=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings(
            "ignore", message=".*normalised.*|.*dataloader.*|.*LeafSpec.*|.*does not have many workers.*"
        )
        run = _fit(tmp_path, Module(), Replaces(), monitor, epochs=4)
    assert sorted(path.name[:10] for path in (tmp_path / "recorder" / "v" / "saliency" / "overview").iterdir()) == [
        "epoch=0000",
        "epoch=0001",
        "epoch=0002",
        "epoch=0003",
        "start-step",
    ]
    assert run.current_epoch == 4


class Averaging(Module):
    """Validates an average of its network; its ``forward`` is the network."""

    def __init__(self):
        super().__init__()
        self.average = copy.deepcopy(self.net)

    def validation_step(self, batch, batch_idx):
        images, labels = self._images_and_labels(batch)
        self.log("val/loss", nn.functional.cross_entropy(self.average(images), labels))


@pytest.mark.parametrize(("options", "told"), [({}, True), ({"model": "average"}, False)])
def test_class_views_of_other_weights_than_the_maps_are_told(tmp_path, recwarn, options, told):
    monitor = SaliencyMonitor(num_images=2, views=("lovi", "grad_cam"), **options)
    trainer(tmp_path, monitor, epochs=2).fit(Averaging(), loader(), loader())
    said = [str(each.message) for each in recwarn if "of other weights than its maps" in str(each.message)]
    assert len(said) == told
    assert all("Give model='average'" in each for each in said)


def test_a_network_that_the_forward_runs_in_parts_is_not_told_of(tmp_path, recwarn):
    class InParts(Module):
        def validation_step(self, batch, batch_idx):
            images, _ = self._images_and_labels(batch)
            return {"logits": self.net.head(self.net.features(images))}

    monitor = SaliencyMonitor(num_images=2, views=("lovi", "grad_cam"))
    trainer(tmp_path, monitor).fit(InParts(), loader(), loader())
    assert not [str(each.message) for each in recwarn if "other weights" in str(each.message)]


class FirstBatchOnly(Module):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return None if batch_idx else super().validation_step(batch, batch_idx)


class LaterBatchesOnly(Module):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch, batch_idx) if batch_idx else None


class FirstLoaderOnly(Module):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return None if dataloader_idx else super().validation_step(batch, batch_idx)


class Alternating(Module):
    """Trains one of its networks a step."""

    def __init__(self):
        super().__init__()
        self.other = SmallNet()

    def training_step(self, batch, batch_idx):
        return self.other(batch[0]).mean() if batch_idx % 2 else super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("kind", "options", "compiled"),
    [
        (FirstBatchOnly, {}, False),
        (LaterBatchesOnly, {}, False),
        (LaterBatchesOnly, {}, True),
        (LaterBatchesOnly, {"indices": "one_per_class"}, False),
        (FirstLoaderOnly, {}, False),
        (Alternating, {"stage": "train", "model": "net"}, False),
    ],
)
def test_steps_that_leave_batches_out_are_no_failures(tmp_path, recwarn, kind, options, compiled):
    monitor, module = SaliencyMonitor(num_images=4, **options), kind()
    if compiled:
        module.net.compile(backend="eager")
    shown = []
    show = monitor._shown.show
    monitor._shown.show = lambda *args: shown.append(dict(monitor._sample.records)) or show(*args)
    val = [loader(), loader()] if kind is FirstLoaderOnly else loader()
    _fit(tmp_path, module, monitor, val=val, epochs=5)
    first = 4 if kind is LaterBatchesOnly else 0
    assert len(shown) == 5 + (kind is not Alternating)
    for records in shown:
        assert [records[slot].label for slot in range(4)] == [0, 1, 2, 3]
        if kind is not Alternating:
            torch.testing.assert_close(records[1].image, Pictures()[first + 1][0])
    assert not [str(each.message) for each in recwarn if "could not" in str(each.message)]


def test_a_frame_without_any_pass_is_said_and_the_next_one_is_read(tmp_path, recwarn):
    class EverySecondEpoch(Module):
        def validation_step(self, batch, batch_idx):
            return None if self.trainer.current_epoch % 2 else super().validation_step(batch, batch_idx)

    _fit(tmp_path, EverySecondEpoch(), SaliencyMonitor(num_images=2), epochs=4)
    frames = sorted(path.name[:10] for path in (tmp_path / "recorder" / "v" / "saliency" / "overview").iterdir())
    assert frames == ["epoch=0000", "epoch=0002", "start-step"]
    assert len([each for each in recwarn if "none of this step's passes" in str(each.message)]) == 1
    assert not [each for each in recwarn if "did not find the film's images" in str(each.message)]


class PopsLabels(Module):
    def validation_step(self, batch, batch_idx):
        self(batch["image"])
        batch.pop("label")


class WritesLabels(Module):
    def validation_step(self, batch, batch_idx):
        self(batch["image"])
        batch["label"].add_(1)


class ClearsBatch(Module):
    def validation_step(self, batch, batch_idx):
        self(batch["image"])
        batch.clear()


class ReplacesLabels(Module):
    def validation_step(self, batch, batch_idx):
        self(batch["image"])
        batch["label"] = torch.nn.functional.one_hot(3 - batch["label"], 4).float()


@pytest.mark.parametrize("kind", [PopsLabels, WritesLabels, ClearsBatch, ReplacesLabels])
def test_what_belongs_to_the_images_is_what_the_batch_held_before_the_step(tmp_path, kind):
    records = _records(tmp_path, kind(), loader(form="dict"), label_key="label")
    assert [record.label for record in records] == [0, 1, 2, 3]


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_that_an_augmentation_makes_longer(tmp_path, recwarn, first):
    monitor = SaliencyMonitor(num_images=4, stage="train")
    beside = SaliencyAugmentation("smoe", action="hide", keep_original=True)
    run = _fit(tmp_path, Module(), *([monitor, beside] if first else [beside, monitor]))
    assert "saliency/position_bias" in run.callback_metrics
    assert not [str(each.message) for each in recwarn if "could not" in str(each.message)]
