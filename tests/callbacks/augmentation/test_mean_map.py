"""One map for all images: hiding what the maps of all have in common."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_saliency.callbacks import AugmentationConfigurationError, MaskTune
from lightning_saliency.callbacks.augmentation.one_map.mean_map import MeanMap
from lightning_saliency.explainers import SMOE
from lightning_saliency.functional.masking import top_fraction
from tests.callbacks.augmentation.helpers import Watching, fit, originals
from tests.callbacks.monitor.helpers import loader


def _cure(**settings):
    return MaskTune("smoe", share=0.1, maps="mean", film=False, **settings)


def test_all_images_lose_what_their_maps_have_in_common(tmp_path):
    module, total = Watching(learning_rate=0), torch.zeros(16, 16)
    fit(tmp_path, _cure(reuse_epochs=1), module, loader(16, 4))  # kept maps are rounded
    explainer = SMOE(module)
    assert len(module.given) == 4
    for batch, given in enumerate(module.given):
        images = originals()[4 * batch : 4 * (batch + 1)]
        total += explainer(images).sum(0)  # of all images so far
        hidden = top_fraction(total[None] / (4 * (batch + 1)), 0.1)[0]
        torch.testing.assert_close(given, images.masked_fill(hidden, 0.0))
        assert hidden.sum() == round(0.1 * hidden.numel())


def test_a_run_that_goes_on_has_the_mean_of_all_before(tmp_path):
    kept = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(tmp_path, None, Watching(), loader(16, 4), callbacks=[_cure(), kept], enable_checkpointing=True)
    again, whole = Watching(), Watching()
    fit(tmp_path / "on", _cure(), again, loader(16, 4), epochs=2, ckpt_path=tmp_path / "kept" / "last.ckpt")
    fit(tmp_path / "whole", _cure(), whole, loader(16, 4), epochs=2)
    assert len(again.given) == 4
    for one, other in zip(again.given, whole.given[4:], strict=True):
        assert torch.equal(one, other)


def test_the_mean_of_maps_of_two_sizes_and_of_none():
    mean = MeanMap()
    assert mean(torch.full((1, 2, 2), torch.nan)).isnan().all()
    assert mean.state_dict() is None
    mean(torch.ones(1, 2, 2))
    assert mean(torch.zeros(1, 4, 4)).tolist() == [[[0.5] * 4] * 4]
    kept = mean.kept()
    mean(torch.ones(2, 4, 4))
    mean.restore(kept)
    assert (mean.count, mean.sum.sum().item()) == (2, 16)
    # One that is not finite has no mean, and is not part of it.
    found = mean(torch.stack([torch.full((4, 4), torch.inf), torch.ones(4, 4)]))
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], torch.full((4, 4), 2 / 3))


def test_whose_maps_is_own_or_mean():
    with pytest.raises(AugmentationConfigurationError, match="Got maps='median'"):
        MaskTune("smoe", share=0.1, maps="median")
