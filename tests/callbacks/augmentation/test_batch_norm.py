"""BatchNorm statistics of the images as they came: whose they are, and where it is not known which images those are."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lightning_saliency import SaliencyAugmentation
from lightning_saliency.callbacks import AugmentationConfigurationError, Hide
from lightning_saliency.callbacks.augmentation.batch_norm import SharpStatistics
from tests.callbacks.augmentation.helpers import Watching, equal, fit
from tests.callbacks.monitor.helpers import loader

SHARP = torch.tensor([True, True, False, False])


@pytest.mark.parametrize("keep_original", [True, False])
def test_statistics_of_images_as_they_came(tmp_path, keep_original):
    """The first BatchNorm sees the images themselves, so that its statistics can be compared."""

    def first_norm(**settings):
        module = Watching(learning_rate=1e-9)
        action = Hide(share=0.5)
        callback = SaliencyAugmentation("smoe", action=action, film=False, **settings) if settings else None
        fit(tmp_path, callback, module)
        return module.net.features[1]

    plain = first_norm()
    mixed = first_norm(batch_norm="trained_on", keep_original=keep_original)
    sharp = first_norm(batch_norm="original", keep_original=keep_original)
    assert not torch.allclose(mixed.running_mean, plain.running_mean, rtol=1e-3)
    fresh = nn.BatchNorm2d(8)
    expected = plain if keep_original else fresh  # where no image is sharp nothing is taken in
    torch.testing.assert_close(sharp.running_mean, expected.running_mean)
    torch.testing.assert_close(sharp.running_var, expected.running_var)
    assert sharp.num_batches_tracked == expected.num_batches_tracked
    assert not sharp._forward_hooks
    assert not sharp._forward_pre_hooks


def test_statistics_of_some_of_a_batch_are_those_of_a_batch_of_these():
    images, sharp = torch.rand(6, 3, 5, 5), torch.tensor([True, False, True, True, False, True])
    for momentum in (0.1, None):
        ours, theirs = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
        statistics = SharpStatistics()
        for scale in (1.0, 2.0):
            statistics.open(ours, sharp)
            out = ours(images * scale)
            statistics.close()
            theirs(images[sharp] * scale)
            torch.testing.assert_close(out, nn.BatchNorm2d(3)(images * scale))  # it normalises by all of them
        assert equal(dict(ours.state_dict()), dict(theirs.state_dict()))
    with pytest.raises(AugmentationConfigurationError, match="SyncBatchNorm"):
        statistics.check(nn.SyncBatchNorm(3))
    with pytest.raises(AugmentationConfigurationError, match="batch_norm='some'"):
        SaliencyAugmentation("smoe", batch_norm="some")


def _saved(network):
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _saved, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_made_in_a_step_keep_statistics_of_their_own(copied):
    network, images = nn.Sequential(nn.BatchNorm2d(3)), torch.rand(4, 3, 5, 5)
    statistics = SharpStatistics()
    statistics.open(network, torch.tensor([True, True, False, False]))
    network(images)
    twin = copied(network)
    fresh = nn.BatchNorm2d(3)
    fresh.load_state_dict(network[0].state_dict())
    for _ in range(2):
        twin(images), fresh(images)
    statistics.close()
    assert equal(dict(twin[0].state_dict()), dict(fresh.state_dict()))
    assert not equal(dict(network[0].state_dict()), dict(fresh.state_dict()))


# --- where the rows are not the batch's images ------------------------------------------------------------------------


class Patches(nn.Module):
    """The second BatchNorm sees the four quarters of each image as images of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        count, side = len(x), x.shape[-1] // 2
        quarters = self.first(x).unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return self.head(self.norm(self.conv(quarters)).relu().mean((2, 3)).view(count, 4, -1).mean(1))


class Views(Patches):
    """It sees each image and its mirror image, one behind the other."""

    def forward(self, x):
        both = self.conv(self.first(x)).relu()
        return self.head(self.norm(torch.cat([both, both.flip(-1)])).mean((2, 3)).view(2, len(x), -1).mean(0))


@pytest.mark.parametrize("network", [Patches, Views])
def test_a_norm_whose_rows_are_not_the_images_keeps_statistics_of_all_and_that_is_said_once(tmp_path, recwarn, network):
    def trained(batch_norm):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = Watching(network(), learning_rate=1e-9)
        settings = {"batch_norm": batch_norm, "keep_original": True, "film": False, "seed": 3}
        fit(tmp_path, SaliencyAugmentation("random_blobs", action="hide", **settings), module, loader(), epochs=2)
        return module.net

    def said():
        return [str(each.message) for each in recwarn if "batch_norm='original'" in str(each.message)]

    plain = trained("trained_on")
    assert not said()
    sharp = trained("original")
    assert sharp.norm.num_batches_tracked == 8
    assert equal(dict(sharp.norm.state_dict()), dict(plain.norm.state_dict()))
    assert not torch.allclose(sharp.first.running_mean, plain.first.running_mean, rtol=1e-3)
    [message] = said()
    assert "BatchNorms such as 'net.norm' out, which keep statistics of all that they see" in message
    assert f"{32 if network is Patches else 16} rows for 8 images" in message
    assert "torch.optim.swa_utils.update_bn" in message


def test_a_norm_that_once_sees_other_rows_keeps_statistics_of_all_it_sees_in_this_step():
    images, statistics = torch.rand(4, 3, 5, 5), SharpStatistics()
    for passes in ([images, images[:3]], [images[:3], images], [images, images[:3], images]):
        ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        statistics.open(ours, SHARP)
        for each in passes:
            ours(each), theirs(each)
        statistics.close()
        assert equal(dict(ours.state_dict()), dict(theirs.state_dict()))
        assert statistics.unknown == ("", 3, 4)
    # In the next step it may see the images again.
    statistics.open(ours, SHARP)
    ours(images), theirs(images[:2])
    statistics.close()
    assert equal(dict(ours.state_dict()), dict(theirs.state_dict()))


class Named(nn.Module):
    """A network that gives its BatchNorms their input by name."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), norm, nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.call(self.conv(x)).relu().mean((2, 3)))

    def call(self, x):
        return self.norm(input=x)


class OtherName(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x)


class ByOtherName(Named):
    def call(self, x):
        return self.norm(x=x)


@pytest.mark.parametrize(("network", "norm"), [(Named, nn.BatchNorm2d), (ByOtherName, OtherName)])
def test_an_input_may_be_given_by_name(tmp_path, network, norm):
    module = Watching(network(norm(8)), learning_rate=1e-9)
    settings = {"action": "hide", "batch_norm": "original", "keep_original": True, "film": False}
    fit(tmp_path, SaliencyAugmentation("random_blobs", **settings), module)
    assert module.net.norm.num_batches_tracked == 4
    images, ours, theirs = torch.rand(4, 8, 5, 5), norm(8), norm(8)
    statistics = SharpStatistics()
    statistics.open(ours, SHARP)
    ours(**{"input" if norm is nn.BatchNorm2d else "x": images})
    statistics.close()
    theirs(images[SHARP])
    assert equal(dict(ours.state_dict()), dict(theirs.state_dict()))
