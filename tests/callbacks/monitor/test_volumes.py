"""Volumes and clips ``[B, C, T, H, W]`` under the monitor."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.reading.sample import FixedSample
from lightning_saliency.callbacks.monitor.scalars import OBJECT_SCORES, EpochScalars, on_grid
from lightning_saliency.explainers import SMOE, FastCAM
from lightning_saliency.functional.normalization import normal_cdf
from lightning_saliency.pictures.page import FilmRecords
from lightning_saliency.pictures.page.recorder import make_frame
from lightning_saliency.pictures.tensors import to_uint8
from tests.callbacks.monitor.helpers import Module, Recorder, trainer

SHAPE = (1, 6, 16, 12)


class Scans(nn.Sequential):
    """Two scales, with BatchNorm and dropout."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            *(nn.Conv3d(channels, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(inplace=True), nn.MaxPool3d(2)),
            *(nn.Conv3d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 4)),
        )


class SmallR3D(VideoResNet):
    """torchvision's ``r3d_18`` with one block a stage and fewer channels behind it."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, num_classes=4)


class Volumes(Dataset):
    def __init__(self, count: int, shape: tuple[int, ...] = SHAPE, form: str = "tuple") -> None:
        self.count, self.shape, self.form = count, shape, form

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        volume = torch.rand(*self.shape, generator=torch.Generator().manual_seed(index))
        if self.form == "tuple":
            return volume, index % 4
        mask = torch.zeros(self.shape[1:], dtype=torch.uint8)
        mask[2:4, 4:8, 3:6] = 1
        beside = {"masks": mask} if self.form == "masks" else {"boxes": torch.tensor([[1.0, 1.0, 6.0, 6.0]])}
        return {"volume": volume, "label": index % 4, **beside}


class DictModule(Module):
    def _images_and_labels(self, batch):
        return (batch["volume"], batch["label"]) if isinstance(batch, dict) else batch


def fit(folder, monitor, net=None, epochs=2, count=8, **options):
    pl.seed_everything(3)
    module, recorder = DictModule(Scans() if net is None else net, 0.05), Recorder(folder)
    loaders = [DataLoader(Volumes(count, **options), batch_size=4, shuffle=shuffle) for shuffle in (True, False)]
    trainer(folder, *([] if monitor is None else [monitor]), logger=recorder, epochs=epochs).fit(module, *loaders)
    return module, recorder


def frames(folder):
    store = FilmRecords(next(folder.rglob("film")))
    return [store.read(frame) for frame in store.frames()]


@pytest.mark.parametrize(("net", "shape"), [(Scans, SHAPE), (SmallR3D, (3, 4, 32, 32))], ids=["scans", "r3d"])
def test_training_is_bit_identical_and_the_film_is_there(tmp_path, net, shape):
    pl.seed_everything(1)
    first, second = net(), net()
    second.load_state_dict(first.state_dict())
    options = {"shape": shape, "epochs": 1}
    plain, _ = fit(tmp_path / "plain", None, first, **options)
    watched, recorder = fit(
        tmp_path / "watched", SaliencyMonitor(num_images=2, views=("overview", "scales", "fast_cam")), second, **options
    )
    assert watched.losses == plain.losses
    for one, other in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    run = tmp_path / "watched"
    for view in ("overview", "scales", "fast_cam"):
        assert len(list(run.rglob(f"{view}/*.png"))) == 2, view
    assert next(run.rglob("film.html")).stat().st_size > 10_000
    assert [list(frame.views) for frame in frames(run)] == [["fast_cam"]] * 2
    assert set(recorder.metrics[-1][1]) >= {"saliency/drift", "saliency/position_bias", "saliency/content_bias"}


def test_the_maps_are_those_of_smoe(tmp_path):
    class Keeping(SaliencyMonitor):
        def end_epoch(self, trainer, pl_module, stage):
            super().end_epoch(trainer, pl_module, stage)
            self.records = self._sample.present()

    monitor = Keeping(num_images=3, views=("overview", "fast_cam"))
    module, _ = fit(tmp_path, monitor)
    volumes = torch.stack([Volumes(3)[number][0] for number in range(3)])
    smoe = SMOE(module.net)
    records = monitor.records
    assert len(records) == 3
    expected, names = smoe.statistics(volumes)
    for number, record in enumerate(records):
        assert torch.equal(record.image, volumes[number])
        for map_, own in zip(record.statistics, expected, strict=True):
            torch.testing.assert_close(map_, own[number])
        labels = torch.arange(3)
        torch.testing.assert_close(record.views["fast_cam"], FastCAM(module.net)(volumes, labels)[number])
    # What is shown is the middle frame of the maps that SMOE makes of the whole volume.
    maps = smoe.scales(volumes).maps
    frame, photos = make_frame(
        [record.image for record in records], [record.statistics for record in records], epoch=0, step=1, scales=names
    )
    for image, own in zip(frame.images, maps, strict=True):
        torch.testing.assert_close(image.maps[0], own[0, 3])
        small = nn.functional.interpolate(image.maps[1][None, None], own.shape[-2:], mode="bilinear")[0, 0]
        torch.testing.assert_close(small, own[1, 3])
    assert len(photos) == 3
    kept = frames(tmp_path)[-1]
    assert [tuple(map_.shape) for map_ in kept.images[0].maps] == [(16, 12), (8, 6), (16, 12)]
    assert [tuple(grid) for grid in kept.grids] == [(16, 12), (8, 6)]


def test_a_scale_is_normalised_over_the_whole_volume():
    statistic = torch.rand(3, 4, 4)
    statistic[1] += 5
    frame, _ = make_frame([torch.rand(1, 3, 8, 8)], [[statistic]], epoch=0, step=0, scales=["one"])
    shown = frame.images[0].maps[0]
    torch.testing.assert_close(shown, normal_cdf(statistic.flatten(0, 1)).view(3, 4, 4)[1])
    assert shown.min() > 0.8
    assert to_uint8(shown.expand(3, -1, -1)).shape == (4, 4, 3)


def test_masks_of_volumes_are_scored(tmp_path):
    _, recorder = fit(tmp_path, SaliencyMonitor(num_images=1), epochs=1, form="masks")
    share = 2 * 4 * 3 / (6 * 16 * 12)
    assert 0 < recorder.values("saliency/energy_in_box")[-1][1] < 5 * share


def test_scores_of_volumes_by_hand():
    combined, objects = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    combined[0, 1, 0, 0], combined[0, 0, 0, 0] = 3.0, 1.0
    objects[0, 2:, :2, :2] = True  # the upper left of the second half of the slices
    scalars = EpochScalars()
    for score in OBJECT_SCORES:
        scalars.add_objects(score, combined, on_grid(objects, combined))
    means = scalars.reduced(pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False))
    assert means["energy_in_box"] == pytest.approx(0.75)
    assert means["pointing_game"] == 1.0


def test_boxes_are_passed_over_with_one_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"objects under 'boxes'.*passed over.*\[B, 6, 16, 12\]") as told:
        _, recorder = fit(tmp_path, SaliencyMonitor(num_images=1), epochs=2, form="boxes")
    assert sum("passed over" in str(one.message) for one in told) == 1
    assert not recorder.values("saliency/energy_in_box")
    assert recorder.values("saliency/drift")


def test_a_view_that_takes_no_volumes_is_left_out_with_one_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"leaves out the view 'group_cam'.*takes no volumes.*fast_cam") as told:
        fit(tmp_path, SaliencyMonitor(num_images=1, views=("overview", "group_cam", "grad_cam")), epochs=2)
    assert sum("takes no volumes" in str(one.message) for one in told) == 1
    assert [list(frame.views) for frame in frames(tmp_path)] == [["grad_cam"]] * 3
    assert not list(tmp_path.rglob("group_cam/*.png"))


def test_volumes_of_ones_own(tmp_path):
    volumes = torch.rand(2, *SHAPE)
    module, recorder = fit(tmp_path / "tensor", SaliencyMonitor(images=volumes), epochs=1)
    assert [len(frame.images) for frame in frames(tmp_path / "tensor")] == [2, 2]
    with torch.no_grad():
        predicted = module.eval()(volumes).argmax(1).tolist()
    assert [image.prediction for image in frames(tmp_path / "tensor")[-1].images] == predicted
    assert len(recorder.values("saliency/drift")) == 2


def test_files_beside_volumes_cost_the_film_alone(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    with pytest.warns(UserWarning, match=r"could not read the maps of images=.*beside volumes \[1, 6, 16, 12\]"):
        module, _ = fit(tmp_path, SaliencyMonitor(images=tmp_path / "one.png", denormalize="none"), epochs=1)
    assert module.losses


class _FramesFirst(Module):
    def _images_and_labels(self, batch):
        return batch[0].transpose(1, 2), batch[1]


class _SliceBySlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

    def forward(self, x):
        return self.net(x.transpose(1, 2).flatten(0, 1)).unflatten(0, x.shape[::2][:2]).mean(1)


def test_clips_with_frames_first_are_refused_before_training(tmp_path):
    loaders = [DataLoader(Volumes(8, (6, 1, 16, 12)), batch_size=4) for _ in range(2)]
    module = _FramesFirst(Scans())
    with pytest.raises(MonitorConfigurationError, match=r"\[B, T, C, H, W\].*permute them in the data set"):
        trainer(tmp_path, SaliencyMonitor()).fit(module, *loaders)
    assert not module.losses


def test_a_network_that_takes_slices_one_by_one_is_refused_before_training(tmp_path):
    with pytest.raises(MonitorConfigurationError, match=r"images of 6×16×12.*take a volume as a whole"):
        fit(tmp_path, SaliencyMonitor(), _SliceBySlice(), epochs=1)


def test_a_sample_of_volumes_is_found_again():
    volumes = torch.rand(4, *SHAPE)
    sample = FixedSample(2)
    assert sample.place(volumes) == [(0, 0), (1, 1)]
    sample.begin()
    assert sorted(sample.place(volumes.flip(0))) == [(2, 1), (3, 0)]
    changed = volumes.clone()
    changed[:, 0, 4] += 0.1
    sample.begin()
    assert sample.place(changed) == []
    before = [torch.rand(6, 16, 12)]
    sample.records = {0: None}
    assert sample.drift(before) is None
    assert sample.drift(before).item() == pytest.approx(0, abs=1e-5)
