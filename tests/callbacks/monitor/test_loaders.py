"""Loaders and batches as they are: which images the film shows and whose labels and objects count."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from tests.callbacks.monitor.helpers import Recorder, SmallNet, loader, trainer

IMAGES, LABELS = torch.rand(8, 3, 16, 16), torch.arange(8) % 4
BOXES = torch.tensor([[[2.0, 2.0, 6.0, 9.0]]]).repeat(8, 1, 1)


class Runs(pl.LightningModule):
    """Runs its network on all images of a validation batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        parts = batch if isinstance(batch, (list, tuple)) else batch.values() if isinstance(batch, dict) else [batch]
        for part in parts:
            if isinstance(part, (list, tuple, dict)):
                self.validation_step(part, batch_idx)
            elif isinstance(part, torch.Tensor) and part.ndim == 4 and 3 in (part.shape[1], part.shape[3]):
                self(part.as_subclass(torch.Tensor))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _loader(*tensors: torch.Tensor, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), 4, **options)


def _keeping(monitor: SaliencyMonitor) -> tuple[SaliencyMonitor, list[Any]]:
    """A monitor, and the records of each frame to come."""
    frames: list[Any] = []
    show = monitor._shown.show

    def kept(*arguments: Any) -> None:
        frames.append(monitor._sample.present())
        show(*arguments)

    monitor._shown.show = kept  # type: ignore[method-assign]
    return monitor, frames


def _film(folder: Any, val: Any, **settings: Any) -> tuple[list[Any], Recorder]:
    """The records of each frame, and what was logged."""
    recorder = Recorder(folder)
    monitor, frames = _keeping(SaliencyMonitor(num_images=2, **settings))
    trainer(folder, monitor, epochs=2, logger=recorder).fit(Runs(), loader(8), val)
    return frames, recorder


def _texts() -> DataLoader:
    return DataLoader([{"ids": torch.ones(5).long(), "label": 1}] * 8, 4)


@pytest.mark.parametrize(
    "loaders",
    [
        lambda: [_loader(IMAGES, LABELS), _loader(torch.rand(8, 5))],
        lambda: [_loader(torch.rand(8, 5), LABELS), _loader(IMAGES, LABELS)],
        lambda: [_texts(), DataLoader(["a text"] * 8, 4), _loader(IMAGES, LABELS)],
        lambda: {"texts": _texts(), "images": _loader(IMAGES, LABELS), "more": _loader(torch.rand(8, 3, 16, 16))},
        lambda: CombinedLoader([_texts(), _loader(IMAGES, LABELS)], "max_size"),
        lambda: CombinedLoader({"more": _loader(torch.rand(8, 3, 16, 16)), "a": _loader(IMAGES, LABELS)}, "min_size"),
    ],
)
def test_the_film_is_of_the_first_loader_with_images_and_of_its_labels(tmp_path, caplog, loaders):
    with caplog.at_level(logging.INFO):
        frames, _ = _film(tmp_path, loaders())
    assert len(frames) == 3
    for records in frames:
        assert [record.label for record in records] == [0, 1]
        assert all(torch.equal(record.image, IMAGES[row]) for row, record in enumerate(records))
    assert sum("passes over batches without images" in message for message in caplog.messages) <= 1
    assert len(list(tmp_path.rglob("saliency/overview/*.png"))) == 3


def test_loaders_without_any_image_are_said(tmp_path):
    with pytest.warns(UserWarning, match="found images in no batch"):
        frames, _ = _film(tmp_path, [_texts(), _loader(torch.rand(8, 5))])
    assert frames == [[]] * 3


def _named(**parts: Any) -> DataLoader:
    return DataLoader([{key: part[row] for key, part in parts.items()} for row in range(8)], 4)


@pytest.mark.parametrize(
    ("parts", "settings"),
    [
        ({"boxes": BOXES}, {}),
        ({"boxes": BOXES + torch.tensor([0.0, 0, -2, -2])}, {"box_format": "XYWH"}),
        ({"bbox": BOXES / 16}, {"box_format": "relative_xyxy"}),
        ({"mask": tv_tensors.wrap(torch.zeros(8, 16, 16).long(), like=tv_tensors.Mask(torch.zeros(1, 1)))}, {}),
    ],
)
def test_objects_in_other_forms_give_the_same_scores(tmp_path, parts, settings):
    if "mask" in parts:
        parts["mask"][:, 2:9, 2:6] = 3
        parts["mask"][:, 12:] = 255
    torch.manual_seed(3)
    _, recorder = _film(tmp_path / "other", _named(image=IMAGES, label=LABELS, **parts), **settings)
    torch.manual_seed(3)
    _, expected = _film(tmp_path / "usual", _named(image=IMAGES, label=LABELS, boxes=BOXES))
    assert len(expected.values("saliency/energy_in_box")) == 3
    for name in ("energy_in_box", "pointing_game"):
        assert recorder.values(f"saliency/{name}") == expected.values(f"saliency/{name}")


@pytest.mark.parametrize("mask", [torch.rand(8, 16, 16), torch.rand(8, 1, 16, 16) * 80, torch.randn(8, 16, 16)])
def test_quantities_are_scored_as_no_objects(tmp_path, mask):
    _, recorder = _film(tmp_path, _named(image=IMAGES, mask=mask))
    assert not recorder.values("saliency/energy_in_box")


@pytest.mark.parametrize(
    ("settings", "labels"),
    [({}, [3, 2]), ({"label_key": "second"}, [0, 1]), ({"label_key": "first"}, [3, 2])],
)
def test_labels_may_be_named(tmp_path, settings, labels):
    frames, _ = _film(tmp_path, _named(image=IMAGES, first=3 - LABELS, second=LABELS), **settings)
    assert [record.label for record in frames[0]] == labels


class Channels(Runs):
    """Takes images with the channels last, as bytes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images.movedim(-1, 1).float() / 255)


def test_images_with_the_channels_last_are_shown_upright(tmp_path):
    images = (torch.rand(8, 16, 16, 3) * 255).byte()
    monitor, frames = _keeping(SaliencyMonitor(num_images=2))
    data = _loader(images, LABELS)
    trainer(tmp_path, monitor, epochs=1).fit(Channels(), data, data)
    assert [tuple(record.image.shape) for record in frames[0]] == [(3, 16, 16)] * 2


@pytest.mark.parametrize("sizes", [(16, 12, 16, 16), (8, 9), (20, 16, 24)])
def test_images_of_different_sizes_end_the_run_before_training(tmp_path, sizes):
    samples = [(torch.rand(3, side, 16), {"labels": torch.ones(1)}) for side in sizes]
    val = DataLoader(samples, len(sizes), collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    with pytest.raises(MonitorConfigurationError, match=r"different sizes.*batch_size=1"):
        _film(tmp_path, val)


def test_an_unknown_format_of_boxes_is_refused():
    with pytest.raises(MonitorConfigurationError, match="box_format='ltrb'"):
        SaliencyMonitor(box_format="ltrb")
