"""The augmentation changes pixels, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import FilmConfig, GroupCAMAugmentation, SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.actions.basic import Keep
from lightning_saliency.callbacks.augmentation.guide import Recipe
from tests.callbacks.augmentation.helpers import Watching, equal, fit, originals, quiet, state
from tests.callbacks.monitor.helpers import loader


def _run(folder, callback, **options):
    module = Watching(learning_rate=0.05)
    run = fit(folder, callback, module, loader(12, shuffle=True, **options), epochs=2)
    return state(module, run)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_probability_zero_a_run_is_bit_identical(tmp_path, workers):
    plain = _run(tmp_path / "plain", None, workers=workers)
    for callback in (
        GroupCAMAugmentation(probability=0.0),
        GroupCAMAugmentation(start_epoch=5),
        GroupCAMAugmentation(probability=[[4, 0.0], [9, 1.0]], gradients=True),
    ):
        watched = _run(tmp_path / "watched", callback, workers=workers)
        for what, value in plain.items():
            assert equal(value, watched[what]), what


class _Unchanging(SaliencyAugmentation):
    """Makes every query, and then gives the images' own pixels."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.changed = 0
        self.recipe.changed = self._changed

    def _changed(self, images, maps, targets, generator):
        changed, maps = Recipe.changed(self.recipe, images, maps, targets, generator)
        self.changed += not torch.equal(changed.pixels, images)
        return replace(changed, pixels=images.clone()), maps


def group_cam(**options):
    return {"class_path": "group_cam", "init_args": {"groups": 4, **options}}


@pytest.mark.parametrize(
    "settings",
    [
        {"explainer": group_cam(gradients=False, theta=None)},
        {"explainer": group_cam(fast=True)},
        {"explainer": group_cam(), "control": "random_blobs", "action": Keep(fill="noise")},
        {"explainer": "fast_cam"},
        {"explainer": "random_blobs"},
        {"explainer": "smoe", "action": "hide"},
        {"explainer": "smoe", "action": "hide", "guide_network": "start", "reuse_epochs": "all"},
        {"explainer": "fast_cam", "action": "hide", "guide_network": "untrained"},
    ],
)
def test_the_queries_leave_no_trace(tmp_path, settings):
    plain = _run(tmp_path / "plain", None)
    callback = _Unchanging(**settings)
    queried = _run(tmp_path / "queried", callback)
    assert callback.changed > 3
    for what, value in plain.items():
        assert equal(value, queried[what]), what


def test_the_comparison_sees_a_difference(tmp_path):
    plain = _run(tmp_path / "plain", None)
    augmented = _run(tmp_path / "augmented", quiet())
    assert not equal(plain["given"], augmented["given"])
    assert not equal(plain["weights"], augmented["weights"])
    # The order of the data and the generators are what they were.
    assert equal(plain["torch"], augmented["torch"])


def test_frozen_parts_gradients_and_hooks_are_as_the_user_left_them(tmp_path):
    seen = []

    class Frozen(Watching):
        def on_fit_start(self):
            self.net.features[1].eval()
            self.net.features[0].weight.requires_grad_(False)
            self.net.features.register_forward_hook(lambda *_: seen.append(self.net.features[1].training))

        def on_train_epoch_start(self):
            self.net.features[1].eval()

        def training_step(self, batch, batch_idx):
            assert [m.training for m in self.net.features[:3]] == [True, False, True]
            assert not self.net.features[0].weight.requires_grad
            assert self.net.features[0].bias.requires_grad
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.gradients = [p.grad if p.grad is None else p.grad.clone() for p in self.parameters()]

        def on_train_batch_start(self, batch, batch_idx):  # the callbacks have had their turn
            assert batch_idx == 0 or equal(self.gradients, [p.grad for p in self.parameters()])

    module = Frozen()
    statistics = module.net.features[1].running_mean.clone()
    others = module.net.features[5].running_mean.clone()
    fit(tmp_path, quiet(), module)
    assert torch.equal(module.net.features[1].running_mean, statistics)
    assert not torch.equal(module.net.features[5].running_mean, others)
    assert len(module.net.features._forward_hooks) == 1
    assert seen


def test_gradients_accumulate_over_augmented_batches(tmp_path):
    module = Watching(learning_rate=0.05)
    run = fit(tmp_path, quiet(), module, accumulate_grad_batches=2, epochs=2)
    assert run.global_step == 4
    assert len(module.given) == 8
    # The same pixels without a query, and then the same steps.
    replica = Watching(learning_rate=0.05)
    fit(tmp_path, _Replaying(module.given), replica, accumulate_grad_batches=2, epochs=2)
    assert equal(module.state_dict(), replica.state_dict())


class _Replaying(SaliencyAugmentation):
    """Gives pixels seen before, without a query."""

    def __init__(self, given):
        super().__init__("random_blobs", film=False)
        self.given = list(given)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._step.swap.put([batch[0]], self.given.pop(0))


@pytest.mark.parametrize(
    ("stop", "guide", "control", "size"),
    [
        (7, "group_cam", "random_blobs", 4),
        (10, "group_cam", "random_blobs", 4),
        # Of two images one is drawn in the next step: it gets the map that was kept of another.
        (8, "grad_cam", "other_image", 2),
        (9, "grad_cam", "other_image", 2),
    ],
)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(tmp_path, stop, guide, control, size):
    explainer = group_cam(gradients=False, theta=None) if guide == "group_cam" else guide
    settings = {"explainer": explainer, "probability": 0.5, "control": control}
    # Lightning begins the data anew where a run is resumed in mid-epoch: with equal batches that is no difference.
    data = DataLoader([(image, index) for index, image in enumerate(originals(size))] * 4, batch_size=size)

    def run(folder, *others, **options):
        module = Watching(learning_rate=0.05)
        module.net.head[1].p = 0.0  # dropout would depend on the global generator, which a checkpoint does not hold
        callbacks = [SaliencyAugmentation(**settings), *others]
        fit(folder, None, module, data, callbacks=callbacks, epochs=3, **options)
        return module

    saving = ModelCheckpoint(tmp_path, "middle", every_n_train_steps=stop, save_top_k=1)
    whole = run(tmp_path / "whole", saving, enable_checkpointing=True)
    again = run(tmp_path / "again", ckpt_path=tmp_path / "middle.ckpt")
    assert (len(again.given), len(whole.given)) == (12 - stop, 12)
    assert equal(again.given, whole.given[stop:])
    assert equal(again.state_dict(), whole.state_dict())


def test_the_state_holds_the_count_of_batches_and_the_sample(tmp_path):
    callback = GroupCAMAugmentation(groups=4, film=FilmConfig(num_images=2))
    fit(tmp_path, callback, Watching())
    state_dict = callback.state_dict()
    assert state_dict["batches"] == 4
    assert state_dict["multi_label"] is False
    assert state_dict["sample"]["images"].shape == (2, 3, 16, 16)
    other = GroupCAMAugmentation(groups=4, film=FilmConfig(num_images=2))
    other.load_state_dict(state_dict)
    assert equal(other.state_dict(), state_dict)
    assert callback.state_key == other.state_key
    assert callback.state_key != GroupCAMAugmentation(name="second").state_key


def test_networks_that_change_their_input_in_place_do_not_harm_the_data(tmp_path):
    class Restless(Watching):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(0.5)
            return super().training_step(batch, batch_idx)

    module = Restless(learning_rate=0.0)
    fit(tmp_path, quiet(), module)
    assert all(given.isfinite().all() for given in module.given)
    assert isinstance(module.net.features[1], nn.BatchNorm2d)
