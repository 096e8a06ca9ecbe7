"""The augmentation callback against Sec. 5 of the Group-CAM paper as a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyAugmentation

from .loops import augmentation as loop
from .networks import TinyNetwork, random_images

CHANNELS = 7
LABELS = torch.tensor([2, 0, 3])


class _Watching(pl.LightningModule):
    """Trains on nothing, and keeps what it was given to train on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNetwork(CHANNELS)
        self.given: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.given.append(batch[0].clone())
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def _preset(**settings: Any) -> SaliencyAugmentation:
    """The preset, looking at another layer than the last scale."""
    return SaliencyAugmentation(GroupCAMAugmentation(**settings).guide.spec.with_options(layer="block2"), film=False)


def _given(callback: SaliencyAugmentation, images: Tensor) -> Tensor:
    module = _Watching()
    data = DataLoader(list(zip(images, LABELS, strict=True)), batch_size=len(images))
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)
    return module.given[0]


@pytest.mark.parametrize("groups", [2, 16])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_the_step_gets_what_the_paper_describes(groups: int, height: int, width: int) -> None:
    images = random_images(3, height, width)
    given = _given(_preset(groups=groups), images)
    model = TinyNetwork(CHANNELS)
    shares = []
    for b in range(3):
        with torch.no_grad():
            activations = model.until(images[b][None], "block2")
        expected, mask = loop.augmented(
            model, images[b].numpy(), lambda x: model.after(x, "block2"), activations, int(LABELS[b]), min(groups, 7)
        )
        shares.append(mask.mean())
        # Where no group gains anything the map is zero everywhere: such an image is left as it is.
        np.testing.assert_allclose(given[b].numpy(), expected if mask.any() else images[b].numpy(), atol=1e-9)
    assert sum(0 < share < 1 for share in shares) >= 2


def test_the_threshold_is_each_images_own_mean_whatever_else_is_in_the_batch() -> None:
    images = random_images(3, 16, 16)
    others = torch.cat([5 * images[:1].flip(-1), images[1:2], 5 * images[2:].flip(-1)])
    first, second = (_given(_preset(), batch)[1] for batch in (images, others))
    assert not torch.equal(first, images[1])
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
